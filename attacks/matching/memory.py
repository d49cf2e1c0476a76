"""How many runs fit into memory side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from leakbench.attacks.matching.compiled import PASSES, operations
from leakbench.attacks.matching.factors import factors_are_smaller
from leakbench.attacks.matching.method import Method
from leakbench.federation.shared_model import SharedModel, watched


def runs_together(model: SharedModel, method: Method, sample: Tensor, factored: bool) -> int:
    """Return how many runs to advance side by side, at least 1.

    On a CPU what a step works on should stay in its cache, except where a run gives each of many
    layers so little to do that the calls cost more. On a GPU it may fill half of the memory that is
    free.

    Args:
        sample: the first images of some run, shape (B, 3, size, size).
        factored: whether gradients of linear layers stay factors where those are smaller.
    """
    state = 4 * method.optimiser.floats(sample.numel(), method.steps)
    activations = 4 * _activations(model, sample)
    gradients = 4 * _gradients(model, sample, factored)
    device = sample.device
    if device.type == "cpu":
        most = HELD // state
        if _is_thin(model, sample):
            most = min(most, HELD // (KEPT * (activations + gradients)))
            return max(1, min(most, max(ENOUGH, CACHED // (activations + gradients))))
        return max(1, min(CACHED // (activations + gradients), most))
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return max(1, free // 2 // (KEPT * activations + KEPT * gradients + 2 * state))


def _is_thin(model: SharedModel, sample: Tensor) -> bool:
    """Whether a run gives each of many layers little to do, as MobileNets on small images do."""
    layers = sum(1 for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    if layers < MANY:
        return False
    return operations(model, sample) < PASSES * layers * LITTLE


def _activations(model: SharedModel, sample: Tensor) -> int:
    """Return the number of activations of the model for a batch."""
    sizes: list[int] = []

    def count(_name: str, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Recurrent layers return a tuple, with tuples inside.
        sizes.extend(each.numel() for each in tree_leaves(output) if isinstance(each, Tensor))

    innermost = {name: m for name, m in model.named_modules() if not list(m.children())}
    with watched(innermost, count), torch.no_grad():
        model(sample)
    return sum(sizes)


def _gradients(model: SharedModel, sample: Tensor, factored: bool) -> int:
    """Return the number of entries of a run's gradients, without those that stay factors."""
    modules = model.named_modules() if factored else []
    linear = {name: m for name, m in modules if type(m) is nn.Linear}
    factors: set[str] = set()

    def weigh(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A transformer's individuals have many rows each.
        outputs, features = output.shape[-1], inputs[0].shape[-1]
        if factors_are_smaller(output.numel() // outputs, outputs, features):
            factors.add(name)

    with watched(linear, weigh), torch.no_grad():
        model(sample)
    left_out = sum(linear[name].weight.numel() for name in factors)
    return sum(p.numel() for p in model.parameters()) - left_out


MANY = 25
"""Layers of a deep network: more than ResNet-18 has."""

LITTLE = 2 * 10**6
"""Operations of a layer in a forward pass, about as long as the calls that a step makes of it."""

ENOUGH = 8
"""Runs side by side from which calls cost little: one run's step of MobileNetV2 (64 px, B = 1)
takes 185 ms with two and 69 ms with eight."""

CACHED = 24 * 2**20
"""Bytes of activations and gradients worked on at once on a CPU."""

HELD = 2**30
"""Bytes of the optimiser's state held at once on a CPU."""

KEPT = 6
"""Copies of activations and gradients that double differentiation keeps at once, about."""
