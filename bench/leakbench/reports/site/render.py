"""The site's pages as HTML; all that comes from records and plugins is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leakbench.records.folder import RecordFolder
from leakbench.reports.leaderboard import NO_SUITE, LaidOut
from leakbench.reports.site.attack_pages import attack_pages, attack_paths
from leakbench.reports.site.cell_tables import every_cell
from leakbench.reports.site.defense_pages import defense_pages
from leakbench.reports.site.figure_gallery import Gallery
from leakbench.reports.site.leaderboard_pages import leaderboard_pages
from leakbench.reports.site.metrics_page import metrics_table
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
) -> dict[str, bytes]:
    """Return the site: path of each file, in its folder → content.

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
    files = {}
    for page in pages(found, leading, folder, figures):
        template = environment.get_template(page.template)
        html = template.render(page=page, **page.content)
        files[page.path] = html.encode("utf-8", errors="replace")
    for name in STATIC:
        files[name] = (HERE / "static" / name).read_bytes()
    for figure in figures.figures:
        files[figure.path] = figure.source.read_bytes()
    return files


def pages(
    found: Sequence[LaidOut],
    leading: Sequence[LaidOut],
    folder: RecordFolder,
    figures: Gallery,
) -> list[Page]:
    """Return the site's pages."""
    paths = attack_paths(folder)
    cells = {"listed": every_cell(list(folder.records.values()), paths, folder.remeasured)}
    drawn = {"figures": figures.figures, "left_out": figures.left_out}
    first, *suites = leaderboard_pages(found, leading, folder, figures.figures)
    no_suite = {**first.content, "no_suite": marked_up(NO_SUITE)}
    return [
        Page(first.path, first.template, first.title, no_suite),
        *suites,
        *attack_pages(folder),
        *defense_pages(folder, paths),
        Page("cells.html", "list.html", "All cells", cells),
        Page("metrics.html", "list.html", "Metrics", {"listed": metrics_table()}),
        Page("figures.html", "figures.html", "Figures", drawn),
    ]
