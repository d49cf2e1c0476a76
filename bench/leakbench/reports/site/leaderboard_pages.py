"""The leaderboard, and a page for each suite that lays out records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from markupsafe import Markup

from leakbench.records.folder import RecordFolder
from leakbench.reports.claims import ABOUT as CLAIMS
from leakbench.reports.claims import Claim
from leakbench.reports.columns import COST
from leakbench.reports.leaderboard import ABOUT, COST_AID, LaidOut
from leakbench.reports.ranking import Ranking
from leakbench.reports.ranking_text import READING, left_out
from leakbench.reports.settings import setting_lines
from leakbench.reports.site import paged
from leakbench.reports.site.chart import MARGINS
from leakbench.reports.site.figure_gallery import FigureView, Gallery
from leakbench.reports.site.ranking_view import RankingView
from leakbench.reports.site.readings import reading_html
from leakbench.reports.site.suite_tables import left_out_tables, suite_tables
from leakbench.reports.site.view import Page, TableView, made_unique, marked_up, plain_table, slug
from leakbench.reports.suite_report import reading_lines
from leakbench.reports.summaries import references, threat_models, threat_table
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
        tables: one per group, of those that the page has room for.
        left_out: a sentence on the others; empty where there are none.
        costs: of its cells; None where these are too many.
        settings: one per line.
        figures: that were drawn from it.
    """

    name: str
    title: str
    tables: Sequence[TableView]
    left_out: Markup
    costs: TableView | None
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


@dataclass(frozen=True)
class SiteContent:
    """What a site is made from.

    Attributes:
        found: all suites that have records.
        leading: those among them whose attacks the first page ranks.
        folder: the records.
        ranked: the rankings of those suites.
        figures: of the suites.
        readings: suite → its reading, in Markdown; empty where it has none.
        claims: folders that others submitted.
    """

    found: Sequence[LaidOut]
    leading: Sequence[LaidOut]
    folder: RecordFolder
    ranked: Sequence[Ranking]
    figures: Gallery
    readings: Mapping[str, str] = field(default_factory=dict)
    claims: Sequence[Claim] = ()


def trend_of(figures: Sequence[FigureView], leading: Sequence[LaidOut]) -> str:
    """Return the file of the figure of accuracy against batch size; empty without one.

    The shortest name is that of the first group, which the suite's figure shows.
    """
    names = [
        each.source.name
        for suite in leading
        for each in figures
        if each.suite == suite.name and each.source.name.startswith(f"{suite.name}-batches")
    ]
    return min(names, key=len, default="")


def leaderboard_pages(content: SiteContent, ranked: Sequence[RankingView]) -> list[Page]:
    """Return the first page, and one for each suite."""
    slugs = made_unique([slug(each.name) for each in content.found])
    paths = {each.name: f"suite-{of}.html" for each, of in zip(content.found, slugs, strict=True)}
    folder, figures = content.folder, content.figures.figures
    trend = trend_of(figures, content.leading)
    first = {
        "about": ABOUT,
        "rankings": ranked,
        "size": MARGINS,
        "unranked": marked_up(left_out(content.ranked)),
        "reading": [marked_up(text) for text in READING] if ranked else [],
        "trend": next((each for each in figures if each.source.name == trend), None),
        "leading": [(paths[each.name], each.title) for each in content.leading],
        "others": [
            (paths[each.name], each.title) for each in content.found if each not in content.leading
        ],
        "claims": content.claims,
        "claims_about": marked_up(CLAIMS),
        "records": len(folder.records),
        "agreeing": len(folder.with_outcome("agrees")),
        "differing": len(folder.with_outcome("differs")),
        "claimed": len(folder.claimed),
        "left_out": folder.left_out,
    }
    pages = [Page("index.html", "index.html", "Leaderboard", first)]
    for each in content.found:
        reading = reading_html(content.readings.get(each.name, ""), paths, figures)
        view = partial(_view, each, figures)
        path = paths[each.name]
        pages.append(Page(path, "suite.html", each.title, {"reading": reading}, view))
    return pages


def _view(suite: LaidOut, figures: Sequence[FigureView]) -> dict[str, object]:
    return {"view": tables_view([suite], figures)}


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
        tables=suite_tables(suite.name, suite.report),
        left_out=marked_up(left_out_tables(suite.report)),
        costs=_costs(suite),
        settings=[marked_up(line) for line in setting_lines(suite.cells, brief=True)],
        figures=[figure for figure in figures if figure.suite == suite.name],
    )


def _costs(suite: LaidOut) -> TableView | None:
    """Return what each cell costs; None where they are more than the rows of a page."""
    if len(suite.cells) > paged.ROWS:
        return None
    headings = [column.heading for column in COST]
    name = f"{slug(suite.name)}-cost"
    return plain_table(name, f"Cost: {suite.title}", suite.costs, headings)
