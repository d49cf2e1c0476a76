"""The steps of a sweep: the work that cells share, the cells, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import digest
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.descriptions import describe, text_of
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.threat.knowledge import Knowledge

TRAINING_COST = 1 / 3
"""Cost of a training step on one image, in gradient-matching evaluations of one image."""


@dataclass(frozen=True)
class Prepare:
    """Decode images, train the shared model, read D_aux's features and fit f_p of a setup."""

    setup: Setup


@dataclass(frozen=True)
class TrainUnder:
    """Train a setup's model again under the client part of a defense."""

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
        name: unique; a cell's key, for its measurement.
        task: what a worker has to do.
        description: of the task, for people.
        work: in gradient evaluations.
        weight: its share in the progress of a sweep: its work, or its estimated seconds.
        priority: of the steps that may start, the one with the lowest starts first.
        needs: names of steps that must be done before it.
        exclusive_key: of the steps with the same key only one runs at a time, since they would wait
            for the same lock; empty for none.
        entry: the suite entry of the cell; None for shared work.
    """

    name: str
    task: Task
    description: str
    work: float
    weight: float
    priority: tuple[float, float]
    needs: tuple[str, ...] = ()
    exclusive_key: str = ""
    entry: SuiteEntry | None = field(default=None, compare=False)


def steps_of(cells: Sequence[SuiteEntry]) -> list[Step]:
    """Return the steps that measure cells; a piece of shared work is one step for all its cells.

    The cells of a setup follow each other, the longest first; the shared work of the next setup is
    done in the meantime.
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
            description=describe(entry),
            work=entry.resolved.work,
            weight=entry.resolved.work,
            priority=(number, -entry.resolved.work),
            needs=tuple(needs),
            exclusive_key=_deployment(entry.resolved, name),
            entry=entry,
        )
    return list(steps.values())


AHEAD = 1.5
"""Number of setups by which shared work is ahead of the cells."""


def _preparation(name: str, setup: Setup, number: int) -> Step:
    work = _training_work(setup)
    return Step(
        name=name,
        task=Prepare(setup),
        description=(
            f"{setup.model} for {setup.main_task} on {setup.dataset}, {setup.rounds} rounds"
        ),
        work=work,
        weight=work,
        priority=(number - AHEAD, 0),
        exclusive_key=setup.training_key(""),
    )


def _training_under(resolved: ResolvedCell, setup: Setup, number: int) -> Step | None:
    """Return the training that measures the utility cost of a cell's defense; None without one."""
    defense = None if resolved.cell.defense == "none" else resolved.defense.client_part()
    if defense is None:
        return None
    under = PluginSpec.of(defense)
    work = _training_work(setup)
    key = digest(setup.training_key(""), setup.rounds, under.name, under.parameters)[:24]
    return Step(
        name=f"training {key}",
        task=TrainUnder(setup, under),
        description=(
            f"{setup.model} for {setup.main_task} under {under.name} "
            f"({text_of(under.parameters)}), {setup.rounds} rounds"
        ),
        work=work,
        weight=work,
        priority=(number - AHEAD, 1),
        exclusive_key=digest(setup.training_key(""), under.name, under.parameters)[:24],
    )


def _training_work(setup: Setup) -> float:
    return TRAINING_COST * setup.rounds * setup.clients * setup.client_batch


def _deployment(resolved: ResolvedCell, setup: str) -> str:
    """Return a key of the model that an attack deploys, which cells share; empty without one."""
    if Knowledge.OUTPUTS not in resolved.attack.required_knowledge:
        return ""
    return digest("deployed", setup, resolved.cell.attack, resolved.cell.attack_parameters)[:24]
