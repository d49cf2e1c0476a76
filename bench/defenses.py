"""Defenses: what a client does to its update before sending it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.registry import register_defense


class Defense(ABC):
    """A registered defense. Subclasses are frozen dataclasses: their fields are its parameters.

    Attributes:
        name: set by the registry.
        reference: the publication it comes from.
    """

    name: ClassVar[str]
    reference: ClassVar[str]

    @abstractmethod
    def protect(
        self, update: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return what the client sends in place of `update`; the client draws from `generator`."""


@register_defense("none")
@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """The update is sent as it is."""

    reference = "none"

    def protect(
        self,
        update: Mapping[str, Tensor],
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Return the update itself."""
        return dict(update)
