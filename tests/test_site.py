"""Facts about the site's files: what they say, that texts stay texts, and what is never touched."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

import leakbench.reports.site.folder
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.base.registry import ATTACKS
from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.folder import read_records
from leakbench.records.record import Record
from leakbench.reports.publishing import publish
from leakbench.reports.site.chart import charts
from leakbench.reports.site.defended import defended
from leakbench.reports.site.folder import MARKER
from leakbench.reports.site.view import breakable, marked_up
from publishing import (
    HOSTILE,
    Hostile,
    defended_suite,
    done,
    hostile_run,
    whole_run,
    write_run,
)
from records import suite_entries

Run = Callable[..., tuple[int, str, str]]

OURS = (
    "html head meta title link script body a header p nav ul li main h1 h2 h3 section footer table "
    "caption thead tbody tr th td div dl dt dd code small strong span details summary figure "
    "figcaption svg g line polyline circle rect path text wbr input label"
)
"""The elements that our templates have."""

PAPER = re.compile(r"https://(doi\.org/10\.|arxiv\.org/abs/|openreview\.net/forum\?id=)[\w./-]+")
"""The address of a paper, which is made of an identifier in an attack's reference."""

ROW = re.compile("k[0-9a-f]{12}-[a-z0-9-]+")
"""The name of a cell's row."""

VOID = {"meta", "link", "img", "input", "br", "wbr", "line", "circle", "rect", "path"}

ENDED_BY: dict[str, set[str]] = {
    "td": {"td", "th"},
    "th": {"td", "th"},
    "tr": {"td", "th", "tr"},
    "/tr": {"td", "th"},
    "/tbody": {"td", "th", "tr"},
}
"""Tag → the open elements whose end it implies, as HTML has it."""


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its identifiers."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def end_implied(self, tag: str) -> None:
        while self.open and self.open[-1] in ENDED_BY.get(tag, ()):
            self.open.pop()

    def handle_starttag(self, tag, attrs):
        self.end_implied(tag)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.end_implied(f"/{tag}")
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, of in self.elements if (value := of.get(name)) is not None]

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


def pages(site: Path) -> dict[str, Elements]:
    return {path.name: Elements(path.read_text()) for path in sorted(site.glob("*.html"))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, suite = whole_run(tmp_path_factory.mktemp("published"))
    return publish(out, None, [str(suite)], False).site.parent


def test_every_page_is_whole_and_names_and_links_lead_somewhere(site: Path) -> None:
    found = pages(site)
    assert {"index.html", "attack-feature.html", "attack-blind.html", "defense-gaussian.html"} <= {
        *found
    }
    for name, page in found.items():
        assert page.open == []
        identifiers = page.values("id")
        assert len(identifiers) == len(set(identifiers)), name
        for target in page.values("href"):
            if PAPER.fullmatch(target):
                continue
            path, _, place = target.partition("#")
            assert path == "" or (site / path).is_file(), (name, target)
            if place:
                there = found[path] if path else page
                assert place in there.values("id"), (name, target)


def test_every_page_can_be_read_by_a_screen_reader(site: Path) -> None:
    for name, page in pages(site).items():
        assert next(page.of("html"))["lang"] == "en"
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == tags.count("main") == 1
        assert tags.count("caption") == tags.count("table")
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), name
        assert all(of.get("scope") in ("col", "row", "rowgroup") for of in page.of("th"))
        assert all(of.get("alt") for of in page.of("img"))
        skip = next(page.of("a"))
        assert skip["href"] == "#main"
        identifiers = set(page.values("id"))
        for labelled in page.values("aria-labelledby"):
            assert set(labelled.split()) <= identifiers


def test_a_strict_policy_stands_before_all_that_could_load_anything(site: Path) -> None:
    for page in pages(site).values():
        tags = [(tag, of) for tag, of in page.elements if tag in ("meta", "script", "link")]
        charset, policy, *_ = (of for _, of in tags)
        assert charset == {"charset": "utf-8"}
        assert policy["http-equiv"] == "Content-Security-Policy"
        rules = dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";"))
        assert rules.pop("default-src") == "'none'"
        assert set(rules.values()) <= {"'self'", "'none'"}
        assert not list(page.of("style"))
        assert [of["src"] for of in page.of("script")] == ["site.js"]


def test_an_attacks_page_has_its_paper_parameters_knowledge_and_all_its_cells(site: Path) -> None:
    text = (site / "attack-feature.html").read_text()
    assert FeatureReconstruction.reference in text
    for field in dataclasses.fields(FeatureReconstruction):
        assert f">{field.name}<" in text
    assert "the main-task labels of the victim batch" in text
    records = read_records(site.parent).records.values()
    own = [record for record in records if record.cell.attack == "feature"]
    rows = Elements(text).values("id")
    assert sum(bool(ROW.fullmatch(row)) for row in rows) == sum(len(r.cell.properties) for r in own)


def test_a_defenses_page_has_leakage_against_utility(site: Path) -> None:
    page = Elements((site / "defense-gaussian.html").read_text())
    # 2 levels, 3 batch sizes, 4 properties; of two attacks, and the strongest drawn of each place.
    assert sum(bool(ROW.fullmatch(row)) for row in page.values("id")) == 2 * 3 * 4 * 2
    assert len([of for of in page.of("svg") if of.get("role") == "img"]) == 4
    marks = [of for of in page.of("g") if str(of["class"]).startswith("series-")]
    assert len(marks) == 2 * 3 * 4 + 3  # and one a batch size in the legend


def records_of(
    cells: list[SuiteEntry], values: dict[str, float], knows: dict[str, str]
) -> list[Record]:
    """Return records with accuracies by attack, and what each knows besides the model."""
    return [
        done(c, values[c.cell.attack], knowledge=("model", *knows[c.cell.attack].split()))
        for c in cells
    ]


def test_an_advantage_is_over_the_control_of_the_same_setting_and_beside_no_defense(
    tmp_path: Path,
) -> None:
    cells = suite_entries(str(defended_suite(tmp_path)))
    knows = {"feature": "labels", "ig": "labels update", "blind": "labels", "labels": "labels"}
    values = {"feature": 0.8, "ig": 0.7, "blind": 0.5, "labels": 0.45}
    records = records_of(cells, values, knows)
    lower = [
        done(p, 0.6, knowledge=r.knowledge)
        if p.cell.defense == "gaussian" and p.cell.attack in ("feature", "ig")
        else r
        for p, r in zip(cells, records, strict=True)
    ]
    rows = defended("gaussian", lower)
    assert {row.record.cell.attack for row in rows} == {"feature", "ig"}
    for row in rows:
        assert row.advantage is not None and row.advantage.value == pytest.approx(0.1)
        assert row.undefended is not None and row.undefended.value is not None
        usual = 0.8 if row.record.cell.attack == "feature" else 0.7
        assert row.undefended.value > usual - 0.04
    marks = [mark for chart in charts(rows) for mark in chart.marks]
    assert len(marks) == len(rows) / 2
    assert all(
        "advantage 10.0" in mark.label and "utility lost 10.0" in mark.label for mark in marks
    )


def test_an_attack_that_knows_labels_is_not_compared_with_a_control_that_does_not(
    tmp_path: Path,
) -> None:
    cells = suite_entries(str(defended_suite(tmp_path)))
    values = {"feature": 0.8, "ig": 0.7, "blind": 0.5, "labels": 0.45}
    knows = {"feature": "labels", "ig": "", "blind": "", "labels": ""}

    def lacking(knows: dict[str, str]) -> set[str]:
        rows = defended("gaussian", records_of(cells, values, knows))
        return {row.record.cell.attack for row in rows if row.advantage is None}

    assert lacking(knows) == {"feature"}
    assert lacking(knows | {"blind": "labels"}) == {"feature"}
    assert lacking(knows | {"labels": "labels"}) == set()


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(ATTACKS._plugins, "feature", Hostile)
    out, suite = hostile_run(tmp_path)
    return publish(out, None, [str(suite)], False).site.parent


def test_texts_of_records_and_plugins_stay_texts(hostile: Path) -> None:
    found = pages(hostile)
    assert {tag for page in found.values() for tag, _ in page.elements} <= set(OURS.split())
    for page in found.values():
        assert page.open == []
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for target in (*page.values("href"), *page.values("src")):
            own = re.fullmatch(r"[a-z0-9-]*(\.html|\.css|\.js)?(#[a-z0-9-]*)?", target)
            assert own or PAPER.fullmatch(target), target
    whole = {path.name: path.read_text() for path in hostile.glob("*.html")}
    for html in whole.values():
        # What a template would have computed.
        assert html.count("{{ 7 * 7 }}") == html.count("javascript:alert(1)")
    attack, escaped = whole["attack-feature.html"], str(escape(HOSTILE))
    assert f"Paper {escaped}" in attack
    assert f"Title {escaped}" in attack
    assert str(breakable(f"property {HOSTILE}")) in attack
    assert str(marked_up(f"({HOSTILE} = {HOSTILE})")) in attack
    assert str(marked_up(f"Error {HOSTILE}")) in whole["suite-quick.html"]
    assert f"Error {escaped}" in whole["cells.html"]


def test_what_else_lies_in_the_sites_folder_stays(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", map(done, suite_entries("quick")))
    folder = tmp_path / "site"
    publish(out, folder, [], False)
    (folder / "CNAME").write_text("mine")
    marker = json.loads((folder / MARKER).read_text())
    (tmp_path / "precious").write_text("mine")
    (folder / "attack-old.html").write_text("")
    marker["files"] += ["attack-old.html", "../precious", str(tmp_path / "precious")]
    (folder / MARKER).write_text(json.dumps(marker))
    publish(out, folder, [], False)
    assert (folder / "CNAME").read_text() == (tmp_path / "precious").read_text() == "mine"
    assert not (folder / "attack-old.html").exists()
    assert "attack-old.html" not in (folder / MARKER).read_text()


def test_a_site_that_was_written_in_part_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_run(tmp_path / "out", map(done, suite_entries("quick")))
    with monkeypatch.context() as broken:
        whole, written = leakbench.reports.site.folder._write, []

        def torn(path: Path, content: bytes) -> None:
            written.append(path)
            if len(written) > 3:
                raise KeyboardInterrupt
            whole(path, content)

        broken.setattr(leakbench.reports.site.folder, "_write", torn)
        with pytest.raises(KeyboardInterrupt):
            publish(out, tmp_path / "site", [], False)
    publish(out, tmp_path / "site", [], False)
    assert len(pages(tmp_path / "site")) > 3


@pytest.mark.parametrize("marker", [None, "", "[]", '{"files": 3}', '{"made_by": "x"}'])
def test_a_folder_that_holds_something_else_is_refused(
    marker: str | None, tmp_path: Path, run: Run
) -> None:
    out = write_run(tmp_path / "out", map(done, suite_entries("quick")[:1]))
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "index.html").write_text("mine")
    if marker is not None:
        (folder / MARKER).write_text(marker)
    code, printed, said = run("publish", "--out", str(out), "--site", str(folder))
    assert (code, printed) == (2, "")
    assert "is not empty and holds no site of leakbench's" in said
    assert len(said.splitlines()) == 1
    assert (folder / "index.html").read_text() == "mine"
    assert not (out / "leaderboard.md").exists()


def test_a_site_that_would_be_a_file_is_refused(tmp_path: Path, run: Run) -> None:
    out = write_run(tmp_path / "out", map(done, suite_entries("quick")[:1]))
    code, _, said = run("publish", "--out", str(out), "--site", str(out / "records" / "x" / ".."))
    assert code == 2
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        code, _, said = run("publish", "--out", str(out), "--site", str(tmp_path / place))
        assert code == 2, said
        assert len(said.splitlines()) == 1


def test_figures_are_taken_but_none_that_may_show_somebody(tmp_path: Path, run: Run) -> None:
    out = write_run(tmp_path / "out", map(done, suite_entries("quick")))
    figures = out / "figures"
    figures.mkdir()
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    for name in ("quick-budget", "quick-tradeoff-B1", "quick-reconstructions", "holiday"):
        picture.save(figures / f"{name}.png")
    (figures / "table2-phase.png").write_text("no picture")
    code, _, said = run("publish", "--out", str(out))
    assert code == 0
    copied = out / "site" / "figures"
    assert {path.name for path in copied.iterdir()} == {"quick-budget.png", "quick-tradeoff-b1.png"}
    assert "left out quick-reconstructions.png: it may show real individuals" in said
    assert "left out holiday.png: it is no figure" in said
    assert "left out table2-phase.png: it is no PNG" in said
    code, *_ = run("publish", "--out", str(out), "--reconstructions")
    assert code == 0
    assert (copied / "quick-reconstructions.png").is_file()
    assert 'alt="Accuracy against the budget' in (out / "site" / "figures.html").read_text()


def test_the_same_records_give_the_same_site(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", map(done, suite_entries("quick")))
    contents = []
    for name in ("first", "second"):
        folder = tmp_path / name
        publish(out, folder, [], False)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_an_installed_leakbench_has_the_sites_templates(tmp_path: Path) -> None:
    checkout = Path(__file__).resolve().parents[1]
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=checkout, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "templates/base.html",
        "templates/defense.html",
        "static/site.css",
        "static/site.js",
    ):
        assert f"leakbench/reports/site/{name}" in names
