"""Exact features that no attack certifies leak too, where the truth shows that they are exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from leakbench import Report
from leakbench.auditing.html_page import html_page
from leakbench.auditing.report_parts import Answer, AttackReport
from leakbench.auditing.sarif import sarif_log
from leakbench.metrics.estimates import Estimate
from made_reports import SHOWN, WIDE, attack, metrics, report, update

ALL = Estimate(value=1.0, low=1.0, high=1.0)
FEW = Estimate(value=0.1, low=0.0, high=0.3)
MANY = Estimate(value=0.8, low=0.6, high=1.0)


def exact(name: str, share: Estimate | None, **changed: Any) -> AttackReport:
    """An attack, or control, with this share of exact features."""
    own = metrics(bright=0.5).model_copy(update={"exact": share})
    return attack(name, {"bright": WIDE}, **({"metrics": own} | changed))


def answered(cosine: float) -> Answer:
    return Answer(probabilities={"bright": 0.9}, right={"bright": True}, cosine=cosine)


def made(ours: AttackReport, *others: AttackReport) -> Report:
    rows = [{"ours": answered(1.0)}, {"ours": answered(0.5)}]
    return report([ours, *others], [update("client", rows)])


def test_exact_features_are_a_leak_though_none_is_certified() -> None:
    found = made(exact("ours", MANY, certified=0))
    assert (found.verdict.outcome, found.verdict.reason) == ("leaks", "exact features")
    assert "80.0 [60.0, 100.0] % of the individuals' deep features exactly" in (
        found.verdict_sentence
    )
    assert found.findings[0].startswith("Ours finds 80.0 [60.0, 100.0] % of the deep features")
    # The individual whose feature is not exact is not exposed by it.
    assert [(e.name, e.certified_by, e.exact_by) for e in found.exposed] == [
        ("client/0", [], ["Ours"])
    ]
    assert "Ours, as the truth shows" in html_page(found)
    (leak,) = sarif_log(found)["runs"][0]["results"]
    assert leak["ruleId"] == "exact-features"
    assert found.holds("leaks") and not found.holds("certified")


@pytest.mark.parametrize(
    ("share", "guessed"),
    [
        (FEW, None),
        (None, None),
        (Estimate(value=1.0, low=None, high=None), None),
        # Features of few values: guesses are exact too.
        (MANY, replace(FEW, high=0.7)),
    ],
    ids=["interval reaches 0", "not known", "no interval", "control as exact"],
)
def test_a_share_that_guesses_may_reach_is_no_leak(
    share: Estimate | None, guessed: Estimate | None
) -> None:
    found = made(exact("ours", share), exact("blind", guessed, control=True))
    assert (found.verdict.outcome, found.exposed) == ("undecided", [])


def test_the_oracle_knows_features_and_is_no_guess() -> None:
    oracle = exact("oracle", ALL, control=True, knows=["features"])
    assert made(exact("ours", MANY), oracle).verdict.reason == "exact features"


def test_an_advantage_is_said_beside_exact_features() -> None:
    found = made(exact("ours", MANY), attack("other", {"bright": SHOWN}))
    assert found.verdict.reason == "exact features"
    assert "exactly, as the truth shows" in found.verdict_sentence
    assert "Other infers bright with a balanced accuracy +30.0" in found.verdict_sentence
