"""Runs of the engine side by side, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from leakbench.attacks.matching.distance import Gradients, Measured
from leakbench.attacks.matching.optimisers import State
from leakbench.attacks.matching.priors import Statistics


@dataclass(frozen=True)
class Runs:
    """R runs that have not ended. Every tensor has the runs as its first axis.

    Attributes:
        image_shape: of a run's dummies, (B, 3, size, size).
        number: of the run among those that began together; `method.runs` of each victim.
        victim: which victim it belongs to.
        target, target_statistics, labels: the victim's; no labels where they are optimised.
        target_norms: ‖target‖² by parameter, for distances that take it, else empty.
        reliability: the victim's; the target is multiplied by it already.
        shares: which dummies are each client's, in its order, if a defense is simulated; shape
            (R, clients, B / clients).
        variables: images, channels innermost, and label logits, flat, shape (R, n); see `joined`.
        state: the optimiser's.
        taken: evaluations spent.
        since, length: evaluations since the last start, and how many there are from start to end.
        restarts: starts after the first.
        mark, stale: the last notable distance since the start, and the evaluations since then.
        first_loss, best_loss, best: distance of the first iterate and of the best, and that one.
    """

    image_shape: torch.Size
    number: Tensor
    victim: Tensor
    target: Gradients
    target_norms: Mapping[str, Tensor]
    target_statistics: Statistics
    reliability: Mapping[str, Tensor]
    shares: Tensor | None
    labels: Tensor | None
    variables: Tensor
    state: State
    taken: Tensor
    since: Tensor
    length: Tensor
    restarts: Tensor
    mark: Tensor
    stale: Tensor
    first_loss: Tensor
    best_loss: Tensor
    best: Tensor

    def __len__(self) -> int:
        return len(self.number)

    def where(self, chosen: Tensor) -> Runs:
        """Return the runs that are chosen, shape (R,)."""
        return replace(self, **each_tensor(self.tensors(), lambda tensor: tensor[chosen]))

    def tensors(self) -> dict[str, Any]:
        """Return all tensors by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "image_shape"}
        return {name: value for name, value in values.items() if value is not None}

    def measured(self) -> dict[str, Measured]:
        """Return the target with its norms."""
        return {name: Measured(self.target[name], n) for name, n in self.target_norms.items()}

    def ended(self, chosen: Tensor) -> EndedRuns:
        """Return the results of the runs that are chosen, shape (R,)."""
        return EndedRuns(**{f.name: getattr(self, f.name)[chosen] for f in fields(EndedRuns)})

    def parts(self, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and label logits; see `parts`."""
        return parts(variables, self.image_shape)


@dataclass(frozen=True)
class EndedRuns:
    """The results of R runs that have ended; attributes as of `Runs`.

    All else, an L-BFGS history above all, is large and no longer needed.
    """

    number: Tensor
    taken: Tensor
    restarts: Tensor
    first_loss: Tensor
    best_loss: Tensor
    best: Tensor


def concatenated(ended: Sequence[EndedRuns]) -> EndedRuns:
    """Return several groups of runs as one, in their order."""
    names = [f.name for f in fields(EndedRuns)]
    return EndedRuns(**{n: torch.cat([getattr(each, n) for each in ended]) for n in names})


def parts(variables: Tensor, image_shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return images (R, B, 3, size, size) and label logits (R, B, K), or (R, B, 0).

    Args:
        variables: see `joined`, shape (R, n).
        image_shape: of a run's dummies, (B, 3, size, size).
    """
    size, channels, height, width = image_shape
    pixels = image_shape.numel()
    images = variables[:, :pixels].reshape(-1, size, height, width, channels).movedim(-1, 2)
    logits = variables[:, pixels:]
    return images, logits.reshape(len(variables), size, logits.shape[1] // size)


def joined(images: Tensor, logits: Tensor) -> Tensor:
    """Return images (R, B, 3, size, size) and label logits (R, B, K) as variables, shape (R, n).

    Channels lie innermost, as convolutions have them: what is done to every variable then runs
    through memory in order.
    """
    return torch.cat([images.movedim(2, -1).flatten(1), logits.flatten(1)], 1)


def each_tensor(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a tree of mappings and tuples with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple):
        return tuple(each_tensor(part, change) for part in tree)
    return {key: each_tensor(part, change) for key, part in tree.items()}
