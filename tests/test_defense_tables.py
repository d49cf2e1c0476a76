"""Facts about suites that sweep defenses: how a file says so, and what their tables say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leakbench.base.errors import UsageError
from leakbench.base.registry import DEFENSES
from leakbench.experiments.defense_labels import defense_level, defense_name, defense_text
from leakbench.experiments.descriptions import describe
from leakbench.experiments.expansion import SuiteEntry
from leakbench.federation.defenses.none import NoDefense
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import DefenseMetrics, Record
from leakbench.reports.suite_report import SuiteReport, reading_aid
from leakbench.reports.tables import table_of
from records import record_of, suite_entries, table_rows

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
properties = ["gender"]
main_task = "hat"

[attack.feature]
parameters = { budget = 7 }

[attack.adaptive]
attack = "feature"
title = "Proposed, adaptive"
parameters = { budget = 7 }
grant = ["model", "update", "auxiliary", "labels", "defense"]

[attack.prior]

[[group]]
title = "By defense"
layout = "defense"

[group.sweep]
batch_size = [1, 8]
defense = [
    { name = "none" },
    { name = "gaussian", sigma = 0.01 },
    { name = "gaussian", sigma = 0.1 },
    { name = "laplace", sigma = 0.1 },
    { name = "composed", defenses = [
        { name = "gaussian", sigma = 0.5 },
        { name = "laplace", sigma = 2 },
    ] },
]
"""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return str(path)


def defenses(cells: Sequence[SuiteEntry]) -> list[str]:
    return list(dict.fromkeys(defense_text(each.cell) for each in cells))


def test_a_sweep_takes_defenses_with_their_parameters(suite: str) -> None:
    cells = suite_entries(suite)
    assert len(cells) == 2 * 5 * 3
    assert defenses(cells) == [
        "none",
        "gaussian (sigma = 0.01)",
        "gaussian (sigma = 0.1)",
        "laplace (sigma = 0.1)",
        "gaussian (sigma = 0.5) then laplace (sigma = 2.0)",
    ]


def test_a_defense_in_a_table_gives_the_cell_of_its_name_and_parameters(
    suite: str, tmp_path: Path
) -> None:
    start = SUITE.index("defense = [")
    spelt = SUITE[:start] + 'defense = ["gaussian"]\ndefense_parameters = [{ sigma = 0.01 }]\n'
    path = tmp_path / "spelt.toml"
    path.write_text(spelt)
    of_table = suite_entries(suite, only=["defense_parameters={'sigma': 0.01}"])
    assert [each.key for each in suite_entries(str(path))] == [each.key for each in of_table]


def test_a_defense_without_a_name_is_refused(suite: str) -> None:
    Path(suite).write_text(SUITE.replace('{ name = "none" }', "{ sigma = 0.1 }"))
    with pytest.raises(UsageError, match=r"suite small: defense: .* has no name; write \{ name = "):
        suite_entries(suite)


def test_a_setting_changes_the_parameter_of_the_defenses_that_have_it(suite: str) -> None:
    assert defenses(suite_entries(suite, "defense.sigma=3")) == [
        "none",
        "gaussian (sigma = 3.0)",
        "laplace (sigma = 3.0)",
        "gaussian (sigma = 0.5) then laplace (sigma = 2.0)",
    ]


def test_a_setting_changes_a_defense_that_is_not_swept(suite: str) -> None:
    text = SUITE[: SUITE.index("defense = [")]
    table = 'defense = { name = "gaussian", sigma = 1 }\n'
    for where in ('main_task = "hat"\n', 'layout = "defense"\n'):
        in_group = where.startswith("layout")
        added = f"cell.{table}" if in_group else table
        Path(suite).write_text(text.replace(where, where + added))
        assert defenses(suite_entries(suite)) == ["gaussian (sigma = 1.0)"]
        assert defenses(suite_entries(suite, "defense.sigma=3")) == ["gaussian (sigma = 3.0)"]


def test_a_setting_that_no_defense_has_lists_those_that_they_have(suite: str) -> None:
    with pytest.raises(UsageError, match=r"--set defense\.sgima: no defense .*; there is .*sigma"):
        suite_entries(suite, "defense.sgima=3")


def test_a_setting_takes_the_place_of_the_swept_defenses(suite: str) -> None:
    changed = suite_entries(suite, "defense=gaussian", "defense.sigma=3")
    assert defenses(changed) == ["gaussian (sigma = 3.0)"]


def test_a_defense_in_words_leaves_defaults_out_where_something_else_is_given(
    suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    @dataclass(frozen=True, kw_only=True)
    class Sparse(NoDefense):
        fraction: float = 0.5
        choice: str = "largest"
        scope: str = "tensor"

    monkeypatch.setitem(DEFENSES._plugins, "sparse", Sparse)
    (cell, *_) = (p.cell for p in suite_entries(suite, "defense=sparse", "defense.choice=random"))
    assert defense_text(cell) == "sparse (choice = random)"
    assert (defense_name(cell), defense_level(cell)) == ("sparse", "choice = random")
    (cell, *_) = (p.cell for p in suite_entries(suite, "defense=sparse"))
    assert defense_text(cell) == "sparse (fraction = 0.5)"


UNDEFENDED = 0.523
ESTIMATE = Estimate(value=0.6, low=0.5, high=0.7)


def record(entry: SuiteEntry) -> Record:
    cell = entry.cell
    sigma = cell.defense_parameters.get("sigma", 0.0)
    cost = DefenseMetrics(
        distortion=Estimate(value=10 * sigma, low=0, high=1),
        utility=Estimate(value=UNDEFENDED - sigma, low=0, high=1),
        utility_lost=Estimate(value=sigma, low=sigma - 0.01, high=sigma + 0.02),
        epsilon=7.891 if cell.defense == "laplace" else None,
        delta=0.00123 if cell.defense == "laplace" else None,
    )
    return record_of(
        entry,
        dict.fromkeys(cell.properties, ESTIMATE),
        main_task={"accuracy": UNDEFENDED, "most_frequent_class": 0.3},
        defense=None if cell.defense == "none" else cost,
        classes=2,
    )


def test_a_table_of_defenses_says_what_each_costs(suite: str) -> None:
    heading, _, *body = table_rows([Measured(p, record(p)) for p in suite_entries(suite)])
    assert heading == [
        *("property", "B", "defense", "level", "Proposed", "Proposed, adaptive", "Prior"),
        *("utility (lost), %", "distortion", "ε"),
    ]
    assert [row[:4] + row[7:] for row in body[:5]] == [
        ["gender", "1", "none", "–", "52.3", "0", "–"],
        ["", "", "gaussian", "sigma = 0.01", "51.3 (1.0 [0.0, 3.0])", "0.1", "–"],
        ["", "", "", "sigma = 0.1", "42.3 (10.0 [9.0, 12.0])", "1", "–"],
        ["", "", "laplace", "sigma = 0.1", "42.3 (10.0 [9.0, 12.0])", "1", "7.89"],
        [
            *("", "", "gaussian then laplace", "sigma = 0.5 then sigma = 2.0"),
            *("52.3 (0.0 [-1.0, 2.0])", "0", "–"),
        ],
    ]
    assert [row[1] for row in body] == ["1", "", "", "", "", "8", "", "", "", ""]
    assert {row[4] for row in body} == {"60.0 [50.0, 70.0]"}


def test_a_table_without_epsilon_has_no_column_for_it(suite: str) -> None:
    cells = suite_entries(suite, only=["defense=none,gaussian"])
    assert table_rows([Measured(p, record(p)) for p in cells])[0][-1] == "distortion"


def test_costs_that_are_not_measured_are_missing(suite: str) -> None:
    table = table_of([Measured(p, None) for p in suite_entries(suite)])
    assert table.cost_headings == ("utility (lost), %", "distortion")
    assert {tuple(map(str, row.costs)) for row in table.rows} == {("–", "–")}


def test_other_layouts_separate_defenses_and_have_no_costs(suite: str) -> None:
    Path(suite).write_text(SUITE.replace('layout = "defense"', 'layout = "table2"'))
    heading, _, *body = table_rows([Measured(p, record(p)) for p in suite_entries(suite)])
    assert heading[:2] == ["defense", "defense_parameters"]
    assert heading[-1] == "Prior"
    assert body[2][1] == "sigma = 0.01"


def test_the_reading_aid_explains_costs_where_there_are_any(suite: str) -> None:
    aid = reading_aid([Measured(p, record(p)) for p in suite_entries(suite)])
    assert "**Utility**: main-task accuracy" in aid
    assert "at δ = 0.0012, as if" in aid
    undefended = reading_aid(
        [Measured(p, record(p)) for p in suite_entries(suite, only=["defense=none"])]
    )
    assert "δ" not in undefended


def test_settings_and_failures_name_the_defense(suite: str) -> None:
    cells = suite_entries(suite, only=["defense=none,gaussian"])
    lines = SuiteReport([Measured(p, None) for p in cells]).settings.splitlines()
    assert "- defense: none; gaussian (sigma = 0.01); gaussian (sigma = 0.1)" in lines
    said: list[Any] = [describe(p) for p in cells if p.cell.batch_size == 8]
    assert said[0] == "Proposed, synthetic faces, hat, B = 8"
    assert said[3] == "Proposed, synthetic faces, hat, B = 8, under gaussian (sigma = 0.01)"
