"""SPEAR: small batches come back exactly, and no certificate is false."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leakbench.attacks.linear_layers.sparse_columns import (
    Columns,
    SparseColumns,
    _distinct,
    _independent,
)
from leakbench.attacks.spear import Spear
from leakbench.base.errors import UsageError
from leakbench.experiments.cell import Setup
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.defenses.quantise import Quantisation
from leakbench.federation.defenses.sparsify import Sparsification
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.matching import match_individuals
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.threat.attack import AttackResult
from measuring import assert_same_inference, measured
from planting import Planted, answer, planted, seen, server_of


def _cosines(found: AttackResult, batch: Planted) -> Tensor:
    """Of each answer with whom it is matched to."""
    assert found.features is not None
    order, cosines = match_individuals(found.features, batch.features)
    return cosines[order.argsort()]


def _search(batch: Planted) -> SparseColumns:
    return SparseColumns(batch.head, batch.update, len(batch.labels))


def _truth(batch: Planted) -> tuple[SparseColumns, Columns, Tensor]:
    """The search, the true columns of Q, and whom they belong to activates what."""
    search = _search(batch)
    z, probabilities = batch.head.forward(batch.features.double())
    own = nn.functional.one_hot(batch.labels, probabilities.shape[1])
    errors = batch.head.errors(z, own) * search.space.scale
    vectors = nn.functional.normalize(errors @ search.space.basis, dim=1)
    return search, Columns(vectors, search.zeros(vectors)), z > 0


@pytest.mark.parametrize(
    ("classes", "individuals"),
    [(2, 1), (2, 2), (2, 4), (8, 1), (8, 4), (8, 8), (100, 1), (100, 4), (100, 8)],
)
def test_everybody_is_found_exactly(classes: int, individuals: int) -> None:
    batch = planted(individuals, classes)
    found = answer(Spear(), batch)
    assert found.certified is not None
    assert found.features is not None
    assert found.certified.all()
    order, cosines = match_individuals(found.features, batch.features)
    assert cosines.min() > CERTIFIED
    torch.testing.assert_close(found.features[order], batch.features, rtol=1e-3, atol=1e-3)


def test_several_hidden_layers_make_no_difference() -> None:
    batch = planted(6, hidden_layers=3)
    found = answer(Spear(), batch)
    assert found.certified is not None
    assert found.certified.all()
    assert _cosines(found, batch).min() > CERTIFIED


def test_a_batch_beyond_its_draws_is_answered_by_individuals_of_d_aux() -> None:
    batch = planted(24)
    found = answer(Spear(samples=2000), batch)
    assert found.diverged
    assert found.certified is not None
    assert found.features is not None
    assert not found.certified.any()
    assert (found.features[:, None] == batch.auxiliary).all(2).any(1).all()


def test_more_draws_find_what_few_do_not() -> None:
    batch = planted(8)
    certified = [answer(Spear(samples=samples), batch).certified for samples in (50, 20_000)]
    assert [bool(each.all()) for each in certified if each is not None] == [False, True]


def test_the_true_columns_vanish_where_units_are_not_active() -> None:
    search, columns, active = _truth(planted(8))
    assert torch.equal(columns.zeros, ~active)
    assert float(search.scores(columns, torch.arange(8)[None])) == 1


def test_the_score_is_the_share_of_units_that_agree() -> None:
    search, columns, active = _truth(planted(4))
    wrong = columns.zeros.clone()
    clear = (columns.vectors @ search.space.basis.mT).abs() > 1e-2
    places = (clear & active).nonzero()[:10]
    wrong[places[:, 0], places[:, 1]] = True
    scored = search.scores(Columns(columns.vectors, wrong), torch.arange(4)[None])
    assert float(scored) == pytest.approx(1 - 10 / wrong.numel())


def test_kernels_are_columns_where_the_units_drawn_are_not_active() -> None:
    search, columns, active = _truth(planted(6))
    units = (~active[2]).nonzero().flatten()
    units = units[search.space.scale[units] > 0][:5]
    (kernel,) = search.kernels(units[None])
    assert float((kernel @ columns.vectors[2]).abs()) == pytest.approx(1, abs=1e-4)
    # The same unit twice leaves more than one kernel.
    assert not len(search.kernels(units[[0, 0, 1, 2, 3]][None]))


def test_draws_are_different_units_that_somebody_activates() -> None:
    search = _search(planted(6))
    drawn = search.draw(200, torch.Generator().manual_seed(0))
    assert (search.space.scale[drawn] > 0).all()
    assert all(len(row.unique()) == 5 for row in drawn)


def test_exchanges_find_the_truth_among_sparser_candidates() -> None:
    """With two classes, differences of columns vanish wherever two individuals do the same."""
    search, columns, _ = _truth(planted(5, 2))
    pairs = [(i, j) for i in range(5) for j in range(i)]
    x = columns.vectors @ search.space.basis.mT
    rows = []
    for i, j in pairs:
        both = ((x[i] != 0) & ~columns.zeros[i] & ~columns.zeros[j]).nonzero()[0]
        rows.append(columns.vectors[i] * x[j, both] - columns.vectors[j] * x[i, both])
    differences = nn.functional.normalize(torch.stack(rows), dim=1)
    candidates = _distinct(search.settle(torch.cat([differences, columns.vectors])))
    first = search.best(candidates, exchange=False)
    best = search.best(candidates, exchange=True)
    assert first is not None
    assert best is not None
    assert first.score < 1
    assert best.exact


def test_candidates_that_depend_on_others_are_passed_over() -> None:
    vectors = nn.functional.normalize(
        torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]]), dim=1
    ).double()
    zeros = torch.arange(5)[:, None] < 5 - torch.arange(5)
    kept = _distinct(Columns(vectors, zeros.T.contiguous()))
    assert len(kept) == 4
    assert len(_independent(kept, 3)) == 3
    assert len(_independent(kept[:1], 3)) == 1


def test_no_certificate_is_false() -> None:
    """Few units, two classes, more individuals than can be told apart: what misleads."""
    certified = false = 0
    for individuals, classes, units, seeds in (
        (3, 2, 8, 30),
        (4, 8, 12, 30),
        (6, 2, 24, 60),
        (6, 8, 40, 60),
        (4, 2, 32, 60),
    ):
        for seed in range(seeds):
            batch = planted(individuals, classes, units, seed)
            found = answer(Spear(samples=2000), batch)
            assert found.certified is not None
            certified += int(found.certified.sum())
            false += int((_cosines(found, batch)[found.certified] < CERTIFIED).sum())
    assert certified > 200
    assert false == 0


def test_who_activates_nothing_that_another_does_not_leaves_both_uncertified() -> None:
    """Six individuals, 24 units, two classes: a score of 1, and one feature that is wrong."""
    batch = planted(6, 2, 24, seed=10)
    active = batch.head.first.forward(batch.features.double()) > 0
    assert not (active[2] & ~active[3]).any()
    found = answer(Spear(samples=2000), batch)
    assert found.certified is not None
    assert not found.certified.any()


@pytest.mark.parametrize(
    "defense",
    [
        GaussianNoise(sigma=1e-5),
        GaussianNoise(sigma=1e-3),
        Quantisation(bits=8),
        Sparsification(fraction=0.5),
    ],
)
@pytest.mark.parametrize("individuals", [1, 4])
def test_no_certificate_is_false_under_a_defense(defense: Defense, individuals: int) -> None:
    for seed in range(5):
        batch = planted(individuals, seed=seed)
        found = answer(Spear(samples=2000), batch, batch.changed(defense))
        assert found.certified is not None
        assert (_cosines(found, batch)[found.certified] >= CERTIFIED).all()


def test_two_who_share_a_column_are_not_certified() -> None:
    """Same feature, same label: the gradient has one dimension less than individuals."""
    batch = planted(4)
    features = batch.features.clone()
    features[1] = features[0]
    labels = batch.labels.clone()
    labels[1] = labels[0]
    twice = Planted(batch.model, features, labels, batch.auxiliary, batch.auxiliary_labels)
    found = answer(Spear(), twice)
    assert found.certified is not None
    assert not found.certified.any()
    assert (_cosines(found, twice) > CERTIFIED).sum() >= 3


def test_an_update_that_is_not_finite_is_answered_by_individuals_of_d_aux() -> None:
    batch = planted(4)
    broken = {name: torch.full_like(value, torch.nan) for name, value in batch.update.items()}
    found = answer(Spear(), batch, broken)
    assert found.diverged
    assert found.features is not None
    assert (found.features[:, None] == batch.auxiliary).all(2).any(1).all()


def test_an_answer_is_the_seeds_and_its_own_batchs_alone() -> None:
    batches = [planted(12, seed=0), planted(12, seed=0)]
    attack = Spear(samples=500)
    sights = [seen(batches[0], seed=3), seen(batches[1], seed=4)]
    server = server_of(batches[0])
    together = attack.infer(server, sights, lambda share: None)
    (alone,) = attack.infer(server, sights[1:], lambda share: None)
    assert alone.features is not None
    assert together[0].features is not None
    assert together[1].features is not None
    assert torch.equal(together[1].features, alone.features)
    assert not torch.equal(together[0].features, alone.features)


@pytest.mark.parametrize("layers", [nn.GELU(), nn.LeakyReLU(0.1), None])
def test_anything_but_relu_is_refused(layers: nn.Module | None) -> None:
    hidden = [] if layers is None else [nn.Linear(4, 4), layers]
    model = SharedModel(nn.Identity(), nn.Sequential(*hidden, nn.Linear(4, 2)))
    batch = Planted(model, torch.rand(1, 4), torch.zeros(1), torch.rand(2, 4), torch.zeros(2))
    with pytest.raises(UsageError, match="take newton_demixing"):
        Spear().check_head(batch.head)


def test_small_batches_are_level_with_the_oracle(small_setup: Setup) -> None:
    fields = {"batch_size": 4, "individuals": 16}
    grant = ("model", "update", "auxiliary")
    found = measured(small_setup, None, "spear", {}, grant=grant, **fields).metrics
    oracle = measured(
        small_setup, None, "oracle", {}, grant=("model", "auxiliary", "features"), **fields
    ).metrics
    assert found is not None
    assert oracle is not None
    assert found.certificates is not None
    assert (found.certificates.share, found.certificates.false) == (1.0, 0)
    assert_same_inference(found, oracle)
