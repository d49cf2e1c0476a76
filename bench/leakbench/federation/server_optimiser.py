"""The server's optimiser: SGD on the mean of the clients' updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """η by round.

    Attributes:
        initial: η in round 0.
        attacked_round: the round after the training, to which half a cosine goes down; None for
            the same η in every round.
    """

    initial: float
    attacked_round: int | None = None

    def at(self, number: int) -> float:
        """Return η > 0 in a round, up to the attacked one."""
        if self.attacked_round is None:
            return self.initial
        # It would be 0 one round later, and updates of local steps are divided by it.
        share = number / (self.attacked_round + 1)
        return self.initial * (1 + math.cos(math.pi * share)) / 2


class ServerOptimiser:
    """SGD with momentum and weight decay, on a model in place; see `torch.optim.SGD`.

    Args:
        model: whose parameters are moved.
        momentum: in [0, 1).
        weight_decay: λ ≥ 0; λ W is added to each mean update.
    """

    PREFIX = "momentum."

    def __init__(
        self, model: SharedModel, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self._parameters = dict(model.named_parameters())
        self._momentum, self._weight_decay = momentum, weight_decay
        self._buffers: list[Tensor | None] = [None] * len(self._parameters)

    def step(self, update: Sequence[Tensor], learning_rate: float) -> None:
        """Move the parameters by the mean update of a round, whose tensors may be overwritten."""
        with torch.no_grad():
            sgd(
                list(self._parameters.values()),
                list(update),
                self._buffers,
                # Fused loops round differently.
                foreach=False,
                weight_decay=self._weight_decay,
                momentum=self._momentum,
                lr=learning_rate,
                dampening=0,
                nesterov=False,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """Return the momentum buffers by parameter, `momentum.NAME`; none before the first step."""
        return {
            f"{self.PREFIX}{name}": buffer
            for name, buffer in zip(self._parameters, self._buffers, strict=True)
            if buffer is not None
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take momentum buffers as `state` returns them."""
        found = {name: state.get(f"{self.PREFIX}{name}") for name in self._parameters}
        self._buffers = [
            None if buffer is None else buffer.to(self._parameters[name], copy=True)
            for name, buffer in found.items()
        ]
