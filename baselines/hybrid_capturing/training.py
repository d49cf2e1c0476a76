"""HCN's training, on D_aux alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.base.seeds import seed_for
from leakbench.baselines.hybrid_capturing.networks import (
    best_threshold,
    entropy,
    parametrised_loss,
    reader,
    regularised_loss,
)
from leakbench.threat.attack import Progress
from leakbench.threat.property_models.logistic import held_out_quarter
from leakbench.threat.server import Auxiliary

BATCH = 100
LEARNING_RATE = 1e-3
"""Adam's."""

Read = Callable[[Tensor], Tensor]
"""From F's logits to what is handed out of them."""

Build = Callable[[], nn.Sequential]
"""Returns an untrained F, from the inputs of `Examples` to logits (n, K)."""


@dataclass(frozen=True)
class Examples:
    """D_aux with one property, the secret.

    Attributes:
        inputs: of F: images in [0, 1], shape (n, 3, size, size), or features, shape (n, d).
        labels: y, main-task classes, shape (n,).
        secret: s, 0 or 1, shape (n,).
        held_out: validation rows, all images of a quarter of the people, shape (n,).
        classes: number K.
    """

    inputs: Tensor
    labels: Tensor
    secret: Tensor
    held_out: Tensor
    classes: int

    @classmethod
    def of(cls, auxiliary: Auxiliary, inputs: Tensor, secret: Tensor, classes: int) -> Examples:
        """Return D_aux with the people held out, the same for every property and form."""
        people = auxiliary.identities.cpu().numpy()
        held_out = torch.from_numpy(held_out_quarter(people, seed_for("hcn", "held out")))
        return cls(inputs, auxiliary.labels, secret.long(), held_out.to(inputs.device), classes)

    @property
    def weight(self) -> Tensor:
        """Weight of each value of s that balances the two in training, shape (2,)."""
        count = torch.bincount(self.secret[~self.held_out], minlength=2)
        return count.sum() / (2 * count.clamp_min(1))


def train_honest(
    data: Examples, build: Build, epochs: int, seed: int, progress: Progress
) -> nn.Sequential:
    """Return F trained for the main task alone; the best epoch's by validation accuracy."""
    with _seeded(seed, data.inputs.device):
        network = build().to(data.inputs.device)
        optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

        def step(rows: Tensor) -> None:
            network.train()
            loss = functional.cross_entropy(network(data.inputs[rows]), data.labels[rows])
            _descend(loss, optimiser)

        _keep_best(
            network, epochs, step, lambda: _main_accuracy(network, data), data, seed, progress
        )
    return network


def train_reader(
    network: nn.Sequential, data: Examples, read: Read, epochs: int, seed: int
) -> nn.Sequential:
    """Return G trained on the outputs of a finished F; the best epoch's by validation."""
    outputs = read(_logits(network, data.inputs))
    with _seeded(seed, data.inputs.device):
        curious = reader(data.classes).to(data.inputs.device)
        optimiser = torch.optim.Adam(curious.parameters(), lr=LEARNING_RATE)

        def step(rows: Tensor) -> None:
            curious.train()
            _descend(
                functional.cross_entropy(curious(outputs[rows]), data.secret[rows], data.weight),
                optimiser,
            )

        def value() -> float:
            with torch.no_grad():
                said = curious(outputs[data.held_out]).argmax(1)
            return _balanced_accuracy(said, data.secret[data.held_out])

        _keep_best(curious, epochs, step, value, data, seed, lambda _: None)
    return curious


def train_parametrised(
    data: Examples,
    build: Build,
    read: Read,
    betas: tuple[float, float, float],
    epochs: int,
    seed: int,
    progress: Progress,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return F and G, trained in turns on each batch; the best epoch's by weighted validation."""
    device, weight = data.inputs.device, data.weight
    with _seeded(seed, device):
        network = build().to(device)
        curious = reader(data.classes).to(device)
        of_network = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        of_curious = torch.optim.Adam(curious.parameters(), lr=LEARNING_RATE)

        def step(rows: Tensor) -> None:
            inputs, labels, secret = data.inputs[rows], data.labels[rows], data.secret[rows]
            network.eval()
            curious.train()
            with torch.no_grad():
                outputs = read(network(inputs))
            _descend(functional.cross_entropy(curious(outputs), secret, weight), of_curious)
            network.train()
            curious.eval()
            logits = network(inputs)
            loss = parametrised_loss(logits, labels, curious(read(logits)), secret, weight, betas)
            _descend(loss, of_network)

        def value() -> float:
            logits = _logits(network, data.inputs[data.held_out])
            with torch.no_grad():
                said = curious(read(logits)).argmax(1)
            known = _balanced_accuracy(said, data.secret[data.held_out])
            return _weighted(_accuracy(logits, data), known, betas[0], betas[1])

        both = nn.ModuleList([network, curious])
        _keep_best(both, epochs, step, value, data, seed, progress)
    return network, curious


def train_regularised(
    data: Examples,
    build: Build,
    betas: tuple[float, float],
    epochs: int,
    seed: int,
    progress: Progress,
) -> tuple[nn.Sequential, float]:
    """Return F and the entropy threshold τ; the best epoch's by weighted validation."""
    with _seeded(seed, data.inputs.device):
        network = build().to(data.inputs.device)
        optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

        def step(rows: Tensor) -> None:
            network.train()
            logits = network(data.inputs[rows])
            _descend(
                regularised_loss(logits, data.labels[rows], data.secret[rows], betas), optimiser
            )

        def value() -> float:
            logits = _logits(network, data.inputs[data.held_out])
            _, known = best_threshold(entropy(logits), data.secret[data.held_out])
            return _weighted(_accuracy(logits, data), known, *betas)

        _keep_best(network, epochs, step, value, data, seed, progress)
    validated = entropy(_logits(network, data.inputs[data.held_out]))
    return network, best_threshold(validated, data.secret[data.held_out])[0]


def _keep_best(
    network: nn.Module,
    epochs: int,
    step: Callable[[Tensor], None],
    value: Callable[[], float],
    data: Examples,
    seed: int,
    progress: Progress,
) -> None:
    """Take steps over all training batches of every epoch; leave the best epoch's weights."""
    draw = torch.Generator().manual_seed(seed)
    rows = (~data.held_out).cpu().nonzero().flatten()
    best, kept = -1.0, network.state_dict()
    for epoch in range(epochs):
        batches = torch.split(rows[torch.randperm(len(rows), generator=draw)], BATCH)
        # BatchNorm makes nothing of a last batch of one; the next epoch leaves out others.
        whole = [batch for batch in batches if len(batch) == BATCH] or batches
        for batch in whole:
            step(batch.to(data.inputs.device))
        network.eval()
        reached = value()
        if reached > best:
            best, kept = reached, {n: t.clone() for n, t in network.state_dict().items()}
        progress((epoch + 1) / epochs)
    network.load_state_dict(kept)
    network.eval()


def _descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a network in evaluation mode says, shape (n, classes)."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in torch.split(inputs, 256)])


def _main_accuracy(network: nn.Module, data: Examples) -> float:
    return _accuracy(_logits(network, data.inputs[data.held_out]), data)


def _accuracy(logits: Tensor, data: Examples) -> float:
    """Return the share of the people held out whose class is named."""
    return (logits.argmax(1) == data.labels[data.held_out]).float().mean().item()


def _balanced_accuracy(said: Tensor, secret: Tensor) -> float:
    right = (said == secret).float()
    shares = [right[secret == value].mean() for value in (0, 1) if bool((secret == value).any())]
    return torch.stack(shares).mean().item()


def _weighted(main: float, hidden: float, beta_main: float, beta_hidden: float) -> float:
    return (beta_main * main + beta_hidden * hidden) / (beta_main + beta_hidden)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed weights and dropout, and give the global generators back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
