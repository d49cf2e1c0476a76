"""Steps as tasks of a Ray cluster, which decides what runs where and survives the loss of a node.

A cell's record comes back to the driver, which alone writes records. What shared work has put into
a worker's cache goes into the object store, and from there into the cache of whoever measures a
cell, so that nodes need no folder in common; where they have one ($LEAKBENCH_CACHE), it is there
already. Data sets lie in the same place on every node.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from typing import Any

from bench.cache import WriteError, cache_folder, noting, packed, unpack
from bench.errors import UsageError
from bench.sweep.executor import Answered, Begun, Lost, Report, Site, Told
from bench.sweep.local import MOMENT, worker_environment
from bench.sweep.steps import Measure, Step, Task
from bench.sweep.worker import answer, problem_of

REBUILT = 5
"""How often Ray repeats shared work by itself, should its result be lost with a node."""


class RayExecutor:
    """Hands steps to a Ray cluster, all that may start at once.

    Args:
        address: of the cluster; None for that of $RAY_ADDRESS, or one of this machine alone.
        most: steps at once; None for as many as the cluster takes.
        cores: of this machine, should the cluster be made of it.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, site: Site, address: str | None, most: int | None, cores: int) -> None:
        self._ray = ray = _ray()
        self._site = site
        self._most = most or sys.maxsize
        self._connect(address, most or cores)
        here = ray.get_runtime_context().get_node_id()
        # Reports of all workers; it lives where the driver does, and as long.
        self._inbox: Any = (
            ray.remote(_Inbox)
            .options(num_cpus=0, scheduling_strategy=_on_node(here), max_concurrency=1)
            .remote()
        )
        resources = {"num_cpus": 1, "num_gpus": 1 if site.device == "cuda" else 0}
        self._do: Any = ray.remote(num_returns=2, **resources)(_do)
        self._submitted: dict[str, Any] = {}
        self._artefacts: dict[str, Any] = {}

    @property
    def slots(self) -> int:
        """How many steps the cluster does at once, as it is now."""
        kind = "GPU" if self._site.device == "cuda" else "CPU"
        return min(self._most, int(self._ray.cluster_resources().get(kind, 0)))

    def room(self) -> int:
        """Return how many more steps may be submitted; Ray lets them wait for their turn."""
        return self._most - len(self._submitted)

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
        ray = self._ray
        ended = []
        if self._submitted:
            names = {answered: name for name, answered in self._submitted.items()}
            done, _ = ray.wait(list(names), num_returns=len(names), timeout=MOMENT)
            ended = [names[each] for each in done]
        # Asked for after: what a worker told before its answer comes before it.
        found: list[Report] = list(ray.get(self._inbox.taken.remote()))
        return found + [self._end_of(name, self._submitted.pop(name)) for name in ended]

    def kill(self, step: str) -> None:
        """Kill the worker that does a step."""
        self._ray.cancel(self._submitted[step], force=True)

    def close(self) -> None:
        """Cancel what still runs, and leave the cluster."""
        for answered in self._submitted.values():
            self._ray.cancel(answered, force=True)
        self._ray.shutdown()

    def _end_of(self, name: str, answered: Any) -> Report:
        try:
            report: Answered = self._ray.get(answered)
        except self._ray.exceptions.RayError as error:
            return Lost(name, f"was lost ({type(error).__name__})")
        return report

    def _connect(self, address: str | None, cores: int) -> None:
        environment = worker_environment() | {"LEAKBENCH_CACHE": str(cache_folder())}
        arguments: dict[str, Any] = {}
        address = address or os.environ.get("RAY_ADDRESS")
        if address and not _answers(address):
            raise UsageError(f"no Ray cluster answers at {address}; {WAY_OUT}")
        if not address:
            arguments = {"num_cpus": cores, "include_dashboard": False}
            address = "local"
        try:
            self._ray.init(
                address=address,
                log_to_driver=False,
                logging_level="error",
                runtime_env={"env_vars": environment},
                **arguments,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"no Ray cluster at {address}: {str(error).splitlines()[0]}; {WAY_OUT}"
            ) from error


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
