"""Milliseconds of one victim's step, by three engines on the same work, and the machine's share.

Rounds are the outermost loop, so that the engines take turns and what else the machine does hits
all of them. In the ordinary tests every engine runs once, which shows that it works.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from engines import BACKBONES, ENGINES, EVALUATIONS, MODELS, batches, built, leakbench, work
from matrix import pytest_generate_tests  # noqa: F401

from leakbench.attacks.matching.compiled import operations
from leakbench.base.choices import Compiling

VICTIMS = {1: 24, 8: 4, 32: 1}
PEER_VICTIMS = 4
ATTACKS = ("DLG", "IG", "GradInversion", "Proposed")
STEPS = {"DLG": 2 * EVALUATIONS}
OF_BACKBONES = {1: 8, 8: 2}
BACKBONE_STEPS = 6
ROUNDS = 3


class Measurement(NamedTuple):
    """A cell of the matrix, in one round."""

    number: int
    attack: str
    model: str
    size: int
    batch_size: int
    engine: str


def measurements(full: bool) -> list[Measurement]:
    """Return what is measured, in this order."""
    every: Any = (
        product(range(ROUNDS), ATTACKS, MODELS, (32, 64), VICTIMS, ENGINES)
        if full
        else product([0], ATTACKS, ["lenet"], [32], [8], ENGINES)
    )
    deep: Any = product(range(ROUNDS), ["IG"], BACKBONES, [64], OF_BACKBONES, ENGINES)
    cells = [Measurement(*cell) for cell in (*every, *(deep if full else ()))]
    return [cell for cell in cells if (cell.attack, cell.engine) != ("Proposed", "breaching")]


def test_step(measurement: Measurement, benchmark: Any, compiling: Compiling) -> None:
    _, attack, name, size, batch_size, engine = measurement
    victims, peer_victims, steps = VICTIMS[batch_size], PEER_VICTIMS, STEPS.get(attack, 12)
    if name in BACKBONES:
        # Compiling takes minutes, which only long cells repay.
        victims, peer_victims, steps = OF_BACKBONES[batch_size], 1, BACKBONE_STEPS
        compiling = "off"
    if engine != "leakbench":
        victims = min(victims, peer_victims)
    model = built(name, size)
    victim_batches = batches(victims, batch_size, size)
    todo = work(attack, model, victim_batches, steps, compiling)
    done = benchmark.pedantic(ENGINES[engine], (todo,), rounds=1)
    assert done.images.shape == (victims, batch_size, 3, size, size)
    assert done.step > 0
    benchmark.extra_info |= {
        "kind": "step",
        **measurement._asdict(),
        "step": done.step,
        "flops": operations(model, victim_batches[0][0]),
    }


def test_leakbench_s_clock_agrees_with_the_whole_time() -> None:
    done = leakbench(work("IG", built("small_cnn", 32), batches(2, 8, 32), 12, "off"))
    assert 0.3 < 1e3 * done.seconds / (2 * 12) / done.step < 4
