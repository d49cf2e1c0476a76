"""The site's pages as HTML; all that comes from records and plugins is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leakbench.records.folder import RecordFolder
from leakbench.reports.leaderboard import NO_SUITE, LaidOut
from leakbench.reports.site.attack_pages import attack_pages, attack_tables
from leakbench.reports.site.cell_tables import every_cell, measured_in_order
from leakbench.reports.site.defense_pages import defense_pages
from leakbench.reports.site.figure_gallery import Gallery
from leakbench.reports.site.folder import Content
from leakbench.reports.site.leaderboard_pages import leaderboard_pages
from leakbench.reports.site.metrics_page import metrics_table
from leakbench.reports.site.table_rows import rows_html
from leakbench.reports.site.view import Page, breakable, marked_up

HERE = Path(__file__).parent

STATIC = ("site.css", "site.js")

NAVIGATION = (
    ("index.html", "Leaderboard"),
    ("attacks.html", "Attacks"),
    ("defenses.html", "Defenses"),
    ("cells.html", "All cells"),
    ("metrics.html", "Metrics"),
    ("figures.html", "Figures"),
)


def site(
    found: Sequence[LaidOut],
    leading: Sequence[LaidOut],
    folder: RecordFolder,
    figures: Gallery,
) -> dict[str, Content]:
    """Return the site: path of each file, in its folder → what makes its content.

    Args:
        found: all suites that have records.
        leading: those among them that the first page shows.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["navigation"] = NAVIGATION
    environment.filters["breakable"] = breakable
    environment.filters["rows_html"] = rows_html

    def rendered(page: Page) -> bytes:
        html = environment.get_template(page.template).render(page=page, **page.content)
        return html.encode("utf-8", errors="replace")

    files: dict[str, Content] = {
        page.path: partial(rendered, page) for page in pages(found, leading, folder, figures)
    }
    files |= {name: (HERE / "static" / name).read_bytes for name in STATIC}
    return files | {figure.path: figure.source.read_bytes for figure in figures.figures}


def pages(
    found: Sequence[LaidOut],
    leading: Sequence[LaidOut],
    folder: RecordFolder,
    figures: Gallery,
) -> list[Page]:
    """Return the site's pages."""
    cells = measured_in_order(list(folder.records.values()))
    tables = attack_tables(cells)
    places = {name: page for table in tables.values() for name, page in table.places().items()}
    every = every_cell(cells, places, folder.remeasured)
    drawn = {"figures": figures.figures, "left_out": figures.left_out}
    first, *suites = leaderboard_pages(found, leading, folder, figures.figures)
    no_suite = {**first.content, "no_suite": marked_up(NO_SUITE)}
    return [
        Page(first.path, first.template, first.title, no_suite),
        *suites,
        *attack_pages(tables),
        *defense_pages(cells, places),
        *every.pages("All cells"),
        Page("metrics.html", "list.html", "Metrics", {"listed": metrics_table()}),
        Page("figures.html", "figures.html", "Figures", drawn),
    ]
