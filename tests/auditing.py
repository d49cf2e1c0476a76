"""A user's model, and bright and dark images whose features tell them apart, for audits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench import LabelledImages, Report, audit
from leakbench.auditing.report_parts import AttackReport

SIZE = 8


class Net(nn.Module):
    """A model as a user writes one."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(8 * 16, 64), nn.ReLU(), nn.Linear(64, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def net(classes: int = 4) -> Net:
    torch.manual_seed(0)
    return Net(classes)


def people(count: int, seed: int = 0) -> LabelledImages:
    """Noise, brighter where the property `bright` is present; `coin` shows nowhere."""
    draw = torch.Generator().manual_seed(seed)
    bright = torch.arange(count) % 2 == 0
    images = 0.5 * torch.rand(count, 3, SIZE, SIZE, generator=draw)
    return LabelledImages(
        images=images + 0.4 * bright[:, None, None, None],
        labels=torch.randint(4, (count,), generator=draw),
        properties={
            "bright": bright,
            "coin": torch.randint(2, (count,), generator=draw).bool(),
        },
    )


def gradients(model: nn.Module, of: LabelledImages, size: int) -> dict[str, dict[str, Tensor]]:
    """The updates of clients with `size` individuals each."""
    return {
        f"client {number}": gradient(model, of, range(start, start + size))
        for number, start in enumerate(range(0, len(of), size))
    }


def gradient(model: nn.Module, of: LabelledImages, rows: Sequence[int]) -> dict[str, Tensor]:
    assert of.labels is not None
    loss = functional.cross_entropy(model(of.images[list(rows)]), of.labels[list(rows)])
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def in_batches(of: LabelledImages, size: int) -> LabelledImages:
    """The truth of `gradients`."""
    return replace(of, updates=[f"client {row // size}" for row in range(len(of))])


DEMIXING: dict[str, Any] = {"budget": 20, "reflections": 300}
"""Enough to find a few individuals, and soon at its end where nobody can be found."""


def audited(model: nn.Module, updates: Any, **changed: Any) -> Report:
    """An audit that takes seconds."""
    arguments: dict[str, Any] = {
        "split": "features",
        "auxiliary": people(120, seed=1),
        "properties": ("bright",),
        "attacks": {"mask_demixing": DEMIXING},
        "defenses": (),
        "property_model": "logistic",
    }
    return audit(model, updates=updates, **(arguments | changed))


VICTIMS = people(24, seed=2)


@cache
def audited_with_truth() -> Report:
    """An audit of 24 individuals whose truth is known, under two defenses."""
    model = net()
    return audited(
        model,
        gradients(model, VICTIMS, 4),
        truth=in_batches(VICTIMS, 4),
        attacks={"mask_demixing": DEMIXING, "newton_demixing": {}},
        defenses=[
            {"name": "gaussian", "sigma": 100.0},
            {"name": "secure_aggregation", "of": 4},
        ],
    )


def by_name(reports: Sequence[AttackReport]) -> dict[str, AttackReport]:
    return {report.name: report for report in reports}


def stepped(model: Net, steps: int, rate: float) -> Net:
    """The model after a client's steps."""
    own, of = copy.deepcopy(model), people(4)
    assert of.labels is not None
    optimiser = torch.optim.SGD(own.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(own(of.images), of.labels).backward()
        optimiser.step()
    return own
