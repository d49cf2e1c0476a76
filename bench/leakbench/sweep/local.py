"""Steps in single-threaded processes of this machine.

Each worker has its own pipe: process pools whose workers share a queue and its lock lose all
workers, or wait forever, after the death of one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from leakbench.base.cache import cache_folder
from leakbench.sweep.executor import (
    Report,
    Site,
    StepCompleted,
    StepProgress,
    StepStarted,
    WorkerDied,
)
from leakbench.sweep.interrupts import DEFERRED
from leakbench.sweep.steps import Step
from leakbench.sweep.worker import run_step, setup_kept

if TYPE_CHECKING:
    from multiprocessing.context import ForkContext, SpawnContext

POLL_SECONDS = 0.2
"""Seconds to wait for a report."""

GRACE_SECONDS = 5.0
"""Seconds in which a worker may end by itself."""

PROCESSES: SpawnContext | ForkContext = multiprocessing.get_context("spawn")
"""How processes are started: anew, since a copy of a process that uses a GPU cannot use it."""


class LocalExecutor:
    """Worker processes, each started when it is first needed, and again after its death.

    Args:
        workers: number of processes.
        gpus: number of GPUs that they are distributed over; each process sees one.
    """

    def __init__(self, site: Site, workers: int, gpus: int = 0) -> None:
        self._site = site
        self._context = PROCESSES
        self._workers = [_Worker(str(n + 1), _visible_gpu(n, gpus)) for n in range(workers)]
        # Processes inherit it when they are started, which may be at any time.
        os.environ.update(worker_environment())

    def free_slots(self) -> int:
        """Return the number of idle workers."""
        return sum(worker.step is None for worker in self._workers)

    def submit(self, step: Step) -> None:
        """Give a step to an idle worker, preferably to one that holds the step's setup."""
        idle = [worker for worker in self._workers if worker.step is None]
        kept = setup_kept(step)
        worker = next((each for each in idle if each.held_setup == kept), idle[0])
        worker.step, worker.unreported = step.name, [StepStarted(step.name, worker.name)]
        if worker.process is None or not worker.process.is_alive():
            self._start(worker)
        worker.held_setup = kept or worker.held_setup
        assert worker.pipe is not None
        try:
            worker.pipe.send((step.name, step.task))
        except OSError:
            # It has just died, which `reports` will find.
            return

    def reports(self) -> list[Report]:
        """Return what workers have sent, and which of them died."""
        busy = [worker for worker in self._workers if worker.step is not None]
        if not busy:
            time.sleep(POLL_SECONDS)
        found: list[Report] = [report for worker in busy for report in worker.unreported]
        for worker in busy:
            worker.unreported = []
        sources: dict[Any, _Worker] = {}
        for worker in busy:
            assert worker.pipe is not None and worker.process is not None
            sources |= {worker.pipe: worker, worker.process.sentinel: worker}
        ready = wait(list(sources), 0 if found else POLL_SECONDS)
        heard = {id(sources[each]) for each in ready}
        for worker in busy:
            if id(worker) in heard:
                found += _received(worker)
        return found

    def kill(self, step: str) -> None:
        """Kill the worker of a step."""
        for worker in self._workers:
            if worker.step == step:
                worker.kill()

    def release(self, step: str) -> None:
        """Do nothing: the results of shared work stay in the cache."""

    def close(self) -> None:
        """End all workers: idle ones by closing their pipe, busy ones by killing them."""
        for worker in self._workers:
            if worker.pipe is not None:
                worker.pipe.close()
            if worker.process is not None and worker.step is not None:
                worker.process.kill()
        for worker in self._workers:
            if worker.process is not None:
                worker.process.join(GRACE_SECONDS)
                worker.kill()

    def _start(self, worker: _Worker) -> None:
        if worker.pipe is not None:
            worker.pipe.close()
            worker.pipe = None
        # Of a process that could not be started nothing may be left: it cannot be ended.
        worker.process = None
        pipe, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._site, worker.gpu), name=f"leakbench-{worker.name}"
        )
        # Started with the first worker, and after its death, it would lift the mask below.
        resource_tracker.ensure_running()
        # A terminal, or a cluster, signals all processes of a run. A worker ignores that from its
        # first moment on, since it inherits the mask: this process ends it, once it has what the
        # worker has measured.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker.pipe, worker.process, worker.held_setup = pipe, process, ""


@dataclass
class _Worker:
    """A worker as the parent process sees it.

    Attributes:
        gpu: its CUDA_VISIBLE_DEVICES; None to leave that as it is.
        step: its current step.
        held_setup: the setup that its process has in memory.
        unreported: reports that come before those that it sends.
    """

    name: str
    gpu: str | None
    process: BaseProcess | None = None
    pipe: Connection | None = None
    step: str | None = None
    held_setup: str = ""
    unreported: list[Report] = field(default_factory=list)

    def kill(self) -> None:
        """Kill its process; the next step starts another."""
        assert self.process is not None
        self.process.kill()
        self.process.join()


def _received(worker: _Worker) -> list[Report]:
    """Return what a worker has sent; after its death, also that."""
    step = worker.step
    assert worker.pipe is not None and worker.process is not None and step is not None
    found: list[Report] = []
    # Asked before the pipe is emptied, so that nothing sent before its death is lost.
    alive = worker.process.is_alive()
    try:
        while worker.pipe.poll():
            report = worker.pipe.recv()
            found.append(report)
            if isinstance(report, StepCompleted):
                worker.step = None
                if report.problem is not None and worker.gpu is not None:
                    # An error on a GPU may spoil everything that the process does there later.
                    worker.kill()
                return found
    except (EOFError, OSError):
        alive = False
    if not alive:
        worker.process.join()
        found.append(WorkerDied(step, _cause(worker.process.exitcode)))
        worker.step, worker.held_setup = None, ""
    return found


def _cause(exitcode: int | None) -> str:
    """Return why a process died, as a predicate.

    >>> _cause(-9)
    'was killed by SIGKILL, perhaps for lack of memory'
    >>> _cause(3)
    'ended with exit code 3'
    """
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (
            ", perhaps for lack of memory" if name == "SIGKILL" else ""
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
    """Return the environment variables that workers get."""
    # One thread each, since there is a worker for each core.
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
    # glibc returns large blocks to the system as soon as they are freed; every step would request
    # them again, and the system would clear them page by page: a third of the time at B = 1.
    allocation = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
    return {
        **dict.fromkeys(threads, "1"),
        **{name: os.environ.get(name, value) for name, value in allocation.items()},
        # Set even if it is set already: PyTorch itself may have put its own default there by now.
        "TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "compiled"),
    }


def _serve(pipe: Connection, site: Site, gpu: str | None) -> None:
    """Run steps until the pipe is closed; exit at once when the parent process dies."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    one_at_a_time = threading.Lock()

    def send(report: StepProgress | StepCompleted) -> None:
        with one_at_a_time:
            pipe.send(report)

    while True:
        try:
            name, task = pipe.recv()
        except EOFError:
            return
        send(run_step(name, task, site, send))
