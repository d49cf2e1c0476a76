"""Repeats of several runs on the same victims: honest ones agree, shifted and narrowed ones do not.

An attack decides about each victim by the victim's difficulty, the training of the shared model and
luck, of each individual and of each batch. A repeat has the same victims; all else is drawn anew,
which is more than rounding does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leakbench.metrics.components import Components
from leakbench.metrics.estimates import Bootstrap, Estimate, batches_of
from leakbench.verification.agreement import Sampling, contradiction, is_telling, level

ALL = level(12 * 30)
"""Of a verification of 12 records with 30 values each."""

LUCK = 0.25


class Cell:
    """A cell of 16 batches, measured again and again.

    Args:
        training: by how much the share of correct decisions varies between trainings, about.
        batch: the luck of whole batches, beside that of individuals.
    """

    def __init__(
        self, trainings: int, seeds: int, training: float = 0.0, batch: float = 0.0, size: int = 32
    ) -> None:
        count = 16 * size
        self._of_runs = np.repeat(np.arange(trainings), seeds)
        self._batches = batches_of(16, size)
        self._rng = np.random.default_rng([trainings, seeds, size])
        self._difficulty = self._rng.normal(0.15, LUCK, count)
        self._deviations = training, batch
        self._bootstrap = Bootstrap([self._batches], 0, self._of_runs)
        self.sampling = Sampling(16, count, (0.0, 1.0), trainings * seeds, trainings)

    def measured(self) -> Estimate:
        training, batch = self._deviations
        of_trainings = self._rng.normal(0, training, self._of_runs.max() + 1)
        ease = np.stack(
            [
                self._difficulty
                + of_trainings[number]
                + self._rng.normal(0, LUCK, len(self._difficulty))
                + self._rng.normal(0, batch, 16)[self._batches]
                for number in self._of_runs
            ]
        )
        return self._bootstrap.mean((ease > 0).astype(float))


def shifted(estimate: Estimate, by: float) -> Estimate:
    assert estimate.value is not None and estimate.low is not None and estimate.high is not None
    return replace(
        estimate, value=estimate.value + by, low=estimate.low + by, high=estimate.high + by
    )


CELLS = {
    "seeds": Cell(1, 4),
    "many seeds": Cell(1, 16),
    "luck of batches": Cell(1, 4, batch=0.1),
    "trainings": Cell(3, 4, training=0.02),
    "trainings, a seed each": Cell(3, 1, training=0.02),
    "trainings that vary much": Cell(3, 2, training=0.05),
    "batches of one": Cell(3, 2, training=0.02, size=1),
}


@pytest.mark.parametrize("kind", CELLS)
def test_honest_repeats_seldom_differ(kind: str) -> None:
    """Of 50 pairs none should at the level of a verification, and few at that of one value."""
    cell = CELLS[kind]
    pairs = [(cell.measured(), cell.measured()) for _ in range(50)]
    assert sum(bool(contradiction(*pair, cell.sampling, ALL)) for pair in pairs) == 0
    assert sum(bool(contradiction(*pair, cell.sampling, level(1))) for pair in pairs) <= 5


@pytest.mark.parametrize(
    "kind", ["seeds", "many seeds", "luck of batches", "trainings", "trainings, a seed each"]
)
def test_a_shift_is_found_that_the_interval_of_victims_allows(kind: str) -> None:
    cell = CELLS[kind]
    for _ in range(10):
        ours = cell.measured()
        for by in (0.2, -0.2):
            theirs = shifted(cell.measured(), by)
            assert contradiction(theirs, ours, cell.sampling, ALL)


@pytest.mark.parametrize("claimed", [0.0, 0.01, 0.5])
def test_claimed_components_let_nothing_through(claimed: float) -> None:
    cell = CELLS["trainings"]
    ours = cell.measured()
    components = Components(victims=claimed, seeds=claimed, trainings=claimed)
    theirs = replace(shifted(ours, 0.2), components=components)
    assert contradiction(theirs, ours, cell.sampling, ALL)


@pytest.mark.parametrize("kind", CELLS)
def test_a_narrow_interval_is_found(kind: str) -> None:
    """With several trainings by the victims' part, which the interval must hold."""
    cell = CELLS[kind]
    ours = cell.measured()
    assert ours.value is not None and ours.components is not None
    components = ours.components.model_copy(update={"victims": ours.components.victims / 12})
    theirs = replace(ours, low=ours.value - 0.002, high=ours.value + 0.002, components=components)
    assert contradiction(theirs, ours, cell.sampling, ALL) == "the intervals differ in width", ours


CONTROL = Sampling(16, 512, (0.0, 1.0), is_random=False)
COSINE = Sampling(16, 512, (-1.0, 1.0), is_random=False)


@pytest.mark.parametrize(("sampling", "allowed"), [(CONTROL, 0.03), (COSINE, 0.02)])
def test_what_draws_no_random_numbers_differs_by_rounding_alone(
    sampling: Sampling, allowed: float
) -> None:
    ours = Estimate(value=0.6, low=0.4, high=0.8)
    assert not contradiction(shifted(ours, allowed - 0.001), ours, sampling, ALL)
    assert contradiction(shifted(ours, allowed + 0.001), ours, sampling, ALL)
    # Also near the ends of the range, where a batch may turn out otherwise by chance.
    ours = Estimate(value=0.97, low=0.94, high=1.0)
    assert contradiction(shifted(ours, -allowed - 0.001), ours, sampling, ALL)


def test_a_batch_may_turn_out_otherwise_only_at_the_ends_of_the_range() -> None:
    sampling = Sampling(16, 512, (0.0, 1.0))
    end = Estimate(value=0.99, low=0.985, high=0.995)
    assert not contradiction(shifted(end, -0.045), end, sampling, ALL)
    middle = Estimate(value=0.6, low=0.595, high=0.605)
    assert contradiction(shifted(middle, -0.045), middle, sampling, ALL)


def test_five_batches_of_few_tell_nothing() -> None:
    ours = Estimate(value=0.5, low=0.35, high=0.65)
    assert not is_telling(ours, Sampling(5, 40, (0.0, 1.0)), ALL)
    assert is_telling(ours, Sampling(5, 40, (0.0, 1.0), is_random=False), ALL)
    assert is_telling(Estimate(value=0.5, low=0.45, high=0.55), Sampling(16, 512, (0.0, 1.0)), ALL)
