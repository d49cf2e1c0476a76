"""A sound model, and for each rule of the conformance suite one that breaks it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from leakbench.federation.shared_model import Architecture, SharedModel


@dataclass(frozen=True, kw_only=True)
class Sound(Architecture):
    """One convolution and one layer.

    Attributes:
        width: channels.
    """

    reference = "none"

    width: int = 2

    def build(self, classes, size, split):
        return SharedModel(
            nn.Sequential(*self.layers(), nn.Flatten()), self.classifier(classes, size)
        )

    def layers(self):
        return [nn.Conv2d(3, self.width, 3, padding=1), nn.Sigmoid()]

    def classifier(self, classes, size):
        return nn.Sequential(nn.Linear(self.width * size**2, classes))


@dataclass(frozen=True, kw_only=True)
class NoSplits(Sound):
    """Cannot be split."""

    splits = ()


@dataclass(frozen=True, kw_only=True)
class Unflattened(Sound):
    """Has features with axes."""

    def build(self, classes, size, split):
        head = nn.Sequential(nn.Flatten(), *self.classifier(classes, size))
        return SharedModel(nn.Sequential(*self.layers()), head)


@dataclass(frozen=True, kw_only=True)
class OneTooMany(Sound):
    """Has a class too many."""

    def classifier(self, classes, size):
        return super().classifier(classes + 1, size)


@dataclass(frozen=True, kw_only=True)
class Softmaxed(Sound):
    """Ends with probabilities."""

    def classifier(self, classes, size):
        return nn.Sequential(*super().classifier(classes, size), nn.Softmax(1))


@dataclass(frozen=True, kw_only=True)
class Unbiased(Sound):
    """Has an output layer without bias."""

    def classifier(self, classes, size):
        return nn.Sequential(nn.Linear(self.width * size**2, classes, bias=False))


@dataclass(frozen=True, kw_only=True)
class Seeding(Sound):
    """Starts always with the same weights."""

    def build(self, classes, size, split):
        torch.manual_seed(0)
        return super().build(classes, size, split)


@dataclass(frozen=True, kw_only=True)
class Moody(Sound):
    """Starts with weights that nobody can have again."""

    def build(self, classes, size, split):
        model = super().build(classes, size, split)
        draw = torch.Generator()
        draw.seed()
        nn.init.normal_(next(model.parameters()), generator=draw)
        return model


class BatchNormal(nn.Module):
    def forward(self, images):
        return (images - images.mean(0)) * 10


@dataclass(frozen=True, kw_only=True)
class Crowded(Sound):
    """Normalises by the batch in evaluation too."""

    def layers(self):
        return [*super().layers(), BatchNormal()]


class Rounding(nn.Module):
    def forward(self, images):
        return (images * 4).round()


@dataclass(frozen=True, kw_only=True)
class Stepwise(Sound):
    """Has no slope."""

    def layers(self):
        return [Rounding(), *super().layers()]


@dataclass(frozen=True, kw_only=True)
class InPlace(Sound):
    """Overwrites what its gradient needs."""

    def layers(self):
        return [nn.Conv2d(3, self.width, 3, padding=1), nn.Sigmoid(), nn.ELU(inplace=True)]


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = torch.ones(1, 3, 1, 1)

    def forward(self, images):
        return images + self.by


@dataclass(frozen=True, kw_only=True)
class Left(Sound):
    """Has a constant that is no buffer."""

    def layers(self):
        return [Shift(), *super().layers()]


@dataclass(frozen=True, kw_only=True)
class Tied(Sound):
    """Has a layer twice."""

    def layers(self):
        layer = nn.Conv2d(3, 3, 3, padding=1)
        twin = nn.Conv2d(3, 3, 3, padding=1)
        twin.weight = layer.weight
        return [layer, nn.Sigmoid(), twin, *super().layers()]


@dataclass(frozen=True, kw_only=True)
class Obliging(Sound):
    """Checks nothing."""

    def check(self, size, split):
        pass
