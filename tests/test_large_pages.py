"""Pages of runs with very many settings: they say what they leave out, and do not grow with it."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leakbench.cli.main import app
from leakbench.records.measured import Measured
from leakbench.reports import leaderboard, publishing, ranking_text, settings, suite_report
from leakbench.reports.site import paged, ranking_view
from leakbench.reports.site.suite_tables import left_out_tables, suite_tables
from leakbench.reports.suite_report import SuiteReport
from many_records import OF_A_SEED, write_many
from publishing import done
from records import suite_entries

LIMIT = 2
"""Rankings and setups of a page in these tests; each seed has one of both."""

ROWS = LIMIT * 4
"""Rows of a page; each seed has a row for two defenses and two properties."""

Made = Counter[str]


@pytest.fixture(scope="module", autouse=True)
def limits() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboard, "OF_THE_PAPER", ())
        for module in (leaderboard, publishing):
            patch.setattr(module, "suite_names", lambda: [])
        patch.setattr(ranking_text, "RANKINGS", LIMIT)
        patch.setattr(settings, "SETUPS", LIMIT)
        patch.setattr(paged, "ROWS", ROWS)
        yield patch


@pytest.fixture(scope="module")
def made(limits: pytest.MonkeyPatch) -> Made:
    """How often parts of pages were made."""
    counts = Made()

    def noted(module: Any, name: str) -> None:
        make: Callable[..., object] = getattr(module, name)

        def noting(*given: Any) -> object:
            counts[name] += 1
            return make(*given)

        limits.setattr(module, name, noting)

    noted(ranking_view, "_view")
    noted(suite_report, "table_of")
    noted(settings, "_setup")
    return counts


@dataclass(frozen=True)
class Site:
    """What was published of a run with a number of seeds, and how often its parts were made."""

    run: Path
    made: Made

    def text(self, name: str) -> str:
        return (self.run / "run/site" / name).read_text()

    @property
    def leaderboard(self) -> str:
        return (self.run / "run/leaderboard.md").read_text()


def publish(run: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        arguments = ("publish", "--out", run / "run", "--suite", run / "many.toml")
        app(map(str, arguments), standalone_mode=False)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, made: Made) -> dict[int, Site]:
    """How many times the limit → the site of so many seeds.

    Suites have a page, to which the leaderboard links.
    """
    published = {}
    for times in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"times-{times}")
        write_many(folder, times * LIMIT)
        for name in ("many.md", "many.csv"):
            (folder / "run" / name).write_text("made by report\n")
        made.clear()
        publish(folder)
        published[times] = Site(folder, Made(made))
    return published


GROWING = ("index.html", "suite-many.html")


def test_pages_do_not_grow_beyond_their_limits(sites: dict[int, Site]) -> None:
    """Sizes differ by the digits of the numbers in them."""
    twice, four_times = sites[2], sites[4]
    for name in GROWING:
        assert abs(len(four_times.text(name)) - len(twice.text(name))) < 40, name
    assert abs(len(four_times.leaderboard) - len(twice.leaderboard)) < 40


def test_pages_say_what_they_leave_out_and_where_it_is(sites: dict[int, Site]) -> None:
    site = sites[4]
    index, suite, attack = (
        re.sub(r"<[^>]+>", "", site.text(name)) for name in (*GROWING, "attack-feature.html")
    )
    more, why = f"{3 * LIMIT} more rankings left out", f", since a page has at most {LIMIT}: those"
    assert more + why in index
    assert f"**{more}**{why}" in site.leaderboard
    assert "1 table left out, since a page has at most 8 rows of them: “By seed”." in suite
    assert "It has more cells than a page has rows; their cost is on the pages" in suite
    cells = 3 * LIMIT * OF_A_SEED
    assert f"the setups of {cells} more cells are left out here" in suite
    assert f"the setups of {cells // 4} more cells are left out here" in attack


def test_all_cells_are_on_the_pages_that_are_named_instead(sites: dict[int, Site]) -> None:
    for pages in ("cells*.html", "attack-*.html"):
        rows = {
            name
            for path in (sites[4].run / "run/site").glob(pages)
            for name in re.findall(r"<tr id=(k[^>]+)>", path.read_text())
        }
        assert len(rows) == 4 * LIMIT * OF_A_SEED * len(("gender", "smile"))


def test_links_of_cut_pages_lead_somewhere(sites: dict[int, Site]) -> None:
    folder = sites[4].run / "run/site"
    for name in (*GROWING, "attack-feature.html"):
        text = sites[4].text(name)
        links = re.findall(r'href="?(?!https?:)([^"#> ]*)#?([^"> ]*)', text)
        assert {"cells.html", "attacks.html"} <= {page for page, _ in links}
        for page, place in links:
            assert (folder / (page or name)).is_file(), (name, page)
            if place:
                target = (folder / (page or name)).read_text()
                assert re.search(rf'id="?{re.escape(place)}[" >]', target), (name, place)


def test_what_no_page_shows_is_not_made(sites: dict[int, Site]) -> None:
    """Neither views of rankings, nor the suite's table; a table that fits is made."""
    within, twice, four_times = (sites[times].made for times in (1, 2, 4))
    assert within["table_of"] == 1
    assert twice == four_times == {"_view": LIMIT, "_setup": within["_setup"]}


def test_pages_within_their_limits_are_as_without_any(
    sites: dict[int, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites[1]

    def files() -> dict[str, bytes]:
        found = [*(site.run / "run/site").iterdir(), site.run / "run/leaderboard.md"]
        return {path.name: path.read_bytes() for path in found}

    monkeypatch.setattr(paged, "ROWS", 2000)
    publish(site.run)
    paged_alike = files()
    monkeypatch.setattr(ranking_text, "RANKINGS", 100)
    monkeypatch.setattr(settings, "SETUPS", 200)
    publish(site.run)
    assert files() == paged_alike
    every = b"".join(paged_alike.values())
    assert not re.search(rb"left out(</strong>|\*\*| here)", every)


def test_tables_that_fit_are_shown_and_the_last_ones_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, suite = write_many(tmp_path, 1)
    text = suite.read_text()
    again = text[text.index("[[group]]") :].replace("By seed", "Again")
    suite.write_text(f"{text}\n{again}")
    cells = [Measured(entry, done(entry)) for entry in suite_entries(str(suite))]
    for rows, shown in ((8, 2), (7, 1), (4, 1), (3, 0)):
        monkeypatch.setattr(paged, "ROWS", rows)
        report = SuiteReport(cells)
        assert len(suite_tables("many", report)) == shown
        assert ("“Again”" in left_out_tables(report)) == (shown < 2)
        assert ("“By seed”, “Again”" in left_out_tables(report)) == (shown < 1)


def test_a_table_has_as_many_rows_as_expected_where_all_is_measured(tmp_path: Path) -> None:
    _, suite = write_many(tmp_path, 2)
    cells = [Measured(entry, done(entry)) for entry in suite_entries(str(suite))]
    report = SuiteReport(cells)
    assert report.least_rows("By seed") == len(report.table("By seed")[0].rows) == 8
