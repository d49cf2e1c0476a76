"""The steps of a sweep: the work that cells share, the cells, and their order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import digest
from leakbench.experiments.cell import Cell, Setup, utility_setups
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
class Train:
    """Train a setup's model to compare with: for the utility cost of a defense, or centrally.

    Attributes:
        setup: with the number of the training.
        defense: under whose client part it is trained; None for none.
        central: whether it is trained on all clients' data in one place.
    """

    setup: Setup
    defense: PluginSpec | None
    central: bool = False


@dataclass(frozen=True)
class Measure:
    """Measure a cell."""

    cell: Cell
    key: str


Task = Prepare | Train | Measure


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
        name = _name(entry.cell.setup)
        number = numbers.setdefault(name, len(numbers))
        setups = entry.resolved.setups
        shared = [step for setup in setups for step in _preparation(setup, number)]
        prepared = {setup.training for setup in setups}
        shared += _trainings(entry.resolved, prepared, number)
        for step in shared:
            steps.setdefault(step.name, step)
        steps[entry.key] = Step(
            name=entry.key,
            task=Measure(entry.cell, entry.key),
            description=describe(entry),
            work=entry.resolved.work,
            weight=entry.resolved.work,
            priority=(number, -entry.resolved.work),
            needs=tuple(step.name for step in shared),
            exclusive_key=_deployment(entry.resolved, name),
            entry=entry,
        )
    return list(steps.values())


AHEAD = 1.5
"""Number of setups by which shared work is ahead of the cells."""


def _name(setup: Setup) -> str:
    return f"setup {digest(setup.model_dump(mode='json'))[:24]}"


def _preparation(setup: Setup, number: int) -> list[Step]:
    """Return the steps that prepare a setup, the centrally trained model first."""
    work = _training_work(setup)
    central = [_central_training(setup, number)] if setup.central else []
    prepared = Step(
        name=_name(setup),
        task=Prepare(setup),
        description=_model_of(setup),
        work=work,
        weight=work,
        priority=(number - AHEAD, 0),
        needs=tuple(step.name for step in central),
        exclusive_key=setup.training_key(""),
    )
    return [*central, prepared]


def _central_training(setup: Setup, number: int) -> Step:
    key = digest("central", setup.training_key(""))[:24]
    work = _training_work(setup)
    return Step(
        name=f"training {digest(key, setup.rounds)[:24]}",
        task=Train(setup, None, central=True),
        description=_model_of(setup, " on all clients' data in one place"),
        work=work,
        weight=work,
        priority=(number - AHEAD, 0),
        exclusive_key=key,
    )


def _trainings(resolved: ResolvedCell, prepared: Collection[int], number: int) -> list[Step]:
    """Return the trainings that measure the utility cost of a cell's defense.

    Args:
        prepared: the numbers of the trainings without a defense that are prepared anyway.
    """
    if resolved.cell.defense == "none":
        return []
    part = resolved.defense.client_part()
    under = None if part is None else PluginSpec.of(part)
    steps = []
    for setup in utility_setups(resolved.cell.setup):
        if setup.training not in prepared:
            steps.append(_training(setup, None, number))
        if under is not None:
            steps.append(_training(setup, under, number))
    return steps


def _training(setup: Setup, under: PluginSpec | None, number: int) -> Step:
    work = _training_work(setup)
    named = [] if under is None else [under.name, under.parameters]
    text = "" if under is None else f" under {under.name} ({text_of(under.parameters)})"
    key = digest(setup.training_key(""), setup.rounds, *named)[:24]
    return Step(
        name=f"training {key}",
        task=Train(setup, under),
        description=_model_of(setup, text),
        work=work,
        weight=work,
        priority=(number - AHEAD, 1),
        exclusive_key=digest(setup.training_key(""), *named)[:24]
        if named
        else setup.training_key(""),
    )


def _model_of(setup: Setup, under: str = "") -> str:
    """Return what is trained, in a few words."""
    which = f", training {setup.training}" if setup.training else ""
    rounds = f"{setup.rounds} rounds{which}"
    return f"{setup.model} for {setup.main_task} on {setup.dataset}{under}, {rounds}"


def _training_work(setup: Setup) -> float:
    return TRAINING_COST * setup.rounds * setup.images_of_round


def _deployment(resolved: ResolvedCell, setup: str) -> str:
    """Return a key of the model that an attack deploys, which cells share; empty without one."""
    if Knowledge.OUTPUTS not in resolved.attack.required_knowledge:
        return ""
    return digest("deployed", setup, resolved.cell.attack, resolved.cell.attack_parameters)[:24]
