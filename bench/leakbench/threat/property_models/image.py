"""A property model on images, trained on D_aux: an alternative to f_p on deep features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.base.cache import cached_tensors
from leakbench.base.seeds import digest, seed_for, tensor_digest
from leakbench.federation.shared_model import Normalise
from leakbench.threat.property_models.logistic import held_out_quarter
from leakbench.threat.server import Auxiliary, Server

VERSION = 1
EPOCHS = 12
BATCH = 64
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class ImagePropertyModel:
    """A small CNN with one output for each property.

    Attributes:
        properties: their names.
        network: images (n, 3, size, size) in [0, 1] to logits (n, properties).
    """

    properties: tuple[str, ...]
    network: nn.Module

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return each property's probability, shape (n,) each."""
        with torch.no_grad():
            parts = [self.network(part) for part in torch.split(images, 256)]
        return dict(zip(self.properties, torch.cat(parts).sigmoid().unbind(1), strict=True))


def image_property_model(server: Server) -> ImagePropertyModel:
    """Return the classifier trained on the server's D_aux, from the cache if possible."""
    auxiliary = server.auxiliary
    assert auxiliary is not None
    device = auxiliary.images.device
    tensors = [auxiliary.images, *auxiliary.properties.values(), auxiliary.identities]
    content = [tensor_digest(tensor) for tensor in tensors]
    key = digest("image property model", VERSION, content, server.properties)[:24]
    weights = cached_tensors(
        f"image-property-models/{key}-{device.type}",
        lambda: fit_image_property_model(auxiliary, seed_for(key)).state_dict(),
    )
    network = _network(len(server.properties), auxiliary.images.shape[-1])
    network.load_state_dict(weights)
    return ImagePropertyModel(tuple(auxiliary.properties), network.to(device).eval())


def fit_image_property_model(auxiliary: Auxiliary, seed: int) -> nn.Module:
    """Train the classifier, and keep the best epoch on a held-out quarter of D_aux's identities.

    Classes are weighted to balance, so that ½ is the threshold of balanced accuracy.
    """
    images = auxiliary.images
    present = torch.stack(list(auxiliary.properties.values()), 1).float()
    held_out = torch.from_numpy(held_out_quarter(auxiliary.identities.cpu().numpy(), seed))
    rows = (~held_out).nonzero().flatten()
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(present.shape[1], images.shape[-1]).to(images.device)
    share = present[rows.to(present.device)].mean(0).clamp(1e-3, 1 - 1e-3)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    best, best_weights = -1.0, network.state_dict()
    for _ in range(EPOCHS):
        network.train()
        for batch in torch.split(rows[torch.randperm(len(rows), generator=draw)], BATCH):
            chosen = batch.to(images.device)
            flipped = torch.rand(len(batch), generator=draw).to(images.device) < 0.5
            shown = torch.where(flipped.view(-1, 1, 1, 1), images[chosen].flip(3), images[chosen])
            truth = present[chosen]
            weight = truth / share + (1 - truth) / (1 - share)
            loss = functional.binary_cross_entropy_with_logits(network(shown), truth, weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        network.eval()
        reached = _balanced_accuracy(network, images[held_out.to(images.device)], present, held_out)
        if reached > best:
            best = reached
            best_weights = {name: t.clone() for name, t in network.state_dict().items()}
    network.load_state_dict(best_weights)
    return network


def _balanced_accuracy(
    network: nn.Module, images: Tensor, present: Tensor, held_out: Tensor
) -> float:
    """Return the mean balanced accuracy over properties on the people held out."""
    truth = present[held_out.to(present.device)].bool()
    with torch.no_grad():
        said = torch.cat([network(part) for part in torch.split(images, 256)]) > 0
    sensitivity = (said & truth).sum(0) / truth.sum(0).clamp_min(1)
    specificity = (~said & ~truth).sum(0) / (~truth).sum(0).clamp_min(1)
    return ((sensitivity + specificity) / 2).mean().item()


def _network(properties: int, size: int) -> nn.Sequential:
    layers: list[nn.Module] = [Normalise()]
    for inputs, outputs in ((3, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (size // 8) ** 2, properties))
