"""Optimisers over R independent runs at once, as pure functions of their state.

Variables, gradients and every tensor of a state have the runs as their first axis, so that runs can
be dropped and started afresh one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

State = dict[str, Tensor]


class Optimiser(ABC):
    """Moves the variables of R runs against their gradients.

    Attributes:
        compiles: whether `step` is one and the same computation at every `number`.
    """

    compiles: ClassVar[bool] = False

    @abstractmethod
    def begin(self, variables: Tensor, steps: int) -> State:
        """Return the state before the first of `steps` steps, for variables of shape (R, n)."""

    @abstractmethod
    def step(
        self, variables: Tensor, gradient: Tensor, state: State, factor: Tensor, number: int
    ) -> tuple[Tensor, State, Tensor]:
        """Take one step.

        Args:
            variables, gradient: shape (R, n).
            factor: of the learning rate, by the schedule, shape (R, 1).
            number: how many steps have been taken before.

        Returns:
            The new variables, the new state, and which runs can move no further, shape (R,).
        """

    def floats(self, variables: int, steps: int) -> int:  # noqa: ARG002
        """Return how many numbers the state of one run holds."""
        return 2 * variables


@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam (Kingma and Ba 2015), as `torch.optim.Adam`.

    Attributes:
        learning_rate: in units of the variables.
        signed: take the gradient's sign first, as IG does.
    """

    compiles: ClassVar[bool] = True

    learning_rate: float
    signed: bool = False

    def begin(self, variables: Tensor, steps: int) -> State:  # noqa: ARG002
        """Return zero moments."""
        return {
            "mean": torch.zeros_like(variables),
            "square": torch.zeros_like(variables),
            **self._corrections(variables.new_ones(len(variables), 1)),
        }

    def step(
        self,
        variables: Tensor,
        gradient: Tensor,
        state: State,
        factor: Tensor,
        number: int,  # noqa: ARG002
    ) -> tuple[Tensor, State, Tensor]:
        """Take one step; Adam never stalls."""
        if self.signed:
            gradient = gradient.sign()
        mean = torch.lerp(state["mean"], gradient, 0.1)
        square = state["square"] * 0.999 + gradient.square() * 0.001
        denominator = (square / state["square_correction"]).sqrt() + 1e-8
        length = self.learning_rate * factor
        moved = variables - length * (mean / state["mean_correction"]) / denominator
        stalled = torch.zeros(len(variables), dtype=torch.bool, device=variables.device)
        corrections = self._corrections(state["count"] + 1)
        return moved, {"mean": mean, "square": square, **corrections}, stalled

    @staticmethod
    def _corrections(count: Tensor) -> State:
        """Return the bias corrections of step `count`, shape (R, 1), ahead of it.

        Computed in the step itself, a compiled one would take the powers for every variable anew.
        """
        return {
            "count": count,
            "mean_correction": 1 - 0.9**count,
            "square_correction": 1 - 0.999**count,
        }


@dataclass(frozen=True)
class LBFGS(Optimiser):
    """L-BFGS without line search, as `torch.optim.LBFGS` at its defaults (Nocedal 1980).

    One step here is one of the up to 20 iterations of a step there: one evaluation, one move. A run
    stalls where torch's inner loop ends: at a gradient or a move of (nearly) nothing, or where the
    direction leads up. Torch's stop at a small change of the loss is left out, since its next step
    goes on from there. A pair that tells no curvature leaves its place in the history empty; torch
    does not count it.

    Attributes:
        learning_rate: length of a step along the direction.
        history: pairs kept.
    """

    learning_rate: float = 1.0
    history: int = 100

    def begin(self, variables: Tensor, steps: int) -> State:
        """Return an empty history."""
        runs, n = variables.shape
        length = min(self.history, steps)
        return {
            "moves": variables.new_zeros(runs, length, n),
            "changes": variables.new_zeros(runs, length, n),
            "inverse_curvature": variables.new_zeros(runs, length),
            "scale": variables.new_ones(runs, 1),
            "last_move": torch.zeros_like(variables),
            "last_gradient": torch.zeros_like(variables),
            "fresh": torch.ones(runs, 1, dtype=torch.bool, device=variables.device),
        }

    def step(
        self, variables: Tensor, gradient: Tensor, state: State, factor: Tensor, number: int
    ) -> tuple[Tensor, State, Tensor]:
        """Take one step; the state's history is written in place."""
        scale = self._remember(gradient, state, number)
        direction = self._direction(gradient, state, scale, number)
        slope = torch.linalg.vecdot(gradient, direction)
        first_length = (1 / gradient.abs().sum(1, keepdim=True)).clamp_max(1)
        length = torch.where(state["fresh"], first_length, 1.0) * self.learning_rate * factor
        move = length * direction
        stalled = (
            (gradient.abs().amax(1) <= TOLERANCE_GRADIENT)
            | (slope > -TOLERANCE_CHANGE)
            | (move.abs().amax(1) <= TOLERANCE_CHANGE)
        )
        state = {
            **state,
            "scale": scale,
            "last_move": move,
            "last_gradient": gradient,
            "fresh": torch.zeros_like(state["fresh"]),
        }
        return variables + move, state, stalled

    def _remember(self, gradient: Tensor, state: State, number: int) -> Tensor:
        """Write the last move into the history; return the scale of the first guess, (R, 1)."""
        move, change = state["last_move"], gradient - state["last_gradient"]
        curvature = torch.linalg.vecdot(change, move)
        tells = (curvature > CURVATURE) & ~state["fresh"].squeeze(1)
        slot = (number - 1) % state["moves"].shape[1]
        state["moves"][:, slot] = move
        state["changes"][:, slot] = change
        state["inverse_curvature"][:, slot] = torch.where(tells, 1 / curvature, 0.0)
        fitted = curvature / torch.linalg.vecdot(change, change)
        return torch.where(tells[:, None], fitted[:, None], state["scale"])

    @staticmethod
    def _direction(gradient: Tensor, state: State, scale: Tensor, number: int) -> Tensor:
        """Return −H·g by the two-loop recursion, shape (R, n)."""
        length = state["moves"].shape[1]
        newest_first = [(number - 1 - i) % length for i in range(min(number, length))]
        moves, changes = state["moves"], state["changes"]
        inverse = state["inverse_curvature"]
        direction = -gradient
        weights = []
        for slot in newest_first:
            weight = inverse[:, slot] * torch.linalg.vecdot(moves[:, slot], direction)
            weights.append(weight)
            direction.addcmul_(weight[:, None], changes[:, slot], value=-1)
        direction = direction * scale
        for slot, weight in zip(reversed(newest_first), reversed(weights), strict=True):
            back = inverse[:, slot] * torch.linalg.vecdot(changes[:, slot], direction)
            direction.addcmul_((weight - back)[:, None], moves[:, slot])
        return direction

    def floats(self, variables: int, steps: int) -> int:
        """Return the history's size."""
        return 2 * variables * min(self.history, steps)


CURVATURE = 1e-10
TOLERANCE_GRADIENT = 1e-7
TOLERANCE_CHANGE = 1e-9
"""Of `torch.optim.LBFGS`."""
