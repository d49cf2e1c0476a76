"""The engine of gradient-matching attacks: dummy data whose gradient approaches the update.

It optimises many victims and runs at once, see `search`, as many as memory allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from leakbench.attacks.matching.compiled import worth_compiling
from leakbench.attacks.matching.dummy_gradients import layers_with_rules
from leakbench.attacks.matching.memory import runs_together
from leakbench.attacks.matching.method import Method, Reconstruction, Victim
from leakbench.attacks.matching.precision import tensor_cores
from leakbench.attacks.matching.search import Search
from leakbench.attacks.matching.simulation import Simulation
from leakbench.attacks.matching.step import Step
from leakbench.base.choices import Compiling, Precision
from leakbench.base.memory import does_not_fit, is_out_of_memory
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.attack import Progress


def match_gradients(
    model: SharedModel,
    method: Method,
    victims: Sequence[Victim],
    classes: int,
    progress: Progress,
    compiling: Compiling = "auto",
    precision: Precision = "float32",
    simulation: Simulation | None = None,
) -> list[Reconstruction]:
    """Run a method on victims of one batch size, several at a time.

    Args:
        model: as clients run it, see `leakbench.federation.batch_norm.in_mode`.
        classes: K, for soft labels.
        progress: called with the share of evaluations done.
        precision: in which the model computes; all else is in the model's own.
        simulation: of the clients' defense, if it is known and changes the update.

    Raises:
        UsageError: not even one victim fits into memory.
    """
    if not victims:
        return []
    with tensor_cores(precision):
        return _match(model, method, victims, classes, progress, compiling, precision, simulation)


def _match(
    model: SharedModel,
    method: Method,
    victims: Sequence[Victim],
    classes: int,
    progress: Progress,
    compiling: Compiling,
    precision: Precision,
    simulation: Simulation | None,
) -> list[Reconstruction]:
    device = next(model.parameters()).device
    sample = method.start(victims[0], torch.Generator()).to(device)
    layers = layers_with_rules(model, sample)
    evaluations = method.steps * method.runs * len(victims)
    # Clients' updates, and steps one after the other, make a graph that takes too long to compile.
    compiles = simulation is None and worth_compiling(compiling, model, sample, evaluations)
    factored = method.factors and layers is not None and simulation is None
    gradients = 1 if simulation is None else simulation.gradients
    together = runs_together(model, method, sample, factored) // (method.runs * gradients)
    found: list[Reconstruction] = []
    step = Step(model, method, layers, precision, simulation)
    group = _even(len(victims), max(1, together))
    while len(found) < len(victims):
        some = victims[len(found) : len(found) + group]
        # The last group is filled up: a compiled step is made for one shape.
        filled = [*some, *[some[-1]] * (group - len(some) if compiles else 0)]

        def report(share: float, done: int = len(found), several: int = len(some)) -> None:
            progress((done + several * share) / len(victims))

        try:
            search = Search(step, filled, classes, sample.shape)
            found += _attack(search, compiles, report)[: len(some)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if group == 1:
                raise does_not_fit(victims[0].batch_size, device) from error
            group = _even(len(victims) - len(found), group // 2)
    return found


def _even(count: int, most: int) -> int:
    """Return the size of groups of at most `most`, the last one hardly smaller.

    >>> _even(10, 4), _even(3, 8)
    (4, 3)
    >>> _even(9, 8)
    5
    """
    return math.ceil(count / math.ceil(count / most))


def _attack(search: Search, compiles: bool, progress: Progress) -> list[Reconstruction]:
    """Run a search to its end."""
    step = search.advance
    if compiles and step.fast_for != len(search.runs):
        step.compile(search.runs)
    while search.runs:
        search.step()
        progress(search.share_done)
    ran_compiled = step.fast is not None
    return [replace(best, compiled=ran_compiled) for best in search.best_of_each_victim()]
