"""The order of the steps of a sweep: by priority, and each after the steps it needs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from leakbench.sweep.steps import Step


class Schedule:
    """The steps that are not finished yet.

    A step is either waiting for others, queued, started, or put off: taken from the queue, not
    started, and to be queued again later.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = {step.name: step for step in steps}
        self._order = {step.name: number for number, step in enumerate(steps)}
        self._unfinished = dict.fromkeys(self._steps)
        self._missing = {step.name: set(step.needs) for step in steps}
        self._dependents: dict[str, list[str]] = {}
        for step in steps:
            for need in step.needs:
                self._dependents.setdefault(need, []).append(step.name)
        self._users = {name: len(dependents) for name, dependents in self._dependents.items()}
        self._queue: list[tuple[tuple[float, float], int, str]] = []
        self._exclusive: set[str] = set()
        for step in steps:
            if not step.needs:
                self.queue(step)

    def unfinished(self) -> list[Step]:
        """Return the steps that are not finished."""
        return [self._steps[name] for name in self._unfinished]

    def is_waiting(self, step: Step) -> bool:
        """Whether a step is neither finished nor queued."""
        queued = {entry[-1] for entry in self._queue}
        return step.name in self._unfinished and step.name not in queued

    def queue(self, step: Step) -> None:
        """Queue a step that may start."""
        heapq.heappush(self._queue, (step.priority, self._order[step.name], step.name))

    def next(self) -> Step | None:
        """Take the first step from the queue whose exclusive key is free; None if there is none."""
        blocked, found = [], None
        while self._queue and found is None:
            queued = heapq.heappop(self._queue)
            step = self._steps[queued[-1]]
            if step.exclusive_key in self._exclusive:
                blocked.append(queued)
            else:
                found = step
        for queued in blocked:
            heapq.heappush(self._queue, queued)
        return found

    def start(self, step: Step) -> None:
        """Hold the step's exclusive key until `stop`."""
        if step.exclusive_key:
            self._exclusive.add(step.exclusive_key)

    def stop(self, step: Step) -> None:
        """Release the step's exclusive key."""
        self._exclusive.discard(step.exclusive_key)

    def unlock(self, step: Step) -> None:
        """Queue the steps that waited for this one only, which has succeeded."""
        for name in self._dependents.get(step.name, ()):
            self._missing[name].discard(step.name)
            if not self._missing[name] and name in self._unfinished:
                self.queue(self._steps[name])

    def with_dependents(self, step: Step) -> list[Step]:
        """Return a step and the unfinished ones that need it."""
        names = self._dependents.get(step.name, ())
        return [step, *(self._steps[name] for name in names if name in self._unfinished)]

    def finish(self, step: Step) -> list[str]:
        """Remove a step, successful or not; return those of its needs that no other step has."""
        if step.name not in self._unfinished:
            return []
        del self._unfinished[step.name]
        for need in step.needs:
            self._users[need] -= 1
        return [need for need in step.needs if not self._users[need]]
