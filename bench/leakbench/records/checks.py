"""Checks of records: whether they can have been measured, and can be measured again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from leakbench.base.errors import UsageError
from leakbench.base.files import read_json
from leakbench.base.plugins import PluginSpec, SharedPlugins, sentence
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry
from leakbench.experiments.cell import SCHEMA, SCHEMAS, Cell
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.backbones.weight_registry import NONE
from leakbench.federation.backbones.weight_sources import check_name, takes_weights
from leakbench.records.identity import content_key
from leakbench.records.possible_values import impossible_values
from leakbench.records.record import Record

VERSIONS = ("leakbench", "python", "torch", "numpy")
"""Packages whose versions a record must name."""

DEVICES = ("cpu", "cuda", "mps")
"""Kinds of devices that leakbench computes on."""

CLOCKS = timedelta(days=1)
"""By how much the clock of the machine that measured may be ahead."""


def read_strictly(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        UsageError: it holds none; the message says why.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"is no JSON ({error})") from None
    found = content.get("schema_version") if isinstance(content, Mapping) else None
    if found not in SCHEMAS:
        readable = " and ".join(map(str, SCHEMAS))
        raise UsageError(f"has schema version {found}, and this leakbench reads {readable}")
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"is no record ({sentence(error)})") from None


def faults(record: Record, name: str, plugins: SharedPlugins | None = None) -> Iterator[str]:
    """Yield what is wrong with a record, a phrase each.

    Args:
        name: of its file, without the ending.
        plugins: of other records, which this one shares; None builds its own.
    """
    if record.key != name:
        yield f"has the key {record.key}, which is not its name; rename it"
    if record.schema_version != SCHEMA:
        yield (
            f"has schema version {record.schema_version}, whose numbers have another meaning than "
            f"those of {SCHEMA}; measure the cell again"
        )
        return
    if record.status == "failed":
        yield f"failed ({record.error}); measure the cell again, or leave the record out"
        return
    if record.error is not None:
        yield f"has status {record.status!r} and yet an error ({record.error})"
    if record.metrics is None:
        yield f"has status {record.status!r} and no metrics"
        return
    try:
        resolved = buildable(record.cell, plugins)
        yield from _unfitting(record, resolved)
        numbers = list(impossible_values(record, resolved))
    except UsageError as error:
        # Without its plugins neither its key nor its knowledge can be checked.
        yield f"cannot be measured here: {error}"
        return
    if record.key != content_key(record):
        yield (
            f"has the key {record.key}, and its cell, under version {record.attack_version} of the "
            f"attack, has {content_key(record)}: one of them was changed"
        )
    yield from (f"says {number}" for number in numbers)
    yield from _undated(record)


def buildable(cell: Cell, plugins: SharedPlugins | None = None) -> ResolvedCell:
    """Return the cell with its plugins.

    Args:
        plugins: see `faults`.

    Raises:
        UsageError: one of its plugins is unknown, lacks a parameter, or is not granted the
            knowledge that it requires.
    """
    if takes_weights(MODELS.get(cell.model)):
        # Before the model is built, which would read a file that a stranger names.
        check_name(cell.model_parameters.get("weights", NONE), cell.model)
    shared = SharedPlugins() if plugins is None else plugins
    _check_complete(DATASETS, cell.spec("dataset"), shared)
    _check_complete(MODELS, cell.spec("model"), shared)
    if cell.auxiliary_dataset:
        _check_complete(DATASETS, cell.spec("auxiliary_dataset"), shared)
    resolved = ResolvedCell.of(cell, shared)
    _check_complete(DEFENSES, cell.spec("defense"), shared)
    _check_complete(ATTACKS, cell.spec("attack"), shared)
    resolved.check()
    return resolved


def _check_complete(registry: Registry, spec: PluginSpec, plugins: SharedPlugins) -> None:
    """Refuse a plugin of which a parameter is missing: no suite would give the cell such a key.

    Raises:
        UsageError: names the missing parameters, or the plugin that cannot be built.
    """
    _, parameters = plugins.get(registry, spec)
    missing = [each for each in parameters if each not in spec.parameters]
    if missing:
        raise UsageError(f"{registry.kind} {spec.name!r} lacks the parameter {', '.join(missing)}")


def _unfitting(record: Record, resolved: ResolvedCell) -> Iterator[str]:
    """Yield where the record contradicts this leakbench, or its own cell."""
    attack = resolved.attack
    if record.attack_version != attack.version:
        yield (
            f"is of version {record.attack_version} of attack {attack.name!r}, which here has "
            f"version {attack.version}; measure the cell again"
        )
    recorded, expected = list(record.knowledge), resolved.knowledge.names()
    if recorded != expected:
        yield (
            f"says that the attack knew {', '.join(recorded) or 'nothing'}, and what it requires "
            f"and is granted is {', '.join(expected) or 'nothing'}"
        )
    missing = [each for each in VERSIONS if not record.versions.get(each)]
    if missing:
        yield f"does not say which version of {', '.join(missing)} measured it"
    if record.device.partition(":")[0] not in DEVICES:
        yield f"was measured on {record.device!r}, which is none of {', '.join(DEVICES)}"
    if not record.fingerprint:
        yield "has no fingerprint of the data"


def _undated(record: Record) -> Iterator[str]:
    try:
        finished = datetime.fromisoformat(record.finished)
    except ValueError:
        yield f"was finished at {record.finished!r}, which is no time"
        return
    if finished.tzinfo is None or finished > datetime.now(UTC) + CLOCKS:
        yield f"was finished at {record.finished}, which is in the future, or has no time zone"
