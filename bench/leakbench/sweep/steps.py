"""The steps of a sweep: work that cells share, and the cells, each with what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import digest
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.descriptions import describe, text_of
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.experiments.suite import SuiteEntry
from leakbench.threat.knowledge import Knowledge

TRAINING_COST = 1 / 3
"""A training step on one image against one gradient-matching evaluation of it."""


@dataclass(frozen=True)
class Prepare:
    """Decode images, train the shared model, read D_aux's features and fit f_p of a setup."""

    setup: Setup


@dataclass(frozen=True)
class TrainUnder:
    """Train a setup's model again under the part of a defense that a client does by itself."""

    setup: Setup
    defense: PluginSpec


@dataclass(frozen=True)
class Measure:
    """Measure a cell."""

    cell: Cell
    key: str


Task = Prepare | TrainUnder | Measure


@dataclass(frozen=True)
class Step:
    """A task of a sweep.

    Attributes:
        name: of its own; a cell's is its key.
        task: what a worker has to do.
        what: the same in a few words.
        work: in gradient evaluations.
        weight: how much of a sweep it is; its work, or better the seconds that it will take.
        turn: of those that may start, the lowest starts first.
        needs: names of steps that come before it.
        alone: of steps with the same, one runs at a time: they would wait for the same lock.
        entry: a cell's place in its suite.
    """

    name: str
    task: Task
    what: str
    work: float
    weight: float
    turn: tuple[float, float]
    needs: tuple[str, ...] = ()
    alone: str = ""
    entry: SuiteEntry | None = field(default=None, compare=False)


def steps_of(cells: Sequence[SuiteEntry]) -> list[Step]:
    """Return the steps that measure cells; shared work is one step, however many need it.

    The cells of a setup follow each other, the longest first, and the work that is shared by the
    next setup's is done meanwhile.
    """
    steps: dict[str, Step] = {}
    numbers: dict[str, int] = {}
    for entry in cells:
        setup = entry.cell.setup
        name = f"setup {digest(setup.model_dump(mode='json'))[:24]}"
        number = numbers.setdefault(name, len(numbers))
        if name not in steps:
            steps[name] = _preparation(name, setup, number)
        needs = [name]
        if (training := _training_under(entry.resolved, setup, number)) is not None:
            steps.setdefault(training.name, training)
            needs.append(training.name)
        steps[entry.key] = Step(
            name=entry.key,
            task=Measure(entry.cell, entry.key),
            what=describe(entry),
            work=entry.resolved.work,
            weight=entry.resolved.work,
            turn=(number, -entry.resolved.work),
            needs=tuple(needs),
            alone=_deployment(entry.resolved, name),
            entry=entry,
        )
    return list(steps.values())


AHEAD = 1.5
"""By how many setups their shared work is ahead of the cells."""


def _preparation(name: str, setup: Setup, number: int) -> Step:
    work = _training_work(setup)
    return Step(
        name=name,
        task=Prepare(setup),
        what=f"{setup.model} for {setup.main_task} on {setup.dataset}, {setup.rounds} rounds",
        work=work,
        weight=work,
        turn=(number - AHEAD, 0),
        alone=setup.training_key(""),
    )


def _training_under(resolved: ResolvedCell, setup: Setup, number: int) -> Step | None:
    """Return the training that tells what a cell's defense costs; None where there is none."""
    defense = None if resolved.cell.defense == "none" else resolved.defense.client_part()
    if defense is None:
        return None
    under = PluginSpec.of(defense)
    work = _training_work(setup)
    key = digest(setup.training_key(""), setup.rounds, under.name, under.parameters)[:24]
    return Step(
        name=f"training {key}",
        task=TrainUnder(setup, under),
        what=(
            f"{setup.model} for {setup.main_task} under {under.name} "
            f"({text_of(under.parameters)}), {setup.rounds} rounds"
        ),
        work=work,
        weight=work,
        turn=(number - AHEAD, 1),
        alone=digest(setup.training_key(""), under.name, under.parameters)[:24],
    )


def _training_work(setup: Setup) -> float:
    return TRAINING_COST * setup.rounds * setup.clients * setup.client_batch


def _deployment(resolved: ResolvedCell, setup: str) -> str:
    """Return what tells the models apart that an attack deploys, since cells share them."""
    if Knowledge.OUTPUTS not in resolved.attack.required_knowledge:
        return ""
    return digest("deployed", setup, resolved.cell.attack, resolved.cell.attack_parameters)[:24]
