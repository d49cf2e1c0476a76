"""Individuals planted in the gradient of a small network that ends as deployed ones do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.linear_layers.certifying_attack import CertifyingAttack
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.metrics.standardisation import Standardisation
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


def of_blocks(*blocks: nn.Module, channels: int, classes: int = 2, stride: int = 4) -> SharedModel:
    """A convolution of patches, blocks of maps as trained networks have them, and an average.

    Args:
        channels: that the blocks take.
        stride: of the patches; maps have 8 / stride positions a side.
    """
    extractor = nn.Sequential(
        nn.Conv2d(3, channels, 4, stride=stride, padding=0 if stride == 4 else 1),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    for module in extractor.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.1, 0.3)
    return SharedModel(extractor, nn.Sequential(nn.Linear(channels, classes))).eval()


def residual_network(seed: int = 0, classes: int = 2, stride: int = 4) -> SharedModel:
    """The block of torchvision's ResNet-18."""
    torch.manual_seed(seed)
    return of_blocks(BasicBlock(128, 128), channels=128, classes=classes, stride=stride)


def bottleneck_network(seed: int = 0, classes: int = 2) -> SharedModel:
    """The block of torchvision's ResNet-50."""
    torch.manual_seed(seed)
    return of_blocks(Bottleneck(256, 64), channels=256, classes=classes)


@dataclass(frozen=True)
class PlantedImages:
    """A network, a batch, inputs of D_aux, and the attack for the network's end."""

    model: SharedModel
    images: Tensor
    labels: Tensor
    auxiliary: Tensor
    attack: CertifyingAttack | None = None

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
            image_shape=tuple(self.images.shape[1:]),
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
        usual = ConvolutionDemixing(volleys=20, reflections=reflections, reflected_at_once=32)
        attack = self.attack or usual
        (found,) = attack.recovered(self.server, [observation], lambda share: None)
        return found

    def falsely_certified(self, found: RecoveredIndividuals) -> int:
        """How many certified features are nobody's, standardised as scores are."""
        standardise = Standardisation.of(self.model.features(self.auxiliary).detach().double())
        certified = standardise(found.features[found.certified])
        true = standardise(self.features.double())
        if not len(certified):
            return 0
        cosines = functional.cosine_similarity(certified[:, None], true[None], dim=2)
        return int((cosines.amax(1) < CERTIFIED).sum())


def planted_images(
    individuals: int, model: SharedModel, seed: int = 0, attack: CertifyingAttack | None = None
) -> PlantedImages:
    """Images that have something in common."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.rand(1, *SHAPE, generator=draw)
    images = (common + 0.5 * torch.randn(individuals + 100, *SHAPE, generator=draw)).clamp(0, 1)
    classes = model.classifier[0].out_features
    labels = torch.randint(classes, (individuals,), generator=draw)
    return PlantedImages(model, images[:individuals], labels, images[individuals:], attack)


HOSTILE = (
    "duplicates",
    "duplicates of another label",
    "near-duplicates",
    "half precision",
    "rounded to half precision",
    "stale weights",
    "noise",
)
"""What tempts to a false certificate."""


def hostile(
    kind: str,
    build: Callable[[int], SharedModel],
    seed: int,
    attack: CertifyingAttack | None = None,
) -> tuple[PlantedImages, dict[str, Tensor]]:
    """A batch of four, and an update that tempts to a false certificate; or none of that.

    Args:
        build: the same model for a seed each time.
    """
    batch = planted_images(4, build(seed), seed, attack)
    images, labels = batch.images.clone(), batch.labels.clone()
    if kind == "duplicates":
        images[1], labels[1] = images[0], labels[0]
    elif kind == "duplicates of another label":
        images[1], labels[1] = images[0], 1 - labels[0]
    elif kind == "near-duplicates":
        images[1] = images[0] + 1e-4 * torch.randn(SHAPE)
    batch = replace(batch, images=images, labels=labels)
    update = batch.update
    if kind == "half precision":
        update = {name: value.half() for name, value in update.items()}
    elif kind == "rounded to half precision":
        update = {name: value.half().float() for name, value in update.items()}
    elif kind == "stale weights":
        moved = build(seed)
        with torch.no_grad():
            for each in moved.parameters():
                each.add_(0.02 * each.abs().mean() * torch.randn_like(each))
        update = replace(batch, model=moved).update
    elif kind == "noise":
        update = {n: v + 1e-2 * v.std() * torch.randn_like(v) for n, v in update.items()}
    return batch, update
