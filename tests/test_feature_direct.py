"""The proposed attack on features: individuals come back from the classifier's gradient alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.feature_direct import DirectFeatureReconstruction
from leakbench.attacks.feature_matching import descent
from leakbench.attacks.feature_matching.feature_problem import FeatureProblem, Population
from leakbench.attacks.feature_matching.residual import Dummies, Residual
from leakbench.attacks.feature_matching.search import search
from leakbench.metrics.matching import match_individuals
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.attack import AttackResult
from planting import Planted, answer, planted, seen, server_of

EXACT = 0.999


def _cosines(found: AttackResult, batch: Planted) -> Tensor:
    """Standardised, of each individual with its reconstruction."""
    assert found.features is not None
    standardised = Standardisation.of(batch.auxiliary)
    return match_individuals(standardised(found.features), standardised(batch.features))[1]


def _problem(batch: Planted, joint: bool = False) -> FeatureProblem:
    auxiliary = server_of(batch).auxiliary
    assert auxiliary is not None
    population = Population.of(batch.head, batch.auxiliary, auxiliary)
    problem = FeatureProblem.of(population, batch.update, batch.labels, joint, 0)
    assert problem is not None
    return problem


def _differing(problem: FeatureProblem, dummies: Dummies, sharpness: Tensor | None) -> Tensor:
    """g̃ − g of each layer over ‖g‖, as one vector, from the definitions."""
    residual, head = problem.residual, problem.population.head
    features = residual.space.features(dummies.unknowns[0])
    inputs, z = [features], [head.first.forward(features)]
    for layer, following in zip(head.layers, head.layers[1:], strict=False):
        assert layer.activation is not None
        inputs.append(layer.activation.value(z[-1], sharpness))
        z.append(following.forward(inputs[-1]))
    x = z[-1].softmax(1) - dummies.logits[0].softmax(1)
    parts = []
    for number in reversed(range(len(z))):
        gradient = x.mT @ functional.pad(inputs[number], (0, 1), value=1.0)
        if number == 0:
            gradient = gradient @ residual.space.basis * residual.space.scale
        else:
            before = head.layers[number - 1].activation
            assert before is not None
            x = x @ head.layers[number].weight * before.derivative(z[number - 1], sharpness)
        target = residual.targets[number]
        parts.append((gradient - target).flatten() / target.norm())
    return torch.cat(parts)


@pytest.mark.parametrize("classes", [2, 8])
@pytest.mark.parametrize("hidden_layers", [0, 1, 2])
def test_a_single_individual_is_found_exactly(classes: int, hidden_layers: int) -> None:
    batch = planted(1, classes, hidden_layers=hidden_layers)
    found = answer(DirectFeatureReconstruction(), batch)
    assert _cosines(found, batch).min() > EXACT
    assert found.features is not None
    torch.testing.assert_close(found.features, batch.features, rtol=1e-3, atol=1e-3)
    assert found.steps == 1


@pytest.mark.parametrize("seed", range(3))
def test_four_individuals_of_eight_classes_are_found_exactly(seed: int) -> None:
    batch = planted(4, seed=seed)
    found = answer(DirectFeatureReconstruction(), batch)
    assert _cosines(found, batch).min() > EXACT
    assert found.loss is not None
    assert found.loss < 1e-9


def test_two_classes_and_twice_as_many_individuals_take_no_more_than_the_budget() -> None:
    batch = planted(8, 2)
    found = answer(DirectFeatureReconstruction(), batch)
    assert _cosines(found, batch).min() > EXACT
    assert found.steps <= DirectFeatureReconstruction().budget


@pytest.mark.parametrize("activation", ["gelu", "tanh", "leaky_relu"])
def test_other_activations_are_matched_as_well(activation: str) -> None:
    batch = planted(4, activation=activation)
    assert _cosines(answer(DirectFeatureReconstruction(), batch), batch).min() > EXACT


def test_several_hidden_layers_are_matched_as_well() -> None:
    batch = planted(4, hidden_layers=2)
    assert _cosines(answer(DirectFeatureReconstruction(), batch), batch).min() > EXACT


def test_dummies_that_move_in_turn_arrive_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "LARGEST", 6)  # Two of four individuals with three unknowns each.
    batch = planted(4)
    assert _cosines(answer(DirectFeatureReconstruction(), batch), batch).min() > EXACT


def test_labels_are_recovered_or_found_with_the_features() -> None:
    batch = planted(2)
    for labels in ("counts", "joint"):
        found = answer(DirectFeatureReconstruction(labels=labels), batch)  # type: ignore[arg-type]
        assert _cosines(found, batch).min() > EXACT
        assert found.labels is not None
        assert torch.equal(found.labels.sort().values, batch.labels.sort().values)


def test_wrong_starting_labels_are_corrected_if_they_are_optimised() -> None:
    batch = planted(2)
    wrong = replace(batch, labels=(batch.labels + 1) % 8)
    problem = _problem(batch, joint=True)
    mistaken = replace(problem, labels=wrong.labels)
    found = search(mistaken, 4, 3, 300, lambda share: None)
    assert torch.equal(found.dummies.labels[0].sort().values, batch.labels.sort().values)


def test_the_order_of_the_individuals_makes_no_difference() -> None:
    batch = planted(4)
    order = torch.tensor([2, 0, 3, 1])
    other = replace(batch, features=batch.features[order], labels=batch.labels[order])
    first = answer(DirectFeatureReconstruction(), batch).features
    second = answer(DirectFeatureReconstruction(), other).features
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_one_update_of_nan_leaves_the_others_as_they_are() -> None:
    batch = planted(4)
    spoilt = {name: value.clone() for name, value in batch.update.items()}
    next(iter(spoilt.values())).view(-1)[0] = math.nan
    observations = [seen(batch), seen(batch, spoilt), seen(batch)]
    attack = DirectFeatureReconstruction()
    found = attack.infer(server_of(batch), observations, lambda share: None)
    alone = answer(attack, batch)
    for result in (found[0], found[2]):
        assert result.features is not None
        assert alone.features is not None
        assert torch.equal(result.features, alone.features)
    assert found[1].diverged
    assert found[1].features is not None
    assert (found[1].features[:, None] == batch.auxiliary).all(2).any(1).all()


def test_an_output_layer_alone_of_more_individuals_than_classes_is_matched() -> None:
    """Its gradient does not determine the features; what it does determine agrees."""
    batch = planted(12, hidden_layers=0)
    found = answer(DirectFeatureReconstruction(budget=200), batch)
    assert found.features is not None
    assert found.loss is not None
    assert found.features.isfinite().all()
    assert found.loss < 1e-6


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("sharpness", [None, 2.0])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_equations_are_the_derivatives_of_the_residual(
    activation: str, sharpness: float | None, joint: bool
) -> None:
    batch = planted(3, 4, units=12, activation=activation, hidden_layers=2)
    problem = _problem(batch, joint)
    dummies = problem.start(1)
    softened = None if sharpness is None else torch.full((1, 1, 1), sharpness).double()
    soft = None if softened is None else softened[0]
    shape = dummies.unknowns.shape[1:]

    def of(unknowns: Tensor, logits: Tensor) -> Tensor:
        return _differing(problem, Dummies(unknowns[None], logits[None]), soft)

    of_features, of_labels = torch.autograd.functional.jacobian(
        of, (dummies.unknowns[0], dummies.logits[0])
    )
    jacobian = torch.cat([of_features, of_labels], 2) if joint else of_features
    jacobian = jacobian.flatten(1)
    residual = of(dummies.unknowns[0], dummies.logits[0])
    cost, normal, downhill = problem.residual.equations(dummies, torch.arange(3), softened)
    assert shape == (3, 2)
    torch.testing.assert_close(cost[0], residual.square().sum())
    torch.testing.assert_close(problem.residual.cost(dummies, softened), cost)
    torch.testing.assert_close(normal[0], jacobian.mT @ jacobian)
    torch.testing.assert_close(downhill[0], jacobian.mT @ residual)


def test_true_features_have_no_residual() -> None:
    batch = planted(5)
    problem = _problem(batch)
    residual: Residual = problem.residual
    true = residual.space.nearest(batch.features.double(), problem.population.standard)
    dummies = Dummies(true[None], problem.start(1).logits)
    torch.testing.assert_close(
        residual.space.features(true), batch.features.double(), rtol=1e-3, atol=1e-3
    )
    assert float(residual.cost(dummies, None)) < 1e-10
    assert problem.loss(dummies) < 1e-10


def test_a_budget_below_one_evaluation_for_each_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one evaluation for each of 4 runs"):
        DirectFeatureReconstruction(budget=3)
