"""The work of `leakbench verify`: checking all records, and measuring a sample again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from leakbench.base.devices import chosen_device
from leakbench.base.errors import UsageError
from leakbench.records.checks import faults, read_strictly
from leakbench.records.record import Record
from leakbench.records.verified import (
    NAME,
    Remeasured,
    Rule,
    content_hash,
    home_of,
    quarantine,
    read,
    records_of,
    write,
)
from leakbench.sweep.console import RunConsole
from leakbench.verification.compare import RuleChoice, chosen, differences
from leakbench.verification.remeasure import Sampler, remeasure

RULES: dict[Rule, str] = {
    "equal": "equal up to rounding, since device and versions are the same",
    "interval": "inside the record's interval, since device or versions differ",
}

SHOWN = 5
"""Differences that a sentence lists."""


@dataclass
class Verification:
    """The outcome of verifying a folder.

    Attributes:
        folder: that was verified.
        records: the number of its files.
        faulty: what is wrong with records, a sentence each.
        unmeasurable: why records could not be measured again → how many.
        entries: by key, the outcome of measuring records again.
        asked: the requested size of the sample.
        aside: where an earlier `verified.json` was moved to; None if there was none.
    """

    folder: Path
    records: int = 0
    faulty: list[str] = field(default_factory=list)
    unmeasurable: dict[str, int] = field(default_factory=dict)
    entries: dict[str, Remeasured] = field(default_factory=dict)
    asked: int = 0
    aside: Path | None = None

    @property
    def wrong(self) -> bool:
        """Whether a record has a fault, or does not agree."""
        return bool(self.faulty) or any(not each.agrees for each in self.entries.values())

    def text(self) -> str:
        """Return the report that is printed."""
        lines = [f"- {sentence}" for sentence in self.faulty]
        lines += [
            f"- {count} records of the sample cannot be measured again here: {why}."
            for why, count in self.unmeasurable.items()
        ]
        lines += [_line(key, entry) for key, entry in self.entries.items()]
        if self.aside:
            lines.append(
                f"- the earlier {NAME} was moved to {self.aside}, since its origin is unknown; "
                f"--keep keeps its entries"
            )
        agreed = sum(entry.agrees for entry in self.entries.values())
        lines.append(
            f"{self.folder}: {self.records} records, {len(self.faulty)} faults; "
            f"{len(self.entries)} measured again, {agreed} of them agree."
        )
        if self.asked and not self.entries:
            lines.append(
                "Nothing was measured again: this does not show that the numbers reproduce."
            )
        elif self.entries:
            lines.append(
                f"The records that were measured again are in {home_of(self.folder) / NAME}."
            )
        return "\n".join(lines)


def verify(
    folder: Path,
    data_root: Path | None,
    sample: int,
    seed: int,
    device: str = "auto",
    rule: RuleChoice = "auto",
    keep: bool = False,
) -> Verification:
    """Check every record of a folder, and measure a sample of those without faults again.

    Args:
        folder: that a run had as `--out`, or its folder of records.
        sample: how many records to measure again.
        seed: of the sample.
        device: on which; `auto` is the record's own where it is available.
        rule: by which they are compared.
        keep: whether to trust an existing `verified.json`, and add to it.

    Raises:
        UsageError: there are no records, or the device is not available.
    """
    paths = [path for path in sorted(records_of(folder).glob("*.json")) if path.name != NAME]
    if not paths:
        raise UsageError(f"{folder} holds no records; name the folder that a run had as --out")
    if device != "auto":
        chosen_device(device)
    found = Verification(folder, records=len(paths), asked=sample)
    sound = _sound(paths, found)
    known = read(folder).remeasured if keep else {}
    if not keep:
        found.aside = quarantine(folder)
    sampler = Sampler(data_root)
    sampled = {record.key: record for record in sampler.sample(sound, sample, seed)}
    found.unmeasurable = sampler.unmeasurable

    def compare(anew: Record) -> None:
        if anew.status != "failed":
            found.entries[anew.key] = compared(sampled[anew.key], anew, rule)
            # After each, since measuring may take hours and be interrupted.
            write(folder, {**known, **found.entries})

    for where, records in _by_device(list(sampled.values()), device).items():
        with RunConsole(Console(stderr=True)) as watcher:
            failed = remeasure(records, data_root, where, watcher, compare)
        found.faulty += [
            f"{key}.json cannot be measured again: {why}." for key, why in failed.items()
        ]
    return found


def compared(record: Record, anew: Record, choice: RuleChoice) -> Remeasured:
    """Return the outcome of comparing a record with a new measurement."""
    rule = chosen(choice, record, anew)
    found = tuple(differences(record, anew, rule))
    return Remeasured(
        content=content_hash(record),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        rule=rule,
        agrees=not found,
        differences=found,
        device=anew.device,
        versions=anew.versions,
    )


def _sound(paths: Sequence[Path], found: Verification) -> list[Record]:
    """Return the records without faults; add the faults of the others."""
    sound = []
    for path in paths:
        try:
            record = read_strictly(path)
        except UsageError as error:
            found.faulty.append(f"{path.name} {error}.")
            continue
        wrong = list(faults(record, path.stem))
        found.faulty += [f"{path.name} ({_cell(record)}) {each}." for each in wrong]
        if not wrong:
            sound.append(record)
    return sound


def _by_device(records: Sequence[Record], device: str) -> dict[str, list[Record]]:
    """Return the device on which to measure → records."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(_device(record, device), []).append(record)
    return found


def _device(record: Record, device: str) -> str:
    """Return the device asked for; for `auto` the record's own, where it is available."""
    own = record.device.partition(":")[0]
    if device == "auto" and own in ("cpu", "cuda", "mps"):
        try:
            return chosen_device(own)
        except UsageError:
            return chosen_device("auto")
    return chosen_device(device)


def _cell(record: Record) -> str:
    cell = record.cell
    return f"{cell.attack} on {cell.dataset}, B = {cell.batch_size}"


def _line(key: str, entry: Remeasured) -> str:
    """Return the sentence on a record that was measured again."""
    if entry.agrees:
        return f"- {key}.json agrees: {RULES[entry.rule]}."
    more = f", and {len(entry.differences) - SHOWN} more" if len(entry.differences) > SHOWN else ""
    way_out = (
        "; processors of another make round differently: --rule interval allows for that"
        if entry.rule == "equal"
        else ""
    )
    named = "; ".join(entry.differences[:SHOWN])
    return f"- {key}.json does not agree, not {RULES[entry.rule]}: {named}{more}{way_out}."
