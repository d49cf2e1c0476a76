"""Facts about `--set` and `--only`."""

from __future__ import annotations

from typing import Any

import pytest

from leakbench.base.errors import UsageError
from leakbench.experiments.expansion import expand
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import Suite, load_suite
from suite_files import SECOND_GROUP, SMALL, cells


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


def test_of_several_models_those_that_have_a_parameter_take_it(write: Any) -> None:
    other = SECOND_GROUP.replace("batch_size = 2,", 'batch_size = 2, model = { name = "lenet" },')
    _, suite = load_suite(write(SMALL + other))
    for setting, model, parameter in (
        ("model.width=5", "small_cnn", "width"),
        ("model.spread=0.25", "lenet", "spread"),
    ):
        found = [c.model_parameters for c in cells(suite, setting) if c.model == model]
        assert {parameters[parameter] for parameters in found} == {float(setting.split("=")[1])}


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


def test_a_fallback_is_set_before_its_parameters_whatever_their_order() -> None:
    settings = ["attack.mask_demixing.tv=0.1", "attack.mask_demixing.fallback=ig"]
    _, quick = load_suite("quick")
    of_column = quick.attack["mask_demixing"]
    assert override(quick, settings).attack["mask_demixing"].parameters == {
        **of_column.parameters,
        "tv": 0.1,
        "fallback": "ig",
    }
