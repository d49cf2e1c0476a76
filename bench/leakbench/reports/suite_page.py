"""A suite's report as files: a page of Markdown, and all metrics as CSV beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from leakbench.base.errors import UsageError
from leakbench.base.files import replacing
from leakbench.base.markdown import harmless
from leakbench.experiments.suite import suite_names
from leakbench.metrics.formatting import counted
from leakbench.records.measured import Measured
from leakbench.reports.columns import present
from leakbench.reports.details import CELL_COLUMNS, PROPERTY_COLUMNS, csv_name, details_csv
from leakbench.reports.site.figure_gallery import gallery
from leakbench.reports.suite_report import SuiteReport, named_groups, reading_aid

LIMIT = 100_000
"""Bytes of a page, more than which no reader scrolls through; the reading is never cut."""


@dataclass(frozen=True)
class Heading:
    """What a suite's page begins with, and the names of the files that belong to it.

    Attributes:
        name, title: the suite's.
        command: that measures its cells.
        reading: a discussion of the tables; it alone may have links and images of its own.
        figures: name of a file in `figures` → what it shows.
    """

    name: str
    title: str
    command: str
    reading: str = ""
    figures: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report: the page, and all metrics as CSV."""

    page: Path
    metrics: Path


def write_report(out: Path, heading: Heading, report: SuiteReport) -> ReportFiles:
    """Write a suite's page and its metrics into a run's folder.

    Raises:
        WriteError: the folder cannot be written to.
    """
    files = ReportFiles(out / f"{heading.name}.md", out / csv_name(heading.name))
    metrics = details_csv(report.cells)
    for path, text in ((files.metrics, metrics), (files.page, page(heading, report))):
        with replacing(path) as temporary:
            # As bytes, since a text file would have other line ends on Windows.
            temporary.write_bytes(text.encode("utf-8"))
    return files


def reading_of(out: Path, suite: str) -> str:
    """Return the reading that lies in a run's folder as `SUITE.reading.md`; empty without one.

    Raises:
        UsageError: it is no text.
    """
    path = out / f"{suite}.reading.md"
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8 ({error}); save it so") from None


def figures_of(out: Path, suite: str) -> dict[str, str]:
    """Return the figures of a suite in a run's folder: name of the file → what it shows.

    Reconstructions, which may show real individuals, are not among them.
    """
    found = gallery(out / "figures", {*suite_names(), suite}, reconstructions=False)
    return {each.source.name: each.caption for each in found.figures if each.suite == suite}


def page(heading: Heading, report: SuiteReport) -> str:
    """Return a suite's page: the reading, tables and figures, how to read them, settings folded.

    It has at most `LIMIT` bytes, as long as its reading leaves room: where it would have more,
    columns are not aligned in the text, then tables are left out, the last ones first, and at last
    the settings; what is left out is named.
    """
    above = [
        harmless(f"# {heading.title}"),
        f"{harmless(f'Made by `{heading.command}`.')} {_metrics_link(heading.name)}",
        heading.reading.strip(),
    ]
    aid = harmless(f"## How to read\n\n{reading_aid(report.cells, brief=True)}")
    below = [_figures(heading), aid, columns_aid(report.cells), folded("Settings", report.settings)]
    if _size([*above, *below]) > LIMIT - ROOM_FOR_NOTE:
        below[-1] = f"## Settings\n\nThey are left out here. {HOW_TO_PRINT}"
    tables = _fitting(report, LIMIT - _size([*above, *below]))
    return "\n\n".join(part for part in (*above, *tables, *below) if part) + "\n"


ROOM_FOR_NOTE = 3_000
"""Bytes that a note on tables that are left out may have."""

HOW_TO_PRINT = "`leakbench report`, piped into a file, prints everything."


def _fitting(report: SuiteReport, room: int) -> list[str]:
    """Return the sections of tables that fit into a number of bytes, and a note on the others."""
    groups = list(report.groups)
    for padded in (True, False):
        if sum(map(report.least_size, groups)) > room:
            break
        sections = [harmless(report.section(group, padded=padded)) for group in groups]
        if _size(sections) <= room:
            return sections
    left_out, room = groups, room - ROOM_FOR_NOTE
    kept: list[str] = []
    while left_out and report.least_size(left_out[0]) <= room:
        section = harmless(report.section(left_out[0], padded=False))
        if _size([section]) > room:
            break
        kept.append(section)
        left_out, room = left_out[1:], room - _size([section])
    return [*kept, _left_out(left_out)]


def _size(parts: Iterable[str]) -> int:
    """Return the bytes of parts of a page, each with an empty line below it."""
    return sum(len(part.encode("utf-8")) + 2 for part in parts)


def _left_out(groups: Sequence[str]) -> str:
    """Return a note on tables that are left out."""
    return harmless(
        f"**{counted(len(groups), 'table')} left out**, since a page has at most "
        f"{LIMIT // 1000} kB: {named_groups(groups)}. {HOW_TO_PRINT}"
    )


def _metrics_link(suite: str) -> str:
    return f"All metrics of all cells are in [a CSV file]({quote(csv_name(suite))}) beside it."


def _figures(heading: Heading) -> str:
    """Return the section with the figures that the reading does not show."""
    images = [
        f"![{harmless(caption)}](figures/{quote(name)})"
        for name, caption in (heading.figures or {}).items()
        if f"figures/{Path(name).stem}." not in heading.reading
    ]
    return "\n\n".join(["## Figures", *images]) if images else ""


def folded(summary: str, text: str) -> str:
    """Return Markdown that is to be unfolded; without the empty lines it would be plain text."""
    return f"<details>\n<summary>{summary}</summary>\n\n{harmless(text)}\n\n</details>"


def columns_aid(cells: Sequence[Measured]) -> str:
    """Return the section on the columns of the CSV file."""
    records = [m.record.metrics for m in cells if m.record and m.record.metrics]
    columns = (*CELL_COLUMNS, *PROPERTY_COLUMNS)
    known = present(columns, records)
    described = "\n".join(
        f"- {spec.title}: {spec.description}" for spec in columns if spec in known
    )
    lacks_lpips = any(of.images is not None and of.images.lpips is None for of in records)
    parts = ["## All metrics", CSV_AID, LPIPS_AID if lacks_lpips else ""]
    if described:
        parts.append(folded("What the metrics are", described))
    return "\n\n".join(filter(None, parts))


CSV_AID = (
    "The CSV file has a row for each cell and property. Columns have their unit in the heading; "
    "`low` and `high` are the ends of the 95 % interval. A field is empty where nothing was "
    "measured, or where a metric is not defined, such as the AUC of a property that everybody has. "
    "f_p decides at the threshold of balanced accuracy, also for accuracy and count. Images, "
    "clamped to [0, 1], are compared in the order in which features were matched. Steps are "
    "gradient evaluations per victim batch."
)

LPIPS_AID = (
    "Cells with a PSNR and without LPIPS lack AlexNet's weights; run again with `--lpips-weights "
    "PATH`, or with `--lpips-weights download`, which fetches them (240 MB), to measure these "
    "cells with it."
)
