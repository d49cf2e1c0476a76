"""An attack under test: what it observes, and how its results are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leakbench.base.registry import ATTACKS, Registry
from leakbench.conformance.check import Trial
from leakbench.conformance.setting import prepared_with
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.federation.batch_norm import batch_statistics
from leakbench.federation.client import client_update
from leakbench.threat.attack import Attack, AttackResult
from leakbench.threat.candidates import candidates_of
from leakbench.threat.deployment import serve
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation, observe
from leakbench.threat.server import Server, granted

Shown = tuple[Server, list[Observation]]
"""What an attack observes."""


@dataclass(frozen=True)
class AttackTrial(Trial):
    """An attack and what it is checked on.

    Attributes:
        device: where the server's tensors are.
    """

    registry: Registry = field(default=ATTACKS, init=False)
    device: str = "cpu"

    @property
    def attack(self) -> Attack:
        """The attack with the parameters that make it quick."""
        return self.built  # type: ignore[no-any-return]

    @property
    def context(self) -> EvaluationContext:
        """The small setup, changed as the attack needs it."""
        return prepared_with(self.plugin.example_setup, self.device)

    @property
    def batch_size(self) -> int:
        """B, as large as several individuals, or as the attack permits."""
        return min(3, self.plugin.largest_batch or 3)

    def shown(self, batch_size: int, everything: bool = False) -> Shown:
        """Return what the attack observes of two victim batches.

        Args:
            batch_size: B.
            everything: whether it is granted all knowledge instead of what it declares.
        """
        context, model = self.context, self.context.server.model
        assert model is not None
        knowledge = ~Knowledge.NOTHING if everything else self.attack.required_knowledge
        server = context.server if everything else granted(context.server, knowledge)
        truths = victim_batches(context, batch_size, individuals=2 * batch_size)
        outputs: Sequence[Mapping[str, Tensor]] = [{} for _ in truths]
        if Knowledge.OUTPUTS in self.attack.required_knowledge:
            images = [truth.images for truth in truths]
            outputs = serve(self.attack, server, images, lambda _: None)
        candidates = candidates_of(truths, torch.Generator().manual_seed(0))
        observations = [
            observe(
                truth,
                client_update(model, truth.images, truth.labels),
                knowledge,
                seed=number,
                statistics=batch_statistics(model, truth.images),
                outputs=outputs[number],
                candidates=candidates[number].images,
            )
            for number, truth in enumerate(truths)
        ]
        return server, observations

    def infer(self, server: Server, observations: Sequence[Observation]) -> list[AttackResult]:
        """Return the attack's results."""
        return self.attack.infer(server, observations, lambda _: None)

    def answers(self) -> list[AttackResult]:
        """Return its results for two batches, observed anew."""
        return self.infer(*self.shown(self.batch_size))


def difference(
    one: AttackResult, other: AttackResult, rtol: float = 1.3e-6, atol: float = 1e-5
) -> str | None:
    """Return the field in which two answers differ by more than rounding, if there is any."""
    for each in fields(AttackResult):
        left, right = getattr(one, each.name), getattr(other, each.name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            for key in left:
                if key not in right or not _close(left[key], right[key], rtol, atol):
                    return f"{each.name}[{key!r}]"
        elif not _close(left, right, rtol, atol):
            return each.name
    return None


def _close(left: Any, right: Any, rtol: float, atol: float) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.allclose(
            left.double(), right.double(), rtol=rtol, atol=atol, equal_nan=True
        )
    if isinstance(left, float) and isinstance(right, float):
        return left == right or abs(left - right) <= max(rtol, 1e-3) * abs(right)
    return bool(left == right)


def contents(value: Any) -> list[Any]:
    """Return what is in a tree of dataclasses, sequences, mappings and modules, copied.

    Tensors as themselves, of modules all weights and what else decides how they compute.
    """
    return list(_contents(value))


def _contents(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield value.detach().clone()
    elif isinstance(value, nn.Module):
        yield from (each.detach().clone() for each in value.state_dict().values())
        yield [module.training for module in value.modules()]
        yield [each.requires_grad for each in value.parameters()]
        yield [each.grad is None for each in value.parameters()]
        yield [len(module._forward_hooks) for module in value.modules()]
    elif is_dataclass(value):
        for each in fields(value):
            yield from _contents(getattr(value, each.name))
    elif isinstance(value, Mapping):
        yield list(value)
        for part in value.values():
            yield from _contents(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _contents(part)


def same(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether two `contents` are equal, bit by bit."""
    return len(before) == len(after) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(before, after, strict=True)
    )
