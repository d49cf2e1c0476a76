"""The leaderboard, and a page for each other suite that lays out records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leakbench.records.folder import RecordFolder
from leakbench.reports.columns import COST
from leakbench.reports.leaderboard import COST_AID, LaidOut
from leakbench.reports.settings import setting_lines
from leakbench.reports.site.figure_gallery import FigureView
from leakbench.reports.site.suite_tables import suite_tables
from leakbench.reports.site.view import Page, TableView, made_unique, marked_up, plain_table, slug
from leakbench.reports.suite_report import reading_lines
from leakbench.reports.summaries import costs, references, threat_models, threat_table
from leakbench.threat.glossary import ADVERSARY, glossary

MARKED = (
    "**★** marks the best attack of a row, only where all are measured and its interval lies above "
    "those of all other attacks of the row and above that of the best baseline with its knowledge: "
    "the highest among those that know no more, at least one of which knows the labels as the "
    "attack does. Controls, in grey, do not compete, nor do attacks that see outputs of "
    "models."
)


@dataclass(frozen=True)
class SuiteView:
    """A suite on a page.

    Attributes:
        name, title: the suite's.
        tables: one per group.
        costs: of its cells.
        settings: one per line.
        figures: that were drawn from it.
    """

    name: str
    title: str
    tables: Sequence[TableView]
    costs: TableView
    settings: Sequence[Markup]
    figures: Sequence[FigureView]


@dataclass(frozen=True)
class TablesView:
    """One or more suites on a page.

    Attributes:
        suites: each with its tables.
        reading: how to read them.
        adversary: what all attacks have in common.
        threats: what each attack knew.
        glossary: kind of knowledge → what it is.
        papers: title and publication of attacks.
        cost_aid: how to read the costs.
    """

    suites: Sequence[SuiteView]
    reading: Sequence[Markup]
    adversary: str
    threats: TableView
    glossary: Mapping[str, str]
    papers: Sequence[tuple[str, str]]
    cost_aid: str


def leaderboard_pages(
    found: Sequence[LaidOut],
    leading: Sequence[LaidOut],
    folder: RecordFolder,
    figures: Sequence[FigureView],
) -> list[Page]:
    """Return the first page and one for each suite that it does not show.

    Args:
        found: all suites that have records.
        leading: those among them that the first page shows.
        figures: of all suites.
    """
    others = [each for each in found if each not in leading]
    slugs = made_unique([slug(each.name) for each in others])
    paths = {each.name: f"suite-{of}.html" for each, of in zip(others, slugs, strict=True)}
    first = {
        "view": tables_view(leading, figures) if leading else None,
        "records": len(folder.records),
        "agreeing": len(folder.with_outcome("agrees")),
        "differing": len(folder.with_outcome("differs")),
        "claimed": len(folder.claimed),
        "left_out": folder.left_out,
        "others": [(paths[each.name], each.title) for each in others],
    }
    pages = [
        Page(paths[each.name], "suite.html", each.title, {"view": tables_view([each], figures)})
        for each in others
    ]
    return [Page("index.html", "index.html", "Leaderboard", first), *pages]


def tables_view(suites: Sequence[LaidOut], figures: Sequence[FigureView]) -> TablesView:
    """Return suites, at least one, as a page shows them."""
    by_name = {each.name: each.cells for each in suites}
    every = [m for each in suites for m in each.cells]
    models = threat_models(by_name)
    return TablesView(
        suites=[_suite_view(each, figures) for each in suites],
        reading=[marked_up(line) for line in (*reading_lines(every), MARKED)],
        adversary=ADVERSARY,
        threats=plain_table("threats", "Knowledge of attacks", threat_table(models)),
        glossary=glossary(kind for model in models for kind in model.knowledge),
        papers=references(by_name),
        cost_aid=COST_AID,
    )


def _suite_view(suite: LaidOut, figures: Sequence[FigureView]) -> SuiteView:
    return SuiteView(
        name=suite.name,
        title=suite.title,
        tables=suite_tables(suite.name, suite.cells),
        costs=plain_table(
            f"{slug(suite.name)}-cost",
            f"Cost: {suite.title}",
            costs(suite.cells),
            [column.heading for column in COST],
        ),
        settings=[marked_up(line) for line in setting_lines(suite.cells)],
        figures=[figure for figure in figures if figure.suite == suite.name],
    )
