"""What a worker process does with a step, on this machine or another."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from leakbench.base.cache import DamagedFileWarning, noting
from leakbench.base.devices import compute_reproducibly
from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.experiments.cell import Setup
from leakbench.records.record import Record
from leakbench.sweep.executor import Problem, Site, StepCompleted, StepProgress
from leakbench.sweep.steps import Measure, Prepare, Step, Task, Train
from leakbench.threat.attack import NotCompiled

if TYPE_CHECKING:
    from leakbench.evaluation.preparation import EvaluationContext

Send = Callable[[StepProgress], None]
"""Sends a message to the sweep."""

PROGRESS_EVERY = 0.5
"""Seconds between two messages of a worker about the share that is done."""

FORWARDED = (NotCompiled, DamagedFileWarning)
"""Warnings that are sent to the sweep, which shows and logs them."""


def run_step(name: str, task: Task, site: Site, send: Send) -> StepCompleted:
    """Do a step's task; an exception becomes the problem of the result."""
    compute_reproducibly()
    # It warns on every compilation that a machine without a GPU has none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with noting() as noted:
        try:
            with _warnings_forwarded(name, send):
                record = _done(name, task, site, send)
        except Exception as error:
            return StepCompleted(name, problem=problem_of(error), built=tuple(noted.built))
    return StepCompleted(name, record, built=tuple(noted.built))


def problem_of(error: Exception) -> Problem:
    """Return what an exception means to a sweep."""
    from torch import OutOfMemoryError

    usage = isinstance(error, UsageError)
    return Problem(
        message=str(error) if usage else f"{type(error).__name__}: {error}",
        usage=usage,
        transient=isinstance(error, (OSError, MemoryError, OutOfMemoryError)),
        fatal=isinstance(error, WriteError),
        details="".join(traceback.format_exception(error)),
    )


def _done(name: str, task: Task, site: Site, send: Send) -> Record | None:
    def on_status(doing: str) -> None:
        send(StepProgress(name, doing=doing))

    match task:
        case Prepare(setup):
            # Prepared anew, so that everything it needs is requested from the cache, and noted.
            _kept.clear()
            _prepared(setup, site, on_status)
        case Train(setup, defense, central):
            from leakbench.evaluation.preparation import train_beside

            train_beside(setup, defense, site.data_root, site.device, on_status, central)
        case Measure(cell):
            from leakbench.evaluation.measuring import measure
            from leakbench.experiments.resolved_cell import ResolvedCell

            resolved = ResolvedCell.of(cell)
            contexts = (_prepared(setup, site, on_status) for setup in resolved.setups)
            progress = _progress(name, send)
            return measure(
                resolved, contexts, progress, site.lpips_weights, site.compiling, on_status
            )
    return None


_kept: dict[tuple[int, str, str], EvaluationContext] = {}
"""The contexts of the last setup, one for each training, for the worker's next step."""


def _prepared(setup: Setup, site: Site, on_status: Callable[[str], None]) -> EvaluationContext:
    from leakbench.evaluation.preparation import prepare

    # A worker of a cluster may serve several runs, each with its own data.
    where = f"{site.data_root} {site.device}"
    of_all_trainings = setup.model_copy(update={"training": 0}).model_dump_json()
    if any(known[1:] != (of_all_trainings, where) for known in _kept):
        # Dropped before the new one is made: both at once would need twice the memory.
        _kept.clear()
    key = (setup.training, of_all_trainings, where)
    if key not in _kept:
        other = next(iter(_kept.values()), None)
        _kept[key] = prepare(setup, site.data_root, site.device, on_status, beside=other)
    return _kept[key]


def _progress(name: str, send: Send) -> Callable[[float], None]:
    last = 0.0

    def progress(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY:
            last = now
            send(StepProgress(name, share=share))

    return progress


@contextlib.contextmanager
def _warnings_forwarded(name: str, send: Send) -> Iterator[None]:
    """Send the warnings of `FORWARDED` to the sweep; others are shown as usual."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, FORWARDED):
                send(StepProgress(name, warning=str(message)))
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        for category in FORWARDED:
            warnings.simplefilter("always", category)
        yield


def setup_kept(step: Step) -> str | None:
    """Return the setup that a worker holds after a step; None if that stays what it was."""
    match step.task:
        case Prepare(setup):
            return setup.model_dump_json()
        case Measure(cell):
            return cell.setup.model_dump_json()
    return None
