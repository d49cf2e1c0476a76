"""Individuals' exact features from the gradient of a classifier's layers.

The gradient of [W, b] of the first layer is G = Σ_i x_i [h_i, 1]ᵀ over the B individuals: h_i is
the feature of one, x_i = ∂ℓ_i / ∂z what its loss says of the m units, over B. Known are G and the
layers, so

1. the x_i lie in the column space of G and the [h_i, 1] in its row space, of dimension B where
   B ≤ m and d;
2. h_i and the label make x_i, by the layers that follow. Before a hidden ReLU layer x_i is a mask
   of active units times W_oᵀ r_i, with r_i in the column space of the gradient of [W_o, b_o].

Who has these properties is found by two searches: `reflections`, for masks, and `newton`, for any
activation. With all of them, X = [x_1 … x_B], least squares gives [h_i, 1] = (X⁺ G)_i, and the 1
its scale. That an answer is right can be told without the truth: h_i runs through the layers and
makes x_i again.

That the x_i are sparse is what Dimitrov, Baader, Müller, Vechev 2024 use (SPEAR: Exact Gradient
Inversion of Batches in Federated Learning, NeurIPS), who draw rows of G until B − 1 vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.activations import Rectifier
from leakbench.attacks.linear_layers.demixing.batch import Batch
from leakbench.attacks.linear_layers.demixing.effort import Effort
from leakbench.attacks.linear_layers.demixing.found import Found
from leakbench.attacks.linear_layers.demixing.masked_space import LEAST_UNIT, masked_space_of
from leakbench.attacks.linear_layers.demixing.mixture import (
    SPARE_EQUATIONS,
    Demixed,
    Others,
    Space,
    individuals_of,
    nobody,
    others_of,
    space_of,
    spare_equations,
)
from leakbench.attacks.linear_layers.demixing.newton import Newton
from leakbench.attacks.linear_layers.demixing.reflections import Reflections
from leakbench.attacks.linear_layers.demixing.sent import Sent
from leakbench.attacks.linear_layers.demixing.withheld import Predictor, predictor_of
from leakbench.attacks.linear_layers.head import Head
from leakbench.base.memory import does_not_fit, is_out_of_memory


def demix_masks(
    head: Head,
    batches: Sequence[Batch],
    auxiliary: tuple[Tensor, Tensor],
    effort: Effort,
    progress: Callable[[float], None],
) -> list[Demixed]:
    """Return whom each victim batch shows, as far as they are found, where all layers have kinks.

    Of several hidden layers the last is demixed, and what is found there makes the x of the one
    before.

    Args:
        auxiliary: features of D_aux's individuals, shape (n, d), and their labels, shape (n,), −1
            where unknown.

    Raises:
        UsageError: not even one victim fits into memory.
    """
    inner = len(head.layers) - 2
    last = head.after(inner)
    features, labels = auxiliary
    at_last = head.inputs_after(features.to(head.first.weight), inner)
    others = others_of(last, at_last, labels)

    def search(some: Sequence[Batch], finished: Callable[[float], None]) -> list[Demixed]:
        received = [batch.received(last.first) for batch in some]
        spaces = [masked_space_of(last, *each) for each in zip(some, received, strict=True)]
        predictors = [_predictor(each, others) for each in received]
        heads = [last if each is None else each.head(last) for each in predictors]
        every = [Found(each, space) for each, space in zip(heads, spaces, strict=True)]
        seen = [others if each is None else others.seen(each.known) for each in predictors]
        able = [n for n, space in enumerate(spaces) if space.tells_apart]
        narrow = [n for n in able if spaces[n].directions.shape[1] <= WIDEST]
        if narrow:
            Reflections(
                [spaces[n] for n in narrow],
                [every[n] for n in narrow],
                [seen[n] for n in narrow],
                [some[n].seed for n in narrow],
                effort.reflected,
            ).search(effort, lambda share: finished(share * len(narrow)))
        for number, n in enumerate(sorted(set(able) - set(narrow)), len(narrow)):
            newton = _newton(heads[n], some[n], spaces[n], seen[n], effort)
            newton.search(every[n], effort, some[n].seed, partial(_tell, finished, number, 1))
        return [
            _inwards(head, batch, found.best if each is None else each.complete(found.best))
            for batch, found, each in zip(some, every, predictors, strict=True)
        ]

    widest = max((batch.individuals for batch in batches), default=1)
    together = _side_by_side(last, effort.reflected, widest)
    return _in_groups(search, head, batches, together, progress)


def demix_smooth(
    head: Head,
    batches: Sequence[Batch],
    auxiliary: tuple[Tensor, Tensor],
    effort: Effort,
    progress: Callable[[float], None],
) -> list[Demixed]:
    """Return whom each victim batch shows, as far as they are found, where no layer has a kink.

    Arguments and errors as for `demix_masks`.
    """
    others = others_of(head, *auxiliary)
    scale = scale_of(head, others)

    def search(some: Sequence[Batch], finished: Callable[[float], None]) -> list[Demixed]:
        (batch,) = some
        received = batch.received(head.first)
        if not received.columns.all():
            # What z is cannot be told then.
            return [nobody(head)]
        space = space_of(received, batch.individuals, scale, batch.precision(head))
        found = Found(head, space)
        if _tells_apart(head, space):
            newton = _newton(head, batch, space, others, effort)
            newton.search(found, effort, batch.seed, finished)
        return [found.best]

    return _in_groups(search, head, batches, 1, progress)


def _in_groups(
    search: Callable[[Sequence[Batch], Callable[[float], None]], list[Demixed]],
    head: Head,
    batches: Sequence[Batch],
    together: int,
    progress: Callable[[float], None],
) -> list[Demixed]:
    """Search the victims so many at a time, or fewer where memory does not do.

    Args:
        search: victims, and what to call with the number of those that are finished → who is found.
    """
    found = [nobody(head) for _ in batches]
    waiting = [number for number, batch in enumerate(batches) if batch.is_finite(head)]
    able = len(waiting)
    while waiting:
        some, before = waiting[:together], able - len(waiting)
        try:
            each = search([batches[n] for n in some], partial(_tell, progress, before, able))
            for number, demixed in zip(some, each, strict=True):
                found[number] = demixed
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if together == 1:
                individuals = batches[some[0]].individuals
                raise does_not_fit(individuals, head.first.weight.device) from error
            together //= 2
            continue
        waiting = waiting[together:]
        progress(1 - len(waiting) / able)
    return found


def _tell(progress: Callable[[float], None], before: int, able: int, count: float) -> None:
    progress((before + count) / able)


def _inwards(head: Head, batch: Batch, found: Demixed) -> Demixed:
    """Return who stands behind what was found at the last hidden layer.

    What comes out of the layer before, and the x of the one after, are known: so is its own x.
    """
    for layers in range(len(head.layers) - 3, -1, -1):
        if not len(found):
            return nobody(head)
        here, following = head.after(layers), head.after(layers + 1)
        activation = here.first.activation
        assert activation is not None
        targets = functional.one_hot(found.labels, head.classes).to(found.features)
        after = following.errors(following.first.forward(found.features), targets)
        # A unit is active where what comes out of it is positive, by more than rounding.
        out = found.features - INACTIVE * found.features.abs().mean(1, keepdim=True)
        x = (after @ following.first.weight) * activation.gain(out)
        size = x.square().mean(0).sqrt()
        scale = 1 / size.clamp_min(LEAST_UNIT * size.median().clamp_min(size.max() * LEAST_UNIT))
        received = batch.received(here.first)
        if not received.columns.all():
            return nobody(head)
        space = space_of(received, batch.individuals, scale, batch.precision(here))
        found = individuals_of(here, space, (x * space.scale).mT).in_order()
    return found


def _predictor(received: Sent, others: Others) -> Predictor | None:
    """Return how to complete features of which a part was withheld; None if none was."""
    known = received.columns
    return None if bool(known.all()) else predictor_of(others.features.double(), known)


def _newton(head: Head, batch: Batch, space: Space, others: Others, effort: Effort) -> Newton:
    """Return Newton's method with as many runs as time and memory allow.

    The gradient of the output layer's bias is mean(p) − counts / B; D_aux's p stand in for those of
    the batch.
    """
    own = functional.one_hot(others.labels, head.classes)
    predicted = (others.residuals + own).mean(0).double()
    bias = head.output.gradient(batch.update)[:, -1]
    counts = (space.individuals * (predicted - bias)).clamp_min(SELDOM)
    on_gpu = head.first.weight.device.type != "cpu"
    runs = min(effort.runs, A_STEP[on_gpu] // (len(head.first.bias) * space.rank**2))
    return Newton(head, space, others, counts, max(1, runs))


def scale_of(head: Head, others: Others) -> Tensor:
    """Return what makes all rows count alike, shape (m,), as far as D_aux tells."""
    targets = functional.one_hot(others.labels, head.classes)
    size = head.errors(others.z.double(), targets).square().mean(0).sqrt()
    return 1 / size.clamp_min(LEAST_ROW * size.max())


def _tells_apart(head: Head, space: Space) -> bool:
    """Whether there are more equations than unknowns, or just one individual to be found."""
    return space.individuals == 1 or spare_equations(head, space) >= SPARE_EQUATIONS


def _side_by_side(head: Head, runs: int, individuals: int) -> int:
    """Return how many victims' runs of reflections stand side by side."""
    units = len(head.first.bias)
    width = min(individuals, head.classes - 1, WIDEST)
    numbers = max(runs * units, (runs + units) * width**2)
    return max(1, SIDE_BY_SIDE[head.first.weight.device.type != "cpu"] // numbers)


def has_kinks(head: Head) -> bool:
    """Whether all hidden layers, of which there is one at least, have a rectifier."""
    hidden = head.layers[:-1]
    return bool(hidden) and all(isinstance(layer.activation, Rectifier) for layer in hidden)


INACTIVE = 1e-4
"""What comes out of a unit that is not active is below this, of the mean."""

WIDEST = 16
"""Dimensions of the space of residuals up to which reflections find more than Newton's method."""

LEAST_ROW = 1e-6
"""A row is scaled up as if it had at least this length, of the longest: classes that hardly anybody
is taken for tell as much as others, to the update's rounding."""

SIDE_BY_SIDE = (2**16, 2**26)
"""Numbers in the runs of victims side by side: what stays in a core's cache, and on a GPU."""

SELDOM = 0.05
"""Individuals of a class of whom the output layer's gradient says nothing."""

A_STEP = (2**30, 2**34)
"""Multiplications in a step of Newton's method: a second or so on a core, and on a GPU."""
