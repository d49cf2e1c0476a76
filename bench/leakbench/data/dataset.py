"""Data sets: base class, and individuals with images, attributes and identities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from leakbench.base.errors import UsageError, nearest
from leakbench.data.people import joined


@dataclass(frozen=True)
class Individuals:
    """All individuals of a data set.

    Attributes:
        images: uint8 RGB in 0–255, shape (n, 3, size, size); may be memory-mapped.
        attributes: name → presence, shape (n,) each; properties and main-task attributes alike.
        identities: number of the person or object shown, shape (n,).
        fingerprint: hash of the content of the data set.
        left_out: reason → number of entries of the label files that were left out.
        names: of the individuals in the label files, for messages; empty where they have none.
        near_duplicates: pairs of rows that show the same photo, shape (p, 2); a data set leaves
            them empty, see `leakbench.data.near_duplicates.with_near_duplicates`.
    """

    images: NDArray[np.uint8]
    attributes: Mapping[str, NDArray[np.bool_]]
    identities: NDArray[np.int64]
    fingerprint: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    names: Sequence[str] = ()
    near_duplicates: NDArray[np.int64] = field(
        default_factory=lambda: np.empty((0, 2), dtype=np.int64)
    )

    def __len__(self) -> int:
        return len(self.identities)

    @cached_property
    def people(self) -> NDArray[np.int64]:
        """Identities, equal also where two share a photo, shape (n,): nobody is on two sides."""
        return joined(self.identities, self.near_duplicates)

    def attribute(self, name: str, use: str = "attribute") -> NDArray[np.bool_]:
        """Return the presence of attribute `name`, shape (n,).

        Raises:
            UsageError: the data set has no such attribute; lists the existing ones.
        """
        if name not in self.attributes:
            raise unknown_attribute(name, use, self.attributes)
        return self.attributes[name]


def unknown_attribute(name: str, use: str, known: Collection[str]) -> UsageError:
    """Return the error for an attribute that a data set does not have.

    Args:
        use: what it is wanted as, such as `property`.
        known: the attributes that it has.
    """
    return UsageError(
        f"unknown {use} {name!r}; this data set has: {', '.join(known)}{nearest(name, known)}"
    )


class DataSet(ABC):
    """A registered data set. Subclasses are frozen dataclasses: their fields are its parameters.

    Attributes:
        folder: its official folder under the data root; None for an embedded data set.
        source: where to get it, a noun phrase for error messages; empty for an embedded data set.
        properties: the properties for which it has labels.
        size: number of individuals in the complete data set, as a short phrase.
        terms: terms of use, as a short phrase.
    """

    folder: ClassVar[str | None]
    source: ClassVar[str]
    properties: ClassVar[tuple[str, ...]]
    size: ClassVar[str] = "not stated"
    terms: ClassVar[str] = "not stated"

    @abstractmethod
    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Return all individuals, images resized to (size, size).

        Raises:
            UsageError: the data set is missing or malformed.
        """

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...] | None:  # noqa: ARG002
        """Return the names of all attributes, to refuse others before any work.

        They are those that `load` gives; None if they cannot be told in less than a second.
        """
        return None

    def main_tasks(self) -> Mapping[str, str]:
        """Return common name of a main task, such as `2-class` → this data set's main task."""
        return {}
