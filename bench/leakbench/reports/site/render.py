"""The site's pages as HTML; all that comes from records and plugins is escaped."""

from __future__ import annotations

from functools import partial
from importlib.metadata import metadata
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leakbench.reports.leaderboard import NO_SUITE
from leakbench.reports.recorded_cells import measured_in_order
from leakbench.reports.site.attack_pages import attack_pages, attack_tables
from leakbench.reports.site.cell_tables import every_cell
from leakbench.reports.site.defense_pages import defense_pages
from leakbench.reports.site.figure_gallery import published
from leakbench.reports.site.folder import Content
from leakbench.reports.site.leaderboard_pages import SiteContent, leaderboard_pages
from leakbench.reports.site.metrics_page import metrics_table
from leakbench.reports.site.ranking_view import ranking_views
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


def site(content: SiteContent) -> dict[str, Content]:
    """Return the site: path of each file, in its folder → what makes its content."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["navigation"] = NAVIGATION
    environment.globals["links"] = project_links()
    environment.filters["breakable"] = breakable
    environment.filters["rows_html"] = rows_html

    def rendered(page: Page) -> bytes:
        content = {**page.content, **page.of_writing()}
        html = environment.get_template(page.template).render(page=page, **content)
        return html.encode("utf-8", errors="replace")

    files: dict[str, Content] = {page.path: partial(rendered, page) for page in pages(content)}
    files |= {name: (HERE / "static" / name).read_bytes for name in STATIC}
    return files | {each.path: partial(published, each) for each in content.figures.figures}


def project_links() -> list[tuple[str, str]]:
    """Return label and address of the project's places on the web, as its package names them."""
    named = metadata("leakbench").get_all("Project-URL") or []
    pairs = [text.partition(", ") for text in named]
    return [(label, url) for label, _, url in pairs if url.startswith("https://")]


def pages(content: SiteContent) -> list[Page]:
    """Return the site's pages."""
    cells = measured_in_order(list(content.folder.records.values()))
    tables = attack_tables(cells)
    places = {name: page for table in tables.values() for name, page in table.places().items()}
    every = every_cell(cells, places, content.folder.remeasured)
    drawn = {"figures": content.figures.figures, "left_out": content.figures.left_out}
    attack_paths = {name: table.path for name, table in tables.items()}
    first, *suites = leaderboard_pages(content, ranking_views(content.ranked, attack_paths))
    no_suite = {**first.content, "no_suite": marked_up(NO_SUITE)}
    return [
        Page(first.path, first.template, first.title, no_suite),
        *suites,
        *attack_pages(tables, content.ranked),
        *defense_pages(cells, places),
        *every.pages("All cells"),
        Page("metrics.html", "list.html", "Metrics", {"listed": metrics_table()}),
        Page("figures.html", "figures.html", "Figures", drawn),
    ]
