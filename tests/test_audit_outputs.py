"""Models that return more than their logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export
from torch.nn import functional

from auditing import Net, audited, by_name, people
from leakbench.auditing.model_outputs import returning_logits
from leakbench.auditing.model_splitting import split_model
from leakbench.base.errors import UsageError
from leakbench.federation.client import client_update


@dataclass
class Returned:
    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None


class Named(NamedTuple):
    score: Tensor
    features: Tensor


class Returning(Net):
    """What a user's model returns: a function of its logits and features."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.made = made

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
        seen = self.features(images)
        logits = self.head(seen)
        if labels is not None:
            logits = functional.cross_entropy(logits, labels)
        return self.made(logits, seen)


WORKS: list[tuple[Callable[[Tensor, Tensor], Any], str | None]] = [
    (lambda logits, seen: {"loss": None, "logits": logits, "seen": seen.flatten(1)}, None),
    (lambda logits, seen: (logits, seen), None),
    (lambda logits, seen: [seen, logits], None),
    (lambda logits, seen: Returned(logits, (seen,)), None),
    (lambda logits, seen: Named(logits, seen.flatten(1)), "score"),
    (lambda logits, seen: (seen.flatten(1), logits), "1"),
    (lambda logits, seen: {"out": Returned(logits), "seen": seen.flatten(1)}, "out.logits"),
    (lambda logits, seen: {"out": logits, "penalty": seen.sum()}, None),
]


def returning(made: Callable[[Tensor, Tensor], Any]) -> Returning:
    torch.manual_seed(0)
    return Returning(made)


@pytest.mark.parametrize(("made", "name"), WORKS)
def test_logits_are_found_or_named(made: Callable[[Tensor, Tensor], Any], name: str | None) -> None:
    model, plain = returning(made), returning(lambda logits, _: logits).eval()
    images, labels = people(4).images, torch.arange(4)
    shared = split_model(returning_logits(model, images, name), None, images)
    assert type(model) is Returning  # The user's model is as it was.
    torch.testing.assert_close(shared(images), plain(images))
    loss = functional.cross_entropy(plain(images), labels)
    names, parameters = zip(*plain.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    for ours, value in client_update(shared, images, labels).items():
        torch.testing.assert_close(value, expected[shared.names[ours]])


def test_a_model_that_returns_a_dataclass_is_audited_under_its_name() -> None:
    model, truth = returning(lambda logits, seen: Returned(logits, (seen,))), people(4)
    report = audited(model, None, truth=truth, batch_size=4, logits="logits")
    assert by_name(report.attacks)["mask_demixing"].certified == 4
    assert report.model.name == "Returning"


@pytest.mark.parametrize(
    ("made", "name", "said"),
    [
        (
            lambda logits, seen: (logits, seen.flatten(1)),
            None,
            r"several tensors that may be its logits, .*: '0' of shape \(3, 4\), '1' of shape "
            r"\(3, 128\); name one as logits, such as logits='0'",
        ),
        (
            lambda logits, seen: {"a": logits, "b": seen},
            "c",
            r"returns no tensor 'c', but 'a' of shape \(3, 4\), 'b' of shape",
        ),
        (lambda _, seen: {"a": seen}, None, "returns no tensor that can be its logits"),
        (lambda logits, _: logits, "a", "returns a single tensor; leave logits='a' out"),
    ],
)
def test_what_is_ambiguous_is_refused(
    made: Callable[[Tensor, Tensor], Any], name: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        returning_logits(returning(made).eval(), people(3).images, name)


def test_a_saved_program_must_return_its_logits_alone() -> None:
    images = people(3).images
    model = returning(lambda logits, seen: (logits, seen)).eval()
    program = export(model, (images,), dynamic_shapes=({0: Dim("n")},))
    graph: nn.Module = fx.symbolic_trace(model, concrete_args={"labels": None})
    for each in (program, graph):
        with pytest.raises(UsageError, match=r"must return its logits alone, .* returns '0' only"):
            returning_logits(each, images, None)
