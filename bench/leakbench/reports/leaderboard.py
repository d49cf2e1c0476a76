"""`leaderboard.md`: the paper's tables, threat models, costs and settings, from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leakbench.base.markdown import harmless, markdown_table, one_line
from leakbench.experiments.descriptions import describe
from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import load_suite, suite_names
from leakbench.records.folder import RecordFolder
from leakbench.records.measured import Measured
from leakbench.records.verified import Outcome, Remeasured
from leakbench.reports.settings import setting_lines
from leakbench.reports.suite_report import main_tables, reading_lines
from leakbench.reports.summaries import (
    Summary,
    costs,
    references,
    threat_models,
    threat_table,
)
from leakbench.threat.glossary import ADVERSARY, glossary

OF_THE_PAPER = ("table1", "table2", "table3")
"""The suites that make the paper's Tables 1 to 3."""

MARKED = (
    "**Bold** is the best attack of a row, marked only where all are measured and its interval "
    "lies above those of all other attacks of the row and above that of the best baseline with its "
    "knowledge: the highest among those that know no more, at least one of which knows the labels "
    "as the attack does. Controls do not compete, nor do attacks that see outputs of models."
)

COST_AID = (
    "steps: gradient evaluations per victim batch; s/batch: seconds of wall time per batch; MiB: "
    "peak memory of the process, or on CUDA of the cell."
)


@dataclass(frozen=True)
class LaidOut:
    """A suite that lays out some of the records.

    Attributes:
        name, title: the suite's.
        cells: its entries, with the records that exist.
    """

    name: str
    title: str
    cells: Sequence[Measured]


def laid_out(folder: RecordFolder, suites: Sequence[str]) -> list[LaidOut]:
    """Return the suites that have a record: the paper's first, then the user's, then the others.

    Args:
        suites: names or TOML files of the user's suites.

    Raises:
        UsageError: one of these cannot be read.
    """
    own = [load_suite(each)[0] for each in suites]
    papers = [name for name in OF_THE_PAPER if name not in own]
    others = [name for name in suite_names() if name not in (*OF_THE_PAPER, *own)]
    found: dict[str, LaidOut] = {}
    for each in (*papers, *suites, *others):
        name, suite = load_suite(each)
        cells = folder.measured(expand(name, suite))
        if any(m.record for m in cells):
            found.setdefault(name, LaidOut(name, suite.title, cells))
    return list(found.values())


def leading_suites(found: Sequence[LaidOut], suites: Sequence[str]) -> list[LaidOut]:
    """Return the suites of the leaderboard: the paper's and the user's, or else all.

    Args:
        found: of `laid_out`.
        suites: names or TOML files of the user's suites.
    """
    wanted = {*OF_THE_PAPER, *(load_suite(each)[0] for each in suites)}
    return [each for each in found if each.name in wanted] or list(found)


def leaderboard(
    shown: Sequence[LaidOut], folder: RecordFolder, trust_verified: bool = False
) -> str:
    """Return `leaderboard.md`.

    Args:
        shown: the suites whose tables it has.
        folder: the records they are made from.
        trust_verified: whether the folder was read so; the file says it.
    """
    parts = ["# Leaderboard", _made_of(folder, trust_verified)]
    for each in shown:
        parts += [f"## {each.title}", main_tables(each.cells, marked=True, level=3)]
    parts += _below(shown) if shown else [NO_SUITE]
    parts += _remeasured(shown, folder)
    if folder.left_out:
        left_out = [f"- {name}: {one_line(why)}" for name, why in folder.left_out.items()]
        parts += ["## Records left out", "\n".join(left_out)]
    return harmless("\n\n".join(part for part in parts if part)) + "\n"


def _below(shown: Sequence[LaidOut]) -> list[str]:
    """Return the sections under the tables."""
    every = [m for each in shown for m in each.cells]
    parts = ["## How to read", *map(one_line, reading_lines(every)), MARKED]
    parts += _threat({each.name: each.cells for each in shown})
    parts += ["## Cost", COST_AID]
    for each in shown:
        parts += [f"### {each.title}", _table(costs(each.cells))]
    parts.append("## Settings")
    for each in shown:
        lines = "\n".join(f"- {one_line(line)}" for line in setting_lines(each.cells))
        parts += [f"### {each.title}", lines]
    return parts


NO_SUITE = (
    "No suite that comes with leakbench lays out these records; name the one that does with "
    "`leakbench publish --suite FILE.toml`."
)


def _made_of(folder: RecordFolder, trust_verified: bool) -> str:
    command = "leakbench publish --trust-verified" if trust_verified else "leakbench publish"
    left_out = f"; {len(folder.left_out)} more are left out, see below" if folder.left_out else ""
    return f"Made by `{command}` from the {len(folder.records)} records beside it{left_out}."


def _remeasured(shown: Sequence[LaidOut], folder: RecordFolder) -> list[str]:
    """Return the section on records that were measured again."""
    if not shown:
        return []
    entries = {m.entry.key: m.entry for each in shown for m in each.cells if m.record}

    def listed(found: Mapping[str, Remeasured], outcome: Outcome) -> list[str]:
        return [
            f"- {one_line(describe(entry))}{_differences(found[key])}"
            for key, entry in entries.items()
            if key in found and found[key].outcome == outcome
        ]

    parts = ["## Measured again"]
    for outcome, sentence in OUTCOMES.items():
        lines = listed(folder.remeasured, outcome)
        if lines or outcome == "agrees":
            parts += [sentence.format(f"{len(lines)} of the {len(entries)}"), "\n".join(lines)]
    claimed = {outcome: listed(folder.claimed, outcome) for outcome in OUTCOMES}
    if any(claimed.values()):
        parts += ["### Claimed by others", CLAIMED]
        for outcome, lines in claimed.items():
            if lines:
                parts += [f"Claimed: {outcome}.", "\n".join(lines)]
    return parts


def _differences(entry: Remeasured) -> str:
    """Return in what a record differs from its new measurement, after a colon."""
    more = len(entry.differences) - SHOWN
    named = "; ".join(entry.differences[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return f": {one_line(named)}" if named else ""


SHOWN = 3
"""Differences of a record that are listed."""

OUTCOMES: Mapping[Outcome, str] = {
    "agrees": (
        "`leakbench verify` has measured again, and found to agree, {} records behind these tables."
    ),
    "differs": "It has measured again, and found to **differ**, {}; their cells say so.",
    "untestable": "It has measured again {} that have no interval by which to compare them.",
}

CLAIMED = (
    "`verified.json` says this too, but the machine that made this page did not write it, and "
    "anybody may have: it is not shown at the cells. `leakbench verify` measures a sample again."
)


def _threat(by_name: Mapping[str, Sequence[Measured]]) -> list[str]:
    """Return the section on the knowledge of attacks."""
    models = threat_models(by_name)
    known = glossary(kind for model in models for kind in model.knowledge)
    terms = [f"- {name}: {meaning}" for name, meaning in known.items()]
    papers = [f"- {title}: {one_line(reference)}" for title, reference in references(by_name)]
    parts = ["## Threat models", ADVERSARY, _table(threat_table(models)), "\n".join(terms)]
    return [*parts, "Published in:", "\n".join(papers)] if papers else parts


def _table(summary: Summary) -> str:
    return markdown_table(summary.rows, summary.headings)
