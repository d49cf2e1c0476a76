"""Facts about swept parameters, and how tables name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from leakbench.base.registry import ATTACKS
from leakbench.baselines.prior import Prior
from leakbench.experiments.descriptions import describe
from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import Suite, load_suite
from leakbench.records.measured import Measured
from leakbench.reports.suite_report import SuiteReport
from leakbench.reports.tables import table_of
from suite_files import BUDGET_GROUP, SECOND_GROUP, SMALL, cells, of_group, parameters


@pytest.mark.parametrize("key", ["attack.budget", '"attack.budget"'])
def test_a_swept_parameter_is_given_to_the_columns_that_have_it(write: Any, key: str) -> None:
    _, suite = load_suite(write(SMALL + BUDGET_GROUP.replace("attack.budget", key)))
    found = of_group(suite, "By budget")
    assert [
        (p.column, p.swept["budget"], p.cell.attack_parameters.get("budget")) for p in found
    ] == [
        (column, budget, budget if column in {"Proposed", "Joint"} else None)
        for budget in (3, 5)
        for column in ("Proposed", "Joint", "Prior", "Oracle")
    ]
    assert all(p.swept == {} for p in of_group(suite, "By batch size"))


def test_a_column_without_the_swept_parameter_is_measured_once(write: Any) -> None:
    _, suite = load_suite(write(SMALL + BUDGET_GROUP))
    several = {p.column: set[str]() for p in of_group(suite, "By budget")}
    for p in of_group(suite, "By budget"):
        several[p.column].add(p.key)
    assert {c: len(found) for c, found in several.items()} == {
        "Proposed": 2,
        "Joint": 2,
        "Prior": 1,
        "Oracle": 1,
    }


def test_parameters_are_swept_together_with_cell_fields(write: Any) -> None:
    text = SMALL + BUDGET_GROUP.replace("[3, 5]", "[3, 5], rounds = [1, 2]")
    found = of_group(load_suite(write(text))[1], "By budget")
    assert {(p.swept["budget"], p.cell.rounds) for p in found} == {(3, 1), (3, 2), (5, 1), (5, 2)}


def test_a_column_to_which_the_group_gives_the_swept_parameter_stands_unchanged(write: Any) -> None:
    text = SMALL + BUDGET_GROUP + "[group.attack.feature]\n[group.attack.soft]\n"
    _, suite = load_suite(write(text + "parameters = { budget = 4 }"))
    found = parameters(of_group(suite, "By budget"), "budget")
    assert found == [("Proposed", 3), ("Joint", 4), ("Proposed", 5), ("Joint", 4)]


@pytest.mark.parametrize(
    ("settings", "feature", "soft"),
    [
        (["attack.budget=1,2,4"], [1, 2, 4], [1, 2, 4]),
        (["attack.budget=[1, 2]"], [1, 2], [1, 2]),
        (["attack.budget=6"], [6], [6]),
        (["attack.soft.budget=6"], [3, 5], [6, 6]),
        (["attack.soft.budget=6", "attack.budget=1,2"], [1, 2], [1, 2]),
        (["attack.budget=1,2", "attack.soft.budget=6"], [1, 2], [6, 6]),
    ],
)
def test_a_setting_takes_the_place_of_a_sweep(
    write: Any, settings: list[str], feature: list[int], soft: list[int]
) -> None:
    _, suite = load_suite(write(SMALL + BUDGET_GROUP))
    found = of_group(suite, "By budget", *settings)
    budgets = parameters(found, "budget")
    assert [budget for column, budget in budgets if column == "Proposed"] == feature
    assert [budget for column, budget in budgets if column == "Joint"] == soft
    assert [p.swept["budget"] for p in found if p.column == "Proposed"] == feature


def test_several_values_of_a_parameter_are_swept_in_every_group_that_has_it(write: Any) -> None:
    _, suite = load_suite(write(SMALL + SECOND_GROUP + "[group.attack.prior]"))
    settings = ("attack.lam=0.0,1.0",)
    assert {p.swept["lam"] for p in of_group(suite, "By batch size", *settings)} == {0.0, 1.0}
    assert [p.swept for p in of_group(suite, "By data set", *settings)] == [{}]


def test_a_list_that_an_attack_takes_as_one_value_is_not_swept(
    small: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Layered(Prior):
        layers: tuple[int, ...] = ()

    ATTACKS.get("prior")
    monkeypatch.setitem(ATTACKS._plugins, "prior", Layered)
    found = cells(small, "attack.prior.layers=1,2", only=["attack=prior"])
    assert [cell.attack_parameters["layers"] for cell in found] == [(1, 2), (1, 2)]
    assert cells(small, "attack.layers=1,2", only=["attack=prior"]) == found


@pytest.mark.parametrize("layout", ["table2", "budget"])
def test_a_table_has_a_leading_column_for_a_swept_parameter(write: Any, layout: str) -> None:
    text = SMALL + BUDGET_GROUP.replace('"budget"', f'"{layout}"')
    found = of_group(load_suite(write(text))[1], "By budget")
    table = table_of([Measured(p, None) for p in found])
    assert list(table.leading) == (
        ["main task", "property", "budget"]
        if layout == "budget"
        else ["budget", "main task", "property", "B"]
    )
    column = table.leading.index("budget")
    assert {row.leading[column] for row in table.rows} == {"3", "5"}


def test_the_settings_tell_what_was_swept_and_what_a_group_changed(write: Any) -> None:
    text = SMALL + BUDGET_GROUP + "[group.attack.feature]\n[group.attack.prior]"
    found = expand(*load_suite(write(text)))
    lines = SuiteReport([Measured(p, None) for p in found]).settings.splitlines()
    proposed = [line for line in lines if line.startswith("- Proposed")]
    assert len(proposed) == 2
    assert "in “By batch size”: knows –; budget = 7, " in proposed[0]
    assert "in “By budget”: knows –; budget = 3 or 5, " in proposed[1]
    assert "- Prior (`prior`): knows –; no parameters" in lines


def test_a_cell_is_described_by_its_swept_parameters(write: Any) -> None:
    found = of_group(load_suite(write(SMALL + BUDGET_GROUP))[1], "By budget")
    assert describe(found[0]) == "Proposed, synthetic faces, hat, B = 8, budget = 3"
    assert describe(found[2]) == "Prior, synthetic faces, hat, B = 8"
