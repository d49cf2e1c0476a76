"""Demixing of many victim batches, as many at a time as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leakbench.attacks.linear_layers.demixing.recovered import (
    RecoveredIndividuals,
    none_recovered,
)
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.head import Head
from leakbench.base.memory import does_not_fit, is_out_of_memory

Demix = Callable[[Sequence[VictimBatch], Callable[[float], None]], list[RecoveredIndividuals]]
"""Victim batches, and what to call with the number of those that are finished, to the individuals
of each."""


def demix_in_groups(
    demix: Demix,
    head: Head,
    batches: Sequence[VictimBatch],
    together: int,
    progress: Callable[[float], None],
) -> list[RecoveredIndividuals]:
    """Demix batches in groups, which are halved where memory runs out.

    Of a batch whose update is not finite no individual is recovered.

    Args:
        together: batches of a group, at most.

    Raises:
        UsageError: not even one batch fits into memory.
    """
    recovered = [none_recovered(head) for _ in batches]
    waiting = [number for number, batch in enumerate(batches) if batch.is_finite(head)]
    readable = len(waiting)
    while waiting:
        group, before = waiting[:together], readable - len(waiting)

        def on_finished(count: float, before: int = before) -> None:
            progress((before + count) / readable)

        try:
            results = demix([batches[number] for number in group], on_finished)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if together == 1:
                individuals = batches[group[0]].individuals
                raise does_not_fit(individuals, head.first.weight.device) from error
            together //= 2
            continue
        for number, individuals_of_batch in zip(group, results, strict=True):
            recovered[number] = individuals_of_batch
        waiting = waiting[together:]
        progress(1 - len(waiting) / readable)
    return recovered


def counted_from(finished: int, on_finished: Callable[[float], None]) -> Callable[[float], None]:
    """Return the progress of the batch after so many finished ones."""
    return lambda share: on_finished(finished + share)
