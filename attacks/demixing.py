"""Individuals' exact features from the gradient of a hidden ReLU layer.

The gradient of [W, b] is G = Σ_i x_i [h_i, 1]ᵀ over the B individuals: h_i is the feature of one,
x_i = a_i ⊙ W_oᵀ r_i what its loss says of the m units, a_i ∈ {0, 1}ᵐ which of them it activates,
and r_i = (p_i − e_{y_i}) / B the residual of its classes. Known are G, W and W_o. So

1. the x_i lie in the column space of G, which has dimension B where B ≤ m, d;
2. each is a mask times W_oᵀ r, with r in the column space of the gradient of [W_o, b_o], that is of
   dimension min(B, K − 1).

Vectors with both properties are found by relaxed reflections (Elser, Rankenburg, Thibault 2007,
Searching with iterated maps, PNAS 104(2)), many runs at once from masks of other individuals. With
all of them, X = [x_1 … x_B], least squares gives [h_i, 1] = (X⁺ G)_i, and the 1 its scale. That an
answer is right can be told without the truth: h_i runs through the layer and makes x_i again.

That the x_i are sparse is what Dimitrov, Baader, Müller, Vechev 2024 use (SPEAR: Exact Gradient
Inversion of Batches in Federated Learning, NeurIPS), who draw rows of G until B − 1 vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from attacks.hidden_layer import HiddenLayer
from attacks.memory import does_not_fit, is_out_of_memory
from attacks.mixture import Demixed, Guesses, individuals_of, nobody, space_of
from attacks.reflections import Search


def demix(
    layer: HiddenLayer,
    updates: Sequence[Mapping[str, Tensor]],
    sizes: Sequence[int],
    guesses: Guesses,
    seeds: Sequence[int],
    runs: int,
    iterations: int,
    progress: Callable[[float], None],
) -> list[Demixed]:
    """Return whom each victim batch shows, as far as they are found.

    Args:
        sizes: B, of each update.
        seeds: one for each update.
        runs: side by side, of each victim.
        iterations: after which a victim's search ends, at the latest.

    Raises:
        UsageError: not even one victim fits into memory.
    """
    found = [nobody(layer) for _ in updates]
    waiting = [number for number, update in enumerate(updates) if _finite(layer, update)]
    able, together = len(waiting), _side_by_side(layer, runs, max(sizes, default=1))
    while waiting:
        some = waiting[:together]
        try:
            spaces = {n: space_of(layer, updates[n], sizes[n]) for n in some}
            told = {n: space for n, space in spaces.items() if space.tells_apart}
            if told:
                search = Search(
                    list(told.values()),
                    guesses,
                    partial(individuals_of, layer),
                    [seeds[n] for n in told],
                    runs,
                )
                for n, of_victim in zip(told, search.individuals(iterations), strict=True):
                    found[n] = of_victim
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if together == 1:
                raise does_not_fit(sizes[some[0]], layer.weight.device) from error
            together //= 2
            continue
        waiting = waiting[together:]
        progress(1 - len(waiting) / able)
    return found


def _finite(layer: HiddenLayer, update: Mapping[str, Tensor]) -> bool:
    return all(bool(update[name].isfinite().all()) for name in layer.names)


def _side_by_side(layer: HiddenLayer, runs: int, individuals: int) -> int:
    """Return how many victims' runs stand side by side."""
    classes, units = layer.output_weight.shape
    width = min(individuals, classes - 1)
    numbers = max(runs * units, (runs + units) * width**2)
    return max(1, SIDE_BY_SIDE[layer.weight.device.type != "cpu"] // numbers)


SIDE_BY_SIDE = (2**16, 2**26)
"""Numbers in the runs of victims side by side: what stays in a core's cache, and on a GPU."""
