"""What each scheme of label recovery finds, where it is exact, and what it refuses."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from leakbench.base.errors import UsageError
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Architecture, SharedModel
from leakbench.threat.label_recovery import (
    Scheme,
    analytic_labels,
    class_mean_features,
    idlg_label,
    ilrg_labels,
    label_counts_from_bias,
    recover_labels,
    row_minimum_labels,
)

GOLDEN = [0, 0, 1, 3, 3, 3, 7, 7]
SMALL_CNN, LENET = SmallCNN(width=4), LeNet()
SEEDS = range(5)


def model_and_images(
    classes: int, batch_size: int, seed: int, architecture: Architecture = SMALL_CNN
) -> tuple[SharedModel, Tensor]:
    """An untrained model and random images; labels may be drawn next."""
    torch.manual_seed(seed)
    model = architecture.build(classes, 16, "convolutions").eval()
    return model, torch.rand(batch_size, 3, 16, 16)


def recovered(scheme: Scheme, model: SharedModel, images: Tensor, labels: Tensor) -> list[int]:
    """The scheme's labels, `counts` knowing the batch's own mean prediction."""
    with torch.no_grad():
        expected = model(images).softmax(1).mean(0)
    update = client_update(model, images, labels)
    found = recover_labels(scheme, model, update, len(labels), expected)
    assert found.dtype == torch.int64
    assert found.shape == labels.shape
    return found.tolist()


def distinct(classes: int, batch_size: int) -> Tensor:
    return torch.randperm(classes)[:batch_size].sort().values


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [8, 50])
def test_the_golden_batch(classes: int, seed: int) -> None:
    """Repeats are for `counts`, even with a uniform guess, and for iLRG."""
    model, images = model_and_images(classes, 8, seed)
    labels = torch.tensor(GOLDEN)
    update = client_update(model, images, labels)
    assert recover_labels("counts", model, update, 8).tolist() == GOLDEN
    assert recover_labels("ilrg", model, update, 8).tolist() == GOLDEN
    # One of each present class and four absent ones: 4 of 8 are right.
    by_row = recover_labels("row_minimum", model, update, 8).tolist()
    assert len(set(by_row)) == 8
    assert set(by_row) >= set(GOLDEN)
    for scheme in ("idlg", "analytic"):
        with pytest.raises(UsageError, match=f"'{scheme}'.*; use 'counts' or 'ilrg'"):
            recover_labels(scheme, model, update, 8)


@pytest.mark.parametrize("label", range(8))
@pytest.mark.parametrize("architecture", [SMALL_CNN, LENET], ids=["small_cnn", "lenet"])
def test_a_single_label_is_exact_by_every_scheme(architecture: Architecture, label: int) -> None:
    model, images = model_and_images(8, 1, seed=label, architecture=architecture)
    for scheme in get_args(Scheme):
        assert recovered(scheme, model, images, torch.tensor([label])) == [label]
    update = client_update(model, images, torch.tensor([label]))
    wrong_guess = torch.zeros(8)
    assert recover_labels("counts", model, update, 1, wrong_guess).tolist() == [label]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("classes", "batch_size"), [(8, 2), (8, 4), (50, 8), (50, 25)])
@pytest.mark.parametrize("scheme", ["analytic", "row_minimum", "counts", "ilrg"])
def test_distinct_labels_are_exact_on_an_untrained_model(
    scheme: Scheme, classes: int, batch_size: int, seed: int
) -> None:
    """Up to B = K / 2, where no class is predicted as often as 1 / B."""
    model, images = model_and_images(classes, batch_size, seed)
    labels = distinct(classes, batch_size)
    assert recovered(scheme, model, images, labels) == labels.tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("classes", "batch_size"), [(8, 7), (50, 45)])
@pytest.mark.parametrize("scheme", ["row_minimum", "counts", "ilrg"])
def test_all_but_the_analytic_scheme_find_nearly_as_many_labels_as_classes(
    scheme: Scheme, classes: int, batch_size: int, seed: int
) -> None:
    model, images = model_and_images(classes, batch_size, seed)
    labels = distinct(classes, batch_size)
    assert recovered(scheme, model, images, labels) == labels.tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("classes", "batch_size"), [(8, 16), (8, 32), (50, 16), (50, 64)])
@pytest.mark.parametrize("scheme", ["counts", "ilrg"])
def test_repeats_are_exact_on_an_untrained_model(
    scheme: Scheme, classes: int, batch_size: int, seed: int
) -> None:
    model, images = model_and_images(classes, batch_size, seed)
    # Half of the classes stay absent.
    labels = torch.randint(classes // 2, (batch_size,)).sort().values
    assert recovered(scheme, model, images, labels) == labels.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_counts_stand_or_fall_with_the_expected_predictions(seed: int) -> None:
    """LeNet starts with predictions far from uniform."""
    model, images = model_and_images(8, 32, seed, LENET)
    labels = torch.randint(8, (32,)).sort().values
    assert recovered("counts", model, images, labels) == labels.tolist()
    update = client_update(model, images, labels)
    assert recover_labels("counts", model, update, 32).tolist() != labels.tolist()


@pytest.mark.parametrize("architecture", [SMALL_CNN, LENET], ids=["small_cnn", "lenet"])
def test_the_analytic_scheme_refuses_rather_than_errs(architecture: Architecture) -> None:
    answers = 0
    for seed in range(40):
        model, images = model_and_images(8, 3, seed, architecture)
        labels = torch.randint(8, (3,)).sort().values
        try:
            found = recovered("analytic", model, images, labels)
        except UsageError:
            continue
        answers += 1
        assert found == labels.tolist()
    assert 0 < answers < 40


@pytest.mark.parametrize("seed", SEEDS)
def test_the_analytic_scheme_cannot_read_a_batch_of_all_classes(seed: int) -> None:
    """A gradient that sums to zero is not negative everywhere."""
    model, images = model_and_images(8, 8, seed)
    with pytest.raises(UsageError, match=r"'analytic' .* individuals, 8, and finds \d;"):
        recovered("analytic", model, images, torch.arange(8))


def test_two_classes_have_one_feature_which_leads_ilrg_astray_on_a_trained_model() -> None:
    """Individuals of two tight clusters, predicted well: the quotient is far outside both."""
    h = functional.one_hot(torch.tensor([0] * 6 + [1] * 2), 2).float()
    weight, bias = 3 * torch.eye(2), torch.zeros(2)
    residual = ((h @ weight).softmax(1) - h) / 8
    gradients = residual.T @ h, residual.sum(0)
    features = class_mean_features(*gradients)
    torch.testing.assert_close(features[0], features[1])
    assert ilrg_labels(*gradients, weight, bias, 8).tolist() != [0] * 6 + [1] * 2


# Individuals that all have features `H` and predictions `predicted`, so that the gradient is
# known in closed form; `None` where the scheme refuses.
H = torch.tensor([1.0, 2.0, 0.5])
REFUSED = None
EIGHTH, SKEWED, SURE = [1 / 8] * 8, [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.6, 0.1]
Found = list[int] | None


@pytest.mark.parametrize(
    ("predicted", "labels", "analytic", "row_minimum"),
    [
        pytest.param(SKEWED, [3], [3], [3], id="single"),
        pytest.param(SKEWED, [0, 2], [0, 2], [0, 2], id="distinct"),
        pytest.param(SURE, [0, 1, 2], REFUSED, [0, 1, 3], id="distinct, one foreseen"),
        pytest.param(SKEWED, [0, 1, 2, 3], REFUSED, [0, 1, 2, 3], id="all classes"),
        pytest.param(SKEWED, [1, 1], REFUSED, [0, 1], id="twice the same"),
        pytest.param(SKEWED, [0, 0, 0, 2, 2, 3], REFUSED, REFUSED, id="more than classes"),
        pytest.param(EIGHTH, GOLDEN, REFUSED, list(range(8)), id="golden"),
        pytest.param(EIGHTH, [2] * 8, REFUSED, list(range(8)), id="all the same"),
        pytest.param(EIGHTH, list(range(8)), REFUSED, list(range(8)), id="gradient zero"),
    ],
)
def test_every_scheme_on_a_gradient_in_closed_form(
    predicted: list[float], labels: list[int], analytic: Found, row_minimum: Found
) -> None:
    p, size = torch.tensor(predicted), len(labels)
    bias_gradient = p - torch.bincount(torch.tensor(labels), minlength=len(p)) / size
    weight_gradient = bias_gradient[:, None] * H
    weight, bias = torch.zeros(len(p), 3), p.log()
    if size == 1:
        assert idlg_label(bias_gradient).tolist() == labels
    assert label_counts_from_bias(bias_gradient, p, size).tolist() == labels
    assert ilrg_labels(weight_gradient, bias_gradient, weight, bias, size).tolist() == labels
    if analytic is None:
        with pytest.raises(UsageError, match="'analytic'"):
            analytic_labels(bias_gradient, size)
    else:
        assert analytic_labels(bias_gradient, size).tolist() == analytic
    if row_minimum is None:
        with pytest.raises(UsageError, match=r"'row_minimum' .* a batch of 6 .* 4 classes"):
            row_minimum_labels(weight_gradient, size)
    else:
        assert row_minimum_labels(weight_gradient, size).tolist() == row_minimum


def test_counts_bear_a_guess_that_is_off_by_less_than_half_an_individual() -> None:
    labels = torch.tensor(GOLDEN)
    p = torch.full((8,), 1 / 8)
    gradient = p - torch.bincount(labels, minlength=8) / 8
    off = torch.tensor([1, -1, 1, -1, 1, -1, 1, -1]) / 16
    assert label_counts_from_bias(gradient, p + 0.99 * off, 8).tolist() == GOLDEN
    assert label_counts_from_bias(gradient, p + 1.01 * off, 8).tolist() != GOLDEN


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", get_args(Scheme))
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_gradient_that_is_not_finite_is_refused(scheme: Scheme, value: float, name: str) -> None:
    model, images = model_and_images(8, 1, seed=0)
    update = client_update(model, images, torch.tensor([0]))
    update[model.output_bias.replace("bias", name)].view(-1)[3] = value
    with pytest.raises(UsageError, match=f"'{scheme}' cannot read .* not finite; grant"):
        recover_labels(scheme, model, update, 1)


def test_class_mean_features_of_a_single_individual_are_its_own() -> None:
    h, p = torch.rand(6), torch.tensor([0.6, 0.3, 0.0999, 0.0001])
    residual = p - functional.one_hot(torch.tensor(1), 4)
    features = class_mean_features(residual[:, None] * h, residual)
    torch.testing.assert_close(features, h.expand(4, 6))


def test_class_mean_features_are_close_with_many_classes() -> None:
    torch.manual_seed(0)
    h, y = torch.rand(8, 64), torch.tensor(GOLDEN)
    residual = (1 / 200 - functional.one_hot(y, 200)) / 8
    features = class_mean_features(residual.T @ h, residual.sum(0))
    for label in set(GOLDEN):
        mean = h[y == label].mean(0)
        assert functional.cosine_similarity(features[label], mean, dim=0) > 0.997


def test_class_mean_features_do_not_divide_by_zero() -> None:
    h, bias_gradient = torch.rand(6), torch.tensor([0.5, 0.0, 1e-9, -0.5])
    features = class_mean_features(bias_gradient[:, None] * h, bias_gradient)
    torch.testing.assert_close(features, h.expand(4, 6))
    assert not class_mean_features(torch.zeros(4, 6), torch.zeros(4)).any()
