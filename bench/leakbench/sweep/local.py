"""Steps in single-threaded processes of this machine.

Each worker has a pipe of its own. A queue that all share, as in the standard library's pools, has a
lock; a worker that is killed while it holds that never frees it, and all others wait forever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from leakbench.base.cache import cache_folder
from leakbench.sweep.executor import Answered, Begun, Lost, Report, Site, Told
from leakbench.sweep.steps import Step
from leakbench.sweep.worker import answer, setup_kept

MOMENT = 0.2
"""Seconds to wait for a report."""


class LocalExecutor:
    """A pool of worker processes, each started when it is first needed, or needed again.

    Args:
        workers: how many.
        gpus: over how many GPUs they are spread; each sees one. None for none.
    """

    def __init__(self, site: Site, workers: int, gpus: int = 0) -> None:
        self._site = site
        self._context = multiprocessing.get_context("spawn")
        self._workers = [_Worker(str(n + 1), _visible_gpu(n, gpus)) for n in range(workers)]
        # Processes inherit it when they are started, which may be at any time.
        os.environ.update(worker_environment())

    def room(self) -> int:
        """Return the number of idle workers."""
        return sum(worker.step is None for worker in self._workers)

    def submit(self, step: Step) -> None:
        """Give a step to an idle worker; if possible to one that holds its setup."""
        idle = [worker for worker in self._workers if worker.step is None]
        kept = setup_kept(step)
        worker = next((each for each in idle if each.holds == kept), idle[0])
        worker.step, worker.unsaid = step.name, [Begun(step.name, worker.name)]
        if worker.process is None or not worker.process.is_alive():
            self._start(worker)
        worker.holds = kept or worker.holds
        assert worker.pipe is not None
        try:
            worker.pipe.send((step.name, step.task))
        except OSError:
            # It has just died, which `reports` will find.
            return

    def reports(self) -> list[Report]:
        """Return what workers have told, and whose deaths have come to light."""
        busy = [worker for worker in self._workers if worker.step is not None]
        if not busy:
            time.sleep(MOMENT)
        found: list[Report] = [report for worker in busy for report in worker.unsaid]
        for worker in busy:
            worker.unsaid = []
        waited_for: dict[Any, _Worker] = {}
        for worker in busy:
            assert worker.pipe is not None and worker.process is not None
            waited_for |= {worker.pipe: worker, worker.process.sentinel: worker}
        heard = {id(waited_for[each]) for each in wait(list(waited_for), 0 if found else MOMENT)}
        for worker in busy:
            if id(worker) in heard:
                found += _heard(worker)
        return found

    def kill(self, step: str) -> None:
        """Kill the worker that does a step."""
        for worker in self._workers:
            if worker.step == step:
                worker.end()

    def forget(self, step: str) -> None:
        """What shared work makes stays in the cache."""

    def close(self) -> None:
        """End all workers: the idle ones are told, the busy ones killed; none writes a record."""
        for worker in self._workers:
            if worker.pipe is not None:
                worker.pipe.close()
            if worker.process is not None and worker.step is not None:
                worker.process.terminate()
        for worker in self._workers:
            if worker.process is not None:
                worker.process.join(GRACE)
                worker.process.kill()
                worker.process.join()

    def _start(self, worker: _Worker) -> None:
        if worker.pipe is not None:
            worker.pipe.close()
        worker.pipe, theirs = self._context.Pipe()
        worker.process = self._context.Process(
            target=_serve, args=(theirs, self._site, worker.gpu), name=f"leakbench-{worker.name}"
        )
        # Deaf to Ctrl-C from the first moment; the mask is inherited.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            worker.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker.holds = ""


GRACE = 5.0
"""Seconds in which a worker may end by itself."""


@dataclass
class _Worker:
    """A worker as the parent sees it.

    Attributes:
        gpu: what it gets as CUDA_VISIBLE_DEVICES, if anything.
        step: what it does now.
        holds: the setup that its process has in memory.
        unsaid: reports that come before those that it sends.
    """

    name: str
    gpu: str | None
    process: BaseProcess | None = None
    pipe: Connection | None = None
    step: str | None = None
    holds: str = ""
    unsaid: list[Report] = field(default_factory=list)

    def end(self) -> None:
        """Kill its process; the next step starts another."""
        assert self.process is not None
        self.process.kill()
        self.process.join()


def _heard(worker: _Worker) -> list[Report]:
    """Return what a worker has sent; if it is dead, also that its step is lost."""
    step = worker.step
    assert worker.pipe is not None and worker.process is not None and step is not None
    found: list[Report] = []
    # Asked before the pipe is emptied: what a worker sends before it dies is heard.
    alive = worker.process.is_alive()
    try:
        while worker.pipe.poll():
            report = worker.pipe.recv()
            found.append(report)
            if isinstance(report, Answered):
                worker.step = None
                if report.problem is not None and worker.gpu is not None:
                    # What goes wrong on a GPU may spoil all that the process does on it later.
                    worker.end()
                return found
    except (EOFError, OSError):
        alive = False
    if not alive:
        worker.process.join()
        found.append(Lost(step, _cause(worker.process.exitcode)))
        worker.step, worker.holds = None, ""
    return found


def _cause(exitcode: int | None) -> str:
    """Return why a process died, in words.

    >>> _cause(-9)
    'was killed by SIGKILL, perhaps for want of memory'
    >>> _cause(3)
    'ended with exit code 3'
    """
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (
            ", perhaps for want of memory" if name == "SIGKILL" else ""
        )
    return f"ended with exit code {exitcode}"


def _visible_gpu(number: int, gpus: int) -> str | None:
    """Return the GPU of worker `number`, among those that the parent sees.

    >>> _visible_gpu(5, 4), _visible_gpu(0, 0)
    ('1', None)
    """
    if not gpus:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
    return names[number % min(gpus, len(names))]


def worker_environment() -> dict[str, str]:
    """Return the variables of the environment in which workers run."""
    # One thread each, or the cores are fought over.
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
    # glibc hands large blocks back to the system as soon as they are freed; every step would ask
    # for them again, and the system would clear them page by page: a third of the time at B = 1.
    allocation = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
    return {
        **dict.fromkeys(threads, "1"),
        **{name: os.environ.get(name, value) for name, value in allocation.items()},
        # Not by default only: PyTorch itself may have put its own default there by now.
        "TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "compiled"),
    }


def _serve(pipe: Connection, site: Site, gpu: str | None) -> None:
    """Be a worker: dead as soon as the parent is, done when the pipe is closed."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    one_at_a_time = threading.Lock()

    def tell(report: Told | Answered) -> None:
        with one_at_a_time:
            pipe.send(report)

    while True:
        try:
            name, task = pipe.recv()
        except EOFError:
            return
        tell(answer(name, task, site, tell))
