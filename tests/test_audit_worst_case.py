"""Worst cases, how many more batches would decide, and how an audit words both."""

from __future__ import annotations

import numpy as np
import pytest

from leakbench.auditing.findings import InferredProperty
from leakbench.auditing.html_page import html_page
from leakbench.auditing.more_batches import more_batches
from leakbench.auditing.sentences import sentence
from leakbench.auditing.worst_case import WorstCase, worst_case, worst_case_text
from leakbench.metrics.estimates import Bootstrap, Estimate, batches_of
from made_reports import (
    EXCLUDED,
    NO_INTERVAL,
    SHOWN,
    WIDE,
    answer,
    attack,
    metrics,
    report,
    update,
)


def between(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high)


def measured(absent: int, present: int = 100) -> WorstCase:
    """Of three scores, one is sure of 30 of 100 individuals, though of no others."""
    truth = np.arange(present + absent) < present
    found = np.random.default_rng(0).permutation(present) < 30
    sure = np.full((1, len(truth)), 0.5)
    sure[0, :present][found] = 0.9
    nothing = np.full((1, len(truth)), 0.5)
    bootstrap = Bootstrap([batches_of(len(truth) // 10, 10)], 0)
    attacks = {"Sure": sure, "Nothing": nothing}
    return worst_case("bright", truth, attacks, {"Prior": nothing}, bootstrap)


def test_the_worst_case_shows_what_a_mean_hides() -> None:
    found = measured(absent=100)
    assert (found.attack, found.control, found.compared) == ("Sure", "Prior", 2)
    assert found.rate is not None and found.rate.value == pytest.approx(0.3)
    assert found.rate.low is not None and 0 < found.rate.low < 0.3
    assert found.baseline is not None and found.baseline.value == 0
    text = worst_case_text(found)
    assert text.startswith("bright: at 1 % false positives Sure finds 30.0 [")
    assert "of the 100 individuals with the property (the best of 2 attacks, chosen after" in text
    assert text.endswith("; the best baseline, Prior, 0.0 [0.0, 0.0] %.")


@pytest.mark.parametrize(
    ("absent", "present", "said"),
    [
        (90, 100, "takes at least 100 individuals without the property whose truth is known, and"),
        (200, 0, "no individual whose truth is known has the property"),
    ],
)
def test_too_few_individuals_for_a_worst_case_are_a_sentence(
    absent: int, present: int, said: str
) -> None:
    found = measured(absent, present)
    assert found.rate is None and said in found.not_measured
    assert worst_case_text(found).startswith("bright: no true positive rate at 1 % false positive")


@pytest.mark.parametrize(
    ("advantages", "excludable", "more"),
    [
        # Twice as near: four times as many batches, and one, since the interval must be above 0.
        ([between(-0.1, 0.3)], True, 31),
        # 0 ± 20 points; below 10 points takes the fourfold too, above 0 can never be.
        ([between(-0.2, 0.2)], True, 31),
        ([between(-0.2, 0.2)], False, None),
        # The other attack must be excluded too: 0 ± 40 points takes sixteen times as many.
        ([between(-0.2, 0.2), between(-0.4, 0.4)], True, 151),
        # One leak suffices, however far the others are.
        ([between(-0.1, 0.3), between(-0.4, 0.4)], True, 31),
    ],
)
def test_intervals_shrink_with_the_square_root_of_the_batches(
    advantages: list[Estimate], excludable: bool, more: int | None
) -> None:
    assert more_batches(advantages, 10, excludable) == more


def test_only_what_is_undecided_is_given_a_number_of_batches() -> None:
    updates = [update(f"u{number}", [{}]) for number in range(10)]
    for decided in (SHOWN, EXCLUDED, Estimate(value=None, low=None, high=None)):
        assert report([attack("ours", {"bright": decided})], updates).undecided == []
    made = report([attack("ours", {"bright": WIDE})], updates)
    (found,) = made.undecided
    assert (found.subject, found.batches) == ("bright", 10)
    # From 5 points to 0 is a third of the reach below, 15 points; to 10 a third of that above.
    assert found.more == 81
    assert "about 81 more batches of the same kind would decide it" in made.summary
    assert made.verdict_sentence.endswith(
        "; about 81 more batches of the same kind would decide it."
    )
    assert "What would decide what is undecided" in html_page(made)


def test_without_intervals_so_many_batches_are_missing_for_them() -> None:
    made = report([attack("ours", {"bright": NO_INTERVAL})], [update("a", [{}])] * 2)
    (found,) = made.undecided
    assert (found.more, found.interval) == (3, False)
    assert "bright is undecided: without at least 5 batches, and people" in made.summary


def test_no_number_of_batches_excludes_an_advantage_that_cannot_be() -> None:
    """Below 0 it shows no leak; over a baseline that is right in 95 % it excludes nothing."""
    ours = attack("ours", {"bright": between(-0.25, 0.15)})
    good = attack("good", metrics=metrics(bright=0.95), control=True)
    ours = ours.model_copy(update={"baselines": {"bright": "good"}})
    made = report([good, ours], [update("a", [{}])] * 10)
    (found,) = made.undecided
    assert found.more is None
    assert "no number of batches would decide it: the best baseline is so accurate" in made.summary


@pytest.mark.parametrize(
    ("advantage", "said"),
    [
        (SHOWN, "+30.0 [+20.0, +40.0] points."),
        (WIDE, "+5.0 [-10.0, +20.0] points, which could be chance."),
        (NO_INTERVAL, "+20.0 (no interval) points, which could be chance."),
        (
            between(-0.3, -0.1),
            "-20.0 [-30.0, -10.0] points, so that it does worse than the baseline, and shows no "
            "leak.",
        ),
    ],
)
def test_only_what_could_be_chance_is_called_so(advantage: Estimate, said: str) -> None:
    (finding,) = report(
        [attack("ours", {"bright": advantage})], [update("a", [{}])]
    ).findings_as_data
    assert isinstance(finding, InferredProperty)
    assert sentence(finding).endswith(said)


def test_a_probability_is_said_to_be_that_of_yes() -> None:
    rows = [{"ours": answer({"bright": False}, bright=0.3)}]
    page = html_page(report([attack("ours", {"bright": WIDE})], [update("a", rows)]))
    assert 'bright: no <span class="quiet">(P(yes) = 30 %)</span>' in page
    assert "P(yes) is the property model's probability that the individual has the property" in page
