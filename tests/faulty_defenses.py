"""A sound defense, and for each rule of the conformance suite one that breaks it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from leakbench.federation.defense import Defense


@dataclass(frozen=True, kw_only=True)
class Sound(Defense):
    """Halves the update.

    Attributes:
        factor: what is left.
    """

    reference = "none"

    factor: float = 0.5

    def protect(self, compute):
        def protected(client):
            return {name: self.change(value, client) for name, value in compute(client).items()}

        return protected

    def change(self, value, client):
        return self.factor * value


@dataclass(frozen=True, kw_only=True)
class NoStage(Sound):
    """Comes in somewhere."""

    stage = 7


@dataclass(frozen=True, kw_only=True)
class NoReference(Sound):
    """Comes from nowhere."""

    reference = " "


@dataclass(frozen=True, kw_only=True)
class Global(Sound):
    """Draws from PyTorch's global generator."""

    def change(self, value, client):
        return value + torch.randn(value.shape)


@dataclass(frozen=True, kw_only=True)
class Seeding(Sound):
    """Seeds it."""

    def change(self, value, client):
        torch.manual_seed(0)
        return value


@dataclass(frozen=True, kw_only=True)
class LeavingOut(Sound):
    """Sends only the classifier."""

    def protect(self, compute):
        return lambda client: {
            name: value for name, value in compute(client).items() if name.startswith("classifier.")
        }


@dataclass(frozen=True, kw_only=True)
class Flat(Sound):
    """Sends vectors."""

    def change(self, value, client):
        return value.flatten()


@dataclass(frozen=True, kw_only=True)
class Double(Sound):
    """Sends twice the bits."""

    def change(self, value, client):
        return value.double()


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Sound):
    """Sends from another device."""

    def change(self, value, client):
        return value.to("meta")


@dataclass(frozen=True, kw_only=True)
class WithGraph(Sound):
    """Forgot to detach."""

    def change(self, value, client):
        return value.requires_grad_()


@dataclass(frozen=True, kw_only=True)
class Overflowing(Sound):
    """Divides by nothing."""

    def change(self, value, client):
        return value / 0


@dataclass(frozen=True, kw_only=True)
class Spoiling(Sound):
    """Changes the client's model."""

    def change(self, value, client):
        with torch.no_grad():
            next(client.model.parameters()).mul_(2)
        return value


@dataclass(frozen=True, kw_only=True)
class Blurring(Sound):
    """Changes the client's images."""

    def change(self, value, client):
        client.images.mul_(0.5)
        return value


@dataclass(frozen=True, kw_only=True)
class Watching(Sound):
    """Leaves a hook behind."""

    def change(self, value, client):
        client.model.classifier.register_forward_hook(lambda module, inputs, output: None)
        return value


@dataclass(frozen=True, kw_only=True)
class Crowded(Sound):
    """Is several clients even by itself."""

    @property
    def clients(self):
        return 3


@dataclass(frozen=True, kw_only=True)
class Exploding(Sound):
    """Cannot be trained with."""

    factor: float = 1e30


@dataclass(frozen=True, kw_only=True)
class Overtrusting(Sound):
    """Believes twice."""

    def reliability(self, update, individuals):
        return {name: torch.full_like(value, 2.0) for name, value in update.items()}


@dataclass(frozen=True, kw_only=True)
class Misshapen(Sound):
    """Has a factor of another shape."""

    def reliability(self, update, individuals):
        return {name: torch.ones(3) for name in update}


@dataclass(frozen=True, kw_only=True)
class Mixing(Sound):
    """Normalises over all runs."""

    def surrogate(self, gradients):
        return {name: value / value.norm() for name, value in gradients.items()}


@dataclass(frozen=True, kw_only=True)
class Steep(Sound):
    """Rounds."""

    def surrogate_of_individuals(self, gradients):
        return {name: value.detach().round() for name, value in gradients.items()}


@dataclass(frozen=True, kw_only=True)
class AfraidOfSize(Sound):
    """Assumes the toy model's classes."""

    example_parameters: ClassVar = {"factor": 0.25}

    def change(self, value, client):
        return value * (math.nan if client.images.shape[-1] > 16 else 1.0)


@dataclass(frozen=True, kw_only=True)
class Silencing(Sound):
    """Sends infinity to whoever attacks three individuals or more, by way of clients it has."""

    def change(self, value, client):
        return value * (math.inf if client.images.shape[-1] > 16 and len(client.images) == 2 else 1)
