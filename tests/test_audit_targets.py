"""Labels that are sets, probabilities or numbers, models of several inputs, and what is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditing import Net, audited, net, people
from leakbench import LabelledImages
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.head import head_of
from leakbench.attacks.newton_demixing import NewtonDemixing
from leakbench.auditing.affine_errors import with_certificates_that_hold
from leakbench.auditing.client_loss import loss_of
from leakbench.auditing.client_targets import with_targets
from leakbench.auditing.named_loss import named_loss
from leakbench.auditing.several_inputs import as_one_input
from leakbench.auditing.trained_parts import frozen_as_sent
from leakbench.auditing.updates import CapturedUpdate, UpdateFormat
from leakbench.base.errors import UsageError
from leakbench.federation.client import client_update
from leakbench.federation.loss import Loss
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.attack import AttackResult
from leakbench.threat.label_recovery import label_counts_for_loss
from tables import individuals

SETS = torch.tensor(list(product((0.0, 1.0), repeat=4)))
SOFT = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.5, 0.2, 0.2], [0.0, 0.0, 0.5, 0.5]])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])


def labelled(labels: Tensor | None, seed: int = 0) -> LabelledImages:
    """Rows of individuals with these labels."""
    count = 6 if labels is None else len(labels)
    rows = individuals("rows", count, seed)
    return LabelledImages(images=rows.images, labels=labels, properties=rows.properties)


@pytest.mark.parametrize(
    ("criterion", "rows"),
    [
        (nn.BCEWithLogitsLoss(), SETS),
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS, reduction="sum"), SETS),
        (nn.MSELoss(), SETS),
        (nn.MSELoss(reduction="sum"), SOFT),
        (None, SOFT),
        (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), SOFT),
    ],
)
def test_values_and_derivatives_over_a_list_of_targets_are_those_of_pytorch(
    criterion: Any, rows: Tensor
) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, dtype=torch.float64, generator=draw)
    given = rows[torch.arange(7) % len(rows)]
    targets, auxiliary, _ = with_targets(criterion, logits, labelled(given), None)
    loss, labels = targets.loss, auxiliary.labels
    assert labels is not None
    leaf = logits.clone().requires_grad_()
    expected = (criterion or functional.cross_entropy)(leaf, given.double())
    torch.testing.assert_close(targets.value(leaf, labels), expected)
    torch.testing.assert_close(loss.value(logits, labels), expected.detach())
    (gradient,) = torch.autograd.grad(expected, leaf)
    each = loss.targets(4)[labels]
    torch.testing.assert_close(loss.errors(logits, each) / loss.denominator(labels), gradient)
    directions = torch.randn(7, 4, 3, dtype=torch.float64, generator=draw)
    _, along = torch.func.jvp(
        lambda z: loss.errors(z, each), (logits,), (directions[:, :, 0].contiguous(),)
    )
    torch.testing.assert_close(loss.errors_derivative(logits, directions, each)[:, :, 0], along)
    torch.testing.assert_close(loss.logits_of(loss.probabilities(logits)).diff(), logits.diff())


def test_one_hot_rows_are_classes_and_sets_of_few_labels_are_all_listed() -> None:
    classes = torch.tensor([0, 3, 1, 2])
    targets, auxiliary, _ = with_targets(
        None, torch.randn(4, 4), labelled(functional.one_hot(classes, 4).float()), None
    )
    assert targets.loss.is_plain and auxiliary.labels is not None
    assert auxiliary.labels.tolist() == classes.tolist()
    truth = labelled(SETS[:2], seed=1)
    targets, _, known = with_targets(
        nn.BCEWithLogitsLoss(), torch.randn(4, 4), labelled(SETS[5:9]), truth
    )
    assert len(targets.loss.table) == 16 and known is not None and known.labels is not None
    assert known.labels.tolist() == [0, 1]
    assert "all sets of labels" in targets.note


def test_counts_of_labels_explain_the_bias_gradient_of_squared_error() -> None:
    loss = loss_of(nn.MSELoss(), 4)
    labels = torch.tensor([0, 1, 1, 3, 3, 3])
    leaf = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).expand(6, -1).clone()
    leaf.requires_grad_()
    (each,) = torch.autograd.grad(loss.value(leaf, labels), leaf)
    found = label_counts_for_loss(loss, each.sum(0), leaf[0].detach(), 6)
    assert found.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("criterion", "auxiliary", "truth", "said"),
    [
        (None, SOFT, SETS[:1], r"label of individual 1 in the truth, \(0, 0, 0, 0\), is nobody's"),
        (None, SOFT[:, :3], None, r"shape \(3, 3\); for 3 individuals and 4 logits give \(3, 4\)"),
        (None, SOFT - 1, None, r"\(-0.3, -0.9, .*\), is no target of the mean cross-entropy"),
        (nn.MSELoss(), torch.rand(600, 4), None, "D_aux has 600 different labels, and attacks try"),
        (nn.MSELoss(), None, SETS, "the truth has labels that are vectors, and D_aux has none"),
        (None, torch.tensor([0, 1]), SOFT, "labels of the truth are vectors, and others are not"),
    ],
)
def test_labels_that_cannot_be_listed_are_refused(
    criterion: Any, auxiliary: Tensor | None, truth: Tensor | None, said: str
) -> None:
    known = None if truth is None else labelled(truth, seed=1)
    with pytest.raises(UsageError, match=said):
        with_targets(criterion, torch.randn(5, 4), labelled(auxiliary), known)


def test_under_squared_error_mixtures_are_not_certified() -> None:
    """Of an output layer alone, any point between two individuals of a label fits the gradient."""
    wrong = 0
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = SharedModel(nn.Flatten(), nn.Sequential(nn.Linear(24, 8)))
        table = tuple(map(tuple, torch.eye(8).tolist()))
        model.loss = Loss(link="identity", table=table)
        centre = torch.randn(1, 24, generator=draw)
        victims = centre + 0.3 * torch.randn(2, 24, generator=draw)
        others = centre + 0.3 * torch.randn(60, 24, generator=draw)
        labels = torch.randint(8, (1,), generator=draw).expand(2)
        update = client_update(model, victims, labels)
        (found,) = NewtonDemixing(rounds=20, patience=3).recover(
            head_of(model, "newton_demixing"),
            [VictimBatch(update, 2, seed)],
            (others, torch.randint(8, (60,), generator=draw)),
            lambda _: None,
        )
        away = torch.cdist(found.features.float(), victims).amin(1) > 0.01 * victims.norm(dim=1)[0]
        wrong += int((away & found.certified).sum())
        result = AttackResult({}, found.features.float(), None, found.labels, found.certified)
        kept = with_certificates_that_hold(result, model, 2).certified
        assert kept is not None and not kept.any()
    assert wrong > 0


@pytest.mark.parametrize(
    ("hidden", "labels", "kept"),
    [([], [0, 1], 0), ([nn.ReLU()], [0, 0], 0), ([nn.ReLU()], [0, 1], 2), ([nn.GELU()], [0, 0], 2)],
)
def test_certificates_under_squared_error_need_labels_or_units_that_differ(
    hidden: list[nn.Module], labels: list[int], kept: int
) -> None:
    before: list[nn.Module] = [nn.Linear(6, 16), *hidden] if hidden else []
    model = SharedModel(nn.Flatten(), nn.Sequential(*before, nn.Linear(16 if hidden else 6, 4)))
    model.loss = loss_of(nn.MSELoss(), 4)
    features = torch.ones(1, 6) + 1e-6 * torch.randn(2, 6)
    result = AttackResult({}, features, None, torch.tensor(labels), torch.ones(2).bool())
    found = with_certificates_that_hold(result, model, 2).certified
    assert found is not None and int(found.sum()) == kept
    partly = AttackResult({}, features[:1], None, torch.tensor(labels[:1]), torch.ones(1).bool())
    found = with_certificates_that_hold(partly, model, 2).certified
    smooth = any(isinstance(layer, nn.GELU) for layer in hidden)
    assert found is not None and int(found.sum()) == smooth


class Two(nn.Module):
    """A model of two inputs."""

    def forward(self, rows: Tensor, tokens: Tensor) -> Tensor:
        assert rows.shape[1:] == (3, 2) and tokens.dtype == torch.long
        return rows.flatten(1) @ torch.arange(6.0) + 100 * tokens[:, 0]


def both(first: Any, second: Any, named: bool = False) -> LabelledImages:
    given: Any = {"tokens": second, "rows": first} if named else (first, second)
    return LabelledImages(images=given, properties={})


@pytest.mark.parametrize("named", [False, True])
def test_several_inputs_become_one_of_which_the_model_computes_the_same(named: bool) -> None:
    rows, tokens = torch.randn(5, 3, 2), torch.randint(9, (5, 4))
    model, auxiliary, _ = as_one_input(Two(), both(rows, tokens, named), None)
    assert isinstance(model, nn.Module) and auxiliary.images.shape == (5, 10)
    torch.testing.assert_close(model(auxiliary.images), Two()(rows, tokens))


@pytest.mark.parametrize(
    ("auxiliary", "truth", "said"),
    [
        (both(torch.ones(2, 3), torch.ones(2, 2)), both(torch.ones(2, 3), torch.ones(2, 3)), "are"),
        (both(torch.ones(2, 3), torch.ones(3, 2)), None, "number 2 of D_aux must be a tensor with"),
        (both(torch.ones(2, 3), torch.full((2, 1), 2**25)), None, "integers above 16777216"),
        (
            both(torch.ones(2, 3), torch.ones(2, 2)),
            labelled(None),
            "has several inputs, and others",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    auxiliary: LabelledImages, truth: LabelledImages | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        as_one_input(Two(), auxiliary, truth)


@pytest.mark.parametrize(
    ("kept", "frozen"),
    [
        (lambda name: name.startswith("head."), 2),
        (lambda name: name != "head.3.bias", 0),
        (lambda name: False, 0),
    ],
)
def test_layers_that_no_update_holds_are_frozen_in_a_copy(
    kept: Callable[[str], bool], frozen: int
) -> None:
    model = net()
    sent = {f"module.{n}": p for n, p in model.named_parameters() if kept(n)}
    found = frozen_as_sent(model, [CapturedUpdate("a", sent, UpdateFormat())])
    assert isinstance(found, nn.Module)
    assert sum(not p.requires_grad for p in found.parameters()) == frozen
    assert all(p.requires_grad for p in model.parameters())


def test_the_findings_name_the_head_that_is_trained() -> None:
    model, victims = Net(), people(4, seed=3)
    assert victims.labels is not None
    trained = copy.deepcopy(model)
    trained.features.requires_grad_(False)
    functional.cross_entropy(trained(victims.images), victims.labels).backward()
    sent = {n: p.grad for n, p in trained.named_parameters() if p.grad is not None}
    report = audited(model, {"client": sent}, batch_size=4, quick=True, attacks=None)
    said = "Clients train the head alone, 4 of 6 parameters: attacks have the gradient of these"
    assert report.findings[0].startswith(said)
    assert report.findings[1].startswith("Mask demixing certifies the exact deep feature of 4 of 4")
    assert report.not_tested[0].startswith("This is a quick audit")


def test_losses_by_name() -> None:
    assert named_loss("cross-entropy", (), 0.0, "mean") is None
    summed: Any = named_loss("cross-entropy", (1.0, 2.0), 0.1, "sum")
    assert (type(summed), summed.label_smoothing) == (nn.CrossEntropyLoss, 0.1)
    assert type(named_loss("nll", (), 0.0, "mean")) is nn.NLLLoss
    assert type(named_loss("squared", (), 0.0, "mean")) is nn.MSELoss
    for name, weights, smoothing in (
        ("squared", (1.0,), 0.0),
        ("nll", (), 0.1),
        ("cross-entropy", (), 1.0),
    ):
        with pytest.raises(UsageError, match=r"--(class-weight|label-smoothing)"):
            named_loss(name, weights, smoothing, "mean")


@pytest.mark.parametrize("argument", ["properties", "attacks", "defenses"])
def test_a_text_in_place_of_a_list_is_refused(argument: str) -> None:
    with pytest.raises(UsageError, match=rf'{argument}="bright" is one text; give a list'):
        audited(net(), {"a": {}}, **{argument: "bright"})
