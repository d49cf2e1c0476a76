"""Cocktail Party: independent, sparse, non-negative features come back from their mixtures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leakbench.attacks.cocktail_party import CocktailParty
from leakbench.attacks.linear_layers.independent_components import (
    Mixtures,
    log_cosh,
    loss,
    unmixed,
    whitened,
)
from leakbench.experiments.cell import Setup
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.matching import match_individuals
from measuring import measured
from planting import Planted, answer, planted, seen, server_of

ROUNDING = torch.finfo(torch.float32).eps


def _independent(individuals: int, seed: int = 0, units: int = 64) -> Planted:
    """Individuals who have nothing in common, as many values each as ICA needs."""
    torch.manual_seed(seed)
    classifier = nn.Sequential(nn.Linear(512, units), nn.ReLU(), nn.Linear(units, 8))
    features = torch.randn(individuals + 50, 512).relu()
    labels = torch.randint(8, (len(features),))
    return Planted(
        model=SharedModel(nn.Identity(), classifier),
        features=features[:individuals],
        labels=labels[:individuals],
        auxiliary=features[individuals:],
        auxiliary_labels=labels[individuals:],
    )


def _mixtures(batch: Planted) -> Mixtures:
    gradient = batch.head.first.gradient(batch.update)[:, :-1]
    return whitened(gradient, len(batch.labels), ROUNDING)


def _cosines(found: Tensor | None, batch: Planted) -> Tensor:
    assert found is not None
    return match_individuals(found, batch.features)[1]


@pytest.mark.parametrize(
    "individuals", [*(pytest.param(size, marks=pytest.mark.nightly) for size in (2, 4, 16)), 8]
)
def test_independent_features_come_back(individuals: int) -> None:
    batch = _independent(individuals)
    found = answer(CocktailParty(), batch)
    assert _cosines(found.features, batch).min() > 0.95


def test_they_do_not_before_the_search() -> None:
    batch = _independent(8)
    found = answer(CocktailParty(iterations=1), batch)
    assert _cosines(found.features, batch).mean() < 0.9


def test_a_single_individual_needs_no_search() -> None:
    batch = planted(1)
    found = answer(CocktailParty(iterations=1), batch)
    assert _cosines(found.features, batch).min() > 0.9999


def test_components_have_d_auxs_length_and_are_mostly_positive() -> None:
    batch = _independent(6)
    found = answer(CocktailParty(iterations=20), batch).features
    assert found is not None
    length = batch.auxiliary.norm(dim=1).mean()
    torch.testing.assert_close(found.norm(dim=1), length.expand(6), rtol=1e-4, atol=1e-4)
    assert (found.relu().norm(dim=1) >= (-found).relu().norm(dim=1)).all()


def test_whitened_mixtures_are_uncorrelated_and_their_means_belong_to_them() -> None:
    batch = _independent(5)
    mixtures = _mixtures(batch)
    white = mixtures.white
    torch.testing.assert_close(white @ white.T / 512, torch.eye(5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(white.mean(1), torch.zeros(5), rtol=1e-4, atol=1e-4)
    # With their means they span the features; without, they do not.
    whole = white + mixtures.means
    weights = torch.linalg.lstsq(whole.T.double(), batch.features.T.double()).solution
    torch.testing.assert_close(
        (whole.T.double() @ weights).T.float(), batch.features, rtol=1e-3, atol=1e-3
    )


def test_the_loss_falls_and_is_that_of_the_paper() -> None:
    mixtures = _mixtures(_independent(4))
    attack = CocktailParty()
    start = torch.eye(4)
    rows = mixtures.white
    whole = rows + mixtures.means
    signs = torch.stack([whole.relu().norm(dim=1), (-whole).relu().norm(dim=1)]).amin(0)
    expected = -(rows.cosh().log().mean(1) ** 2).mean()
    expected = expected + 0.13 * signs.mean() + 5 * whole.abs().mean()
    torch.testing.assert_close(loss(start, mixtures, attack.weights), expected)
    # One pair in common of six adds (exp(7.7 · cos) − 1) · 5.3 / 6.
    leaning = torch.eye(4)
    leaning[1, 0] = 1.0
    alike = (torch.tensor(7.7 / 2**0.5).exp() - 1) * 5.3 / 6
    uncoupled = type(attack)(decorrelation=0.0).weights
    difference = loss(leaning, mixtures, attack.weights) - loss(leaning, mixtures, uncoupled)
    torch.testing.assert_close(difference, alike, rtol=1e-4, atol=1e-4)

    values: list[float] = []
    for iterations in (1, 50, 400):
        found = unmixed(mixtures, attack.weights, 3e-2, iterations, lambda share: None)
        negative, positive = (-found).relu().norm(dim=1), found.relu().norm(dim=1)
        values.append(float(5 * found.abs().mean() + 0.13 * negative.minimum(positive).mean()))
    assert values[0] > values[1] > values[2]


def test_nothing_overflows() -> None:
    huge = torch.tensor([1e30, -1e30, 0.5], requires_grad=True)
    value = log_cosh(huge)
    value.sum().backward()
    assert value.isfinite().all()
    assert huge.grad is not None
    torch.testing.assert_close(
        huge.grad,
        torch.tensor([1.0, -1.0, 0.5]).tanh()
        * torch.tensor([1 / torch.tensor(1.0).tanh(), 1 / torch.tensor(1.0).tanh(), 1.0]),
    )


def test_an_answer_depends_on_its_own_batch_alone_and_on_no_chance() -> None:
    batches = [_independent(4, seed=seed) for seed in range(3)]
    server, attack = server_of(batches[0]), CocktailParty(iterations=100)
    sights = [seen(batch) for batch in batches]
    together = attack.infer(server, sights, lambda share: None)
    (alone,) = attack.infer(server, sights[1:2], lambda share: None)
    assert together[1].features is not None
    assert alone.features is not None
    assert torch.equal(together[1].features, alone.features)


def test_who_is_not_in_the_gradient_is_answered_by_somebody_of_d_aux() -> None:
    """Two classes at an output layer: one mixture, whoever is in the batch."""
    batch = planted(4, 2, hidden_layers=0)
    found = answer(CocktailParty(iterations=10), batch).features
    assert found is not None
    of_auxiliary = (found[:, None] == batch.auxiliary).all(2).any(1)
    assert of_auxiliary.tolist() == [False, True, True, True]


@pytest.mark.parametrize("value", [torch.nan, 0.0])
def test_an_update_that_says_nothing_is_answered_by_individuals_of_d_aux(value: float) -> None:
    batch = planted(4)
    broken = {name: torch.full_like(g, value) for name, g in batch.update.items()}
    found = answer(CocktailParty(), batch, broken)
    assert found.diverged
    assert found.features is not None
    assert (found.features[:, None] == batch.auxiliary).all(2).any(1).all()


def test_batches_of_different_sizes_are_answered_in_their_order() -> None:
    """A single individual is found without a search, however short."""
    small, large = _independent(1), _independent(5)
    attack = CocktailParty(iterations=10)
    found = attack.infer(
        server_of(small),
        [seen(large), seen(small)],
        lambda share: None,
    )
    assert found[0].features is not None
    assert found[1].features is not None
    assert (len(found[0].features), len(found[1].features)) == (5, 1)
    assert _cosines(found[1].features, small).min() > 0.95


def test_it_sees_more_than_the_blind_control(small_setup: Setup) -> None:
    fields = {"batch_size": 2, "individuals": 16, "grant": ("model", "update", "auxiliary")}
    found = measured(small_setup, None, "cocktail_party", {"iterations": 300}, **fields).metrics
    blind = measured(small_setup, None, "blind", {"labels": "ignored"}, **fields).metrics
    assert found is not None
    assert blind is not None
    assert found.feature_cosine is not None
    assert blind.feature_cosine is not None
    assert found.feature_cosine.value > blind.feature_cosine.value
