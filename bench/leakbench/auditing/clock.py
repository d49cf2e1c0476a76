"""How long an audit takes: what is expected, what is left, and when it has to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from leakbench.auditing.case import Case
from leakbench.auditing.client_batches import KnownBatch
from leakbench.base.durations import duration
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import ATTACKS
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import client_update
from leakbench.metrics.formatting import counted
from leakbench.threat.attack import Attack


class OutOfTimeError(UsageError):
    """The time of an audit is over."""


@dataclass
class Clock:
    """The time of an audit.

    Attributes:
        on_status: called with what is begun, and the time that is left.
        limit: seconds after which attacks end; None for no limit.
        now: the time in seconds.
        begun: when the audit began.
    """

    on_status: Callable[[str], None]
    limit: float | None = None
    now: Callable[[], float] = time.monotonic
    begun: float = field(init=False)
    _expected: dict[str, float] = field(init=False, default_factory=dict)
    _left: float = field(init=False, default=0.0)
    _current: tuple[str, float] | None = field(init=False, default=None)
    _spent: float = field(init=False, default=0.0)
    _done: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.begun = self.now()

    def expect(self, seconds: Mapping[str, float], times: int) -> None:
        """Say how long attacks are expected to take.

        Args:
            seconds: of each attack on all batches.
            times: that each is run: once, and once under each defense.
        """
        self._expected = dict(seconds)
        self._left = sum(seconds.values()) * times
        runs = f", run {times} times, without and under defenses" if times > 1 else ""
        most = "" if self.limit is None else f", and at most {duration(self.limit)} are given"
        self.on_status(
            f"{counted(len(seconds), 'attack')}{runs}: about {duration(self._left)}, and several "
            f"times that where a search does not find everybody{most}"
        )

    def begin(self, name: str) -> None:
        """Say that an attack is begun.

        Raises:
            OutOfTimeError: there is no time for it.
        """
        self.end()
        self.check(0.0)
        self._current = name, self.now()
        left = self._left * self._pace
        self.on_status(
            f"attacking with {name} ({duration(self.now() - self.begun)} so far, about "
            f"{duration(left)} left)"
        )

    def end(self, finished: bool = True) -> None:
        """Say that the attack that was begun has ended.

        Args:
            finished: whether it ran to its end, so that its time tells of others'.
        """
        if self._current is None:
            return
        name, since = self._current
        self._current = None
        expected = self._expected.get(name, 0.0)
        self._left = max(0.0, self._left - expected)
        if finished:
            self._spent, self._done = self._spent + self.now() - since, self._done + expected

    def check(self, _share: float) -> None:
        """End an attack whose time is over; its callback for progress.

        Raises:
            OutOfTimeError: it is.
        """
        if self.limit is not None and self.now() - self.begun > self.limit:
            raise OutOfTimeError(f"the time limit of {duration(self.limit)} was reached")

    @property
    def _pace(self) -> float:
        """How many times longer than expected what has ended took."""
        return self._spent / self._done if self._done else 1.0


def expected_seconds(case: Case, attacks: Sequence[PluginSpec]) -> dict[str, float]:
    """Return about how long each attack takes on all batches, from the time of one gradient."""
    per_gradient = _seconds_of_gradient(case)
    found = {}
    for spec in attacks:
        attack: Attack = spec.build(ATTACKS)
        if not attack.control:
            work = sum(batch.size * attack.work(batch.size) for batch in case.batches)
            found[spec.name] = per_gradient * work
    return found


def _seconds_of_gradient(case: Case) -> float:
    """Return how long an individual's gradient takes, in a batch of D_aux."""
    auxiliary = case.server.auxiliary
    assert auxiliary is not None
    size = min(len(auxiliary.labels), case.batches[0].size)
    images, labels = auxiliary.images[:size], auxiliary.labels[:size].clamp_min(0)
    batch = case.batches[0]
    if isinstance(batch, KnownBatch):
        images, labels = batch.truth.images[:size], batch.truth.labels[:size]
    model = in_mode(case.model, case.threat.mode)
    started = time.perf_counter()
    client_update(model, images, labels)
    return (time.perf_counter() - started) / size
