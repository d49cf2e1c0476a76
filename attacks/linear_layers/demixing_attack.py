"""What attacks have in common that demix a gradient: who is certain, and an answer for the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from leakbench.attacks.linear_layers.auxiliary_fallback import without_update
from leakbench.attacks.linear_layers.demixing.batch import Batch
from leakbench.attacks.linear_layers.demixing.effort import Effort
from leakbench.attacks.linear_layers.demixing.mixture import Demixed
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.base.errors import UsageError
from leakbench.base.plugins import FlatParameters, build, parameter_names, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.defense import Defense
from leakbench.metrics.matching import match_individuals
from leakbench.threat.attack import Attack, AttackResult, Progress, part_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import PropertyModel, Server

Demix = Callable[[Head, Sequence[Batch], tuple[Tensor, Tensor], Effort, Progress], list[Demixed]]
"""As `leakbench.attacks.linear_layers.demixing.search.demix_masks`."""


@dataclass(frozen=True, kw_only=True)
class DemixingAttack(FlatParameters, Attack):
    """Demixes each batch's gradient; another attack answers for individuals it does not find.

    An individual that is found is certified by running the feature through the layers again. Where
    not all individuals of a batch are found, the fallback attacks the whole update, and its
    reconstructions answer for the others.

    Attributes:
        rounds: of Newton's method, at most.
        runs_at_once: of this, of each victim batch.
        patience: rounds without a new individual after which the search ends.
        fallback: name of the attack that answers for individuals that are not found; it must
            reconstruct features.
        fallback_parameters: of that attack. Suites and `--set` give them by their own names beside
            those above, such as `budget`. `feature` recovers labels by `counts` unless told
            otherwise.
    """

    note = (
        "budget and labels are the fallback's, for batches that are not found exactly; the search "
        "itself computes no gradient"
    )
    optional_knowledge: ClassVar = Knowledge.DEFENSE
    example_parameters: ClassVar = {"budget": 8}

    rounds: Annotated[int, Field(ge=0)] = 100
    runs_at_once: Annotated[int, Field(gt=0)] = 32
    patience: Annotated[int, Field(gt=0)] = 10
    fallback: str = "feature"
    fallback_parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fallback_parameters.get("reads") == "images":
            raise ValueError("reads must be features: this attack finds no images")
        common = {*self._own_names()} & {*parameter_names(type(self.fallback_attack))}
        if common:
            raise UsageError(
                f"attack {self.name!r} cannot fall back on {self.fallback!r}: both have a "
                f"parameter {min(common)!r}; choose another fallback, such as feature"
            )

    @cached_property
    def fallback_attack(self) -> Attack:
        """The attack that answers for individuals that are not found."""
        return _fallback(self.fallback, self.fallback_parameters)

    @classmethod
    def _own_names(cls) -> list[str]:
        return [each.name for each in fields(cls) if each.name != "fallback_parameters"]

    @classmethod
    def flat_names(cls, given: Mapping[str, Any]) -> list[str]:
        """Return the names of the fallback's parameters and of its own."""
        fallback = ATTACKS.get(str(given.get("fallback", cls.fallback)))
        own = cls._own_names()
        return [*(name for name in parameter_names(fallback) if name not in own), *own]

    @classmethod
    def from_flat(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return its own parameters, and all of the fallback's as one mapping.

        Raises:
            UsageError: the fallback is unknown, or one of its parameters does not fit.
        """
        own = {name: parameters[name] for name in cls._own_names() if name in parameters}
        others = {name: value for name, value in parameters.items() if name not in own}
        fallback = _fallback(own.get("fallback", cls.fallback), others)
        return own | {"fallback_parameters": parameters_of(fallback)}

    def to_flat(self) -> dict[str, Any]:
        """Return the fallback's parameters and its own; `fallback` only where it is not `feature`.

        Cells that were published before there was a choice keep their keys.
        """
        own = {name: getattr(self, name) for name in self._own_names()}
        if self.fallback == type(self).fallback:
            del own["fallback"]
        return parameters_of(self.fallback_attack) | own

    @property
    def required_knowledge(self) -> Knowledge:
        """The model, the update and D_aux, and what the fallback needs."""
        own = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
        return own | self.fallback_attack.required_knowledge

    @property
    @abstractmethod
    def demix(self) -> Demix:
        """What demixes."""

    @abstractmethod
    def check_head(self, head: Head) -> None:
        """Refuse a classifier that it is not for.

        Raises:
            UsageError: names what to use.
        """

    @property
    def effort(self) -> Effort:
        """How long to search."""
        return Effort(rounds=self.rounds, runs=self.runs_at_once, patience=self.patience)

    def work(self, batch_size: int) -> float:
        """What a search takes that finds all; one that does not may take ten times as much."""
        return SEARCH * (1 + 8 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Demix each batch; match gradients of those that are not found whole."""
        assert server.model is not None and server.auxiliary is not None
        assert server.feature_space is not None
        refuse_batch_statistics(server, self.name)
        head = head_of(server.model, self.name)
        self.check_head(head)
        demixed = self.demix(
            head,
            [_batch(observation, server.defense) for observation in observations],
            (server.feature_space.features, server.auxiliary.labels),
            self.effort,
            part_of(progress, 0, 2),
        )
        found = [each[each.certain] for each in demixed]
        missing = [
            o for o, each in zip(observations, found, strict=True) if len(each) < o.batch_size
        ]
        rest = [o for o in missing if _is_finite(o)]
        matched = iter(self._fall_back(server, rest, part_of(progress, 1, 2)) if rest else [])
        progress(1.0)
        read = server.feature_space.property_model
        answers = []
        for observation, each in zip(observations, found, strict=True):
            if not _is_finite(observation):
                answers.append(without_update(server, observation))
            else:
                whole = len(each) == observation.batch_size
                answers.append(_answer(each, None if whole else next(matched), read, server))
        return answers

    def _fall_back(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return the fallback's answers.

        Raises:
            UsageError: it reconstructs no features.
        """
        results = self.fallback_attack.infer(server, observations, progress)
        if any(result.features is None for result in results):
            raise UsageError(
                f"attack {self.name!r} cannot fall back on {self.fallback!r}, which reconstructs "
                f"no features; choose another fallback, such as feature"
            )
        return results


def _fallback(name: str, parameters: Mapping[str, Any]) -> Attack:
    """Return the fallback `name`; see `FALLBACK_DEFAULTS`.

    Raises:
        UsageError: there is no such attack, or a parameter does not fit.
    """
    defaults = FALLBACK_DEFAULTS.get(name, {})
    attack: Attack = build(ATTACKS, name, {**defaults, **parameters})
    return attack


def _is_finite(observation: Observation) -> bool:
    assert observation.update is not None
    return all(bool(value.isfinite().all()) for value in observation.update.values())


def _batch(observation: Observation, defense: Defense | None) -> Batch:
    update, size = observation.update, observation.batch_size
    assert update is not None
    reliability = {} if defense is None else defense.reliability(dict(update), size)
    return Batch(update, size, observation.seed, reliability)


def refuse_batch_statistics(server: Server, attack: str) -> None:
    """Refuse features that depend on the batch, for which f_p is none.

    Raises:
        UsageError: says what to set.
    """
    assert server.model is not None
    if server.mode == "train" and batch_norm_layers(server.model):
        raise UsageError(
            f"attack {attack!r} needs clients that compute in evaluation mode where the model has "
            f"BatchNorm; take mode=eval, or model.batch_norm=false"
        )


def _answer(
    found: Demixed, matched: AttackResult | None, read: PropertyModel, server: Server
) -> AttackResult:
    """Return what is certain, and of who was matched besides those who are not the certain ones.

    Args:
        matched: dummies for the whole batch; none where all are certain.
    """
    assert server.model is not None
    device = next(server.model.parameters()).device
    features = found.features.float().to(device)
    labels: Tensor | None = found.labels.to(device)
    certified = found.certified.to(device)
    if matched is not None:
        assert labels is not None and matched.features is not None
        others = _others(features, matched.features)
        features = torch.cat([features, matched.features[others]])
        labels = None if matched.labels is None else torch.cat([labels, matched.labels[others]])
        certified = torch.cat([certified, certified.new_zeros(len(others))])
    return AttackResult(
        scores=read(features),
        features=features,
        labels=labels,
        certified=certified,
        loss=None if matched is None else matched.loss,
        steps=0 if matched is None else matched.steps,
        restarts=0 if matched is None else matched.restarts,
        diverged=matched is not None and matched.diverged,
    )


def _others(certain: Tensor, dummies: Tensor) -> Tensor:
    """Return the rows of dummies but those that are nearest to the certain ones, one to one."""
    taken, _ = match_individuals(dummies, certain)
    left = torch.ones(len(dummies), dtype=torch.bool)
    left[taken] = False
    return left.nonzero().flatten().to(dummies.device)


FALLBACK_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"feature": {"labels": "counts"}}
"""Fallback → parameters at which its own defaults need knowledge that demixing does without."""

SEARCH = 4.0
"""Work of the search for an individual of a large batch, in evaluations of its gradient."""
