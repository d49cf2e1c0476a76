"""What the server of an audit knows, and how clients compute their updates."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from leakbench.auditing.client_defense import NO_DEFENSE
from leakbench.base.choices import Mode, PropertyModelKind
from leakbench.base.plugins import PluginSpec


class ThreatModel(BaseModel):
    """What the server knows, and how clients compute their updates.

    Attributes:
        mode: how clients run the model, see `leakbench.base.choices.Mode`.
        labels_known: whether the server knows each batch's main-task labels; otherwise attacks
            recover them from the update.
        defense: under which the updates were captured, `{"name": …, parameter: …}`; the server
            knows it too. None where clients use none.
        property_model: f_p, see `leakbench.base.choices.PropertyModelKind`.
        seed: of all random numbers, ≥ 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    mode: Mode = "eval"
    labels_known: bool = False
    defense: dict[str, Any] | None = None
    property_model: PropertyModelKind = "validated"
    seed: int = Field(default=0, ge=0)

    @property
    def client_defense(self) -> PluginSpec:
        """The defense under which the updates were captured.

        Raises:
            UsageError: its table has no name.
        """
        if self.defense is None:
            return NO_DEFENSE
        return PluginSpec.from_table(self.defense, "defense")
