"""Every kind of model, loss, update and wrapper is audited, or refused for a reason on the page."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn import functional

from auditing import Net, audited, by_name, people
from leakbench import LabelledImages
from leakbench.base.errors import UsageError
from tables import COLUMNS, VOCABULARY, Texts, individuals, losing, tabular, texts

PAGE = Path(__file__).resolve().parent.parent / "bench" / "docs" / "pages" / "audit.md"
SIZE, RATE = 8, 0.05
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])
MEAN = nn.CrossEntropyLoss()

Update = dict[str, Tensor]


class Returning(nn.Module):
    """An MLP that returns more than logits."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.made, self.mlp = made, tabular()

    def forward(self, rows: Tensor) -> Any:
        return self.made(self.mlp(rows), rows)


class Changed(nn.Module):
    """An MLP whose logits are changed after the last layer."""

    def __init__(self, change: Callable[[Tensor], Tensor], logits: int) -> None:
        super().__init__()
        self.mlp, self.change = tabular(logits), change

    def forward(self, rows: Tensor) -> Tensor:
        return self.change(self.mlp(rows))


class Two(nn.Module):
    """A model of two inputs, of which the second are token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.hidden, self.output = nn.Linear(COLUMNS + 16, 64), nn.Linear(64, 4)

    def forward(self, rows: Tensor, more: Tensor) -> Tensor:
        both = torch.cat([rows, self.embedding(more).mean(1)], dim=1)
        return self.output(functional.relu(self.hidden(both)))


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter, before layers that are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(COLUMNS, 32)
        self.lora_A, self.lora_B = nn.Linear(COLUMNS, 4, bias=False), nn.Linear(4, 32, bias=False)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(functional.relu(self.base(rows) + self.lora_B(self.lora_A(rows))))


class Recurrent(Texts):
    """The last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 32, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        _, (last, _) = self.lstm(self.embedding(tokens))
        return self.output(functional.relu(self.hidden(last[0])))


class Attending(Texts):
    """A layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = self.layer(self.embedding(tokens)).mean(1)
        return self.output(functional.relu(self.hidden(seen)))


class Bags(nn.Module):
    """A bag of words."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCABULARY, 32, sparse=sparse)
        self.head = nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bag(tokens))


def with_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(48)
    norm.running_mean, norm.running_var = torch.rand(48), torch.rand(48) + 0.5
    head = [nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 4)]
    return nn.Sequential(nn.Linear(COLUMNS, 48), norm, nn.ReLU(), *head)


def smooth() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(COLUMNS, 64), nn.GELU(), nn.Linear(64, 4))


def without_bias() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(COLUMNS, 64), nn.ReLU(), nn.Linear(64, 4, bias=False))


def frozen() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 4)]
    first = nn.Linear(COLUMNS, 48).requires_grad_(False)
    return nn.Sequential(first, nn.ReLU(), *head)


def made(kind: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return kind()

    return seeded


def program(model: nn.Module) -> Any:
    rows = individuals("rows", 3, 0).images
    return export(model.eval(), (rows,), dynamic_shapes=({0: Dim("individuals")},))


def opacus(model: nn.Module) -> nn.Module:
    return pytest.importorskip("opacus").GradSampleModule(model)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Kind:
    """What is audited.

    Attributes:
        model: makes the user's model.
        data: what it takes.
        loss: of clients.
        labels: makes of classes what the loss compares logits with.
        sent: makes what is captured from the gradient and the model.
        given: makes of the model what the audit gets.
        arguments: of the audit.
        certified: how many of 8 individuals.
        refused: why; empty where it works.
    """

    model: Callable[[], nn.Module] = tabular
    data: str = "rows"
    loss: Callable[[Any, Any], Any] = MEAN
    labels: Callable[[Tensor], Tensor] = lambda labels: labels
    sent: Callable[[Update, nn.Module], Any] = lambda update, _: update
    given: Callable[[nn.Module], Any] = lambda model: model
    arguments: Mapping[str, Any] | None = None
    certified: int = SIZE
    refused: str = ""


def weights(update: Update, model: nn.Module) -> Update:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state | {name: state[name] - RATE * value for name, value in update.items()}


def prefixed(prefix: str) -> Callable[[Update, nn.Module], Update]:
    return lambda update, _: {f"{prefix}{name}": value for name, value in update.items()}


def only(*parts: str) -> Callable[[Update, nn.Module], Update]:
    return lambda update, _: {n: v for n, v in update.items() if any(p in n for p in parts)}


def one_hot(labels: Tensor) -> Tensor:
    return functional.one_hot(labels, 4).float()


def several(labels: Tensor) -> Tensor:
    """Sets of labels, of which 16 are possible."""
    return torch.stack([labels > 1, labels % 2 == 0, labels < 3, labels == 1], dim=1).float()


TRAINED = {"kind": "weights", "learning_rate": RATE}

KINDS: dict[str, Kind] = {
    # Models
    "CNN of images": Kind(made(Net), "images"),
    "MLP of rows": Kind(),
    "MLP of rows, GELU": Kind(smooth, arguments={"attacks": ["newton_demixing"]}),
    "MLP of rows with BatchNorm": Kind(with_batch_norm),
    "mean of token embeddings": Kind(texts, "token ids"),
    "`EmbeddingBag` of tokens": Kind(made(Bags), "token ids"),
    "LSTM of tokens": Kind(made(Recurrent), "token ids"),
    "transformer layer of tokens": Kind(made(Attending), "token ids"),
    "returns a dict with `logits`": Kind(
        lambda: Returning(lambda logits, rows: {"logits": logits, "seen": rows})
    ),
    "returns a tuple, named by its place": Kind(
        lambda: Returning(lambda logits, rows: (rows, logits)), arguments={"logits": 1}
    ),
    "returns several tensors (individuals, K)": Kind(
        lambda: Returning(lambda logits, rows: (logits, rows)),
        refused="the model returns several tensors that may be its logits",
    ),
    "takes two inputs, a tuple": Kind(made(Two), "both"),
    "takes two inputs, one is given": Kind(
        made(Two), refused="missing 1 required positional argument: 'more'"
    ),
    "ends in a log-softmax, `NLLLoss`": Kind(
        lambda: nn.Sequential(*tabular(), nn.LogSoftmax(1)),
        loss=nn.NLLLoss(),  # type: ignore
    ),
    "output layer without bias": Kind(
        without_bias, refused="the model's logits are not the output of a linear layer with a bias"
    ),
    "frozen first layer": Kind(frozen),
    "updates of the head alone": Kind(made(Net), "images", sent=only("head.")),
    "updates of low-rank adapters and head": Kind(made(Adapted), sent=only("lora_", "head.")),
    # Losses
    "sum instead of mean": Kind(loss=nn.CrossEntropyLoss(reduction="sum")),
    "label smoothing": Kind(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "class weights": Kind(loss=nn.CrossEntropyLoss(WEIGHTS)),
    "class weights, smoothing, sum, of tokens": Kind(
        texts, "token ids", nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1, reduction="sum")
    ),
    "label smoothing, GELU": Kind(
        smooth,
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
        arguments={"attacks": ["newton_demixing"]},
    ),
    "label smoothing, of images": Kind(
        made(Net), "images", nn.CrossEntropyLoss(label_smoothing=0.1)
    ),
    "one logit, (individuals, 1)": Kind(lambda: tabular(1), loss=nn.BCEWithLogitsLoss()),
    "one logit, (individuals,)": Kind(
        lambda: Changed(lambda logits: logits.squeeze(1), 1), loss=nn.BCEWithLogitsLoss()
    ),
    "one logit, `pos_weight`, sum": Kind(
        lambda: tabular(1),
        loss=nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.5]), reduction="sum"),
    ),
    "one logit, no loss named": Kind(
        lambda: tabular(1),
        loss=nn.BCEWithLogitsLoss(),
        arguments={"loss": None},
        refused="the model returns a single logit; give loss=nn.BCEWithLogitsLoss()",
    ),
    "sets of labels, `BCEWithLogitsLoss`": Kind(loss=nn.BCEWithLogitsLoss(), labels=several),
    "soft labels": Kind(loss=MEAN, labels=lambda labels: 0.6 * one_hot(labels) + 0.1),
    "squared error of one-hot labels": Kind(loss=nn.MSELoss(), labels=one_hot),
    "squared error of real numbers": Kind(
        lambda: tabular(1),
        loss=nn.MSELoss(),
        labels=lambda labels: torch.randn(len(labels), 1, generator=torch.Generator()),
        refused="is nobody's in D_aux",
    ),
    "function that computes a cross-entropy": Kind(loss=functional.cross_entropy),
    "function of another kind": Kind(
        arguments={"loss": lambda outputs, labels: outputs.sum()},
        refused="attacks need the derivative of the loss by the logits for each label",
    ),
    "`ignore_index`": Kind(
        arguments={"loss": nn.CrossEntropyLoss(ignore_index=0)},
        refused="individuals of class ignore_index=0 add nothing to an update",
    ),
    # Updates
    "gradient as a list of NumPy arrays": Kind(
        sent=lambda update, _: [value.numpy() for value in update.values()]
    ),
    "weights as Flower's NumPyClient returns them": Kind(
        with_batch_norm,
        sent=lambda update, model: [each.numpy() for each in weights(update, model).values()],
        arguments=TRAINED,
    ),
    "weights by name, sum": Kind(
        loss=nn.CrossEntropyLoss(reduction="sum"), sent=weights, arguments=TRAINED
    ),
    "weights, label smoothing, as a list": Kind(
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
        sent=lambda update, model: [each.numpy() for each in weights(update, model).values()],
        arguments=TRAINED,
    ),
    "list of another length": Kind(
        sent=lambda update, _: list(update.values())[:2],
        refused="is a list of 2, but the model has 4 tensors in its state",
    ),
    "sparse gradient of an embedding": Kind(
        made(lambda: Bags(sparse=True)),
        "token ids",
        refused="is of type sparse float32; make it a dense float32 tensor",
    ),
    # Wrappers
    "`DataParallel`": Kind(given=nn.DataParallel, sent=prefixed("module.")),
    "names of `torch.compile`": Kind(sent=prefixed("_orig_mod.")),
    "Opacus": Kind(given=opacus, sent=prefixed("_module.")),
    "names of `torch.compile` of `DataParallel`": Kind(sent=prefixed("_orig_mod.module.")),
    "saved program": Kind(given=program),
    "saved program that returns a tuple": Kind(
        lambda: Returning(lambda logits, rows: (logits, rows.sum())),
        given=program,
        refused="a saved program or graph must return its logits alone",
    ),
}


def people_of(kind: Kind, count: int, seed: int) -> LabelledImages:
    if kind.data == "images":
        return people(count, seed)
    binary = isinstance(kind.loss, nn.BCEWithLogitsLoss) and kind.labels is not several
    found = individuals(
        "rows" if kind.data == "both" else kind.data, count, seed, 2 if binary else 4
    )
    assert found.labels is not None
    if kind.data == "both":
        more = individuals("token ids", count, seed).images
        found = replace(found, images=(found.images, more))  # type: ignore[arg-type]
    return replace(found, labels=kind.labels(found.labels))


def audit_of(kind: Kind) -> Any:
    model, victims = kind.model(), people_of(kind, SIZE, seed=2)
    model.eval()
    update = captured(model, kind.loss, victims)
    arguments: dict[str, Any] = {
        "split": None,
        "auxiliary": people_of(kind, 80, seed=1),
        "properties": ["bright" if kind.data == "images" else "old"],
        "truth": replace(victims, updates=["client"] * SIZE),
        "loss": None if kind.loss is MEAN else kind.loss,
        "attacks": ["mask_demixing"],
        "budget": 8,
    }
    sent = kind.sent(update, model)
    given = kind.given(copy.deepcopy(model))
    return audited(given, {"client": sent}, **(arguments | dict(kind.arguments or {})))


def captured(
    model: nn.Module, criterion: Callable[[Any, Any], Any], victims: LabelledImages
) -> Update:
    assert victims.labels is not None
    if isinstance(model, Two) and not isinstance(victims.images, tuple):
        return {}
    prefix = "mlp." if isinstance(model, Returning | Changed) else ""
    trained = model.mlp if prefix else model
    found = losing(trained, criterion, victims.images, victims.labels)
    return {f"{prefix}{name}": value for name, value in found.items()}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_audited_or_refused_as_the_page_says(name: str) -> None:
    kind = KINDS[name]
    if kind.refused:
        with pytest.raises(UsageError, match=re.escape(kind.refused)):
            audit_of(kind)
        return
    report = audit_of(kind)
    assert [update.check for update in report.updates] == ["agrees"]
    (found,) = [each for each in by_name(report.attacks).values() if not each.control]
    assert not found.refused
    assert (found.certified, found.false_certificates) == (kind.certified, 0)


def test_the_page_has_these_kinds() -> None:
    rows = re.findall(r"^\| (.+?) +\| (works|refused: .+?) +\|$", PAGE.read_text(), re.MULTILINE)
    outcomes = {
        name: f"refused: {kind.refused}" if kind.refused else "works"
        for name, kind in KINDS.items()
    }
    assert dict(rows) == outcomes
    assert len(KINDS) >= 24
