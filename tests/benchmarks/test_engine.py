"""IG by three engines on the same models, victims, starts and labels, one thread: `tox -e perf`.

Each attacks `VICTIMS` batches for `STEPS` steps: leakbench side by side, the others one by one.
In the ordinary tests every engine runs once, which shows that it works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_peers import SIZE, breaching_ig, in_centred_pixels
from torch import Tensor
from torch.nn import functional

from attacks.gradient_matching import match_gradients
from attacks.ig import InvertingGradients
from attacks.method import CENTRED, Victim
from attacks.priors import total_variation
from bench.federation import client_update
from bench.models import LeNet, SharedModel, SmallCNN
from bench.threat import Server

CLASSES, STEPS = 8, 10
VICTIMS = {1: 16, 8: 4, 32: 1}
MODELS = {"lenet": LeNet(), "small_cnn": SmallCNN()}

Batch = tuple[dict[str, Tensor], Tensor, Tensor]
"""Update, labels, start of one victim."""


def leakbench(model: SharedModel, batches: list[Batch], attack: InvertingGradients) -> Any:
    server = Server(CLASSES, (3, SIZE, SIZE), (), model=model)
    method = replace(attack.method(server), start=lambda victim, _: batches[victim.seed][2])
    victims = [Victim(u, y, len(y), seed) for seed, (u, y, _) in enumerate(batches)]
    return match_gradients(model, method, victims, CLASSES, lambda share: None)


def breaching(model: SharedModel, batches: list[Batch], attack: InvertingGradients) -> Any:
    peer = in_centred_pixels(model)
    return [breaching_ig(peer, u, y, start, attack.tv, STEPS) for u, y, start in batches]


def plain_loop(model: SharedModel, batches: list[Batch], attack: InvertingGradients) -> Any:
    return [plain_ig(model, u, y, start, attack.tv) for u, y, start in batches]


def plain_ig(
    model: SharedModel, update: dict[str, Tensor], labels: Tensor, start: Tensor, tv: float
) -> Tensor:
    """IG as one would write it first, its schedule and best iterate left out."""
    parameters, target = list(model.parameters()), list(update.values())
    images = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([images], lr=0.1)
    length = torch.stack([t.square().sum() for t in target]).sum().sqrt()
    for _ in range(STEPS):
        loss = functional.cross_entropy(model(CENTRED.to_pixels(images)), labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        inner = torch.stack([(g * t).sum() for g, t in zip(gradients, target, strict=True)]).sum()
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        objective = 1 - inner / (norm * length) + tv * total_variation(images[None]).sum()
        (images.grad,) = torch.autograd.grad(objective, images)
        images.grad.sign_()
        optimiser.step()
        with torch.no_grad():
            images.clamp_(CENTRED.low, CENTRED.high)
    return CENTRED.to_pixels(images.detach())


@pytest.mark.parametrize("engine", [leakbench, plain_loop, breaching], ids=lambda e: e.__name__)
@pytest.mark.parametrize("batch_size", VICTIMS)
@pytest.mark.parametrize("name", MODELS)
def test_ig(name: str, batch_size: int, engine: Callable[..., Any], benchmark: Any) -> None:
    torch.manual_seed(0)
    model = MODELS[name].build(CLASSES, SIZE, "convolutions").eval()
    batches = []
    for _ in range(VICTIMS[batch_size]):
        labels = torch.randint(CLASSES, (batch_size,)).sort().values
        update = client_update(model, torch.rand(batch_size, 3, SIZE, SIZE), labels)
        batches.append((update, labels, torch.randn(batch_size, 3, SIZE, SIZE)))
    found = benchmark.pedantic(
        engine, (model, batches, InvertingGradients(budget=STEPS)), rounds=3, warmup_rounds=1
    )
    assert len(found) == len(batches)
    seconds = benchmark.stats.stats.median if benchmark.stats else 0.0
    benchmark.extra_info["ms per victim and step"] = 1e3 * seconds / (STEPS * len(batches))
