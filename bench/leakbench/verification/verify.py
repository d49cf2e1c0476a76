"""The work of `leakbench verify`: checking all records, and measuring a sample again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from leakbench.base.devices import chosen_device
from leakbench.base.errors import UsageError
from leakbench.base.plugins import SharedPlugins
from leakbench.records.checks import faults, read_strictly
from leakbench.records.record import Record
from leakbench.records.submission import NAME as SUBMISSION
from leakbench.records.submission import read_submission
from leakbench.records.verified import (
    NAME,
    Outcome,
    Remeasured,
    Rule,
    content_hash,
    entries,
    home_of,
    quarantine,
    records_of,
    write,
)
from leakbench.sweep.console import RunConsole
from leakbench.verification.compare import RuleChoice, chosen, compare, testable
from leakbench.verification.remeasure import DataHere, drawn, remeasure

RULES: dict[Rule, str] = {
    "equal": "equal up to rounding",
    "interval": "no further apart than a repeat is, since device, versions or environment differ",
}

SHOWN = 5
"""Differences, or names of values, that a sentence lists."""

RIGHT, WRONG, UNTESTED = 0, 1, 3
"""Exit codes; 2 is that of bad input."""


@dataclass
class Verification:
    """The outcome of verifying a folder.

    Attributes:
        folder: that was verified.
        seed: of the sample.
        records: the number of its files.
        faulty: what is wrong with records, a sentence each.
        sample: keys of the records that were to be measured again.
        unmeasurable: key → why that record of the sample could not be measured again.
        entries: by key, the outcome of measuring records again.
        asked: the requested size of the sample.
        aside: where an earlier `verified.json` was moved to; None if it was not.
    """

    folder: Path
    seed: int
    records: int = 0
    faulty: list[str] = field(default_factory=list)
    sample: tuple[str, ...] = ()
    unmeasurable: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Remeasured] = field(default_factory=dict)
    asked: int = 0
    aside: Path | None = None

    @property
    def wrong(self) -> bool:
        """Whether a record has a fault, or differs when it is measured again."""
        return bool(self.faulty) or self._count("differs") > 0

    @property
    def code(self) -> int:
        """The exit code of `leakbench verify`.

        0 if nothing is wrong and all records of the sample agree, 1 if something is wrong, 3 if
        nothing is, but a record of the sample could not be measured or tested here.
        """
        if self.wrong:
            return WRONG
        wanted = min(self.asked, self.records)
        return RIGHT if self._count("agrees") >= wanted else UNTESTED

    def text(self) -> str:
        """Return the report that is printed."""
        lines = [f"- {sentence}" for sentence in self.faulty]
        if self.sample:
            lines.append(sample_line(self.sample, self.seed))
        lines += [_unmeasurable(keys, why) for why, keys in _by_value(self.unmeasurable).items()]
        lines += [_line(key, entry) for key, entry in self.entries.items()]
        if self.aside:
            lines.append(
                f"- the earlier {NAME} was moved to {self.aside}, since this machine did not write "
                f"all of it; --keep keeps its entries"
            )
        lines.append(
            f"{self.folder}: {self.records} records, {len(self.faulty)} faults; "
            f"{len(self.entries)} measured again, {self._count('agrees')} of them agree."
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

    def _count(self, outcome: Outcome) -> int:
        return sum(entry.outcome == outcome for entry in self.entries.values())


def sample_line(keys: Sequence[str], seed: int) -> str:
    """Return the sentence on which records are measured again."""
    return (
        f"- sample of {len(keys)}, drawn at random; --seed {seed} draws it again: {', '.join(keys)}"
    )


def verify(
    folder: Path,
    data_root: Path | None,
    sample: int,
    seed: int | None = None,
    device: str = "auto",
    rule: RuleChoice = "auto",
    keep: bool = False,
) -> Verification:
    """Check every record of a folder, and measure a sample of those without faults again.

    Args:
        folder: that a run had as `--out`, or its folder of records.
        sample: how many records to measure again.
        seed: of the sample; drawn if None.
        device: on which; `auto` is the record's own where it is available.
        rule: by which they are compared.
        keep: whether to keep entries of an existing `verified.json` that other machines wrote. This
            machine's own are always kept.

    Raises:
        UsageError: there are no records, or the device is not available.
    """
    paths = [path for path in sorted(records_of(folder).glob("*.json")) if path.name != NAME]
    if not paths:
        raise UsageError(f"{folder} holds no records; name the folder that a run had as --out")
    if device != "auto":
        chosen_device(device)
    seed = secrets.randbelow(2**32) if seed is None else seed
    found = Verification(folder, seed, records=len(paths), asked=sample)
    found.faulty += _faults_of_form(folder)
    sampled = drawn(_sound(paths, found), sample, seed)
    found.sample = tuple(record.key for record in sampled)
    known = _earlier(folder, keep, found)
    console = Console(stderr=True)
    if sampled:
        # Before hours of measuring, which may be interrupted.
        console.print(sample_line(found.sample, seed), markup=False, soft_wrap=True)
    here = _measurable(sampled, DataHere(data_root), found)
    values = testable(here.values())

    def hand(anew: Record) -> None:
        if anew.status != "failed":
            entry = compared(here[anew.key], anew, rule, values)
            found.entries[anew.key] = entry.signed(anew.key)
            # After each, since measuring may take hours and be interrupted.
            write(folder, {**known, **found.entries})

    for where, records in _by_device(list(here.values()), device).items():
        with RunConsole(console) as watcher:
            found.unmeasurable |= remeasure(records, data_root, where, watcher, hand)
    return found


def compared(record: Record, anew: Record, choice: RuleChoice, values: int = 0) -> Remeasured:
    """Return the outcome of comparing a record with a new measurement, unsigned.

    Args:
        values: how many are tested in the whole verification; those of this record if 0.
    """
    rule = chosen(choice, record, anew)
    found = compare(record, anew, rule, values)
    if choice == "auto" and rule == "interval":
        # Equal numbers show more than intervals can, also where they need not be equal.
        equal = compare(record, anew, "equal", values)
        if equal.agrees:
            rule, found = "equal", equal
    return Remeasured(
        content=content_hash(record),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        rule=rule,
        agrees=found.agrees,
        differences=tuple(found.differences),
        untested=tuple(found.untested),
        device=anew.device,
        versions=anew.versions,
    )


def _faults_of_form(folder: Path) -> list[str]:
    """Return what is wrong with the form of a submission; nothing if the folder is none."""
    if not os.path.lexists(home_of(folder) / SUBMISSION):
        return []
    try:
        read_submission(folder)
    except UsageError as error:
        return [f"{error}."]
    return []


def _earlier(folder: Path, keep: bool, found: Verification) -> dict[str, Remeasured]:
    """Return the entries of an existing file that are kept; move it aside if others are in it."""
    earlier = entries(folder)
    if keep:
        return {**earlier.foreign, **earlier.own}
    if earlier.foreign or not earlier.own:
        found.aside = quarantine(folder)
        if found.aside and earlier.own:
            write(folder, earlier.own)
    return dict(earlier.own)


def _measurable(
    sampled: Sequence[Record], data: DataHere, found: Verification
) -> dict[str, Record]:
    """Return the records that can be measured here, by key; note why the others cannot."""
    here = {}
    for record in sampled:
        if fault := data.fault(record):
            found.faulty.append(f"{record.key}.json ({_cell(record)}) {fault}.")
        elif why := data.obstacle(record):
            found.unmeasurable[record.key] = why
        else:
            here[record.key] = record
    return here


def _sound(paths: Sequence[Path], found: Verification) -> list[Record]:
    """Return the records without faults; add the faults of the others."""
    sound = []
    plugins = SharedPlugins()
    for path in paths:
        try:
            record = read_strictly(path)
        except UsageError as error:
            found.faulty.append(f"{path.name} {error}.")
            continue
        wrong = list(faults(record, path.stem, plugins))
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


def _by_value(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return value → its keys."""
    found: dict[str, list[str]] = {}
    for key, value in texts.items():
        found.setdefault(value, []).append(key)
    return found


def _unmeasurable(keys: Sequence[str], why: str) -> str:
    return f"- {len(keys)} records of the sample cannot be measured again here: {why}."


def _line(key: str, entry: Remeasured) -> str:
    """Return the sentence on a record that was measured again."""
    untested = f"; not testable: {_listed(entry.untested)}"
    untested = untested if entry.untested else ""
    if entry.outcome == "agrees":
        return f"- {key}.json agrees: {RULES[entry.rule]}{untested}."
    if entry.outcome == "untestable":
        return f"- {key}.json is not testable by the rule {entry.rule!r}{untested}."
    way_out = (
        "; processors of another make round differently: --rule interval allows for that"
        if entry.rule == "equal"
        else ""
    )
    named = _listed(entry.differences, "; ")
    return f"- {key}.json does not agree, not {RULES[entry.rule]}: {named}{way_out}."


def _listed(texts: Sequence[str], between: str = ", ") -> str:
    more = f"{between}and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return between.join(texts[:SHOWN]) + more
