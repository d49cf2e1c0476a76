"""What `leakbench verify` does: check every record of a folder, and measure a sample again."""

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
from leakbench.verification.remeasure import Drawer, remeasure

RULES: dict[Rule, str] = {
    "equal": "equal up to rounding, for device and versions are the same",
    "interval": "inside the record's interval, for device or versions differ",
}

SHOWN = 5
"""Differences that a sentence names."""


@dataclass
class Verification:
    """What was found.

    Attributes:
        folder: that was verified.
        records: how many files there are.
        faulty: what is wrong with records, a sentence each.
        unmeasurable: why records could not be measured again → how many.
        entries: by key, records that were measured again.
        asked: how many of the sample were to be measured.
        aside: where a `verified.json` that was there is now.
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
        """Whether anything is."""
        return bool(self.faulty) or any(not each.agrees for each in self.entries.values())

    def text(self) -> str:
        """Return what is printed."""
        lines = [f"- {sentence}" for sentence in self.faulty]
        lines += [
            f"- {count} records that were drawn cannot be measured again here: {why}."
            for why, count in self.unmeasurable.items()
        ]
        lines += [_line(key, entry) for key, entry in self.entries.items()]
        if self.aside:
            lines.append(
                f"- the {NAME} that was there is now {self.aside}, for anybody can have written "
                f"it; --keep keeps what it says"
            )
        agreed = sum(entry.agrees for entry in self.entries.values())
        lines.append(
            f"{self.folder}: {self.records} records, {len(self.faulty)} faults; "
            f"{len(self.entries)} measured again, {agreed} of them agree."
        )
        if self.asked and not self.entries:
            lines.append("Nothing was measured again: that these numbers can be had is not shown.")
        elif self.entries:
            lines.append(f"What was measured again is in {home_of(self.folder) / NAME}.")
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
    """Check every record of a folder; measure a sample of the sound ones again.

    Args:
        folder: that a run had as `--out`, or its folder of records.
        sample: how many records to measure again.
        seed: by which they are drawn.
        device: on which; `auto` is the record's own where it is here.
        rule: by which they are compared.
        keep: whether to believe a `verified.json` that is there already, and add to it.

    Raises:
        UsageError: there are no records, or the device is not there.
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
    drawer = Drawer(data_root)
    drawn = {record.key: record for record in drawer.draw(sound, sample, seed)}
    found.unmeasurable = drawer.unmeasurable

    def compare(anew: Record) -> None:
        if anew.status != "failed":
            found.entries[anew.key] = compared(drawn[anew.key], anew, rule)
            # At once: measuring may take hours, and may be interrupted.
            write(folder, {**known, **found.entries})

    for where, records in _by_device(list(drawn.values()), device).items():
        with RunConsole(Console(stderr=True)) as watcher:
            failed = remeasure(records, data_root, where, watcher, compare)
        found.faulty += [
            f"{key}.json cannot be measured again: {why}." for key, why in failed.items()
        ]
    return found


def compared(record: Record, anew: Record, choice: RuleChoice) -> Remeasured:
    """Return what a record's new measurement says of it."""
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
    """Return the records in which nothing is wrong; note what is in the others."""
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
    """Return the device asked for; of `auto` the record's own, where it is here."""
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
        "; a processor of another make rounds otherwise: --rule interval allows for that"
        if entry.rule == "equal"
        else ""
    )
    named = "; ".join(entry.differences[:SHOWN])
    return f"- {key}.json does not agree, not {RULES[entry.rule]}: {named}{more}{way_out}."
