"""Steps as tasks of a Ray cluster, which places them on nodes and survives the loss of a node.

Records return to the driver, and only the driver writes them. What shared work has stored in a
worker's cache goes to the object store, and from there to the cache of each worker that needs it,
so that nodes need no shared folder; with a shared $LEAKBENCH_CACHE it is there already. Every node
needs leakbench, the plugins, the data sets and AlexNet's weights at the same paths.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from typing import Any

from leakbench.base.cache import cache_folder, is_cached, noting, packed, unpack
from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.evaluation.required_weights import cached_weights
from leakbench.sweep.executor import (
    Problem,
    Report,
    Site,
    StepCompleted,
    StepProgress,
    StepStarted,
    WorkerDied,
)
from leakbench.sweep.local import POLL_SECONDS, worker_environment
from leakbench.sweep.steps import Measure, Step, Task
from leakbench.sweep.worker import problem_of, run_step

REBUILT = 3
"""How often Ray repeats shared work whose result was lost with a node."""

AHEAD = 2
"""Steps submitted to Ray for each that it runs, so that it need not wait for the next."""

CHECK_EVERY = 5.0
"""Seconds between two checks of the cluster's size."""


def connect(address: str | None, cores: int) -> None:
    """Join a Ray cluster.

    Args:
        address: None for $RAY_ADDRESS, or else a new cluster on this machine.
        cores: of a new cluster.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    ray = _ray()
    address = address or os.environ.get("RAY_ADDRESS")
    if address and not _answers(address):
        raise UsageError(f"no Ray cluster answers at {address}; {WAY_OUT}")
    # The sweep itself retries, and counts, what was killed for lack of memory.
    os.environ.setdefault("RAY_task_oom_retries", "0")
    own: dict[str, Any] = {} if address else {"num_cpus": cores, "include_dashboard": False}
    environment = worker_environment() | {"LEAKBENCH_CACHE": str(cache_folder().absolute())}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="error",
            runtime_env={"env_vars": environment},
            **own,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster at {address}: {str(error).splitlines()[0]}; {WAY_OUT}"
        ) from error


def device_of_cluster(name: str) -> str:
    """Return the device to compute on; `auto` is a GPU if the cluster has any.

    Raises:
        UsageError: the cluster does not have this device.
    """
    has_gpu = _ray().cluster_resources().get("GPU", 0) >= 1
    if name == "auto":
        return "cuda" if has_gpu else "cpu"
    if name == "mps" or (name == "cuda" and not has_gpu):
        raise UsageError(f"the Ray cluster has no device {name!r}; use --device auto")
    return name


class RayExecutor:
    """Runs steps on the Ray cluster that `connect` has joined.

    Args:
        most: number of steps at once; None for as many as the cluster runs.
    """

    def __init__(self, site: Site, most: int | None) -> None:
        self._ray = ray = _ray()
        self._site = site
        self._most = most or sys.maxsize
        self._slots, self._checked = 1, 0.0
        here = ray.get_runtime_context().get_node_id()
        # The messages of all workers; it runs on the driver's node.
        self._inbox: Any = (
            ray.remote(_Inbox)
            .options(num_cpus=0, scheduling_strategy=_on_node(here), max_restarts=-1)
            .remote()
        )
        resources = {"num_cpus": 1, "num_gpus": 1 if site.device == "cuda" else 0}
        self._do: Any = ray.remote(num_returns=2, **resources)(_do)
        self._submitted: dict[str, Any] = {}
        self._artefacts: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}

    @property
    def slots(self) -> int:
        """Number of steps that run at once, at the cluster's present size."""
        now = time.monotonic()
        if now - self._checked >= CHECK_EVERY:
            self._checked = now
            kind = "GPU" if self._site.device == "cuda" else "CPU"
            self._slots = max(1, int(self._ray.cluster_resources().get(kind, 0)))
        return min(self._most, self._slots)

    def free_slots(self) -> int:
        """Return how many more steps to submit, including some that Ray queues."""
        return min(self._most, AHEAD * self.slots) - len(self._submitted)

    def submit(self, step: Step) -> None:
        """Submit a step, with the results of the steps that it needs."""
        # Ray repeats shared work whose result is lost; the sweep repeats, and counts, cells.
        retries = 0 if isinstance(step.task, Measure) else REBUILT
        result, artefacts = self._do.options(
            max_retries=retries, name=f"leakbench {step.name}"
        ).remote(
            step.name,
            step.task,
            self._site,
            self._inbox,
            *(self._artefacts[need] for need in step.needs if need in self._artefacts),
            *self._weights(step.task),
        )
        self._submitted[step.name] = result
        if not isinstance(step.task, Measure):
            self._artefacts[step.name] = artefacts

    def _weights(self, task: Task) -> list[Any]:
        """Return the file of pretrained weights that shared work begins with, if any."""
        path = None if isinstance(task, Measure) else cached_weights(task.setup)
        if path is None or not is_cached(path):
            return []
        if path not in self._sent:
            self._sent[path] = self._ray.put(packed([path]))
        return [self._sent[path]]

    def reports(self) -> list[Report]:
        """Return the messages of workers, and the steps that have ended."""
        if not self._submitted:
            time.sleep(POLL_SECONDS)
            return []
        names = {result: name for name, result in self._submitted.items()}
        done, going = self._ray.wait(list(names), timeout=POLL_SECONDS)
        if going:
            more, _ = self._ray.wait(going, num_returns=len(going), timeout=0)
            done += more
        # Read after `wait`, so that messages from before a result come before it.
        found = self._messages()
        ended = [names[each] for each in done]
        return found + [self._end_of(name, self._submitted.pop(name)) for name in ended]

    def kill(self, step: str) -> None:
        """Kill the worker of a step."""
        self._ray.cancel(self._submitted[step], force=True)

    def release(self, step: str) -> None:
        """Let the object store drop the results of shared work."""
        self._artefacts.pop(step, None)

    def close(self) -> None:
        """Cancel all running steps, and leave the cluster."""
        for result in self._submitted.values():
            self._ray.cancel(result, force=True)
        self._ray.shutdown()

    def _messages(self) -> list[Report]:
        try:
            return list(self._ray.get(self._inbox.taken.remote()))
        except self._ray.exceptions.RayError:
            # It is being restarted; messages are lost, but no results.
            return []

    def _end_of(self, name: str, result: Any) -> Report:
        try:
            report: StepCompleted = self._ray.get(result)
        except self._ray.exceptions.RayTaskError as error:
            # Before the task began, e.g. because a module is missing on that node.
            return StepCompleted(name, problem=Problem(_last_line(error), details=str(error)))
        except self._ray.exceptions.RayError as error:
            return WorkerDied(name, f"was lost ({type(error).__name__})")
        return report


def _last_line(error: Exception) -> str:
    """Return the last line of a traceback."""
    return str(error).strip().splitlines()[-1]


WAY_OUT = (
    "start one with `ray start --head`, or leave --address and $RAY_ADDRESS out to use this "
    "machine alone"
)


def _answers(address: str) -> bool:
    """Whether a server listens at `HOST:PORT`; Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is None:
        return True
    try:
        with socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10):
            return True
    except (OSError, OverflowError):
        return False


class _Inbox:
    """An actor that keeps the messages of workers until the driver takes them."""

    def __init__(self) -> None:
        self._reports: list[Report] = []

    def put(self, report: Report) -> None:
        self._reports.append(report)

    def taken(self) -> list[Report]:
        reports, self._reports = self._reports, []
        return reports


def _do(
    name: str, task: Task, site: Site, inbox: Any, *artefacts: dict[str, bytes]
) -> tuple[StepCompleted, dict[str, bytes]]:
    """Run a step on a node; return its result, and the cache files that others need."""
    context = _ray().get_runtime_context()
    worker = f"{context.get_node_id()[:6]}/{os.getpid()}"

    def send(report: StepStarted | StepProgress) -> None:
        inbox.put.remote(report)

    send(StepStarted(name, worker))
    try:
        for each in artefacts:
            unpack(each)
    except WriteError as error:
        return StepCompleted(name, problem=problem_of(error)), {}
    with noting() as noted:
        result = run_step(name, task, site, send)
    shared = not isinstance(task, Measure) and result.problem is None
    return result, packed(noted.tensors) if shared else {}


def _on_node(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _ray() -> Any:
    # No usage statistics are sent unasked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--executor ray needs Ray, which is not installed; install leakbench[ray]"
        ) from None
    return ray
