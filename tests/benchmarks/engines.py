"""The same attacks by three engines, each with a clock of its steps: leakbench, a loop, breaching.

All get one thread, the same models, victims, labels and starts. Leakbench attacks victims side by
side, the others, which cannot, one by one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from faces import faces
from leakbench.attacks.dlg import DeepLeakage
from leakbench.attacks.feature import FeatureReconstruction, QuasiNewtonFeatureReconstruction
from leakbench.attacks.gradinversion import GradInversion
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import Iterate, Method, Victim
from leakbench.base.choices import Compiling
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.resnet18 import ResNet18
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Normalise, SharedModel
from leakbench.threat.server import Auxiliary, Server
from peers import attack_config, in_centred_pixels, reconstruct

CLASSES = 8

MODELS = {"lenet": LeNet(), "small_cnn": SmallCNN()}

BACKBONES = ("resnet18", "mobilenet_v2")
"""Deep networks, for which few steps must do."""

ATTACKS: dict[str, Callable[[int], GradientMatching]] = {
    "DLG": lambda budget: DeepLeakage(budget=budget, labels="known"),
    "IG": lambda budget: InvertingGradients(budget=budget),
    "GradInversion": lambda budget: GradInversion(budget=budget, seeds=1, batch_norm="none"),
    "Proposed": lambda budget: FeatureReconstruction(budget=budget),
    "Proposed, L-BFGS": lambda budget: QuasiNewtonFeatureReconstruction(budget=budget),
}


@dataclass(frozen=True)
class Work:
    """Victims of one batch size, and the method they are attacked by.

    Attributes:
        model: in eval mode.
        victims: `victims[i].seed` is i.
        starts: first images of each, in the coordinates of `method.pixels`, (n, B, 3, size, size).
        attack: its name.
        method: with these starts.
        compiling: for leakbench.
    """

    model: SharedModel
    victims: Sequence[Victim]
    starts: Tensor
    attack: str
    method: Method
    compiling: Compiling


def work(
    attack: str,
    model: SharedModel,
    batches: Sequence[tuple[Tensor, Tensor]],
    steps: int,
    compiling: Compiling,
) -> Work:
    """Return an attack's work on victim batches of images (B, 3, size, size) and labels (B,).

    Model and batches are on one device, where the engines then compute.
    """
    images, labels = batches[0]
    shape, nobody = images.shape, labels.new_zeros(1)
    auxiliary = Auxiliary(images.new_zeros(1, *shape[1:]), nobody, {}, nobody)
    server = Server(CLASSES, tuple(shape[1:]), (), model=model, auxiliary=auxiliary)
    method = ATTACKS[attack](steps).method(server)
    victims = [
        Victim(client_update(model, images, labels), labels, len(labels), number)
        for number, (images, labels) in enumerate(batches)
    ]
    generator = torch.Generator().manual_seed(0)
    starts = torch.stack([method.start(victim, generator) for victim in victims]).to(images.device)
    method = replace(method, start=lambda victim, _: starts[victim.seed])
    return Work(model, victims, starts, attack, method, compiling)


@dataclass(frozen=True)
class Done:
    """What an engine found, in [0, 1] and (n, B, 3, size, size), and how long it took.

    Attributes:
        seconds: in all.
        step: milliseconds of one victim's step, the median; set-up and compiling are not in it.
    """

    images: Tensor
    seconds: float
    step: float


Engine = Callable[[Work], Done]


def leakbench(work: Work) -> Done:
    """The engine under test."""
    clock: list[float] = []
    shares: list[float] = []

    def tell(share: float) -> None:
        clock.append(time.perf_counter())
        shares.append(share)

    began = time.perf_counter()
    found = match_gradients(work.model, work.method, work.victims, CLASSES, tell, work.compiling)
    seconds = time.perf_counter() - began
    # The share grows with the victims that stepped; where it grows by more, runs have ended.
    per_share = [
        (after - before) / (more - less)
        for before, after, less, more in zip(clock, clock[1:], shares, shares[1:], strict=False)
    ]
    whole = statistics.median(per_share)
    step = 1e3 * whole / (len(work.victims) * work.method.steps)
    return Done(torch.stack([reconstruction.images for reconstruction in found]), seconds, step)


def plain_loop(work: Work) -> Done:
    """What one would write first: `torch.optim` around `torch.autograd`, one victim at a time."""
    began = time.perf_counter()
    found, steps = [], []
    for victim in work.victims:
        clock = Clock(work.model)
        found.append(_plain(clock, work, victim))
        steps.append(clock.median())
    return _done(work, found, began, steps)


def _plain(model: nn.Module, work: Work, victim: Victim) -> Tensor:
    method = work.method
    images = work.starts[victim.seed].clone().requires_grad_()
    parameters = list(work.model.parameters())
    target = {name: gradient[None] for name, gradient in victim.update.items()}
    none = images.new_zeros(1)
    lbfgs = work.attack == "DLG"
    optimiser: torch.optim.Optimizer = torch.optim.Adam([images], lr=0.1)
    if lbfgs:
        optimiser = torch.optim.LBFGS([images], max_iter=EVALUATIONS)

    def closure() -> Tensor:
        loss = functional.cross_entropy(model(method.pixels.to_pixels(images)), victim.labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        named = {name: g[None] for name, g in zip(target, gradients, strict=True)}
        objective = method.distance(named, target).sum()
        if method.prior is not None:
            objective = objective + method.prior(Iterate(images[None], none, none, {}, {})).sum()
        (slope,) = torch.autograd.grad(objective, images)
        images.grad = slope.contiguous()
        if work.attack == "IG":
            images.grad.sign_()
        return objective

    for _ in range(method.steps // EVALUATIONS if lbfgs else method.steps):
        optimiser.step(closure)  # type: ignore[arg-type]
        if method.projected:
            with torch.no_grad():
                images.clamp_(method.pixels.low, method.pixels.high)
    return method.pixels.to_pixels(images.detach())


def breaching(work: Work) -> Done:
    """The peer, with its own form of the attack; it has none of the proposed one."""
    pytest.importorskip("breaching", reason="the `peers` extra is not installed")
    peer, config = in_centred_pixels(work.model), _config(work)
    began = time.perf_counter()
    found, steps = [], []
    for victim in work.victims:
        clock = Clock(peer)
        start = work.starts[victim.seed]
        found.append(reconstruct(clock, config, victim.update, victim.labels, start))
        steps.append(clock.median())
    return _done(work, [work.method.pixels.to_pixels(x) for x in found], began, steps)


ENGINES: dict[str, Engine] = {
    "leakbench": leakbench,
    "plain loop": plain_loop,
    "breaching": breaching,
}


def _done(work: Work, found: list[Tensor], began: float, steps: list[float]) -> Done:
    return Done(torch.stack(found), time.perf_counter() - began, statistics.median(steps))


class Times(list[float]):
    """A list that copies of a model share; breaching copies the model it is given."""

    def __deepcopy__(self, memo: Any) -> Times:
        return self


class Clock(nn.Module):
    """A model that keeps the time of every forward pass, of which a step has one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.times = Times()

    def forward(self, images: Tensor) -> Tensor:
        self.times.append(time.perf_counter())
        return self.model(images)  # type: ignore[no-any-return]

    def median(self) -> float:
        """Return the median milliseconds from one pass to the next."""
        passes = zip(self.times, self.times[1:], strict=False)
        return 1e3 * statistics.median([after - before for before, after in passes])


def _config(work: Work) -> Any:
    """Return breaching's configuration of an attack with known labels."""
    iterations = f"optim.max_iterations={work.method.steps}"
    if work.attack == "IG":
        tv = "regularization.total_variation.scale=1e-4"
        return attack_config("invertinggradients", tv, iterations)
    if work.attack == "GradInversion":
        return attack_config("seethroughgradients", "~regularization.deep_inversion", iterations)
    # Its own preset seeks the labels too; DLG's objective and optimiser, labels known.
    return attack_config(
        "invertinggradients",
        *("objective.type=euclidean", "optim.optimizer=L-BFGS", "optim.signed=null"),
        *("optim.boxed=False", "optim.step_size=1.0", "~regularization"),
        f"optim.max_iterations={work.method.steps // EVALUATIONS}",
    )


def batches(number: int, batch_size: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return victim batches of synthetic faces with random labels."""
    generator = torch.Generator().manual_seed(0)
    count = number * batch_size
    images = faces(count, size, max(64, count)).view(number, batch_size, 3, size, size)
    labels = torch.randint(CLASSES, (number, batch_size), generator=generator).sort(1).values
    return list(zip(images, labels, strict=True))


def built(model: str, size: int) -> SharedModel:
    """Return an untrained model of the benchmark."""
    torch.manual_seed(0)
    if model == "mobilenet_v2":
        return _mobilenet_v2().eval()
    if model == "resnet18":
        return ResNet18().build(CLASSES, size, "convolutions").eval()
    return MODELS[model].build(CLASSES, size, "convolutions").eval()


def _mobilenet_v2() -> SharedModel:
    """Return torchvision's network behind the pixels that breaching centres as we do."""
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2()
    network.classifier = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = False  # which a second derivative does not allow
    output = nn.Linear(network.last_channel, CLASSES)
    return SharedModel(nn.Sequential(Normalise(), network), nn.Sequential(output))


EVALUATIONS = 20
"""Of a step of `torch.optim.LBFGS`."""
