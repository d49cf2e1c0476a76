"""`leaderboard.md`: attacks ranked, and links to or tables of the suites, from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from leakbench.base.errors import UsageError
from leakbench.base.markdown import harmless, markdown_table, one_line
from leakbench.experiments.descriptions import describe
from leakbench.experiments.expansion import expand
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import load_suite, suite_names
from leakbench.records.folder import RecordFolder
from leakbench.records.measured import Measured
from leakbench.records.verified import Outcome, Remeasured
from leakbench.reports.claims import Claim, claimed_cells, claims_lines
from leakbench.reports.details import csv_name
from leakbench.reports.ranking import Ranking, rankings
from leakbench.reports.ranking_text import ranking_section
from leakbench.reports.suite_report import SuiteReport, reading_lines
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

    @cached_property
    def report(self) -> SuiteReport:
        """What is said of its cells, in the leaderboard and on its page of the site."""
        return SuiteReport(self.cells)

    @cached_property
    def costs(self) -> Summary:
        """The cost of its cells."""
        return costs(self.cells)


def laid_out(
    folder: RecordFolder, suites: Sequence[str], changes: Sequence[str] = ()
) -> list[LaidOut]:
    """Return the suites that have a record: the paper's first, then the user's, then the others.

    Args:
        suites: names or TOML files of the user's suites.
        changes: settings `KEY=VALUE` that these were run with.

    Raises:
        UsageError: one of these cannot be read, or there are changes and nothing to change.
    """
    if changes and not suites:
        raise UsageError(
            f"--set {changes[0]!r} changes no suite; name the one that was run so with --suite"
        )
    own = [load_suite(each)[0] for each in suites]
    papers = [name for name in OF_THE_PAPER if name not in own]
    others = [name for name in suite_names() if name not in (*OF_THE_PAPER, *own)]
    found: dict[str, LaidOut] = {}
    for each in (*papers, *suites, *others):
        name, suite = load_suite(each)
        if name in own:
            suite = override(suite, changes)
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


@dataclass(frozen=True)
class Beside:
    """What lies beside `leaderboard.md`, to which it links.

    Attributes:
        pages: the suites that have a page and a CSV file there.
        trend: the name of a figure in `figures` that shows accuracy against batch size; or empty.
        claims: folders that others submitted.
    """

    pages: frozenset[str] = frozenset()
    trend: str = ""
    claims: Sequence[Claim] = ()


def ranked_attacks(shown: Sequence[LaidOut], claims: Sequence[Claim]) -> list[Ranking]:
    """Return the rankings of the suites of a leaderboard, with what others claim."""
    return rankings([m for each in shown for m in each.cells], claimed_cells(claims))


def leaderboard(
    shown: Sequence[LaidOut],
    folder: RecordFolder,
    trust_verified: bool = False,
    beside: Beside | None = None,
    ranked: Sequence[Ranking] | None = None,
) -> str:
    """Return `leaderboard.md`: the rankings, then links to the suites' pages.

    Tables, costs and settings of suites without a page are in it themselves.

    Args:
        shown: the suites that it ranks and shows.
        folder: the records they are made from.
        trust_verified: whether the folder was read so; the file says it.
        beside: to what it may link.
        ranked: of `ranked_attacks`, which is asked if None.
    """
    beside = beside or Beside()
    found = ranked_attacks(shown, beside.claims) if ranked is None else ranked
    linked = [each for each in shown if each.name in beside.pages]
    inside = [each for each in shown if each.name not in beside.pages]
    parts = ["# Leaderboard", ABOUT, _made_of(folder, trust_verified)]
    text = harmless("\n\n".join(parts))
    first = [_trend(beside.trend), ranking_section(found)] if found else []
    below: list[str] = []
    for each in inside:
        sections = each.report.sections(marked=True, level=3)
        below += [f"## {each.title}", *sections.values()]
    below += _below(inside) if inside or not shown else []
    below += claims_lines(beside.claims)
    below += _remeasured(shown, folder)
    if folder.left_out:
        left_out = [f"- {name}: {one_line(why)}" for name, why in folder.left_out.items()]
        below += ["## Records left out", "\n".join(left_out)]
    rest = harmless("\n\n".join(part for part in below if part))
    return "\n\n".join(filter(None, (text, *first, _links(linked), rest))) + "\n"


def _trend(figure: str) -> str:
    caption = "Accuracy of attacks against batch size, between the best control and the oracle"
    return f"![{caption}](figures/{quote(figure)})" if figure else ""


def _links(suites: Sequence[LaidOut]) -> str:
    """Return the section that links to the suites' pages."""
    lines = [
        f"- [{harmless(one_line(each.title))}]({quote(each.name)}.md); all metrics as "
        f"[CSV]({quote(csv_name(each.name))})"
        for each in suites
    ]
    aid = "Each page has a reading, tables of balanced accuracy, threat models and settings."
    return "\n\n".join(["## Tables", "\n".join(lines), aid]) if lines else ""


def _below(shown: Sequence[LaidOut]) -> list[str]:
    """Return the sections under the tables; without suites, that there are none."""
    if not shown:
        return [NO_SUITE]
    every = [m for each in shown for m in each.cells]
    parts = ["## How to read", *map(one_line, reading_lines(every)), MARKED]
    parts += _threat({each.name: each.cells for each in shown})
    parts += ["## Cost", COST_AID]
    for each in shown:
        parts += [f"### {each.title}", _table(each.costs)]
    parts.append("## Settings")
    for each in shown:
        parts += [f"### {each.title}", each.report.settings]
    return parts


NO_SUITE = (
    "No suite that comes with leakbench lays out these records; name the one that does with "
    "`leakbench publish --suite FILE.toml`."
)


ABOUT = (
    "What an honest-but-curious server learns about each individual from the updates that clients "
    "of federated learning send."
)
"""What is ranked."""


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
