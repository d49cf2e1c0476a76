"""SPEAR++: batches that sampling cannot reach come back exactly, and no certificate is false."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from leakbench.attacks.linear_layers.sparse_directions import random_starts, sparse_directions
from leakbench.attacks.spear import Spear
from leakbench.attacks.spear_plus_plus import SpearPlusPlus
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.defenses.quantise import Quantisation
from leakbench.metrics.matching import match_individuals
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.threat.attack import AttackResult
from planting import Planted, answer, planted

QUICK = SpearPlusPlus(starts=2048)


def _false(found: AttackResult, batch: Planted) -> int:
    assert found.certified is not None
    assert found.features is not None
    order, cosines = match_individuals(found.features, batch.features)
    return int((cosines[order.argsort()][found.certified] < CERTIFIED).sum())


def test_minima_are_the_columns_of_a_dictionary_that_is_used_sparsely() -> None:
    generator = torch.Generator().manual_seed(0)
    used = torch.randn(400, 12, generator=generator).double()
    used *= torch.rand(400, 12, generator=generator) < 0.25
    basis, mixing = torch.linalg.qr(used)
    columns = functional.normalize(mixing, dim=0)
    found = sparse_directions(basis, random_starts(basis, 200, generator), 200)
    nearest = (found @ columns).abs()
    assert (nearest.amax(0) > 1 - 1e-6).all(), "each column is found"
    assert (nearest.amax(1) > 1 - 1e-6).double().mean() > 0.9, "most starts lead to one"


def test_starts_leave_out_units_that_nobody_activates() -> None:
    basis = torch.eye(4, 2).double()
    starts = random_starts(basis, 50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(starts.norm(dim=1), torch.ones(50).double())
    assert (starts.abs().amax(1) > 0.6).all()


@pytest.mark.parametrize(("classes", "individuals"), [(2, 1), (2, 2), (8, 1), (8, 4), (100, 8)])
def test_everybody_is_found_exactly(classes: int, individuals: int) -> None:
    batch = planted(individuals, classes)
    found = answer(QUICK, batch)
    assert found.certified is not None
    assert found.features is not None
    assert found.certified.all()
    order, _ = match_individuals(found.features, batch.features)
    torch.testing.assert_close(found.features[order], batch.features, rtol=1e-3, atol=1e-3)


def test_it_finds_a_batch_that_as_many_samples_do_not() -> None:
    batch = planted(16, 1000, units=256)
    learnt = answer(QUICK, batch)
    sampled = answer(Spear(samples=QUICK.starts), batch)
    assert learnt.certified is not None
    assert learnt.certified.all()
    assert sampled.certified is not None
    assert not sampled.certified.any()


def test_who_shares_a_label_is_hidden_by_a_sparser_difference() -> None:
    """Where two errors are proportional and masks alike, x_1 − x_2 has fewer units than x_1."""
    batch = planted(16, 2, units=256)
    found = answer(QUICK, batch)
    assert found.certified is not None
    assert not found.certified.any()


def test_no_certificate_is_false() -> None:
    """Few units, more individuals than can be told apart: what misleads."""
    attack = SpearPlusPlus(starts=128, steps=60)
    certified = false = 0
    for individuals, classes, units in (
        (3, 2, 8),
        (4, 8, 12),
        (6, 8, 40),
        (4, 100, 96),
        (6, 100, 96),
    ):
        for seed in range(20):
            batch = planted(individuals, classes, units, seed)
            found = answer(attack, batch)
            assert found.certified is not None
            certified += int(found.certified.sum())
            false += _false(found, batch)
    assert certified > 50
    assert false == 0


@pytest.mark.parametrize("defense", [GaussianNoise(sigma=1e-5), Quantisation(bits=8)])
def test_no_certificate_is_false_under_a_defense(defense: Defense) -> None:
    batch = planted(4)
    assert not _false(answer(QUICK, batch, batch.changed(defense)), batch)
