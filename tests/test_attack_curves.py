"""Facts about what an attack's page says and draws first."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from drawing import SUITE
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.reports.site.attack_curves import Curves, curves_of
from leakbench.reports.site.attack_pages import attack_pages, attack_tables
from leakbench.reports.site.chart import by_batch_size
from records import measured, suite_entries


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Measured]:
    path = tmp_path_factory.mktemp("suite") / "small.toml"
    path.write_text(SUITE)
    return [Measured(entry, measured(entry)) for entry in suite_entries(str(path))]


def curves(cells: list[Measured], name: str) -> Curves:
    return curves_of(name, [m for m in cells if m.entry.cell.attack == name], [])


def test_an_attack_that_is_not_ranked_shows_how_many_it_finds_exactly(
    cells: list[Measured],
) -> None:
    exact, own = Estimate(value=0.25, low=None, high=None), []
    for m in cells:
        assert m.record is not None and m.record.metrics is not None
        metrics = m.record.metrics.model_copy(update={"exact": exact})
        own.append(replace(m, record=m.record.model_copy(update={"metrics": metrics})))
    found = curves(own, "feature")
    assert found.title == "Individuals found exactly"
    sizes = {m.entry.cell.batch_size for m in cells if m.entry.cell.attack == "feature"}
    for by_size in found.by_setting.values():
        assert set(by_size) <= sizes
        assert {each.value for each in by_size.values()} == {0.25}
    assert re.search(r"it finds 25\.0 % exactly at B = \d+\.$", found.result)


def test_a_control_shows_its_accuracy(cells: list[Measured]) -> None:
    found = curves(cells, "oracle")
    assert "accuracy" in found.title and "control" in found.result
    (first, *_) = found.by_setting.values()
    size, value = next(iter(first.items()))
    values = [
        of.balanced_accuracy.value
        for m in cells
        if m.entry.cell.attack == "oracle" and m.entry.cell.batch_size == size
        if m.entry.cell.defense == "none" and m.record and m.record.metrics
        for of in m.record.metrics.properties.values()
    ]
    assert value.value == pytest.approx(sum(v or 0.0 for v in values) / len(values))


def test_without_a_measurement_nothing_is_drawn(cells: list[Measured]) -> None:
    failed = [replace(m, record=None) for m in cells if m.entry.cell.attack == "feature"]
    found = curves_of("feature", failed, [])
    assert by_batch_size(found.title, found.by_setting) is None
    assert found.result == "No ranking compares it with controls that have its knowledge."


def test_each_page_begins_with_three_sentences_and_a_chart(cells: list[Measured]) -> None:
    views = [
        page.content["attack"]
        for page in attack_pages(attack_tables(cells))
        if page.template == "attack.html"
    ]
    assert {view.name for view in views} == {m.entry.cell.attack for m in cells}
    for view in views:
        assert len(view.summary) == 3
        assert view.summary[1].startswith("It knows ")
        assert view.chart is not None and view.chart.marks
        assert view.summary[0] not in view.explained and "Attributes:" not in view.explained


def test_a_line_goes_through_the_marks_of_a_series() -> None:
    half = Estimate(value=0.5, low=0.4, high=0.6)
    chart = by_batch_size("t", {"a": {1: half, 8: half}, "b": {1: half}})
    assert chart is not None
    assert list(chart.lines) == [0]  # one mark makes no line
    corners = [f"{mark.x},{mark.y}" for mark in chart.marks if mark.series == 0]
    assert chart.lines[0] == " ".join(corners)
