"""Facts about the keys of cells, and about terms under tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.base.errors import UsageError
from leakbench.base.seeds import digest
from leakbench.experiments.cell import LATER_FIELDS, SCHEMA, Cell, Setup
from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import Suite, load_suite
from leakbench.records.measured import Measured
from leakbench.reports.suite_report import main_tables, reading_aid
from suite_files import CELL, COLUMNS, GROUP, SMALL, TITLE, cells, keys, of_group

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
    "momentum": 0.9,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "augmentation": "flip",
    "local_epochs": 3,
    "local_batch": 3,
    "rounds": 3,
    "auxiliary_share": 0.3,
    "victim_share": 0.3,
    "auxiliary_dataset": "celeba",
    "auxiliary_dataset_parameters": {"individuals": 41},
    "auxiliary_individuals": 41,
    "property_model": "logistic",
    "seed": 3,
    "training": 3,
    "central": True,
    "attack": "prior",
    "attack_parameters": {"budget": 8},
    "batch_size": 3,
    "individuals": 3,
    "trainings": 3,
    "attack_seeds": 3,
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


def test_published_records_keep_their_keys() -> None:
    """Fields that came later are in no key at what held before."""
    folder = Path(__file__).resolve().parents[1] / "results" / "records"
    schemas = set()
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        cell = Cell.model_validate({**LATER_FIELDS, **record["cell"]})
        schemas.add(record["schema_version"])
        assert cell.key(record["attack_version"], record["schema_version"]) == path.stem
    assert SCHEMA in schemas


def test_trainings_keep_their_keys() -> None:
    """As they were before optimiser, federation and central training could be chosen."""
    of = Setup(dataset="celeba", properties=("gender",), main_task="smile", seed=3)
    assert of.training_key("data") == "7828e118094b3ff5b18f8a4e"
    later = of.model_copy(update={"training": 2, "rounds": 7})
    assert later.training_key("data") == "a002acad57e4d14b3928c5e5"
    assert of.model_copy(update={"central": True}).training_key("data") == of.training_key("data")


@pytest.mark.parametrize(
    "field",
    ["momentum", "weight_decay", "schedule", "augmentation", "local_epochs", "local_batch"],
)
def test_the_key_of_a_training_changes_with_what_shapes_the_weights(field: str) -> None:
    of = Setup(dataset="celeba", properties=("gender",), main_task="smile")
    assert of.model_copy(update={field: OTHER[field]}).training_key("") != of.training_key("")


def test_only_a_schedule_has_the_number_of_rounds_in_the_key_of_a_training() -> None:
    of = Setup(dataset="celeba", properties=("gender",), main_task="smile")
    for schedule, alike in (("constant", True), ("cosine", False)):
        one, other = (
            of.model_copy(update={"schedule": schedule, "rounds": rounds}) for rounds in (5, 6)
        )
        assert (one.training_key("") == other.training_key("")) == alike


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
