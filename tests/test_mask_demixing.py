"""Mask demixing: planted individuals come back exactly, and no certificate is false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.demixing import demix
from attacks.hidden_layer import HiddenLayer, hidden_layer_of
from attacks.mask_demixing import MaskDemixing, _others
from attacks.mixture import Demixed, Guesses, Space, guesses_of, individuals_of, space_of
from attacks.reflections import polish
from bench.cells import Setup
from bench.errors import UsageError
from bench.federation import client_update
from bench.models import SharedModel, SmallCNN
from bench.plugins import build
from bench.registry import MODELS
from bench.scoring import CERTIFIED
from tests.faces import faces
from tests.measuring import measured

WIDTH = 96


@dataclass(frozen=True)
class Planted:
    """A classifier, individuals of one batch, and those of D_aux, as features."""

    model: SharedModel
    features: Tensor
    labels: Tensor
    auxiliary: Tensor
    auxiliary_labels: Tensor

    @property
    def layer(self) -> HiddenLayer:
        return hidden_layer_of(self.model, "mask_demixing")

    @property
    def update(self) -> dict[str, Tensor]:
        return client_update(self.model, self.features, self.labels)

    @property
    def guesses(self) -> Guesses:
        return guesses_of(self.layer, self.auxiliary, self.auxiliary_labels)

    @property
    def space(self) -> Space:
        return space_of(self.layer, self.update, len(self.labels))

    def columns(self) -> Tensor:
        """The true x_i, rows scaled, in double precision, shape (m, B)."""
        before, probabilities = self.layer.forward(self.features.double())
        own = functional.one_hot(self.labels, probabilities.shape[1])
        x = ((probabilities - own) @ self.layer.output_weight) * (before > 0) / len(own)
        return x.T * self.space.scale[:, None]


def planted(individuals: int, classes: int = 8, units: int = 128, seed: int = 0) -> Planted:
    """Features that have something in common, as those of images do."""
    torch.manual_seed(seed)
    classifier = nn.Sequential(nn.Linear(WIDTH, units), nn.ReLU(), nn.Linear(units, classes))
    for layer in (classifier[0], classifier[2]):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    common = torch.rand(WIDTH)
    features = (common + 0.7 * torch.randn(individuals + 200, WIDTH)).relu()
    labels = torch.randint(classes, (len(features),))
    return Planted(
        model=SharedModel(nn.Identity(), classifier),
        features=features[:individuals],
        labels=labels[:individuals],
        auxiliary=features[individuals:],
        auxiliary_labels=labels[individuals:],
    )


def found_in(batches: Sequence[Planted], runs: int = 128, iterations: int = 2_000) -> list[Demixed]:
    """Search batches that share a model and D_aux."""
    return demix(
        batches[0].layer,
        [each.update for each in batches],
        len(batches[0].labels),
        batches[0].guesses,
        list(range(len(batches))),
        runs,
        iterations,
        lambda share: None,
    )


def best_cosines(found: Demixed, true: Tensor) -> Tensor:
    """Of each that was found with whoever is most like it."""
    pairs = functional.cosine_similarity(found.features[:, None], true.double()[None], dim=2)
    return pairs.max(1).values


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
    polished, gaps = polish(columns, space)
    assert gaps.max() < 1e-5
    parallel = functional.cosine_similarity(polished, columns, dim=0)
    torch.testing.assert_close(parallel.abs(), torch.ones(8).double())


def test_residuals_of_few_individuals_lie_in_a_smaller_space_than_that_of_classes() -> None:
    assert planted(3, classes=100).space.residuals.shape == (100, 3)
    assert planted(3, classes=2).space.residuals.shape == (2, 1)


def test_polishing_mends_a_mask_with_a_few_units_wrong() -> None:
    batch = planted(8)
    columns = batch.columns()
    near = columns.clone()
    near[:3] = torch.where(near[:3] == 0, 1.0, 0.0)
    polished, gaps = polish(near, batch.space)
    assert gaps.max() < 1e-4
    assert torch.equal(polished != 0, columns != 0)


def test_who_is_not_who_was_found_is_not_certified() -> None:
    """A column that is wrong takes its part of all features, and so everybody's certificate."""
    batch = planted(8)
    columns = batch.columns()
    right = individuals_of(batch.layer, batch.space, columns, 8)
    assert right.mismatch.max() < 1e-4
    wrong = columns.clone()
    wrong[:, 0] = batch.space.basis @ torch.randn(8).double()
    found = individuals_of(batch.layer, batch.space, wrong, 8)
    certain = found.certified
    assert not certain.all()
    assert (best_cosines(found, batch.features)[certain] > CERTIFIED).all()


def test_without_columns_nobody_is_found() -> None:
    batch = planted(4)
    assert len(individuals_of(batch.layer, batch.space, batch.columns()[:, :0], 4)) == 0


def test_guesses_are_what_others_would_add_to_a_gradient() -> None:
    batch = planted(4, classes=2)
    masks = batch.guesses.masks
    assert torch.equal(masks, batch.model.classifier[0](batch.auxiliary) > 0)
    torch.testing.assert_close(batch.guesses.residuals.sum(1), torch.zeros(200))


def test_unknown_labels_of_d_aux_are_drawn() -> None:
    batch = planted(4)
    unknown = guesses_of(batch.layer, batch.auxiliary, torch.full((200,), -1))
    assert (unknown.residuals.min(1).values < 0).all()
    assert len(unknown.residuals.argmin(1).unique()) == 8


@pytest.mark.slow
def test_no_certificate_is_false_over_ten_thousand_individuals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Easy cases, hard ones, and some in which not all can be found."""
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
        for seed in range(batches):
            batch = planted(individuals, classes, units, seed)
            (found,) = found_in([batch], runs=64, iterations=600)
            cosines = best_cosines(found, batch.features) if len(found) else torch.empty(0)
            certain = found.certified
            certified += int(certain.sum())
            false += int((cosines[certain] < CERTIFIED).sum())
            exact += int((cosines >= CERTIFIED).sum())
        rows.append((classes, units, individuals, batches * individuals, exact, certified, false))
    with capsys.disabled():
        print("\nK, m, B, individuals, exact, certified, false")
        print("\n".join(", ".join(map(str, row)) for row in rows))
    certified = sum(row[5] for row in rows)
    assert sum(row[3] for row in rows) >= 10_000
    assert certified >= 8_000
    assert sum(row[6] for row in rows) == 0


@pytest.mark.parametrize(
    ("model", "split"),
    [("lenet", "convolutions"), ("resnet18", "convolutions"), ("small_cnn", "hidden")],
)
def test_other_classifiers_are_refused(model: str, split: str) -> None:
    shared = build(MODELS, model, {}).build(2, 32, split)
    with pytest.raises(UsageError, match="needs a classifier of one hidden ReLU layer"):
        hidden_layer_of(shared, "mask_demixing")


def test_a_cell_with_another_classifier_says_so(small_setup: Setup) -> None:
    setup = small_setup.model_copy(update={"split": "hidden"})
    with pytest.raises(UsageError, match="split=convolutions"):
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
    assert found.properties == oracle.properties


def test_behind_noise_the_proposed_attack_answers_and_nobody_is_certified(
    small_setup: Setup,
) -> None:
    noise = {"defense": "gaussian", "defense_parameters": {"sigma": 0.1}}
    short = {"budget": 4, "iterations": 20}
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
    assert _others(certain, dummies).tolist() == [1, 3]
    assert _others(certain[:0], dummies).tolist() == [0, 1, 2, 3]


def test_faces_whose_masks_all_but_agree_are_told_apart() -> None:
    """On an untrained model two of them differ in two units, so that five columns fit four."""
    torch.manual_seed(1)
    model = SmallCNN(width=4, hidden=64).build(2, 16, "convolutions")
    images, labels = faces(64, 16), torch.randint(2, (64,))
    features = model.features(images).detach()
    layer = hidden_layer_of(model, "mask_demixing")
    found = demix(
        layer,
        [client_update(model, images[i : i + 4], labels[i : i + 4]) for i in (0, 4)],
        4,
        guesses_of(layer, features[8:], labels[8:]),
        [0, 1],
        64,
        500,
        lambda share: None,
    )
    for first, each in zip((0, 4), found, strict=True):
        assert len(each) == 4
        assert best_cosines(each, features[first : first + 4]).min() > CERTIFIED


def test_its_restarts_and_labels_are_the_fallback_s() -> None:
    assert MaskDemixing().labels == "counts"
    assert MaskDemixing(budget=7).steps == 7
    assert MaskDemixing().runs == 1
