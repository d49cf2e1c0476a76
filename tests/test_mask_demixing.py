"""Facts about mask demixing: who is found, and what defenses change."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from faces import faces
from leakbench.attacks.linear_layers.certifying_attack import unmatched
from leakbench.attacks.linear_layers.demixing.auxiliary_population import population_of
from leakbench.attacks.linear_layers.demixing.masked_space import refine
from leakbench.attacks.linear_layers.demixing.recovered import (
    RecoveredIndividuals,
    recovered_from_columns,
)
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.head import head_of
from leakbench.attacks.mask_demixing import MaskDemixing
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.experiments.cell import Setup
from leakbench.federation.client import client_update
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.clipping import Clipping
from leakbench.federation.defenses.dp_sgd import DPSGD
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.defenses.quantise import Quantisation
from leakbench.federation.defenses.secure_aggregation import SecureAggregation
from leakbench.federation.defenses.sparsify import Sparsification
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.metrics.of_attacks import CERTIFIED
from measuring import assert_same_inference, measured
from planting import (
    Planted,
    best_cosines,
    budget,
    demixing_attack,
    found_in,
    planted,
)


def found_behind(
    batch: Planted, defense: Defense, within: SearchBudget | None = None
) -> RecoveredIndividuals:
    (found,) = found_in([batch], within or budget(reflections=200), [batch.changed(defense)])
    return found


@pytest.mark.parametrize(("classes", "units"), [(2, 128), (8, 128), (100, 256)])
@pytest.mark.parametrize("individuals", [1, 8, 32])
def test_everybody_is_found_exactly_with_their_labels(
    classes: int, units: int, individuals: int
) -> None:
    batch = planted(individuals, classes, units)
    (found,) = found_in([batch])
    assert len(found) == individuals
    assert found.certified.all()
    pairs = functional.cosine_similarity(
        batch.features.double()[:, None], found.features[None], dim=2
    )
    assert pairs.max(1).values.min() > CERTIFIED
    assert torch.equal(found.labels[pairs.argmax(1)], batch.labels)
    torch.testing.assert_close(
        found.features[pairs.argmax(1)].float(), batch.features, rtol=1e-3, atol=1e-3
    )


def test_the_true_columns_have_both_properties() -> None:
    batch = planted(8)
    space, columns = batch.space, batch.columns()
    assert space.rank == 8
    assert space.residuals.shape == (8, 7)
    vectors, _, distances = refine(columns != 0, space)
    assert distances.max() < 1e-5
    parallel = functional.cosine_similarity(vectors, columns, dim=0)
    torch.testing.assert_close(parallel.abs(), torch.ones(8).double())


def test_residuals_of_few_individuals_lie_in_a_smaller_space_than_that_of_classes() -> None:
    assert planted(3, classes=100).space.residuals.shape == (100, 3)
    assert planted(3, classes=2).space.residuals.shape == (2, 1)


def test_refining_corrects_a_mask_with_a_few_units_wrong() -> None:
    batch = planted(8)
    right = batch.columns() != 0
    wrong = right.clone()
    wrong[:3] = ~wrong[:3]
    _, masks, distances = refine(wrong, batch.space)
    assert distances.max() < 1e-4
    assert torch.equal(masks, right)


def test_who_is_not_who_was_found_is_not_certified() -> None:
    """A column that is wrong takes its part of all features, and so everybody's certificate."""
    batch = planted(8)
    columns = batch.columns()
    right = recovered_from_columns(batch.head, batch.space, columns)
    assert right.mismatch.max() < 1e-4
    wrong = columns.clone()
    wrong[:, 0] = batch.space.basis @ torch.randn(8).double()
    found = recovered_from_columns(batch.head, batch.space, wrong)
    assert not found.certified.any()


def test_without_columns_nobody_is_found() -> None:
    batch = planted(4)
    assert len(recovered_from_columns(batch.head, batch.space, batch.columns()[:, :0])) == 0


def test_the_population_is_d_aux_as_the_first_layer_sees_it() -> None:
    batch = planted(4, classes=2)
    z = batch.model.classifier[0](batch.auxiliary)
    torch.testing.assert_close(batch.population.z, z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.population.residuals.sum(1), torch.zeros(200))


def test_unknown_labels_of_d_aux_are_drawn() -> None:
    batch = planted(4)
    unknown = population_of(batch.head, batch.auxiliary, torch.full((200,), -1))
    assert (unknown.residuals.min(1).values < 0).all()
    assert len(unknown.labels.unique()) == 8


@pytest.mark.slow
@pytest.mark.parametrize("part", [20, pytest.param(1, marks=pytest.mark.nightly)])
def test_no_certificate_is_false_over_ten_thousand_individuals(
    part: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Easy cases, hard ones, and some in which not all can be found; every day a part of them."""
    rows = []
    for classes, units, individuals, batches in (
        (2, 128, 8, 250),
        (2, 128, 32, 100),
        (8, 128, 16, 150),
        (8, 128, 32, 80),
        (100, 256, 16, 60),
        (2, 64, 24, 20),
        (8, 64, 32, 20),
    ):
        certified = false = exact = 0
        seeds = range(0, batches, part)
        for seed in seeds:
            batch = planted(individuals, classes, units, seed)
            (found,) = found_in([batch], budget(600, 64, rounds=20))
            cosines = best_cosines(found, batch.features) if len(found) else torch.empty(0)
            certified += int(found.certified.sum())
            false += int((cosines[found.certified] < CERTIFIED).sum())
            exact += int((cosines >= CERTIFIED).sum())
        rows.append(
            (
                classes,
                units,
                individuals,
                len(seeds) * individuals,
                exact,
                certified,
                false,
            )
        )
    with capsys.disabled():
        print("\nK, m, B, individuals, exact, certified, false")
        print("\n".join(", ".join(map(str, row)) for row in rows))
    certified = sum(row[5] for row in rows)
    assert sum(row[3] for row in rows) >= 10_000 / part
    assert certified >= 8_000 / part
    assert sum(row[6] for row in rows) == 0


@pytest.mark.parametrize(
    ("model", "split"),
    [("lenet", "convolutions"), ("resnet18", "convolutions"), ("small_cnn", "hidden")],
)
def test_other_classifiers_are_refused(model: str, split: str) -> None:
    shared = build(MODELS, model, {}).build(2, 32, split)
    with pytest.raises(UsageError, match="take newton_demixing"):
        MaskDemixing().check_head(head_of(shared, "mask_demixing"))


def test_a_cell_with_another_classifier_says_so(small_setup: Setup) -> None:
    setup = small_setup.model_copy(update={"split": "hidden"})
    with pytest.raises(UsageError, match="take newton_demixing"):
        measured(setup, None, "mask_demixing", {}, batch_size=2, individuals=4)


@pytest.mark.parametrize("batch_size", [1, 8, 16])
def test_it_is_level_with_the_oracle_without_labels(small_setup: Setup, batch_size: int) -> None:
    fields = {"batch_size": batch_size, "individuals": 16}
    grant = ("model", "update", "auxiliary")
    found = measured(small_setup, None, "mask_demixing", {}, grant=grant, **fields).metrics
    oracle = measured(
        small_setup, None, "oracle", {}, grant=("model", "auxiliary", "features"), **fields
    ).metrics
    assert found is not None
    assert oracle is not None
    assert found.certificates is not None
    assert (found.certificates.share, found.certificates.false) == (1.0, 0)
    assert found.label_accuracy == 1
    assert_same_inference(found, oracle)


def test_behind_noise_the_proposed_attack_answers_and_nobody_is_certified(
    small_setup: Setup,
) -> None:
    noise = {"defense": "gaussian", "defense_parameters": {"sigma": 0.1}}
    short = {"budget": 4, "reflections": 20, "rounds": 2}
    record = measured(
        small_setup, None, "mask_demixing", short, batch_size=4, individuals=8, **noise
    )
    assert record.metrics is not None
    assert record.metrics.certificates is not None
    assert record.metrics.certificates.share == 0
    assert record.cost is not None
    assert record.cost.steps == 4


def test_dummies_nearest_to_those_who_are_certain_are_left_out() -> None:
    dummies = torch.eye(4)
    certain = torch.tensor([[0.1, 0.0, 1.0, 0.0], [0.9, 0.1, 0.2, 0.0]])
    assert unmatched(certain, dummies).tolist() == [1, 3]
    assert unmatched(certain[:0], dummies).tolist() == [0, 1, 2, 3]


def test_faces_whose_masks_all_but_agree_are_told_apart() -> None:
    """On an untrained model two of them differ in two units, so that five columns fit four."""
    torch.manual_seed(1)
    model = SmallCNN(width=4, hidden=64).build(2, 16, "convolutions")
    images, labels = faces(64, 16), torch.randint(2, (64,))
    features = model.features(images).detach()
    head = head_of(model, "mask_demixing")
    found = demixing_attack(head, budget(500, 64)).recover(
        head,
        [
            VictimBatch(client_update(model, images[i : i + 4], labels[i : i + 4]), 4, seed)
            for seed, i in enumerate((0, 4))
        ],
        (features[8:], labels[8:]),
        lambda share: None,
    )
    for first, each in zip((0, 4), found, strict=True):
        assert len(each) == 4
        assert best_cosines(each, features[first : first + 4]).min() > CERTIFIED


@pytest.mark.parametrize(
    ("defense", "certified"),
    [
        (Clipping(norm=1e-3), True),
        (SecureAggregation(of=4), True),
        # Each individual's own length: the features are right, but there is no telling.
        (DPSGD(clip=0.05, noise=0.0), False),
    ],
    ids=repr,
)
def test_what_changes_lengths_alone_hides_nobody(defense: Defense, certified: bool) -> None:
    batch = planted(8)
    found = found_behind(batch, defense)
    assert found.certain.all()
    assert len(found) == 8
    assert best_cosines(found, batch.features).min() > CERTIFIED
    assert bool(found.certified.all()) == certified


@pytest.mark.parametrize("classes", [2, 8])
@pytest.mark.parametrize(
    "defense",
    [
        *(GaussianNoise(sigma=sigma) for sigma in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)),
        Quantisation(bits=16),
        Quantisation(bits=8),
        Sparsification(fraction=0.9),
    ],
    ids=repr,
)
def test_what_a_defense_blurs_is_not_certified_falsely(defense: Defense, classes: int) -> None:
    for seed in range(3):
        batch = planted(8, classes, seed=seed)
        found = found_behind(batch, defense, budget(60, rounds=4))
        if len(found):
            assert (best_cosines(found, batch.features)[found.certified] > CERTIFIED).all()


def test_weak_noise_hides_nobody() -> None:
    found = found_behind(planted(8), GaussianNoise(sigma=1e-6))
    assert found.certified.all()
    assert len(found) == 8
