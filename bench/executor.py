"""Running of cells in single-threaded worker processes on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_sentinel
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, Protocol

from bench.cache import cache_folder
from bench.cells import Cell, Setup
from bench.errors import UsageError
from bench.store import Record, Store
from bench.suite import Planned
from bench.threat import Compiling, NotCompiled

if TYPE_CHECKING:
    from bench.preparation import Prepared

TRAINING_COST = 1 / 3
"""A training step on one image against one gradient-matching evaluation of it."""

WARNING = "warning"
"""Stands in the place of a cell's key in a message that is a warning."""

REPORT_EVERY = 0.5
"""Seconds between two progress messages of a worker."""


class Watcher(Protocol):
    """Is told how a run goes on."""

    def working(self, done: float, total: float) -> None:
        """Units of work done, of all."""

    def busy(self, what: str) -> None:
        """What a worker has begun."""

    def warned(self, warning: str) -> None:
        """A worker goes on in another way than asked."""

    def finished(self, planned: Planned, record: Record) -> None:
        """A cell has its record."""


@dataclass(frozen=True)
class Failure:
    """A cell that failed: the user's fault or the program's."""

    planned: Planned
    message: str
    usage: bool
    details: str


def run_cells(
    cells: Sequence[Planned],
    store: Store,
    data_root: Path | None,
    device: str,
    workers: int,
    watcher: Watcher,
    lpips_weights: Path | None = None,
    compiling: Compiling = "auto",
) -> list[Failure]:
    """Measure cells, writing each record as soon as it is there; return those that failed.

    The work that cells share is done first, once for each setup.

    Args:
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.

    Raises:
        UsageError: a worker died. Records written stay.
    """
    run = _Run(cells, store, data_root, device, watcher, lpips_weights, compiling)
    _prepare_environment()
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        min(workers, len(cells)), context, initializer=_start_worker, initargs=(messages,)
    )
    try:
        return run.to_the_end(pool, messages)
    except BrokenProcessPool:
        raise UsageError(
            "a worker process died, perhaps for want of memory; all finished cells are kept: run "
            "the same command again to go on, with fewer --workers if it happens again"
        ) from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare_environment() -> None:
    """Set what worker processes inherit."""
    # One thread each, or the cores are fought over.
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
    os.environ.update(dict.fromkeys(threads, "1"))
    # glibc hands large blocks back to the system as soon as they are freed; every step would ask
    # for them again, and the system would clear them page by page: a third of the time at B = 1.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**31))
    # Not by default only: PyTorch itself may have put its own default there by now.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "compiled")


class _Run:
    """The state of one run in the parent process."""

    def __init__(
        self,
        cells: Sequence[Planned],
        store: Store,
        data_root: Path | None,
        device: str,
        watcher: Watcher,
        lpips_weights: Path | None,
        compiling: Compiling,
    ) -> None:
        self.store, self.data_root, self.device, self.watcher = store, data_root, device, watcher
        self.lpips_weights, self.compiling = lpips_weights, compiling
        self.by_setup: dict[str, list[Planned]] = {}
        for planned in cells:
            self.by_setup.setdefault(planned.cell.setup.model_dump_json(), []).append(planned)
        self.work = {planned.key: planned.work for planned in cells}
        self.work |= {setup: _training_work(setup) for setup in self.by_setup}
        self.share = dict.fromkeys(self.work, 0.0)
        self.failures: list[Failure] = []

    def to_the_end(self, pool: ProcessPoolExecutor, messages: Any) -> list[Failure]:
        """Prepare every setup, and measure its cells as soon as it is prepared."""
        waiting: dict[Future[Any], str | Planned] = {
            pool.submit(_prepare, setup, self.data_root, self.device): setup
            for setup in self.by_setup
        }
        while waiting:
            done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            self._read(messages)
            for future in done:
                finished = waiting.pop(future)
                if isinstance(finished, str):
                    self.share[finished] = 1.0
                    if not self._prepared(finished, future):
                        continue
                    for planned in self.by_setup[finished]:
                        cell = planned.cell.model_dump_json()
                        job = pool.submit(
                            _measure,
                            cell,
                            planned.key,
                            self.store.folder,
                            self.data_root,
                            self.device,
                            self.lpips_weights,
                            self.compiling,
                        )
                        waiting[job] = planned
                else:
                    self._conclude(finished, future.result())
            self._report()
        return self.failures

    def _prepared(self, setup: str, future: Future[Any]) -> bool:
        """Whether a setup could be prepared; if not, its cells have failed, the others go on."""
        try:
            future.result()
        except BrokenProcessPool:
            raise
        except Exception as error:
            usage, message = _explain(error)
            details = "".join(traceback.format_exception(error))
            for planned in self.by_setup[setup]:
                self.share[planned.key] = 1.0
                self.failures.append(Failure(planned, message, usage, details))
            return False
        return True

    def _conclude(self, planned: Planned, outcome: _Outcome) -> None:
        self.share[planned.key] = 1.0
        self.watcher.finished(planned, outcome.record)
        if outcome.record.error is not None:
            self.failures.append(
                Failure(planned, outcome.record.error, outcome.usage, outcome.details)
            )

    def _read(self, messages: Any) -> None:
        while True:
            try:
                key, share, what = messages.get_nowait()
            except Empty:
                return
            if key == WARNING:
                self.watcher.warned(what)
            elif what:
                self.watcher.busy(what)
            if key in self.share:
                self.share[key] = max(self.share[key], share)

    def _report(self) -> None:
        done = sum(self.work[key] * share for key, share in self.share.items())
        self.watcher.working(done, sum(self.work.values()))


def _training_work(setup_json: str) -> float:
    setup = Setup.model_validate_json(setup_json)
    return TRAINING_COST * setup.rounds * setup.clients * setup.client_batch


def _explain(error: Exception) -> tuple[bool, str]:
    """Return whether the user can put an error right, and the sentence that says what it is."""
    usage = isinstance(error, UsageError)
    return usage, str(error) if usage else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class _Outcome:
    record: Record
    usage: bool = False
    details: str = ""


_messages: Any = None


def _start_worker(messages: Any) -> None:
    """Make this process a worker: one thread, deaf to Ctrl-C, dead as soon as the parent is."""
    global _messages  # noqa: PLW0603
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for_sentinel([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    compute_reproducibly()
    _hand_warnings_on()
    # Says at every compiling that a machine without a GPU has none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def compute_reproducibly() -> None:
    """Let this process give numbers that do not depend on the run, with one thread."""
    import torch

    torch.set_num_threads(1)
    # No reduced precision, no choice by timing.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _hand_warnings_on() -> None:
    """Let warnings of steps that do not compile be shown by the parent; others go their way."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, NotCompiled):
            _messages.put((WARNING, 0.0, str(message)))
        else:
            shown(message, category, *where, **more)

    warnings.showwarning = show
    warnings.simplefilter("always", NotCompiled)


def _say(what: str) -> None:
    _messages.put(("", 0.0, what))


def _teller(key: str) -> Callable[[float], None]:
    last = 0.0

    def tell(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY:
            last = now
            _messages.put((key, share, ""))

    return tell


def _prepare(setup_json: str, data_root: Path | None, device: str) -> None:
    _prepared(setup_json, data_root, device)


_kept: dict[str, Prepared] = {}
"""The last setup made real, for the worker's next cell."""


def _prepared(setup_json: str, data_root: Path | None, device: str) -> Prepared:
    from bench.preparation import prepare

    if setup_json not in _kept:
        # The old one goes before the new one comes: both at once would double the memory.
        _kept.clear()
        setup = Setup.model_validate_json(setup_json)
        _kept[setup_json] = prepare(setup, data_root, device, _say)
    return _kept[setup_json]


def _measure(
    cell_json: str,
    key: str,
    folder: Path,
    data_root: Path | None,
    device: str,
    lpips_weights: Path | None,
    compiling: Compiling,
) -> _Outcome:
    """Measure a cell and write its record, also when it fails."""
    from bench.measure import measure

    cell = Cell.model_validate_json(cell_json)
    store = Store(folder)
    try:
        prepared = _prepared(cell.setup.model_dump_json(), data_root, device)
        record = measure(cell, prepared, _teller(key), lpips_weights, compiling, _say)
        outcome = _Outcome(record)
    except Exception as error:
        usage, message = _explain(error)
        record = Record(
            key=key, cell=cell, attack_version=0, status="failed", error=message, device=device
        )
        outcome = _Outcome(record, usage, traceback.format_exc())
    earlier = store.read(key)
    if outcome.record.status != "failed" or earlier is None or earlier.status == "failed":
        store.write(outcome.record)
    return outcome
