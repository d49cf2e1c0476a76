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

That masks are binary in a known space for K = 2, and that all B can be found by alternating
projections, was known; that G is sparse in a basis is used by Dimitrov, Baader, Müller, Vechev 2024
(SPEAR: Exact Gradient Inversion of Batches in Federated Learning, NeurIPS).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from attacks.hidden_layer import HiddenLayer
from attacks.mixture import Demixed, Guesses, Space, individuals_of, space_of
from attacks.reflections import Search


def demix(
    layer: HiddenLayer,
    updates: Sequence[Mapping[str, Tensor]],
    individuals: int,
    guesses: Guesses,
    seeds: Sequence[int],
    runs: int,
    iterations: int,
    progress: Callable[[float], None],
) -> list[Demixed]:
    """Return whom each victim batch shows, as far as they are found.

    Args:
        individuals: B, of each update.
        seeds: one for each update.
        runs: side by side, of each victim.
        iterations: after which a victim's search ends, at the latest.
    """

    def who(space: Space, columns: Tensor) -> Demixed:
        return individuals_of(layer, space, columns, individuals)

    together = max(1, SIDE_BY_SIDE[layer.weight.device.type != "cpu"] // (runs * len(layer.bias)))
    found: list[Demixed] = []
    for first in range(0, len(updates), together):
        some = slice(first, first + together)
        spaces = [space_of(layer, update, individuals) for update in updates[some]]
        found += Search(spaces, guesses, who, seeds[some], runs).individuals(iterations)
        progress(min(1.0, (first + together) / len(updates)))
    return found


SIDE_BY_SIDE = (2**16, 2**26)
"""Numbers in the runs of victims side by side: what stays in a core's cache, and on a GPU."""
