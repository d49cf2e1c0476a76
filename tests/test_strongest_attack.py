"""Facts about other suites' attacks in the figures of defenses, and about what is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from drawing import HEAD as SMALL
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import DefenseMetrics, Record
from leakbench.records.store import Store
from leakbench.reports.compared import Controls
from leakbench.reports.figures import defense, tradeoff
from leakbench.reports.figures.same_settings import attacks_of_others
from leakbench.reports.figures.styles import LOOKS
from records import record_of, suite_entries

# Candidates of a batch of 8 are of another.
HEAD = SMALL.replace("individuals = 8\n", "individuals = 16\n")

GROUP = """
[[group]]
title = "Noise"
layout = "defense"

[group.sweep]
batch_size = [1, 8]
defense = [
    { name = "none" },
    { name = "gaussian", sigma = 0.01 },
    { name = "gaussian", sigma = 0.1 },
]
"""

OTHER = """
[attack.mask_demixing]
parameters = { labels = "known" }

[attack.row_space]
grant = ["model", "update", "auxiliary", "labels", "candidates"]
"""

ACCURACY = {"feature": 0.7, "mask_demixing": 0.9, "row_space": 0.95, "labels": 0.6}


def record(entry: SuiteEntry) -> Record:
    value = ACCURACY.get(entry.cell.attack, 0.5)
    same = Estimate(value=value, low=value - 0.02, high=value + 0.02)
    nothing = Estimate(value=0.0, low=0.0, high=0.0)
    cost = DefenseMetrics(distortion=same, utility=same, utility_lost=nothing)
    found = record_of(
        entry,
        dict.fromkeys(entry.cell.properties, same),
        main_task={"accuracy": 0.6, "most_frequent_class": 0.3},
        defense=None if entry.cell.defense == "none" else cost,
        classes=4,
    )
    return found.model_copy(update={"knowledge": tuple(entry.resolved.knowledge.names())})


@pytest.fixture
def suites(tmp_path: Path) -> tuple[str, str]:
    own, other = tmp_path / "own.toml", tmp_path / "other.toml"
    own.write_text(HEAD + GROUP)
    other.write_text(HEAD.split("[attack.feature]")[0] + OTHER + GROUP)
    return str(own), str(other)


def measured(entries: Sequence[SuiteEntry]) -> list[Measured]:
    return [Measured(entry, record(entry)) for entry in entries]


def heights(cells: list[Measured]) -> dict[str, list[float]]:
    figure = tradeoff.figures(cells)["tradeoff-B8"]
    assert figure is not None
    lines = figure.axes[0].lines
    return {str(line.get_label()): [round(y, 6) for y in line.get_ydata()] for line in lines}


def test_the_strongest_attack_may_be_of_another_suite(suites: tuple[str, str]) -> None:
    cells = measured(suite_entries(suites[0]))
    others = attacks_of_others(cells, map(record, suite_entries(suites[1])))
    assert {m.entry.column for m in others} == {"Mask demixing"}
    assert heights(cells)["gaussian"] == pytest.approx([10, 10])
    assert heights(cells + others)["gaussian"] == pytest.approx([30, 30])
    figure = tradeoff.figures(cells + others)["tradeoff-B8"]
    assert figure is not None and figure._suptitle is not None
    assert "Mask demixing" in " ".join(figure._suptitle.get_text().split())


def test_an_accuracy_figure_has_a_curve_of_the_other_suites_attack(
    suites: tuple[str, str],
) -> None:
    cells = measured(suite_entries(suites[0]))
    cells += attacks_of_others(cells, map(record, suite_entries(suites[1])))
    figure = defense.figures(cells)["defense-gaussian-sigma-gender"]
    assert figure is not None
    curves = [line for line in figure.axes[0].lines if line.get_label() == "Mask demixing"]
    assert [y for line in curves for y in line.get_ydata()] == pytest.approx([90, 90, 90])
    assert {line.get_color() for line in curves} == {LOOKS["mask_demixing"][0]}


def test_attacks_in_another_setting_or_of_another_schema_are_left_out(
    suites: tuple[str, str],
) -> None:
    cells = measured(suite_entries(suites[0]))
    elsewhere = map(record, suite_entries(suites[1], "individuals=24"))
    earlier = [
        record(entry).model_copy(update={"schema_version": 2}) for entry in suite_entries(suites[1])
    ]
    assert attacks_of_others(cells, [*elsewhere, *earlier]) == []


def test_an_attack_that_was_measured_without_a_defense_alone_is_left_out(
    suites: tuple[str, str],
) -> None:
    cells = measured(suite_entries(suites[0]))
    undefended = suite_entries(suites[1], only=["defense=none"])
    assert attacks_of_others(cells, map(record, undefended)) == []


def test_an_attack_is_compared_with_controls_of_its_own_schema(suites: tuple[str, str]) -> None:
    entries = suite_entries(suites[0])
    controls = Controls([record(e) for e in entries if e.cell.attack != "feature"])
    attack = next(record(e) for e in entries if e.cell.attack == "feature")
    found = controls.compare(attack)["gender"]
    assert found.advantage is not None and found.advantage.value == pytest.approx(0.1)
    earlier = controls.compare(attack.model_copy(update={"schema_version": 2}))["gender"]
    assert (earlier.baseline, earlier.advantage) == (None, None)


Run = Callable[..., tuple[int, str, str]]


def test_the_command_reads_the_other_records_of_the_folder(
    run: Run, suites: tuple[str, str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "out" / "records")
    for entry in [*suite_entries(suites[0]), *suite_entries(suites[1])]:
        store.write(record(entry))
    code, _, err = run("figure", "tradeoff", suites[0], "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    with_other = (tmp_path / "out" / "figures" / "own-tradeoff-B1.png").read_bytes()
    for entry in suite_entries(suites[1]):
        store.path(entry.key).unlink()
    assert run("figure", "tradeoff", suites[0], "--out", str(tmp_path / "out"))[0] == 0
    assert (tmp_path / "out" / "figures" / "own-tradeoff-B1.png").read_bytes() != with_other
