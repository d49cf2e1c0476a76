"""Facts about suites: what a file may say, what `--set` and `--only` change, and cells' keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS, DATASETS
from leakbench.base.seeds import digest
from leakbench.baselines.prior import Prior
from leakbench.data.split import task_attributes
from leakbench.datasets.synthetic import Synthetic
from leakbench.experiments.cell import Cell
from leakbench.experiments.descriptions import describe
from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.overrides import override
from leakbench.experiments.plugin_catalogue import description
from leakbench.experiments.suite import Suite, load_suite, suite_names
from leakbench.records.measured import Measured
from leakbench.reports.rows import LAYOUTS, varying_settings
from leakbench.reports.settings import settings
from leakbench.reports.suite_report import main_tables, reading_aid

TITLE = 'title = "Small"\n'
CELL = """
[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 40, seed = 3 }
properties = ["gender", "smile"]
main_task = "hat"
rounds = 5
"""
COLUMNS = """
[attack.feature]
parameters = { budget = 7, lam = 0.5 }

[attack.soft]
attack = "feature"
title = "Joint"
parameters = { budget = 7, labels = "joint" }

[attack.prior]

[attack.oracle]
grant = ["model", "auxiliary", "features"]
"""
GROUP = """
[[group]]
title = "By batch size"
layout = "table2"
sweep = { batch_size = [1, 8] }
"""
SECOND_GROUP = """
[[group]]
title = "By data set"
layout = "table1"
cell = { properties = ["wheel"], main_task = "cargo", batch_size = 2, \
dataset_parameters = { subject = "vehicles" } }
"""
BUDGET_GROUP = """
[[group]]
title = "By budget"
layout = "budget"
cell = { batch_size = 8 }
sweep = { attack.budget = [3, 5] }
"""
SMALL = TITLE + CELL + COLUMNS + GROUP


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes a suite file and returns its path."""

    def written(text: str, name: str = "small") -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


@pytest.fixture
def small(write: Any) -> Suite:
    suite: Suite = load_suite(write(SMALL))[1]
    return suite


def cells(suite: Suite, *settings: str, only: Sequence[str] = ()) -> list[Cell]:
    return [entry.cell for entry in expand("small", override(suite, settings), only)]


def keys(entry: list[SuiteEntry]) -> list[str]:
    return [p.key for p in entry]


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


@pytest.mark.parametrize(
    ("setting", "field", "values"),
    [
        ("rounds=9", "rounds", {9}),
        ("learning_rate=0.5", "learning_rate", {0.5}),
        ("main_task=smile", "main_task", {"smile"}),
        ('main_task="smile"', "main_task", {"smile"}),
        ("main_task=hat+smile", "main_task", {"hat+smile"}),
        ("batch_size=4", "batch_size", {4}),
        ("batch_size=2,4", "batch_size", {2, 4}),
        ("batch_size=[2, 4]", "batch_size", {2, 4}),
        ("main_task=hat,smile", "main_task", {"hat", "smile"}),
        ("model=lenet,small_cnn", "model", {"lenet", "small_cnn"}),
        ("properties=young", "properties", {("young",)}),
        ("properties=young,smile", "properties", {("young", "smile")}),
        ('properties=["young", "smile"]', "properties", {("young", "smile")}),
    ],
)
def test_a_setting_changes_a_field_of_all_cells(
    small: Suite, setting: str, field: str, values: set[Any]
) -> None:
    assert {getattr(cell, field) for cell in cells(small, setting)} == values


def test_several_values_of_a_setting_are_swept_together_with_the_suite_s(small: Suite) -> None:
    found = {(cell.batch_size, cell.rounds) for cell in cells(small, "rounds=1,2")}
    assert found == {(1, 1), (1, 2), (8, 1), (8, 2)}


def test_a_setting_overrides_the_groups_too(write: Any) -> None:
    _, suite = load_suite(write(SMALL + SECOND_GROUP))
    assert {cell.main_task for cell in cells(suite, "main_task=facing_left")} == {"facing_left"}
    assert {cell.batch_size for cell in cells(suite, "batch_size=4")} == {4}


def test_an_override_leaves_the_suite_as_it_was(write: Any) -> None:
    _, suite = load_suite(write(SMALL + SECOND_GROUP))
    before = suite.model_dump()
    override(
        suite, ["rounds=1", "batch_size=1,2", "attack.budget=1", "dataset.seed=9", "model=lenet"]
    )
    assert suite.model_dump() == before


def test_an_attack_parameter_is_set_in_every_column_that_has_it(small: Suite) -> None:
    found = cells(small, "attack.budget=11")
    assert {c.attack_parameters["budget"] for c in found if c.attack == "feature"} == {11}
    assert {len(c.attack_parameters) for c in found if c.attack == "prior"} == {0}


def test_an_attack_parameter_is_set_in_one_column(small: Suite) -> None:
    feature, soft, *_ = cells(small, "attack.soft.budget=11")
    assert feature.attack_parameters["budget"] == 7
    assert soft.attack_parameters["budget"] == 11


def test_a_data_set_parameter_is_set_in_every_group(write: Any) -> None:
    _, suite = load_suite(write(SMALL + SECOND_GROUP))
    found = cells(suite, "dataset.images_per_identity=2")
    assert {cell.dataset_parameters["images_per_identity"] for cell in found} == {2}
    assert {cell.dataset_parameters["subject"] for cell in found} == {"faces", "vehicles"}


def test_a_data_set_parameter_is_set_where_parameters_are_swept(small: Suite) -> None:
    small.group[0].sweep["dataset_parameters"] = [{"subject": "faces"}, {"subject": "birds"}]
    small.cell["main_task"] = "facing_left"
    found = cells(small, "dataset.seed=9")
    assert {cell.dataset_parameters["seed"] for cell in found} == {9}


def test_a_model_parameter_is_set(small: Suite) -> None:
    assert {c.model_parameters["width"] for c in cells(small, "model.width=5")} == {5}


def test_another_data_set_or_model_comes_with_its_own_parameters(small: Suite) -> None:
    found = cells(small, "model.width=5", "model=lenet", "dataset=celeba")
    assert {tuple(c.model_parameters) for c in found} == {("spread",)}
    assert {tuple(c.dataset_parameters) for c in found} == {("selection",)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rounds", "'rounds' is not of the form KEY=VALUE"),
        ("=3", "'=3' is not of the form KEY=VALUE"),
        ("", "'' is not of the form KEY=VALUE"),
        ("batchsize=3", "batchsize: no such setting; did you mean batch_size"),
        ("zzz=3", r"zzz: no such setting; did you mean .*attack\.PARAMETER.*rounds"),
        (
            "attack.budgett=3",
            r"attack\.budgett: no attack .* parameter 'budgett'; there is .*budget",
        ),
        ("attack.prior.budget=3", r"no attack .* parameter 'budget'; there is none"),
        ("attack.dlg.budget=3", "no column 'dlg'; it has feature, soft, prior, oracle"),
        ("attack.budget=x", r"'feature': budget: .*integer.*got 'x'"),
        ("attack.budget=1,x", r"'feature': budget: .*integer.*got 'x'"),
        ("attack.budget=[]", r"sweep of 'attack\.budget' is empty"),
        (
            "attack.soft.budget=1,2",
            r"soft\.budget=1,2: several values .* all columns at once; use .* attack\.budget=1,2",
        ),
        ("attack.preset=papers", "no attack .* preset 'papers'; there is none"),
        ("attack.prior.preset=paper", "no attack .* preset 'paper'; there is none"),
        ("attack.dlg.preset=paper", "no column 'dlg'; it has feature, soft, prior, oracle"),
        ("dataset.sed=3", "data set 'synthetic' has no parameter 'sed'; it has: subject"),
        ("dataset.seed=x", r"data set 'synthetic': seed: .*integer.*got 'x'"),
        ("model.depth=3", "model 'small_cnn' has no parameter 'depth'; it has: "),
        ("defense.sigma=3", "defense 'none' has no parameter 'sigma'; it has: none"),
        ("dataset=synthetik", "unknown data set 'synthetik'; did you mean synthetic"),
        ("model=lenett", "unknown model 'lenett'; did you mean lenet"),
        ("rounds=many", r"rounds: .*integer.*got 'many'"),
        ("rounds=", r"rounds: .*integer.*got ''"),
        ("auxiliary_share=1.5", r"auxiliary_share: .*less than 1 \(got 1\.5\)"),
        ("grant=updates", "unknown knowledge 'updates'; choose from model, update, labels"),
    ],
)
def test_a_wrong_setting_is_named_with_what_there_is(
    small: Suite, setting: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        cells(small, setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["attack=oracle", "attack_parameters={ budget = 1 }"])
def test_a_setting_that_changes_nothing_is_refused(small: Suite, setting: str) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        cells(small, setting)


@pytest.mark.parametrize(
    "text",
    [
        "nan",
        pytest.param("inf"),
    ],
)
def test_a_learning_rate_is_a_finite_number(small: Suite, text: str) -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        cells(small, f"learning_rate={text}")


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ([], 8),
        (["batch_size=8"], 4),
        (["batch_size=1,8"], 8),
        (["attack=prior"], 2),
        (["attack=feature"], 4),
        (["attack=soft"], 2),
        (["attack=prior,oracle"], 4),
        (["attack=*o*"], 6),
        (["attack=prior", "batch_size=1"], 1),
        (["dataset=syn*"], 8),
        (["properties=*gender*"], 8),
    ],
)
def test_only_takes_the_cells_that_fit_every_filter(
    small: Suite, only: list[str], count: int
) -> None:
    assert len(cells(small, only=only)) == count


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("attack=dlg", "no cell is left by --only attack=dlg"),
        ("attack", "--only 'attack' is not of the form FIELD=VALUE.*batch_size"),
        ("size=3", "--only 'size=3' is not of the form FIELD=VALUE.*batch_size"),
    ],
)
def test_a_filter_that_leaves_nothing_is_an_error(small: Suite, only: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cells(small, only=[only])


def test_a_filter_knows_a_main_task_by_its_name_in_the_file() -> None:
    name, suite = load_suite("quick")
    assert expand(name, suite, ["main_task=8-class"])


def test_an_empty_sweep_is_named(small: Suite) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        cells(small, "batch_size=[]")


@pytest.mark.parametrize(
    ("grant", "message"),
    [
        ("model,update", "attack 'feature' needs to know labels and auxiliary, which this cell "),
        ("model,update,auxiliary", r"needs to know labels.*grants model, update, auxiliary"),
        ("[]", "attack 'feature' needs .*it grants nothing"),
    ],
)
def test_an_attack_that_is_not_granted_what_it_needs_is_refused(
    small: Suite, grant: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message + ".*add it to `grant` or choose"):
        cells(small, f"grant={grant}")


def test_the_oracle_needs_the_features_granted_by_name(write: Any) -> None:
    name, suite = load_suite(write(SMALL.replace(', "features"]', "]")))
    with pytest.raises(UsageError, match="attack 'oracle' needs to know features"):
        expand(name, suite)


def test_an_attack_that_guesses_labels_need_not_be_granted_them(small: Suite) -> None:
    found = cells(small, "grant=model,update,auxiliary", "attack.labels=counts")
    assert {cell.attack_parameters.get("labels") for cell in found} == {"counts", None}


PRESETS = {"paper": {"budget": 9, "lam": 0.25, "restarts": 3}, "fast": {"budget": 2}}


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureReconstruction, "presets", PRESETS)


def test_what_each_data_set_has_of_its_own_makes_no_column(write: Any) -> None:
    birds = SECOND_GROUP.replace("vehicles", "birds").replace("wheel", "beak")
    birds = birds.replace('main_task = "cargo"', 'main_task = "crest", individuals = 64')
    entry = expand(*load_suite(write(TITLE + CELL + COLUMNS + SECOND_GROUP + birds)))
    assert {p.cell.individuals for p in entry} == {256, 64}
    assert varying_settings(entry, LAYOUTS["table1"]) == []
    assert "individuals" in varying_settings(entry, LAYOUTS["table2"])


def of_group(suite: Suite, title: str, *settings: str) -> list[SuiteEntry]:
    return [p for p in expand("small", override(suite, settings)) if p.group == title]


def parameters(entry: Sequence[SuiteEntry], name: str) -> list[tuple[str, Any]]:
    return [(p.column, p.cell.attack_parameters.get(name)) for p in entry]


def test_a_group_without_columns_has_those_of_the_suite(write: Any) -> None:
    _, suite = load_suite(write(SMALL + SECOND_GROUP))
    found = [p.column for p in of_group(suite, "By data set")]
    assert found == ["Proposed", "Joint", "Prior", "Oracle"]


def test_a_group_with_columns_has_only_these_in_its_own_order(write: Any) -> None:
    text = SMALL + SECOND_GROUP + "[group.attack.prior]\n[group.attack.feature]\n"
    _, suite = load_suite(write(text))
    assert [p.column for p in of_group(suite, "By data set")] == ["Prior", "Proposed"]
    assert len(of_group(suite, "By batch size")) == 8


def test_what_a_group_gives_a_column_is_laid_over_the_suite_s(write: Any) -> None:
    text = SMALL + SECOND_GROUP
    text += '[group.attack.soft]\ntitle = "Mine"\nparameters = { lam = 2.0 }\n'
    text += 'grant = ["model", "update", "auxiliary"]'
    _, suite = load_suite(write(text))
    (mine,) = of_group(suite, "By data set")
    given = {"budget": 7, "labels": "joint", "lam": 2.0}
    assert mine.column == "Mine"
    assert mine.cell.attack == "feature"
    assert given.items() <= mine.cell.attack_parameters.items()
    assert mine.cell.grant == ("model", "update", "auxiliary")
    assert {p.column for p in of_group(suite, "By batch size")} >= {"Joint"}


def test_columns_that_a_group_gives_one_title_are_told_apart_by_their_names(write: Any) -> None:
    text = SMALL + '[group.attack.soft]\ntitle = "Proposed"\n[group.attack.feature]\n'
    _, suite = load_suite(write(text))
    assert [p.column for p in expand("small", suite)[:2]] == ["soft", "feature"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("attack.lam=4.0", [("Proposed", 4.0), ("Joint", 4.0)]),
        ("attack.soft.lam=4.0", [("Proposed", 3.0), ("Joint", 4.0)]),
    ],
)
def test_a_setting_of_an_attack_wins_over_a_group_s(
    write: Any, setting: str, expected: list[tuple[str, float]]
) -> None:
    text = SMALL + SECOND_GROUP + "[group.attack.feature]\nparameters = { lam = 3.0 }\n"
    text += "[group.attack.soft]\nparameters = { lam = 3.0 }\n"
    _, suite = load_suite(write(text))
    assert parameters(of_group(suite, "By data set", setting), "lam") == expected


@pytest.mark.usefixtures("presets")
def test_a_column_s_parameters_are_laid_over_its_preset(write: Any) -> None:
    _, suite = load_suite(
        write(SMALL.replace("[attack.feature]", '[attack.feature]\npreset="paper"'))
    )
    found = cells(suite)[0].attack_parameters
    assert (found["budget"], found["lam"], found["restarts"]) == (7, 0.5, 3)


@pytest.mark.usefixtures("presets")
def test_a_cell_does_not_depend_on_whether_a_preset_is_named_or_spelt_out(write: Any) -> None:
    named = SMALL.replace("[attack.prior]", '[attack.mine]\nattack = "feature"\npreset = "paper"')
    spelt = named.replace('preset = "paper"', f"parameters = {{ {toml(PRESETS['paper'])} }}")
    assert keys(expand(*load_suite(write(named)))) == keys(expand(*load_suite(write(spelt))))


def toml(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in parameters.items())


@pytest.mark.usefixtures("presets")
def test_a_preset_that_is_not_there_lists_those_that_are(write: Any) -> None:
    text = SMALL.replace("[attack.feature]", '[attack.feature]\npreset = "papers"')
    with pytest.raises(UsageError, match=r"'feature' has no preset 'papers'; .* paper, fast"):
        expand(*load_suite(write(text)))
    with pytest.raises(
        UsageError, match=r"attack\.preset=x: no attack .*'x'; there is paper, fast"
    ):
        cells(load_suite(write(SMALL))[1], "attack.preset=x")


@pytest.mark.usefixtures("presets")
@pytest.mark.parametrize(
    ("setting", "restarts"),
    [
        ("attack.preset=paper", [("Proposed", 3), ("Joint", 3), ("Prior", None)]),
        ("attack.soft.preset=paper", [("Proposed", 1), ("Joint", 3), ("Prior", None)]),
    ],
)
def test_a_preset_is_set_in_the_columns_that_have_it_and_wins_over_a_group_s(
    write: Any, setting: str, restarts: list[tuple[str, int | None]]
) -> None:
    text = SMALL + '[group.attack.feature]\npreset = "fast"\n[group.attack.soft]\n'
    text += 'preset = "fast"\n[group.attack.prior]'
    found = expand("small", override(load_suite(write(text))[1], [setting]))
    assert parameters(found, "restarts")[:3] == restarts


@pytest.mark.usefixtures("presets")
@pytest.mark.parametrize(
    ("settings", "budget", "lam"),
    [
        (["attack.preset=paper"], [9, 9], [0.25, 0.25]),
        (["attack.preset=fast"], [2, 2], [0.5, 0.1]),
        (["attack.feature.preset=paper"], [9, 7], [0.25, 0.1]),
        (["attack.preset=paper", "attack.lam=1.0"], [9, 9], [1.0, 1.0]),
        (["attack.soft.lam=1.0", "attack.preset=paper"], [9, 9], [0.25, 1.0]),
        (["attack.preset=paper", "attack.soft.preset=fast"], [9, 2], [0.25, 0.1]),
    ],
)
def test_a_preset_that_is_set_gives_way_only_to_other_settings(
    write: Any, settings: list[str], budget: list[int], lam: list[float]
) -> None:
    text = SMALL.replace("[1, 8]", "[1]") + "[group.attack.feature]\nparameters = { budget = 8 }\n"
    found = expand("small", override(load_suite(write(text + "[group.attack.soft]"))[1], settings))
    assert [value for _, value in parameters(found, "budget")] == budget
    assert [value for _, value in parameters(found, "lam")] == lam


@pytest.mark.usefixtures("presets")
def test_show_lists_presets_with_their_parameters() -> None:
    shown = description("feature").partition("Presets")[2]
    assert re.search(r"attack\.feature\.preset=NAME", shown)
    assert re.search(r"^paper +budget = 9, lam = 0\.25, restarts = 3$", shown, re.M)
    assert "Presets" not in description("prior")


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
    lines = main_tables([Measured(p, None) for p in found]).splitlines()
    heading, _, *rows = [line for line in lines if line.startswith("|")]
    names = [cell.strip() for cell in heading.strip("|").split("|")]
    column = names.index("budget")
    assert names[:-4] == (
        ["main task", "property", "budget"]
        if layout == "budget"
        else ["budget", "main task", "property", "B"]
    )
    assert {row.split("|")[column + 1].strip() for row in rows} - {""} == {"3", "5"}


def test_the_settings_tell_what_was_swept_and_what_a_group_changed(write: Any) -> None:
    text = SMALL + BUDGET_GROUP + "[group.attack.feature]\n[group.attack.prior]"
    found = expand(*load_suite(write(text)))
    lines = settings([Measured(p, None) for p in found]).splitlines()
    proposed = [line for line in lines if line.startswith("- Proposed")]
    assert len(proposed) == 2
    assert "in “By batch size”: knows –; budget = 7, " in proposed[0]
    assert "in “By budget”: knows –; budget = 3 or 5, " in proposed[1]
    assert "- Prior (`prior`): knows –; no parameters" in lines


def test_a_cell_is_described_by_its_swept_parameters(write: Any) -> None:
    found = of_group(load_suite(write(SMALL + BUDGET_GROUP))[1], "By budget")
    assert describe(found[0]) == "Proposed, synthetic faces, hat, B = 8, budget = 3"
    assert describe(found[2]) == "Prior, synthetic faces, hat, B = 8"


OTHER: dict[str, Any] = {
    "dataset": "celeba",
    "dataset_parameters": {"individuals": 41},
    "image_size": 64,
    "properties": ("smile", "gender"),
    "main_task": "smile",
    "model": "lenet",
    "model_parameters": {"width": 3},
    "split": "hidden",
    "clients": 3,
    "client_batch": 3,
    "learning_rate": 0.3,
    "rounds": 3,
    "auxiliary_share": 0.3,
    "victim_share": 0.3,
    "auxiliary_dataset": "celeba",
    "auxiliary_dataset_parameters": {"individuals": 41},
    "auxiliary_individuals": 41,
    "property_model": "logistic",
    "seed": 3,
    "attack": "prior",
    "attack_parameters": {"budget": 8},
    "batch_size": 3,
    "individuals": 3,
    "mode": "train",
    "grant": ("model",),
    "defense": "noise",
    "defense_parameters": {"sigma": 1.0},
    "precision": "bfloat16",
}


def test_there_is_another_value_for_every_field() -> None:
    assert set(OTHER) == set(Cell.model_fields)


@pytest.mark.parametrize("field", Cell.model_fields)
def test_a_key_changes_with_every_field(small: Suite, field: str) -> None:
    cell = cells(small)[0]
    assert getattr(cell, field) != OTHER[field]
    assert cell.model_copy(update={field: OTHER[field]}).key(1) != cell.key(1)


def test_a_key_changes_with_the_attack_s_version(
    small: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = expand("small", small)
    monkeypatch.setattr(FeatureReconstruction, "version", FeatureReconstruction.version + 1)
    after = expand("small", small)
    changed = [p.cell.attack for p, q in zip(before, after, strict=True) if p.key != q.key]
    assert changed == ["feature"] * 4


def test_a_key_survives_writing_and_reading_of_the_cell(small: Suite) -> None:
    for entry in expand("small", small):
        read = Cell.model_validate_json(entry.cell.model_dump_json())
        assert read == entry.cell
        assert re.fullmatch("[0-9a-f]{24}", entry.key)
        assert read.key(1) == entry.cell.key(1)


def test_a_digest_is_the_same_on_every_machine() -> None:
    assert digest("cell", 1, {"b": [1, 0.1], "a": {"σ": None, "x": True}}).startswith(
        "52d11450a792bab2"
    )


def test_keys_do_not_depend_on_the_order_in_the_file(write: Any) -> None:
    lines = CELL.strip().splitlines()
    reordered = "\n".join([lines[0], *reversed(lines[1:]), ""])
    columns = COLUMNS.replace("budget = 7, lam = 0.5", "lam = 0.5, budget = 7")
    cell = reordered.replace("individuals = 40, seed = 3", "seed = 3, individuals = 40")
    assert (cell, columns) != (CELL, COLUMNS)
    first = expand(*load_suite(write(SMALL)))
    again = expand(*load_suite(write(TITLE + GROUP + columns + cell)))
    assert keys(first) == keys(again)


def test_keys_do_not_depend_on_titles_nor_on_spelling_out_a_default(write: Any) -> None:
    default = FeatureReconstruction().restarts
    text = SMALL.replace("lam = 0.5", f"lam = 0.5, restarts = {default}")
    text = text.replace("By batch size", "Another").replace('"Joint"', '"Soft"')
    text = text.replace("rounds = 5", "rounds = 5\nseed = 0\nlearning_rate = 0.1\nclients = 8")
    first = expand(*load_suite(write(SMALL)))
    again = expand(*load_suite(write(text, "renamed")))
    assert keys(first) == keys(again)


def test_keys_do_not_depend_on_the_order_of_a_grant(small: Suite) -> None:
    one = cells(small, "grant=model,update,auxiliary,labels")
    other = cells(small, "grant=labels,auxiliary,update,model")
    assert [cell.key(1) for cell in one] == [cell.key(1) for cell in other]


def test_two_cells_in_one_place_of_a_table_are_refused(write: Any) -> None:
    again = """
[[group]]
title = "By batch size"
layout = "table2"
sweep = { batch_size = [1, 8] }

[group.attack.feature]
parameters = { lam = 0.25 }
"""
    with pytest.raises(UsageError, match="two cells of column 'Proposed' stand in the same place"):
        expand(*load_suite(write(SMALL + again)))


def test_a_group_s_preset_counts_before_the_suite_s_parameters(write: Any) -> None:
    text = (
        SMALL
        + """
[attack.ig]
parameters = { budget = 7, tv = 0.5, learning_rate = 0.3 }

[[group]]
title = "As published"
layout = "table2"
cell = { batch_size = 1 }

[group.attack.ig]
preset = "paper"
"""
    )
    (found,) = of_group(load_suite(write(text))[1], "As published")
    expected = {"budget": 24_000, "tv": 1e-4, "learning_rate": 0.3}
    assert found.cell.attack_parameters.items() >= expected.items()


def test_attacks_terms_stand_under_their_table(write: Any) -> None:
    found = expand(*load_suite(write(SMALL)))
    shown = main_tables([Measured(entry, None) for entry in found])
    budget = next(p.cell.attack_parameters["budget"] for p in found if p.cell.attack == "feature")
    assert f"Attacks have {budget} gradient evaluations per victim batch; labels known" in shown


def test_terms_that_not_every_attack_has_name_those_that_have_them(write: Any) -> None:
    found = expand(*load_suite(write(SMALL + "\n[attack.ul]\n")))
    shown = main_tables([Measured(entry, None) for entry in found])
    budget = next(p.cell.attack_parameters["budget"] for p in found if p.cell.attack == "feature")
    assert f"Attacks have {budget} (Proposed, Joint) gradient evaluations per victim batch" in shown


def test_a_note_stands_under_the_tables_of_its_attack_alone(write: Any) -> None:
    note = "**UL**: decides whether a batch contains the property"
    for text, present in ((SMALL, False), (SMALL + "\n[attack.ul]\n", True)):
        cells = [Measured(entry, None) for entry in expand(*load_suite(write(text)))]
        assert (note in reading_aid(cells)) == present
