"""Steps as tasks of a Ray cluster, which decides what runs where and survives the loss of a node.

A cell's record comes back to the driver, which alone writes records. What shared work has put into
a worker's cache goes into the object store, and from there into the cache of whoever measures a
cell, so that nodes need no folder in common; where they have one ($LEAKBENCH_CACHE), it is there
already. On every node leakbench and its plugins are installed, and data sets and AlexNet's weights
lie in the same place.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from typing import Any

from leakbench.base.cache import cache_folder, noting, packed, unpack
from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.sweep.executor import Answered, Begun, Lost, Problem, Report, Site, Told
from leakbench.sweep.local import MOMENT, worker_environment
from leakbench.sweep.steps import Measure, Step, Task
from leakbench.sweep.worker import answer, problem_of

REBUILT = 3
"""How often Ray repeats shared work by itself, should its result be lost with a node."""

AHEAD = 2
"""Steps that are handed to Ray for each that it does, so that it need not wait for the next."""

LOOK_EVERY = 5.0
"""Seconds between two looks at the cluster's size."""


def connect(address: str | None, cores: int) -> None:
    """Join a Ray cluster.

    Args:
        address: None for that of $RAY_ADDRESS, or one of this machine alone.
        cores: of that one.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    ray = _ray()
    address = address or os.environ.get("RAY_ADDRESS")
    if address and not _answers(address):
        raise UsageError(f"no Ray cluster answers at {address}; {WAY_OUT}")
    # What is lost for want of memory is tried again, and counted, by the sweep.
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
    """Return the device to compute on; `auto` takes GPUs where the cluster has them.

    Raises:
        UsageError: it has none.
    """
    has_gpu = _ray().cluster_resources().get("GPU", 0) >= 1
    if name == "auto":
        return "cuda" if has_gpu else "cpu"
    if name == "mps" or (name == "cuda" and not has_gpu):
        raise UsageError(f"the Ray cluster has no device {name!r}; use --device auto")
    return name


class RayExecutor:
    """Hands steps to the Ray cluster that `connect` has joined.

    Args:
        most: steps at once; None for as many as the cluster does.
    """

    def __init__(self, site: Site, most: int | None) -> None:
        self._ray = ray = _ray()
        self._site = site
        self._most = most or sys.maxsize
        self._slots, self._looked = 1, 0.0
        here = ray.get_runtime_context().get_node_id()
        # What all workers tell; it lives where the driver does, and as long.
        self._inbox: Any = (
            ray.remote(_Inbox)
            .options(num_cpus=0, scheduling_strategy=_on_node(here), max_restarts=-1)
            .remote()
        )
        resources = {"num_cpus": 1, "num_gpus": 1 if site.device == "cuda" else 0}
        self._do: Any = ray.remote(num_returns=2, **resources)(_do)
        self._submitted: dict[str, Any] = {}
        self._artefacts: dict[str, Any] = {}

    @property
    def slots(self) -> int:
        """How many steps are done at once, as the cluster is now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            kind = "GPU" if self._site.device == "cuda" else "CPU"
            self._slots = max(1, int(self._ray.cluster_resources().get(kind, 0)))
        return min(self._most, self._slots)

    def room(self) -> int:
        """Return how many more steps to submit; some wait with Ray for their turn."""
        return min(self._most, AHEAD * self.slots) - len(self._submitted)

    def submit(self, step: Step) -> None:
        """Hand a step, and what the steps before it have made, to Ray."""
        # Ray repeats shared work if its result is lost; cells are repeated, and counted, by us.
        retries = 0 if isinstance(step.task, Measure) else REBUILT
        answered, artefacts = self._do.options(
            max_retries=retries, name=f"leakbench {step.name}"
        ).remote(
            step.name,
            step.task,
            self._site,
            self._inbox,
            *(self._artefacts[need] for need in step.needs if need in self._artefacts),
        )
        self._submitted[step.name] = answered
        if not isinstance(step.task, Measure):
            self._artefacts[step.name] = artefacts

    def reports(self) -> list[Report]:
        """Return what workers have told, and which steps are at their end."""
        if not self._submitted:
            time.sleep(MOMENT)
            return []
        names = {answered: name for name, answered in self._submitted.items()}
        done, going = self._ray.wait(list(names), timeout=MOMENT)
        if going:
            more, _ = self._ray.wait(going, num_returns=len(going), timeout=0)
            done += more
        # Asked for after: what a worker told before its answer comes before it.
        found = self._told()
        ended = [names[each] for each in done]
        return found + [self._end_of(name, self._submitted.pop(name)) for name in ended]

    def kill(self, step: str) -> None:
        """Kill the worker that does a step."""
        self._ray.cancel(self._submitted[step], force=True)

    def forget(self, step: str) -> None:
        """Let the object store drop what shared work has made."""
        self._artefacts.pop(step, None)

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster."""
        for answered in self._submitted.values():
            self._ray.cancel(answered, force=True)
        self._ray.shutdown()

    def _told(self) -> list[Report]:
        try:
            return list(self._ray.get(self._inbox.taken.remote()))
        except self._ray.exceptions.RayError:
            # It is being restarted; what is lost is how far steps were, not what came of them.
            return []

    def _end_of(self, name: str, answered: Any) -> Report:
        try:
            report: Answered = self._ray.get(answered)
        except self._ray.exceptions.RayTaskError as error:
            # Before the task began, such as for want of a module on that node.
            return Answered(name, problem=Problem(_last_line(error), details=str(error)))
        except self._ray.exceptions.RayError as error:
            return Lost(name, f"was lost ({type(error).__name__})")
        return report


def _last_line(error: Exception) -> str:
    """Return what a traceback ends with."""
    return str(error).strip().splitlines()[-1]


WAY_OUT = (
    "start one with `ray start --head`, or leave --address and $RAY_ADDRESS out to use this "
    "machine alone"
)


def _answers(address: str) -> bool:
    """Whether somebody listens at `HOST:PORT`; Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is None:
        return True
    try:
        with socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10):
            return True
    except (OSError, OverflowError):
        return False


class _Inbox:
    """Keeps what workers tell until the driver asks; an actor."""

    def __init__(self) -> None:
        self._reports: list[Report] = []

    def put(self, report: Report) -> None:
        self._reports.append(report)

    def taken(self) -> list[Report]:
        reports, self._reports = self._reports, []
        return reports


def _do(
    name: str, task: Task, site: Site, inbox: Any, *artefacts: dict[str, bytes]
) -> tuple[Answered, dict[str, bytes]]:
    """Do a step on a node of the cluster; return its answer, and what it needed of the cache."""
    context = _ray().get_runtime_context()
    worker = f"{context.get_node_id()[:6]}/{os.getpid()}"

    def tell(report: Begun | Told) -> None:
        inbox.put.remote(report)

    tell(Begun(name, worker))
    try:
        for each in artefacts:
            unpack(each)
    except WriteError as error:
        return Answered(name, problem=problem_of(error)), {}
    with noting() as noted:
        answered = answer(name, task, site, tell)
    shared = not isinstance(task, Measure) and answered.problem is None
    return answered, packed(noted.tensors) if shared else {}


def _on_node(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _ray() -> Any:
    # Nothing is sent to anybody unasked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--executor ray needs Ray, which is not there; install leakbench[ray]"
        ) from None
    return ray
