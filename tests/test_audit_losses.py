"""Losses of clients other than the mean cross-entropy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditing import audited, by_name, net, people
from leakbench.auditing.client_loss import loss_of
from leakbench.auditing.client_targets import Targets
from leakbench.auditing.model_splitting import split_model
from leakbench.base.errors import UsageError
from leakbench.federation.client import client_update
from leakbench.federation.loss import Loss
from leakbench.threat.label_recovery import label_counts_for_loss, recover_labels
from tables import individuals, losing, tabular

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])
POSITIVE = torch.tensor([2.5])

LOSSES: list[nn.Module] = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(reduction="sum"),
    nn.CrossEntropyLoss(label_smoothing=0.2),
    nn.CrossEntropyLoss(WEIGHTS),
    nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2),
    nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2, reduction="sum"),
    nn.BCEWithLogitsLoss(),
    nn.BCEWithLogitsLoss(pos_weight=POSITIVE, reduction="sum"),
]


def logits_of(criterion: nn.Module) -> int:
    return 1 if isinstance(criterion, nn.BCEWithLogitsLoss) else 4


@pytest.mark.parametrize("criterion", LOSSES)
def test_values_and_derivatives_are_those_of_pytorchs_loss(criterion: nn.Module) -> None:
    width = logits_of(criterion)
    loss = loss_of(criterion, width)
    logits = torch.randn(6, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0, 1, 0]) if width == 1 else torch.tensor([0, 3, 1, 1, 2, 0])
    leaf = logits.clone().requires_grad_()
    expected = Targets(criterion, loss).value(leaf, labels)
    torch.testing.assert_close(loss.value(logits, labels), expected.detach())
    (gradient,) = torch.autograd.grad(expected, leaf)
    targets = loss.targets(loss.classes(width))[labels]
    errors = loss.errors(logits, targets)
    torch.testing.assert_close(errors / loss.denominator(labels), gradient)
    directions = torch.randn(6, width, 3, dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    each = [
        torch.autograd.grad(of_logit.sum(), leaf, retain_graph=True)[0]
        for of_logit in loss.errors(leaf, targets).unbind(1)
    ]
    along = torch.stack(each, 1) @ directions
    torch.testing.assert_close(loss.errors_derivative(logits, directions, targets), along)
    probabilities = loss.probabilities(logits)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(loss.predicted(logits), probabilities.argmax(1))


@pytest.mark.parametrize("criterion", LOSSES[1:])
def test_label_counts_are_recovered_where_predictions_are_as_expected(criterion: nn.Module) -> None:
    width = logits_of(criterion)
    loss = loss_of(criterion, width)
    labels = torch.tensor([0, 1, 1, 0, 1, 1]) if width == 1 else torch.tensor([0, 3, 1, 1, 3, 0])
    logits = torch.randn(1, width, generator=torch.Generator().manual_seed(1)).expand(6, -1)
    leaf = logits.clone().requires_grad_()
    (each,) = torch.autograd.grad(Targets(criterion, loss).value(leaf, labels), leaf)
    found = label_counts_for_loss(loss, each.sum(0), loss.probabilities(logits)[0], 6)
    assert torch.equal(found, labels.sort().values)


@pytest.mark.parametrize("criterion", LOSSES)
def test_the_split_models_update_is_that_of_the_users_loss(criterion: nn.Module) -> None:
    model = tabular(logits_of(criterion))
    people = individuals("rows", 6, 0, classes=2)
    assert people.labels is not None
    targets = Targets(criterion, loss_of(criterion, logits_of(criterion)))
    shared = split_model(model, None, people.images, targets=targets)
    assert shared.classes == (2 if logits_of(criterion) == 1 else 4)
    expected = losing(model, criterion, people.images, people.labels)
    for name, value in client_update(shared, people.images, people.labels).items():
        torch.testing.assert_close(value, expected[shared.names[name]])
    if not shared.loss.is_plain:
        with pytest.raises(UsageError, match=r"'ilrg' is for the mean cross-entropy, and clients"):
            recover_labels("ilrg", shared, client_update(shared, people.images, people.labels), 6)


class Squared(nn.CrossEntropyLoss):
    """What it computes is not known."""

    def forward(self, *given: Tensor) -> Tensor:
        return super().forward(*given) ** 2


@pytest.mark.parametrize(
    ("criterion", "logits", "said"),
    [
        (None, 1, r"returns a single logit; give loss=nn.BCEWithLogitsLoss\(\)"),
        (nn.CrossEntropyLoss(), 1, "needs a logit for each class"),
        (nn.L1Loss(), 4, "loss L1Loss cannot be audited: attacks need the derivative"),
        (nn.NLLLoss(), 4, "NLLLoss takes log-probabilities, and the model returns something else"),
        (Squared(), 4, "loss Squared cannot be audited"),
        (torch.nn.functional.l1_loss, 4, "loss l1_loss cannot be audited"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3) / 2), 4, "pos_weight of 3 labels"),
        (nn.BCEWithLogitsLoss(torch.ones(8)), 1, "weight of each individual"),
        (nn.CrossEntropyLoss(ignore_index=2), 4, "class ignore_index=2 add nothing to an update"),
        (nn.CrossEntropyLoss(reduction="none"), 4, "reduction='none', which is no scalar"),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 0.0, 1.0, 1.0])), 4, "weights must be above 0"),
        (nn.CrossEntropyLoss(torch.ones(3) / 2), 4, "weights of 3 classes, .* returns 4 logits"),
    ],
)
def test_what_attacks_cannot_state_is_refused(criterion: Any, logits: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        loss_of(criterion, logits)


WRONGLY: list[nn.Module] = [
    nn.CrossEntropyLoss(label_smoothing=0.3),
    nn.CrossEntropyLoss(WEIGHTS),
    nn.CrossEntropyLoss(reduction="sum"),
]


@pytest.mark.parametrize("criterion", WRONGLY)
def test_a_loss_that_is_not_named_makes_no_false_certificate(criterion: nn.Module) -> None:
    model, victims = tabular(), individuals("rows", 8, seed=2)
    assert victims.labels is not None
    report = audited(
        model,
        {"client": losing(model, criterion, victims.images, victims.labels)},
        split=None,
        auxiliary=individuals("rows", 80, seed=1),
        properties=["old"],
        truth=replace(victims, updates=["client"] * 8),
        attacks={"mask_demixing": {"budget": 4, "quiet": 50, "reflections": 200, "rounds": 5}},
    )
    assert report.updates[0].check == "differs"
    assert report.attacks[-1].false_certificates == 0


def test_attacks_that_cannot_state_a_loss_are_refused_and_feature_direct_matches_it() -> None:
    model, victims = net(), people(2, seed=2)
    assert victims.labels is not None
    criterion = nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1)
    loss = criterion(model(victims.images), victims.labels)
    names, parameters = zip(*model.named_parameters(), strict=True)
    sent = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    report = audited(
        model,
        {"client": sent},
        truth=replace(victims, updates=["client"] * 2),
        loss=criterion,
        attacks={
            "feature_direct": {"labels": "counts", "budget": 200},
            "feature_lbfgs": {"labels": "counts", "budget": 4},
            "convolution_demixing": {},
        },
        defenses=[{"name": "dp_sgd", "clip": 1.0, "noise": 0.1}],
    )
    said = (
        "Clients compute the mean cross-entropy with class weights 0.5, 2, 1, 3 and label "
        "smoothing 0.1."
    )
    assert said in report.limitations
    refused = {name: each.refused for name, each in by_name(report.attacks).items()}
    assert "matches the gradient of the mean cross-entropy, and" in refused["feature_lbfgs"]
    assert "demixes the gradient of the mean cross-entropy, and" in refused["convolution_demixing"]
    assert not refused["feature_direct"]
    cosines = [i.answers["feature_direct"].cosine for i in report.updates[0].individuals]
    assert min(each or 0.0 for each in cosines) > 0.99
    assert report.updates[0].check == "agrees"
    assert "as for a mean loss without class weights" in report.defenses[1].refused


def test_equal_weights_of_1_are_none() -> None:
    assert loss_of(nn.CrossEntropyLoss(torch.ones(4)), 4) == Loss()
    assert loss_of(nn.CrossEntropyLoss(torch.full((4,), 2.0)), 4).class_weights == (2.0,) * 4
