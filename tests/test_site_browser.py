"""Facts about the site in a browser: headless Chromium, from files, without any network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leakbench.base.registry import ATTACKS
from leakbench.reports.publishing import publish
from publishing import Hostile, hostile_run, whole_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, suite = whole_run(tmp_path_factory.mktemp("published"))
    return publish(out, None, [str(suite)], False).site.parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with api.sync_playwright() as playwright:
        # The sandbox is not to be had as root; nothing but our own files is opened.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


SEARCH = "Search rows"


class Watched:
    """A page with what it asked for and complained of."""

    def __init__(self, browser: Browser, **context: object) -> None:
        self.context = browser.new_context(**context)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))


@pytest.fixture
def watched(browser: Browser, site: Path) -> Iterator[Watched]:
    watched = Watched(browser)
    yield watched
    assert watched.complaints == []
    assert all(url.startswith(f"{site.as_uri()}/") for url in watched.requests)
    watched.context.close()


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page


def cells(page: Page, table: str, column: str) -> list[str]:
    """Return what stands in a column of a table's rows that are shown, without details."""
    return page.evaluate(
        """([table, column]) => {
            const of = document.getElementById(table);
            const headings = [...of.tHead.rows[0].cells].map((each) => each.textContent);
            return [...of.tBodies[0].rows].filter((row) => row.getClientRects().length).map(
                (row) => row.cells[headings.indexOf(column)].firstChild.textContent);
        }""",
        [table, column],
    )


def sorted_by(page: Page, table: str) -> dict[str, str]:
    """Return heading → order of the columns that a table says it is sorted by."""
    headings = page.locator(f"#{table} thead th[aria-sort]").all()
    return {each.inner_text(): str(each.get_attribute("aria-sort")) for each in headings}


def filter_of(page: Page, table: str, label: str) -> Locator:
    """Return the control with this label above a table."""
    caption = page.locator(f"#{table} caption").text_content()
    bar = page.get_by_role("group", name=f"Filter: {caption}")
    role = "searchbox" if label == SEARCH else "combobox"
    return bar.get_by_role(role, name=label, exact=True)


def press(page: Page, table: str, heading: str) -> None:
    page.locator(f"#{table} thead").get_by_role("button", name=heading, exact=True).click()


def test_every_page_opens_without_a_complaint_and_asks_for_nothing_elsewhere(
    page: Page, site: Path
) -> None:
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("document.querySelectorAll('thead button').length") > 0 or (
            path.name in ("figures.html", "index.html")
        )


def test_a_heading_sorts_up_down_and_back(page: Page, site: Path) -> None:
    page.goto((site / "attack-feature.html").as_uri())
    before = cells(page, "cells", "balanced accuracy, %")
    press(page, "cells", "balanced accuracy, %")
    assert sorted_by(page, "cells") == {"balanced accuracy, %": "descending"}
    numbers = [float(text) for text in cells(page, "cells", "balanced accuracy, %")]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 1
    press(page, "cells", "balanced accuracy, %")
    assert sorted_by(page, "cells") == {"balanced accuracy, %": "ascending"}
    assert [float(t) for t in cells(page, "cells", "balanced accuracy, %")] == numbers[::-1]
    press(page, "cells", "balanced accuracy, %")
    assert sorted_by(page, "cells") == {}
    assert cells(page, "cells", "balanced accuracy, %") == before


def test_numbers_in_texts_are_sorted_as_numbers_and_what_is_missing_comes_last(
    page: Page, site: Path
) -> None:
    page.goto((site / "defense-gaussian.html").as_uri())
    press(page, "cells", "level")
    assert list(dict.fromkeys(cells(page, "cells", "level"))) == ["sigma = 0.01", "sigma = 0.1"]
    page.goto((site / "cells.html").as_uri())
    filter_of(page, "cells", "attack").select_option(label="Proposed")
    press(page, "cells", "B")
    assert list(dict.fromkeys(cells(page, "cells", "B"))) == ["1", "8", "16"]
    page.goto((site / "attack-feature.html").as_uri())
    for order in ("descending", "ascending"):
        press(page, "cells", "utility, %")
        assert sorted_by(page, "cells") == {"utility, %": order}
        shown = cells(page, "cells", "utility, %")
        assert "–" in shown
        assert shown == sorted(shown, key="–".__eq__)


def test_a_table_is_filtered_by_value_and_by_text(page: Page, site: Path) -> None:
    page.goto((site / "suite-defended.html").as_uri())
    table = page.locator("table").first.get_attribute("id")
    assert table is not None
    whole = len(cells(page, table, "property"))
    filter_of(page, table, "property").select_option(label="glasses")
    assert set(cells(page, table, "property")) == {"glasses"}
    filter_of(page, table, "B").select_option(label="8")
    assert set(cells(page, table, "B")) == {"8"}
    count = page.get_by_role("status").first
    assert count.inner_text() == f"{len(cells(page, table, 'B'))} of {whole} rows"
    page.get_by_role("button", name="Reset").first.click()
    assert len(cells(page, table, "property")) == whole
    filter_of(page, table, SEARCH).fill("GLASS")
    assert set(cells(page, table, "property")) == {"glasses"}
    filter_of(page, table, SEARCH).fill("no such thing")
    assert cells(page, table, "property") == []
    assert count.inner_text() == f"0 of {whole} rows"


def test_the_address_brings_back_order_filters_and_row(
    page: Page, site: Path, browser: Browser
) -> None:
    page.goto((site / "cells.html").as_uri())
    filter_of(page, "cells", "attack").select_option(label="Proposed")
    filter_of(page, "cells", "property").select_option(label="smile")
    filter_of(page, "cells", SEARCH).fill("gaussian")
    press(page, "cells", "balanced accuracy, %")
    page.locator("#cells tbody tr:not([hidden])").last.get_by_label("Link to this row").click()
    shown = cells(page, "cells", "record")
    chosen = page.locator("tr.chosen").get_attribute("id")
    assert len(shown) == 6
    again = Watched(browser)
    again.page.goto(page.url)
    assert cells(again.page, "cells", "record") == shown
    assert sorted_by(again.page, "cells") == {"balanced accuracy, %": "descending"}
    assert filter_of(again.page, "cells", "attack").input_value() == "=Proposed"
    assert filter_of(again.page, "cells", SEARCH).input_value() == "gaussian"
    assert again.page.locator("tr.chosen").get_attribute("id") == chosen
    assert again.page.locator("tr.chosen").get_attribute("aria-current") == "true"
    assert again.complaints == []
    again.context.close()


def test_a_link_to_a_heading_leaves_tables_as_they_are(page: Page, site: Path) -> None:
    page.goto((site / "suite-defended.html").as_uri())
    table = str(page.locator("table").first.get_attribute("id"))
    filter_of(page, table, "property").select_option(label="smile")
    page.evaluate("location.hash = 'reading'")
    assert page.url.endswith("#reading")
    assert set(cells(page, table, "property")) == {"smile"}
    page.go_back()
    page.wait_for_url("**/suite-defended.html#*smile")
    assert set(cells(page, table, "property")) == {"smile"}


def test_a_link_to_a_row_shows_it_on_the_page_of_its_attack(page: Page, site: Path) -> None:
    page.goto((site / "cells.html").as_uri())
    filter_of(page, "cells", "attack").select_option(label="Proposed")
    link = page.locator("#cells tbody tr:not([hidden]) td:nth-last-child(2) a").last
    target = str(link.get_attribute("href"))
    link.click()
    page.wait_for_url(f"**/{target}")
    row = page.locator("tr.chosen")
    assert row.get_attribute("id") == target.partition("#")[2]
    assert page.evaluate(
        """() => {
            const place = document.querySelector("tr.chosen").getBoundingClientRect();
            return place.top >= 0 && place.bottom <= innerHeight;
        }"""
    )


def test_of_a_long_table_a_portion_is_laid_out_and_the_rest_is_a_press_away(
    page: Page, site: Path
) -> None:
    page.goto((site / "cells.html").as_uri())
    total = page.locator("#cells tbody tr").count()
    assert total > 200
    assert len(cells(page, "cells", "B")) == 200
    assert page.get_by_role("status").first.inner_text().endswith("the first 200 shown")
    last = page.locator("#cells tbody tr").last.get_attribute("id")
    more = page.get_by_role("button", name="more rows")
    while more.is_visible():
        more.click()
    assert len(cells(page, "cells", "B")) == total
    # A row beyond the portion is shown where the address names it.
    page.goto(f"{(site / 'cells.html').as_uri()}?again#{last}")
    assert page.locator("tr.chosen").is_visible()


def test_without_scripts_every_row_can_be_read(browser: Browser, site: Path) -> None:
    plain = Watched(browser, java_script_enabled=False)
    plain.page.goto((site / "cells.html").as_uri())
    rows = plain.page.locator("#cells tbody tr")
    assert rows.last.is_visible()
    assert plain.page.locator("button").count() == 0
    plain.context.close()


def test_a_page_fits_a_phone_and_tables_scroll_within_it(browser: Browser, site: Path) -> None:
    phone = Watched(browser, viewport={"width": 360, "height": 740})
    for path in sorted(site.glob("*.html")):
        phone.page.goto(path.as_uri())
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 360, path.name
    phone.context.close()


def test_a_phone_shows_the_winner_first_and_keeps_the_first_column(
    browser: Browser, site: Path
) -> None:
    phone = Watched(browser, viewport={"width": 390, "height": 844})
    phone.page.goto((site / "index.html").as_uri())
    leader = phone.page.locator(".leader").first
    box = leader.bounding_box()
    assert "leads" in leader.inner_text() and box is not None
    assert box["y"] + box["height"] < 844
    moved, before, after = phone.page.evaluate(
        """() => {
            const region = document.querySelector(".scroll[aria-label^=Ranking]");
            const first = region.querySelector("tbody tr:not(.group) th");
            const left = () => first.getBoundingClientRect().left;
            const before = left();
            region.scrollLeft = 1000;
            return [region.scrollLeft, before, left()];
        }"""
    )
    assert moved > 50
    assert abs(after - before) <= 1
    phone.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, site: Path, scheme: str) -> None:
    watched = Watched(browser, color_scheme=scheme)
    watched.page.goto((site / "suite-quick.html").as_uri())
    contrasts = watched.page.evaluate(
        """() => {
            const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
            const luminance = (colour) => {
                const [r, g, b] = numbers(colour).map((c) => c / 255).map(
                    (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = (element) => {
                const own = getComputedStyle(element).backgroundColor;
                return numbers(own)[3] === 0 && element.parentElement
                    ? ground(element.parentElement) : own;
            };
            const parts = "p,a,td,small,td.control,td strong,.note,thead button".split(",");
            return parts.map(
                (selector) => {
                    const element = document.querySelector(`main ${selector}`);
                    const lights = [getComputedStyle(element).color, ground(element)]
                        .map(luminance).sort((a, b) => b - a);
                    return [selector, (lights[0] + 0.05) / (lights[1] + 0.05)];
                });
        }"""
    )
    assert len(contrasts) == 8
    assert {name: round(value, 1) for name, value in contrasts if value < 4.5} == {}
    watched.context.close()


def test_a_hostile_text_runs_and_loads_nothing(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS._plugins, "feature", Hostile)
    out, suite = hostile_run(tmp_path)
    folder = publish(out, None, [str(suite)], False).site.parent
    watched = Watched(browser)
    for path in sorted(folder.glob("*.html")):
        watched.page.goto(path.as_uri())
        title = watched.page.title()
        watched.page.evaluate(
            "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
        )
        # Filters make options of texts of records.
        for select in watched.page.locator("select").all():
            select.select_option(index=1)
        watched.page.goto(f"{path.as_uri()}?again#cells.search=<img src=x onerror=alert(1)>")
        assert watched.page.title() == title != "taken over"
    assert watched.complaints == []
    assert all(url.startswith(f"{folder.as_uri()}/") for url in watched.requests)
    watched.context.close()


def test_the_policy_stops_what_escaping_might_let_through(browser: Browser, site: Path) -> None:
    """Without this the test above could not fail by the policy's fault."""
    watched = Watched(browser)
    watched.page.goto((site / "index.html").as_uri())
    watched.page.evaluate(
        """() => {
            const main = document.querySelector("main");
            main.insertAdjacentHTML("beforeend", "<img src='https://evil.example/x.png'>");
            main.insertAdjacentHTML("beforeend", "<b onclick='document.title = 1'>x</b>");
            main.lastChild.click();
            const script = document.createElement("script");
            script.textContent = "document.title = 2";
            main.append(script);
        }"""
    )
    watched.page.wait_for_timeout(300)
    assert watched.page.title() == "Leaderboard – leakbench"
    assert sum("Content Security Policy" in each for each in watched.complaints) == 3
    watched.context.close()
