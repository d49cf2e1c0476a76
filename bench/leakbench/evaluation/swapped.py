"""An attack's own answers for individuals of other batches: what matching alone gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from leakbench.base.seeds import seed_for
from leakbench.evaluation.matched import Matched
from leakbench.metrics.matching import match_individuals
from leakbench.threat.observation import GroundTruth

SWAPS = 16
"""Least number of swaps over all runs, whose mean counts."""


@dataclass(frozen=True)
class Swapped:
    """Answers for other individuals, matched to the victims as if they were for them.

    Attributes:
        swaps: of each run.
        scores: property → the swaps of the first run, of the second, …; shape (runs · swaps, n).
        cosines: between the features of other individuals and the victims', mean over swaps; shape
            (runs, n).
    """

    swaps: int
    scores: Mapping[str, NDArray[np.float64]]
    cosines: NDArray[np.float64]


def swapped_answers(
    runs: Sequence[Matched], truths: Sequence[GroundTruth], seed: int
) -> Swapped | None:
    """Return each run's answers for individuals of other batches, matched to each batch.

    For each individual of a batch the attack's answer for another individual is drawn, who has the
    same main-task label if there is one, is in another batch, and has none of the batch's
    identities. So the answers know of the batch what its labels tell, and nothing of its update.

    Args:
        truths: the victims, of whom labels, identities and batches count; the same in all runs.

    Returns:
        None where a run has no features, or a batch no such other individuals.
    """
    if any(run.features is None for run in runs):
        return None
    swaps = -(-SWAPS // len(runs))
    rng = np.random.default_rng(seed_for("swapped", seed))
    scores: dict[str, list[NDArray[np.float64]]] = {name: [] for name in runs[0].scores}
    cosines = []
    for run in runs:
        of_run = []
        for _ in range(swaps):
            rows = _others(truths, rng)
            if rows is None:
                return None
            order, cosine = _matched(run, truths, rows)
            of_run.append(cosine)
            for name, of_all in run.scores.items():
                scores[name].append(of_all[order])
        cosines.append(np.mean(of_run, axis=0))
    return Swapped(swaps, {n: np.stack(each) for n, each in scores.items()}, np.stack(cosines))


def _others(
    truths: Sequence[GroundTruth], rng: np.random.Generator
) -> list[NDArray[np.int64]] | None:
    """Return for each batch as many individuals of other batches; None where there are none."""
    labels = torch.cat([truth.labels for truth in truths]).cpu().numpy()
    identities = torch.cat([truth.identities for truth in truths]).cpu().numpy()
    sizes = [len(truth) for truth in truths]
    starts = np.cumsum([0, *sizes])
    chosen = []
    for start, size in zip(starts[:-1], sizes, strict=True):
        own = slice(start, start + size)
        others = np.flatnonzero(~np.isin(identities, identities[own]))
        if not len(others):
            return None
        chosen.append(_alike(labels[own], rng.permutation(others), labels, rng))
    return chosen


def _alike(
    wanted: NDArray[np.int64],
    others: NDArray[np.int64],
    labels: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return for each wanted label one of the others who has it, or any who is left.

    Nobody is chosen twice, as long as there are enough.

    Args:
        wanted: labels, shape (B,).
        others: rows of individuals in random order.
        labels: of all individuals.
    """
    left = others.tolist()
    rows = np.empty(len(wanted), np.int64)
    having: dict[int, list[int]] = {}
    for row in left:
        having.setdefault(int(labels[row]), []).append(row)
    without = []
    used = set()
    for place, label in enumerate(wanted.tolist()):
        if having.get(label):
            rows[place] = having[label].pop()
            used.add(int(rows[place]))
        else:
            without.append(place)
    rest = [row for row in left if row not in used]
    for number, place in enumerate(without):
        rows[place] = rest[number] if number < len(rest) else rng.choice(others)
    return rows


def _matched(
    run: Matched, truths: Sequence[GroundTruth], rows: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the row of the other individual matched to each victim, and the cosine, shape (n,)."""
    assert run.features is not None
    orders, cosines, start = [], [], 0
    for truth, others in zip(truths, rows, strict=True):
        true = run.true[start : start + len(truth)]
        order, cosine = match_individuals(run.features[torch.from_numpy(others)], true)
        orders.append(others[order.numpy()])
        cosines.append(cosine.numpy())
        start += len(truth)
    return np.concatenate(orders), np.concatenate(cosines)
