"""Individuals planted in the gradient of a small network that ends in a convolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.threat.observation import Observation
from leakbench.threat.server import Auxiliary, FeatureSpace, Server

SHAPE = (3, 8, 8)
"""Of the images; the last maps have 2×2 positions."""


def network(
    classes: int = 2,
    activation: nn.Module | None = None,
    seed: int = 0,
    inputs: int = 48,
    channels: int = 192,
    kernel: int = 1,
) -> SharedModel:
    """A convolution of patches, and one with BatchNorm as trained networks have it."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(channels)
    extractor = nn.Sequential(
        nn.Conv2d(3, inputs, 4, stride=4),
        nn.Tanh(),
        nn.Sequential(
            nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, bias=False),
            norm,
            activation or nn.ReLU(),
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    nn.init.normal_(extractor[0].weight, std=0.4)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.3, 0.3)
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.1, 0.3)
    return SharedModel(extractor, nn.Sequential(nn.Linear(channels, classes))).eval()


@dataclass(frozen=True)
class PlantedImages:
    """A network, a batch, and images of D_aux."""

    model: SharedModel
    images: Tensor
    labels: Tensor
    auxiliary: Tensor

    @property
    def features(self) -> Tensor:
        return self.model.features(self.images).detach()

    @property
    def update(self) -> dict[str, Tensor]:
        return client_update(self.model, self.images, self.labels)

    @property
    def server(self) -> Server:
        count, classes = len(self.auxiliary), self.model.classifier[0].out_features
        return Server(
            classes=classes,
            image_shape=SHAPE,
            properties=(),
            model=self.model,
            auxiliary=Auxiliary(self.auxiliary, torch.zeros(count).long(), {}, torch.arange(count)),
            feature_space=FeatureSpace(
                self.model.features(self.auxiliary).detach(), lambda features: {}
            ),
        )

    def found(
        self, update: Mapping[str, Tensor] | None = None, reflections: int = 400
    ) -> RecoveredIndividuals:
        """What the attack finds in its update, or in another."""
        observation = Observation(len(self.labels), 0, update or self.update)
        attack = ConvolutionDemixing(reflections=reflections, reflected_at_once=32)
        (found,) = attack.recovered(self.server, [observation], lambda share: None)
        return found

    def falsely_certified(self, found: RecoveredIndividuals) -> int:
        """How many certified features are nobody's."""
        space = self.model.features(self.auxiliary).detach().double()
        mean, deviation = space.mean(0), space.std(0).clamp_min(1e-6)
        certified = (found.features[found.certified] - mean) / deviation
        true = (self.features.double() - mean) / deviation
        if not len(certified):
            return 0
        cosines = functional.cosine_similarity(certified[:, None], true[None], dim=2)
        return int((cosines.amax(1) < CERTIFIED).sum())


def planted_images(individuals: int, model: SharedModel, seed: int = 0) -> PlantedImages:
    """Images that have something in common."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.rand(1, *SHAPE, generator=draw)
    images = (common + 0.5 * torch.randn(individuals + 100, *SHAPE, generator=draw)).clamp(0, 1)
    classes = model.classifier[0].out_features
    labels = torch.randint(classes, (individuals,), generator=draw)
    return PlantedImages(model, images[:individuals], labels, images[individuals:])
