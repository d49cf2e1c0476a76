"""Facts about suites: what a file may say, and which cells it means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import DATASETS
from leakbench.data.split import task_attributes
from leakbench.datasets.synthetic import Synthetic
from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import expand
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import Suite, load_suite, suite_names
from suite_files import (
    BUDGET_GROUP,
    CELL,
    COLUMNS,
    GROUP,
    SECOND_GROUP,
    SMALL,
    TITLE,
    cells,
    keys,
)


def fits_its_data(cell: Cell) -> bool:
    """Whether the cell's data set has the attributes that it asks for."""
    parameters = cell.dataset_parameters | {"individuals": 4}
    known = build(DATASETS, "synthetic", parameters).load(None, 32).attributes
    return {*cell.properties, *task_attributes(cell.main_task)} <= set(known)


@pytest.mark.parametrize("name", suite_names())
def test_our_suites_expand_on_the_embedded_default(name: str) -> None:
    found, suite = load_suite(name)
    entry = expand(found, override(suite, ["dataset=synthetic"]))
    assert found == name
    assert {p.cell.dataset for p in entry} == {"synthetic"}


def test_the_quick_suite_asks_only_for_attributes_that_its_data_have() -> None:
    name, suite = load_suite("quick")
    assert all(fits_its_data(p.cell) for p in expand(name, suite))


def test_setting_a_data_set_that_a_suite_has_already_changes_nothing() -> None:
    name, suite = load_suite("quick")
    changed = override(suite, ["dataset=synthetic"])
    assert keys(expand(name, changed)) == keys(expand(name, suite))


def test_suite_names_are_chosen_by_a_glob() -> None:
    assert "quick" in suite_names()
    assert suite_names("qu*") == ["quick"]


def test_a_suite_file_is_named_after_the_file(write: Any) -> None:
    assert load_suite(write(SMALL, "mine"))[0] == "mine"


@pytest.mark.parametrize("name", ["quik", "quick "])
def test_an_unknown_suite_lists_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown suite '{name}'; did you mean quick.*\.toml"):
        load_suite(name)


def test_a_suite_file_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown suite '.*none\.toml'"):
        load_suite(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace(TITLE, TITLE + "speed = 1\n"), "unknown key 'speed'"),
        (SMALL.replace("rounds", "round"), "unknown key 'round' of a cell"),
        (SMALL.replace("batch_size", "batchsize"), "unknown key 'batchsize' of a cell"),
        (SMALL.replace("layout", "format = 1\nlayout"), r"unknown key 'group\.0\.format'"),
        (
            SMALL + SECOND_GROUP.replace("batch_size", "batch"),
            "unknown key 'batch' of a cell",
        ),
        (SMALL.replace("[attack.prior]", "[attack.prior]\nbudget = 3"), r"'attack\.prior\.budget'"),
        (
            SMALL + "[group.attack.dlg]",
            "group 'By batch size' has a column 'dlg' that the suite has not; it has feature, ",
        ),
        (
            SMALL + '[group.attack.soft]\nattack = "prior"',
            r"unknown key 'group\.0\.attack\.soft\.attack'",
        ),
        (
            SMALL.replace('"table2"', '"budget"'),
            r"group 'By batch size' is laid out by budget but does not sweep it; add .*attack\.",
        ),
        (SMALL.replace("rounds", '"attack.budget"'), r"unknown key 'attack\.budget' of a cell"),
        (
            SMALL.replace("{ batch_size = [1, 8] }", "{ attack.budget = 3 }"),
            r"group\.0\.sweep\.attack\.budget: .*list.*got 3",
        ),
        (SMALL.replace('"table2"', '"table9"'), r"group\.0\.layout: .*'table1'.*got 'table9'"),
        (SMALL.replace(TITLE, ""), "key 'title' is missing"),
        (TITLE + CELL + GROUP, "key 'attack' is missing"),
        (TITLE + CELL + COLUMNS, "key 'group' is missing"),
        (SMALL.replace("[1, 8]", "1"), r"group\.0\.sweep\.batch_size: .*list.*got 1"),
        (SMALL + "title =", "no valid TOML: "),
        (SMALL.replace("[cell]", "[cell"), "no valid TOML: .*line 3"),
    ],
)
def test_a_mistake_in_a_suite_file_is_named_with_the_file(
    write: Any, text: str, message: str
) -> None:
    path = write(text)
    with pytest.raises(UsageError, match=f"{re.escape(path)}.*{message}") as caught:
        load_suite(path)
    assert "\n" not in str(caught.value)


def test_a_suite_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(b"title = '\xff'")
    with pytest.raises(UsageError, match=r"broken\.toml is no valid TOML"):
        load_suite(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace("rounds = 5", "rounds = -1"), r"rounds: .*equal to 0 \(got -1\)"),
        (SMALL.replace("[1, 8]", "[0]"), r"batch_size: .*greater than 0 \(got 0\)"),
        (SMALL.replace("[1, 8]", '["many"]'), r"batch_size: .*integer.*\(got 'many'\)"),
        (SMALL.replace('["gender", "smile"]', "[]"), r"properties: .*at least 1"),
        (SMALL.replace('dataset = "synthetic"', ""), "key 'dataset' is missing"),
        (SMALL.replace("batch_size", "seed"), "key 'batch_size' is missing"),
        (SMALL.replace('"synthetic"', '"synthetik"'), "unknown data set .*mean synthetic"),
        (SMALL.replace("[attack.prior]", "[attack.priro]"), "unknown attack 'priro'.*mean prior"),
        (SMALL.replace('attack = "feature"', 'attack = "x"'), "unknown attack 'x'"),
        (
            SMALL.replace("budget = 7, lam", "budge = 7, lam"),
            "no parameter 'budge'; it has: budget",
        ),
        (SMALL.replace("budget = 7, lam", 'budget = "x", lam'), r"'feature': budget: .*got 'x'"),
        (SMALL.replace('"joint"', '"guessed"'), r"'feature': labels.*'known'.*got 'guessed'"),
        (SMALL.replace("seed = 3", "sed = 3"), "data set 'synthetic' has no parameter 'sed'"),
        (
            SMALL.replace("[attack.prior]", '[attack.prior]\npreset = "paper"'),
            "attack 'prior' has no preset 'paper'; it has: none",
        ),
        (
            SMALL.replace("[1, 8] }", "[1, 8], attack.budgett = [3] }"),
            r"attack\.budgett: no attack .* parameter 'budgett'; there is budget",
        ),
        (SMALL + BUDGET_GROUP.replace("[3, 5]", "[3, 0]"), r"budget: .*greater than 0 \(got 0\)"),
        (SMALL + BUDGET_GROUP.replace("[3, 5]", "[]"), r"sweep of 'attack\.budget' is empty"),
        (
            SMALL + BUDGET_GROUP + "[group.attack.prior]",
            "no attack .* parameter 'budget'; there is none",
        ),
    ],
)
def test_a_wrong_value_is_named(write: Any, text: str, message: str) -> None:
    name, suite = load_suite(write(text))
    with pytest.raises(UsageError, match=message) as caught:
        expand(name, suite)
    assert "\n" not in str(caught.value)


def test_cells_are_every_combination_in_the_order_of_the_file(small: Suite) -> None:
    small.group[0].sweep = {"batch_size": [1, 8], "seed": [0, 1]}
    entry = expand("small", small)
    found = [(p.cell.batch_size, p.cell.seed, p.column) for p in entry]
    columns = ("Proposed", "Joint", "Prior", "Oracle")
    assert found == [(b, s, column) for b in (1, 8) for s in (0, 1) for column in columns]
    assert {p.group for p in entry} == {"By batch size"}
    assert len(set(keys(entry))) == len(entry)


def test_a_group_s_cell_fields_take_the_place_of_the_suite_s(write: Any) -> None:
    name, suite = load_suite(write(SMALL + SECOND_GROUP))
    cell = expand(name, suite, ["batch_size=2"])[0].cell
    assert cell.properties == ("wheel",)
    assert cell.rounds == 5
    assert cell.dataset_parameters["subject"] == "vehicles"
    assert cell.dataset_parameters["individuals"] == Synthetic().individuals


PRESET = """
[preset.shallow]
model = { name = "lenet" }
rounds = 2

[[group]]
title = "Shallow"
layout = "table2"
preset = "NAME"
cell = { batch_size = 1, learning_rate = 0.5 }
"""


def test_a_group_has_the_fields_of_its_preset_below_its_own(write: Any) -> None:
    preset = PRESET.replace("NAME", "shallow")
    name, suite = load_suite(write(SMALL + preset + "[group.sweep]\nrounds = [4]\n"))
    last = expand(name, suite)[-1].cell
    assert (last.model, last.rounds, last.learning_rate) == ("lenet", 4, 0.5)


def test_a_group_s_parameters_are_laid_over_those_of_its_preset_s_plugin(write: Any) -> None:
    mixed = PRESET.replace("NAME", "shallow").replace(
        "lenet", 'small_cnn", width = 4, pooling = "max'
    )
    mixed = mixed.replace("learning_rate = 0.5", "model_parameters = { width = 6 }")
    name, suite = load_suite(write(SMALL + mixed))
    last = expand(name, suite)[-1].cell
    assert (last.model_parameters["width"], last.model_parameters["pooling"]) == (6, "max")


@pytest.mark.parametrize(
    "beside",
    [
        'cell = { model = { name = "lenet" }, model_parameters = { spread = 1 } }',
        'cell = { model = { name = "lenet" } }\nsweep = { model_parameters = [{ spread = 1 }] }',
        'cell = { model_parameters = { width = 1 } }\nsweep = { model = [{ name = "lenet" }] }',
    ],
)
def test_parameters_that_a_table_beside_them_would_hide_are_refused(
    write: Any, beside: str
) -> None:
    group = f'[[group]]\ntitle = "Hidden"\nlayout = "table2"\n{beside}\n'
    with pytest.raises(UsageError, match=r"'Hidden' has model_parameters beside model = \{"):
        load_suite(write(SMALL + group))


def test_a_setting_of_the_command_line_counts_more_than_a_preset(write: Any) -> None:
    name, suite = load_suite(write(SMALL + PRESET.replace("NAME", "shallow")))
    assert expand(name, suite)[-1].cell.rounds == 2
    assert expand(name, override(suite, ["rounds=7"]))[-1].cell.rounds == 7


def test_a_preset_that_is_not_there_is_named(write: Any) -> None:
    message = r"names a preset 'deep' that the suite has not; it has shallow"
    with pytest.raises(UsageError, match=message):
        load_suite(write(SMALL + PRESET.replace("NAME", "deep")))


def test_cells_hold_every_parameter_defaults_included(small: Suite) -> None:
    feature, soft, _, oracle, *_ = cells(small)
    assert feature.attack == soft.attack == "feature"
    assert feature.attack_parameters["budget"] == 7
    assert feature.attack_parameters["restarts"] == FeatureReconstruction().restarts
    assert soft.attack_parameters["labels"] == "joint"
    assert feature.dataset_parameters == {
        "subject": "faces",
        "individuals": 40,
        "images_per_identity": Synthetic().images_per_identity,
        "seed": 3,
    }
    assert set(oracle.grant) == {"model", "auxiliary", "features"}
    assert set(feature.grant) == {"model", "update", "auxiliary", "labels"}


def test_a_data_set_s_own_name_of_a_task_gives_the_same_cell_as_its_attributes(
    small: Suite,
) -> None:
    task = Synthetic().main_tasks()["8-class"]
    named, spelt = (cells(small, f"main_task={text}") for text in ("8-class", task))
    assert named[0].main_task == task
    assert named == spelt
