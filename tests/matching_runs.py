"""Runs of the engine of gradient matching whose distances are scripted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from leakbench.attacks.matching.distance import Gradients
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.method import (
    Method,
    Reconstruction,
    Victim,
)
from leakbench.attacks.matching.optimisers import Optimiser, State
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.shared_model import Architecture, SharedModel

CLASSES = 4


IMAGE = (3, 16, 16)


PIXELS = 3 * 16 * 16


def built(architecture: Architecture) -> SharedModel:
    """A model in double precision whose BatchNorm layers have seen some images."""
    torch.manual_seed(0)
    model = architecture.build(CLASSES, 16, "convolutions").double()
    for _ in range(3):
        model(torch.rand(8, *IMAGE, dtype=torch.float64))
    return model.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Walk(Optimiser):
    """Moves every variable by `pace` times the factor, whatever the gradient; keeps a log."""

    pace: float | Tensor = 0.01
    log: list[Step] = field(default_factory=list)

    def begin(self, variables: Tensor, steps: int) -> State:
        return {"age": variables.new_zeros(len(variables))}

    def step(
        self, variables: Tensor, gradient: Tensor, state: State, factor: Tensor, number: int
    ) -> tuple[Tensor, State, Tensor]:
        self.log.append(Step(variables, gradient, factor.flatten().tolist(), number, state["age"]))
        stalled = torch.zeros(len(variables), dtype=torch.bool)
        return variables + self.pace * factor, {"age": state["age"] + 1}, stalled


@dataclass(frozen=True)
class Step:
    variables: Tensor
    gradient: Tensor
    factor: list[float]
    number: int
    age: Tensor


def uniform(victim: Victim, generator: torch.Generator) -> Tensor:
    return torch.rand(victim.batch_size, *IMAGE, generator=generator, dtype=torch.float64)


def flat(gradients: Gradients) -> Tensor:
    """Zero for each run, but a function of its gradients."""
    return 0 * next(reversed(gradients.values())).flatten(1).sum(1)


def scripted() -> Callable[[Gradients, Gradients], Tensor]:
    """A distance that each victim's `update` says in advance, evaluation by evaluation."""
    evaluation = count()

    def distance(gradients: Gradients, target: Gradients) -> Tensor:
        return target["script"][:, next(evaluation)] + flat(gradients)

    return distance


def script(*distances: float, seed: int = 0) -> Victim:
    return Victim({"script": torch.tensor(distances).double()}, torch.tensor([0]), 1, seed)


def run_method(
    method: Method, *victims: Victim, model: SharedModel | None = None
) -> list[Reconstruction]:
    return match_gradients(
        model or built(LeNet()), method, victims, CLASSES, progress=lambda share: None
    )


def run_script(
    *victims: Victim, optimiser: Walk | None = None, **how: Any
) -> tuple[list[Reconstruction], list[Step]]:
    """Run victims whose update is a script; return the answers and each evaluation's step."""
    method = Method(
        distance=scripted(),
        optimiser=optimiser or Walk(),
        start=uniform,
        steps=len(victims[0].update["script"]),
        projected=0,
    )
    method = replace(method, **how)
    return run_method(method, *victims), method.optimiser.log


def innermost(images: Tensor) -> Tensor:
    """Images (..., 3, size, size) as variables have them: flat, channels innermost."""
    return images.movedim(-3, -1).flatten()
