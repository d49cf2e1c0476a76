"""A sound attack, and for each rule of the conformance suite one that breaks it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from leakbench.threat.attack import Attack, AttackResult
from leakbench.threat.knowledge import Knowledge

NEEDS = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY


@dataclass(frozen=True, kw_only=True)
class Sound(Attack):
    """Answers with random individuals of D_aux.

    Attributes:
        shift: added to no score.
    """

    title = "Sound"
    reference = "none"

    shift: float = 0.0

    @property
    def required_knowledge(self):
        return NEEDS

    def infer(self, server, observations, progress):
        progress(1.0)
        return [self.answer(server, observation) for observation in observations]

    def answer(self, server, observation):
        generator = torch.Generator().manual_seed(observation.seed)
        return drawn(server, observation, generator)


def drawn(server, observation, generator):
    rows = server.auxiliary.draw(None, observation.batch_size, generator)
    features = server.feature_space.features[rows]
    return AttackResult(scores=server.feature_space.property_model(features), features=features)


def with_scores(answer, change):
    return replace(answer, scores={name: change(score) for name, score in answer.scores.items()})


class NoDataclass(Sound):
    """Forgot its decorator."""


@dataclass
class CanBeChanged(Attack):
    """Not frozen."""

    title = "Changing"
    reference = "none"

    @property
    def required_knowledge(self):
        return NEEDS

    infer = Sound.infer
    answer = Sound.answer


@dataclass(frozen=True, kw_only=True)
class Undocumented(Sound):
    """Says nothing of its parameter."""

    steps: int = 3


@dataclass(frozen=True, kw_only=True)
class NoDocstring(Sound):
    pass


@dataclass(frozen=True, kw_only=True)
class NoJSON(Sound):
    """Has a path.

    Attributes:
        weights: where they are.
    """

    weights: Path = Path("weights")


@dataclass(frozen=True, kw_only=True)
class NotANumber(Sound):
    """Has NaN.

    Attributes:
        limit: none.
    """

    limit: float = math.nan


@dataclass(frozen=True, kw_only=True)
class NoReference(Sound):
    """Comes from nowhere."""

    reference = ""


@dataclass(frozen=True, kw_only=True)
class NoVersion(Sound):
    """Has no number."""

    version = "1.2"


@dataclass(frozen=True, kw_only=True)
class WrongPreset(Sound):
    """Its paper has a parameter that it has not."""

    presets: ClassVar = {"paper": {"speed": 3}}


@dataclass(frozen=True, kw_only=True)
class NoKnowledge(Sound):
    """Needs a word."""

    @property
    def required_knowledge(self):
        return "update"


@dataclass(frozen=True, kw_only=True)
class Clairvoyant(Sound):
    """Sees the truth."""

    @property
    def required_knowledge(self):
        return NEEDS | Knowledge.FEATURES


class OldControl(Sound):
    """Says that it is a control, and not which."""

    control = True


@dataclass(frozen=True, kw_only=True)
class Priceless(Sound):
    """Takes nobody knows how long."""

    def work(self, batch_size):
        return math.nan


@dataclass(frozen=True, kw_only=True)
class TooManyRows(Sound):
    """Answers for one more."""

    def answer(self, server, observation):
        return super().answer(server, replace(observation, batch_size=observation.batch_size + 1))


@dataclass(frozen=True, kw_only=True)
class NaNOfBatches(Sound):
    """Normalises by what is zero for several."""

    def answer(self, server, observation):
        scale = 1.0 if observation.batch_size == 1 else math.nan
        return with_scores(super().answer(server, observation), lambda score: score * scale)


@dataclass(frozen=True, kw_only=True)
class WithGraph(Sound):
    """Forgot to detach."""

    def answer(self, server, observation):
        answer = super().answer(server, observation)
        return with_scores(answer, lambda score: score.requires_grad_())


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Sound):
    """Answers on another device."""

    def answer(self, server, observation):
        answer = super().answer(server, observation)
        return replace(answer, features=answer.features.to("meta"))


@dataclass(frozen=True, kw_only=True)
class Silent(Sound):
    """Tells no progress."""

    def infer(self, server, observations, progress):
        return super().infer(server, observations, lambda share: None)


@dataclass(frozen=True, kw_only=True)
class Backwards(Sound):
    """Falls behind."""

    def infer(self, server, observations, progress):
        progress(0.5)
        progress(0.25)
        return super().infer(server, observations, progress)


@dataclass(frozen=True, kw_only=True)
class Moody(Sound):
    """Draws from nowhere that can be seeded."""

    def answer(self, server, observation):
        seed = int(np.random.default_rng().integers(2**31))
        return drawn(server, observation, torch.Generator().manual_seed(seed))


@dataclass(frozen=True, kw_only=True)
class SaysItIsNotRandom(Sound):
    """It draws from the seed."""

    is_random = False


@dataclass(frozen=True, kw_only=True)
class Global(Sound):
    """Draws from PyTorch's global generator."""

    def answer(self, server, observation):
        seed = int(torch.randint(2**31, ()))
        return drawn(server, observation, torch.Generator().manual_seed(seed))


@dataclass(frozen=True, kw_only=True)
class Seeding(Sound):
    """Seeds the global generators, so that its own answers never change."""

    def answer(self, server, observation):
        torch.manual_seed(observation.seed)
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class SeedingNumpy(Sound):
    """Seeds NumPy's."""

    def answer(self, server, observation):
        np.random.seed(observation.seed)
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class SeedingRandom(Sound):
    """Seeds Python's."""

    def answer(self, server, observation):
        random.seed(observation.seed)
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class Crowded(Sound):
    """Draws all victims from the first one's seed."""

    def infer(self, server, observations, progress):
        first = observations[0].seed
        return super().infer(server, [replace(o, seed=first) for o in observations], progress)


@dataclass(frozen=True, kw_only=True)
class Spoiling(Sound):
    """Scales the update in place."""

    def answer(self, server, observation):
        for value in observation.update.values():
            value.mul_(2)
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class Popping(Sound):
    """Takes entries out of the update."""

    def answer(self, server, observation):
        observation.update.pop(next(iter(observation.update)))
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class Training(Sound):
    """Leaves the model in training mode."""

    def answer(self, server, observation):
        server.model.train()
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class Curious(Sound):
    """Looks at labels where there are any, and does not say so."""

    def answer(self, server, observation):
        if observation.labels is None:
            return super().answer(server, observation)
        rows = server.auxiliary.draw(
            observation.labels, observation.batch_size, torch.Generator().manual_seed(1)
        )
        features = server.feature_space.features[rows]
        return AttackResult(scores=server.feature_space.property_model(features), features=features)


@dataclass(frozen=True, kw_only=True)
class Ungranted(Sound):
    """Takes for granted what it does not declare."""

    def answer(self, server, observation):
        assert len(observation.labels) == observation.batch_size
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class Fragile(Sound):
    """Inverts what may be zero."""

    def answer(self, server, observation):
        norm = sum(float(value.square().sum()) for value in observation.update.values())
        assert 1 / norm > 0
        return super().answer(server, observation)


@dataclass(frozen=True, kw_only=True)
class Poisoned(Sound):
    """Passes NaN of the update on."""

    def answer(self, server, observation):
        spoilt = sum(float(value.sum()) for value in observation.update.values()) * 0
        return with_scores(super().answer(server, observation), lambda score: score + spoilt)


@dataclass(frozen=True, kw_only=True)
class Endless(Sound):
    """Counts its steps wrongly."""

    def answer(self, server, observation):
        return replace(super().answer(server, observation), steps=math.nan)


@dataclass(frozen=True, kw_only=True)
class AfraidOfZeros(Sound):
    """Takes an update for a plain gradient, which is nowhere exactly zero."""

    def answer(self, server, observation):
        last = list(observation.update.values())[-2]
        assert int((last == 0).sum()) < last.numel() / 2
        return super().answer(server, observation)
