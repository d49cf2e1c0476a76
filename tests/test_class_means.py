"""Class means: the mean feature of each class, as far as an output layer's gradient has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakbench.attacks.class_means import ClassMeans
from leakbench.base.errors import UsageError
from leakbench.experiments.cell import Setup
from leakbench.federation.shared_model import SharedModel
from measuring import assert_same_inference, measured
from planting import Planted, answer, planted


def _of_one_class(batch: Planted) -> Planted:
    return replace(batch, labels=torch.full_like(batch.labels, 3))


def _undecided(batch: Planted) -> Planted:
    """The batch before a classifier that takes everybody for any class alike."""
    output = nn.Linear(batch.features.shape[1], batch.head.classes)
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    return replace(batch, model=SharedModel(nn.Identity(), nn.Sequential(output)))


@pytest.mark.parametrize("labels", ["ilrg", "known"])
@pytest.mark.parametrize("classes", [2, 8, 100])
def test_a_single_individual_is_found_exactly(classes: int, labels: str) -> None:
    batch = planted(1, classes, hidden_layers=0)
    found = answer(ClassMeans(labels=labels), batch)  # type: ignore[arg-type]
    assert found.features is not None
    assert found.labels is not None
    torch.testing.assert_close(found.features, batch.features, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.labels, batch.labels)


def test_where_all_predictions_are_equal_a_class_of_its_own_has_its_true_mean() -> None:
    batch = _of_one_class(_undecided(planted(8, hidden_layers=0)))
    found = answer(ClassMeans(), batch)
    assert found.features is not None
    assert found.labels is not None
    mean = batch.features.mean(0).expand(8, -1)
    torch.testing.assert_close(found.features, mean, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.labels, batch.labels)


def test_where_all_predictions_are_equal_each_class_has_its_weighted_mean() -> None:
    """n_c · (1/K − 1) of its own individuals, 1/K of all others."""
    batch = _undecided(planted(8, 5, hidden_layers=0))
    found = answer(ClassMeans(labels="known"), batch)
    assert found.features is not None
    assert found.labels is not None
    for label in batch.labels.unique():
        weights = 1 / 5 - (batch.labels == label).float()
        mean = weights @ batch.features / weights.sum()
        for one in found.features[found.labels == label]:
            torch.testing.assert_close(one, mean, rtol=1e-4, atol=1e-4)


def test_with_many_classes_the_mean_is_of_hardly_anybody_else() -> None:
    batch = _undecided(planted(8, 1000, hidden_layers=0))
    found = answer(ClassMeans(), batch)
    assert found.features is not None
    order = batch.labels.argsort()
    cosines = nn.functional.cosine_similarity(found.features, batch.features[order])
    assert cosines.min() > 0.999


def test_an_update_that_is_not_finite_is_answered_by_individuals_of_d_aux() -> None:
    batch = planted(4, hidden_layers=0)
    broken = {name: torch.full_like(value, torch.nan) for name, value in batch.update.items()}
    found = answer(ClassMeans(), batch, broken)
    assert found.diverged
    assert found.features is not None
    assert (found.features[:, None] == batch.auxiliary).all(2).any(1).all()


def test_hidden_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="take split=hidden"):
        ClassMeans().check_head(planted(2).head)


def test_at_one_individual_it_is_level_with_the_oracle(small_setup: Setup) -> None:
    setup = small_setup.model_copy(update={"split": "hidden"})
    fields = {"batch_size": 1, "individuals": 8}
    grant = ("model", "update", "auxiliary")
    found = measured(setup, None, "class_means", {}, grant=grant, **fields).metrics
    oracle = measured(
        setup, None, "oracle", {}, grant=("model", "auxiliary", "features"), **fields
    ).metrics
    assert found is not None
    assert oracle is not None
    assert found.exact is not None
    assert found.exact.value == 1
    assert found.label_accuracy == 1
    assert_same_inference(found, oracle)
