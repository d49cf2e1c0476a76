"""What a worker process does with a step, on this machine or another."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from leakbench.base.cache import noting
from leakbench.base.devices import compute_reproducibly
from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.experiments.cell import Setup
from leakbench.records.record import Record
from leakbench.sweep.executor import Answered, Problem, Site, Told
from leakbench.sweep.steps import Measure, Prepare, Step, Task, TrainUnder
from leakbench.threat.attack import NotCompiled

if TYPE_CHECKING:
    from leakbench.evaluation.preparation import EvaluationContext

Tell = Callable[[Told], None]

TELL_EVERY = 0.5
"""Seconds between two messages of a worker on the share that is done."""


def answer(name: str, task: Task, site: Site, tell: Tell) -> Answered:
    """Do a step's task; whatever goes wrong is part of the answer."""
    compute_reproducibly()
    # Says at every compiling that a machine without a GPU has none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with noting() as noted:
        try:
            with _warnings_told(name, tell):
                record = _done(name, task, site, tell)
        except Exception as error:
            return Answered(name, problem=problem_of(error), built=tuple(noted.built))
    return Answered(name, record, built=tuple(noted.built))


def problem_of(error: Exception) -> Problem:
    """Return what an exception means to a sweep."""
    from torch import OutOfMemoryError

    usage = isinstance(error, UsageError)
    return Problem(
        message=str(error) if usage else f"{type(error).__name__}: {error}",
        usage=usage,
        passing=isinstance(error, (OSError, MemoryError, OutOfMemoryError)),
        ends=isinstance(error, WriteError),
        details="".join(traceback.format_exception(error)),
    )


def _done(name: str, task: Task, site: Site, tell: Tell) -> Record | None:
    def say(doing: str) -> None:
        tell(Told(name, doing=doing))

    match task:
        case Prepare(setup):
            # Made real anew, so that all that it needs of the cache is asked for, and noted.
            _kept.clear()
            _prepared(setup, site, say)
        case TrainUnder(setup, defense):
            from leakbench.evaluation.preparation import train_under

            train_under(setup, defense, site.data_root, site.device, say)
        case Measure(cell):
            from leakbench.evaluation.measuring import measure
            from leakbench.experiments.resolved_cell import ResolvedCell

            context = _prepared(cell.setup, site, say)
            progress = _progress(name, tell)
            resolved = ResolvedCell.of(cell)
            return measure(resolved, context, progress, site.lpips_weights, site.compiling, say)
    return None


_kept: dict[tuple[str, str], EvaluationContext] = {}
"""The last setup made real, for the worker's next step."""


def _prepared(setup: Setup, site: Site, say: Callable[[str], None]) -> EvaluationContext:
    from leakbench.evaluation.preparation import prepare

    # A worker of a cluster may serve several runs, each with data of its own.
    key = (setup.model_dump_json(), f"{site.data_root} {site.device}")
    if key not in _kept:
        # The old one goes before the new one comes: both at once would double the memory.
        _kept.clear()
        _kept[key] = prepare(setup, site.data_root, site.device, say)
    return _kept[key]


def _progress(name: str, tell: Tell) -> Callable[[float], None]:
    last = 0.0

    def progress(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= TELL_EVERY:
            last = now
            tell(Told(name, share=share))

    return progress


@contextlib.contextmanager
def _warnings_told(name: str, tell: Tell) -> Iterator[None]:
    """Hand on warnings of steps that do not compile; others go their way."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, NotCompiled):
                tell(Told(name, warning=str(message)))
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        warnings.simplefilter("always", NotCompiled)
        yield


def setup_kept(step: Step) -> str | None:
    """Return the setup that a worker keeps after a step; None where it keeps what it had."""
    match step.task:
        case Prepare(setup):
            return setup.model_dump_json()
        case Measure(cell):
            return cell.setup.model_dump_json()
    return None
