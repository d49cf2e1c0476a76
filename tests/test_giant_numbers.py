"""Numbers that would take years, or more memory than there is, are refused before any work."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from leakbench.auditing.training import FederatedTraining
from leakbench.auditing.updates import UpdateFormat
from leakbench.base.errors import UsageError
from leakbench.base.limits import MOST
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry
from leakbench.experiments.cell import Cell
from records import suite_entries

GIANT = 10**9

NO_COUNTS = {"seed", "training"}
"""Fields of a cell that are whole numbers, but say no amount of work."""


CELL_FIELDS = [
    name
    for name, field in Cell.model_fields.items()
    if "int" in re.findall(r"\w+", str(field.annotation)) and name not in NO_COUNTS
]

PARAMETERS = [
    (registry, name, field.name)
    for registry in (ATTACKS, DATASETS, DEFENSES, MODELS)
    for name in registry.own()
    for field in fields(registry.get(name))
    if str(field.type).startswith(("int", "Annotated[int,")) and field.name != "seed"
]


def test_there_are_such_numbers() -> None:
    assert {"rounds", "image_size", "local_epochs", "local_batch", "batch_size"} <= {*CELL_FIELDS}
    found = {(name, parameter) for _, name, parameter in PARAMETERS}
    assert {("ig", "budget"), ("local_steps", "epochs"), ("small_cnn", "hidden")} <= found
    assert len(found) > 30


@pytest.mark.parametrize("field", CELL_FIELDS)
def test_a_field_of_a_cell(field: str) -> None:
    cell = suite_entries("quick")[0].cell.model_dump() | {"local_epochs": 1}
    Cell.model_validate(cell | {field: cell[field] or 1})
    with pytest.raises(ValidationError, match=rf"(?s){field}\n.*less than or equal"):
        Cell.model_validate(cell | {field: GIANT})


@pytest.mark.parametrize(
    ("registry", "name", "parameter"), PARAMETERS, ids=[f"{n}.{p}" for _, n, p in PARAMETERS]
)
def test_a_parameter_of_a_plugin(registry: Registry, name: str, parameter: str) -> None:
    for value in (GIANT, 10**5_000):
        said = f"must be at most {MOST} |should be less than or equal to "
        with pytest.raises(UsageError, match=f"{parameter}.* ({said})"):
            PluginSpec(name, {parameter: value}).build(registry)


def test_a_seed_may_be_any_number() -> None:
    assert PluginSpec("synthetic", {"seed": 2**62}).build(DATASETS).seed == 2**62


@pytest.mark.parametrize("field", ["batch_size", "local_steps", "local_batch"])
def test_what_a_client_did(field: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?s){field}\n.*less than or equal"):
        UpdateFormat.model_validate({field: GIANT})


def test_epochs_that_steps_amount_to(update_steps: Callable[[int], Any]) -> None:
    update_steps(20)
    with pytest.raises(UsageError, match=r"local_steps': epochs: .* less than or equal to 10000"):
        update_steps(10**5)


@pytest.fixture
def update_steps() -> Callable[[int], Any]:
    """Return a function that builds what a client did in so many steps on its whole batch."""
    from leakbench.auditing.updates import local_steps

    def built(steps: int) -> Any:
        given = UpdateFormat(kind="gradient", learning_rate=0.1, local_steps=steps)
        found = local_steps(given, 4, "a")
        assert found is not None
        return found.build(DEFENSES)

    return built


def test_the_training_of_an_audit() -> None:
    images = torch.rand(16, 3, 8, 8)
    labels = torch.zeros(16, dtype=torch.long)
    training = FederatedTraining(
        images=images, labels=labels, test_images=images, test_labels=labels, rounds=GIANT
    )
    with pytest.raises(UsageError, match="rounds is 1000000000; give a number from 1 to"):
        training.of(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rounds is 0;"):
        replace(training, rounds=0).of(None)  # type: ignore[arg-type]
