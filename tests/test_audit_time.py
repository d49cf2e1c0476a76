"""The time of an audit: estimated, shown, and limited."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from auditing import audited, gradients, in_batches, net, people
from leakbench.auditing.clock import Clock, OutOfTimeError
from leakbench.auditing.quick import INDIVIDUALS, fewer_individuals
from leakbench.base.errors import UsageError


def ticking(step: float) -> Iterator[float]:
    return count(0.0, step)


def test_the_time_left_follows_from_what_attacks_took() -> None:
    said: list[str] = []
    times = iter([0.0, 0.0, 0.0, 40.0, 40.0, 40.0])
    clock = Clock(said.append, now=lambda: next(times))
    clock.expect({"a": 10.0, "b": 10.0}, times=2)
    assert said == [
        "2 attacks, run 2 times, without and under defenses: about 40 s, and several times that "
        "where a search does not find everybody"
    ]
    clock.begin("a")
    assert said[1] == "attacking with a (0 s so far, about 40 s left)"
    clock.begin("b")  # The first took 40 s in place of 10, so that 30 more become 120.
    assert said[2] == "attacking with b (40 s so far, about 2 min 0 s left)"


def test_attacks_end_at_the_limit() -> None:
    times = ticking(30.0)
    clock = Clock(lambda _: None, limit=60.0, now=lambda: next(times))
    clock.check(0.0)
    clock.check(0.5)
    with pytest.raises(OutOfTimeError, match="the time limit of 1 min 0 s was reached"):
        clock.check(0.6)


def test_what_there_was_no_time_for_is_said() -> None:
    with pytest.raises(UsageError, match="cannot be run: the time limit of 0 s was reached"):
        audited(net(), gradients(net(), people(4, 2), 4), batch_size=4, time_limit=1e-6)
    with pytest.raises(UsageError, match="time_limit must be minutes above 0, not -1"):
        audited(net(), {"a": {}}, time_limit=-1.0)


def test_a_quick_audit_takes_the_first_updates_and_says_so() -> None:
    said: list[str] = []
    victims = people(18, seed=2)
    report = audited(
        net(),
        gradients(net(), victims, 2),
        truth=in_batches(victims, 2),
        quick=True,
        defenses=None,
        on_status=said.append,
    )
    assert len(report.updates) == 8
    assert "Left out: 1 of 9 updates, for a quick audit." in report.limitations
    assert report.not_tested[0].startswith("This is a quick audit")
    assert not report.defenses
    assert any("1 attack: about" in each and "at most 1 min 30 s" in each for each in said)


def test_a_quick_audit_draws_from_d_aux() -> None:
    some = fewer_individuals(people(INDIVIDUALS + 5), seed=0)
    assert len(some) == INDIVIDUALS == len(some.properties["bright"])
    assert fewer_individuals(people(10), seed=0).images.shape[0] == 10
