"""Records in as little memory as there is content, for commands that hold all of a folder."""

from __future__ import annotations

from pydantic import BaseModel

from leakbench.experiments.cell import Cell
from leakbench.records.record import Environment, Record


class SharedParts:
    """Parts that records have in common, such as versions, of which each is kept once."""

    def __init__(self) -> None:
        self._versions: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        self._knowledge: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._environments: dict[Environment, Environment] = {}

    def compact(self, record: Record, cell: Cell | None = None) -> Record:
        """Return a record, read just now and held by nobody else, in less memory.

        Its content stays as it is.

        Args:
            cell: that of its suite entry, which replaces an equal one.
        """
        if cell is None or not share_cell(record, cell):
            _forget_given(record.cell)
        content = record.__dict__
        versions, knowledge, environment = record.versions, record.knowledge, record.environment
        content["versions"] = self._versions.setdefault(tuple(versions.items()), versions)
        content["knowledge"] = self._knowledge.setdefault(knowledge, knowledge)
        if environment is not None:
            content["environment"] = self._environments.setdefault(environment, environment)
        parts: list[BaseModel | None] = [record, record.cost]
        if (metrics := record.metrics) is not None:
            parts += [metrics, metrics.defense, metrics.certificates, metrics.claimed]
            parts += [metrics.images, metrics.membership, *metrics.properties.values()]
        for part in parts:
            if part is not None:
                _forget_given(part)
        return record


def share_cell(record: Record, cell: Cell) -> bool:
    """Let a record hold another cell in place of an equal one; return whether they are equal."""
    if record.cell.__dict__ != cell.__dict__:
        return False
    record.__dict__["cell"] = cell
    return True


def _forget_given(part: BaseModel) -> None:
    """Replace the set of the fields that were given, of which pydantic makes one for each part.

    Sets take half of a record's memory, and nothing here asks for them.
    """
    object.__setattr__(part, "__pydantic_fields_set__", NOT_KNOWN)


NOT_KNOWN: set[str] = set()
"""Shared by all parts; pydantic copies it before it changes it."""
