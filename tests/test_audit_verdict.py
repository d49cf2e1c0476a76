"""What the report of an audit begins with: a verdict, who is exposed, what was not tested."""

from __future__ import annotations

import pytest

from leakbench import Report
from leakbench.auditing.html_page import LISTED, html_page
from leakbench.auditing.report_parts import Answer
from made_reports import (
    EXCLUDED,
    NO_INTERVAL,
    SHOWN,
    WIDE,
    answer,
    attack,
    defense,
    report,
    update,
)

CERTIFIED = Answer(probabilities={"bright": 0.9}, right={"bright": True}, certified=True, cosine=1)
FALSE = CERTIFIED.model_copy(update={"cosine": 0.3})


def of_one(found: Answer, known: bool = True, check: str = "agrees", **attacked: object) -> Report:
    """The report of one update with one individual, of whom one attack gives this answer."""
    rows = [{"ours": found}]
    return report([attack("ours", {"bright": WIDE}, **attacked)], [update("a", rows, known, check)])


def test_it_leaks_where_a_feature_is_certified_or_an_advantage_is_shown() -> None:
    found = of_one(CERTIFIED, certified=1)
    assert (found.verdict.outcome, found.verdict.certified) == ("leaks", 1)
    assert found.verdict_sentence == (
        "The updates leak: a server can compute the exact deep features of 1 of 1 individuals."
    )
    found = report([attack("ours", {"bright": SHOWN})], [update("a", [{}])])
    assert found.verdict_sentence == (
        "The updates leak: Ours infers bright with a balanced accuracy +30.0 [+20.0, +40.0] points "
        "above the best baseline."
    )


def test_no_leak_is_said_only_where_an_advantage_is_excluded() -> None:
    found = report([attack("ours", {"bright": EXCLUDED})], [update("a", [{}])])
    assert found.verdict.outcome == "no leak"
    assert found.verdict_sentence == (
        "No leak was found: an advantage of more than 5 points over the best baseline is excluded "
        "for every attack and property."
    )
    for estimate in (WIDE, NO_INTERVAL):
        found = report([attack("ours", {"bright": estimate})], [update("a", [{}])])
        assert found.verdict_sentence.startswith("Undecided whether the updates leak: ")


@pytest.mark.parametrize(
    ("found", "known", "check", "outcome", "reason"),
    [
        (FALSE, True, "agrees", "undecided", "wide interval"),
        (FALSE, True, "differs", "undecided", "updates differ"),
        (CERTIFIED, True, "differs", "leaks", "certified features"),
        (CERTIFIED.model_copy(update={"cosine": None}), False, "differs", "undecided", ""),
        (CERTIFIED.model_copy(update={"cosine": None}), False, "not checked", "leaks", ""),
        (answer(bright=0.9), False, "not checked", "undecided", "truth unknown"),
    ],
)
def test_only_certificates_that_nothing_refutes_make_a_verdict(
    found: Answer, known: bool, check: str, outcome: str, reason: str
) -> None:
    false = int(found.cosine == 0.3) if known else None
    made = of_one(
        found, known, check, certified=int(bool(found.certified)), false_certificates=false
    )
    assert made.verdict.outcome == outcome
    assert made.verdict.reason == (reason or made.verdict.reason)
    says = "captured updates are not what the model computes"
    assert (says in made.verdict_sentence) is (check == "differs")
    unchecked = outcome == "leaks" and not known
    assert (
        "by certificates that no truth was there to check" in made.verdict_sentence
    ) is unchecked


def test_updates_that_differ_are_never_a_verdict_of_no_leak() -> None:
    found = report([attack("ours", {"bright": EXCLUDED})], [update("a", [{}], check="differs")])
    assert (found.verdict.outcome, found.verdict.reason) == ("undecided", "updates differ")
    assert "not what the model computes" in found.verdict_sentence


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (["no leak"], "; the only defense that was tried, d0, stops the attacks."),
        (["leaks"], "; the only defense that was tried, d0, is not shown to stop the attacks."),
        (["no leak", "leaks"], "; of 2 defenses that were tried, d0 stops the attacks."),
        (["no leak"] * 2, "; of 2 defenses that were tried, d0 and d1 stop the attacks."),
        (["no leak"] * 3, "; of 3 defenses that were tried, d0, d1 and d2 stop the attacks."),
        (["leaks", "undecided"], "; of 2 defenses that were tried, none is shown to stop the att"),
    ],
)
def test_the_verdict_says_what_stops_the_attacks(outcomes: list[str], said: str) -> None:
    reasons = {"no leak": "advantage excluded", "leaks": "advantage", "undecided": "no interval"}
    tried = [defense(f"d{n}", each, reasons[each]) for n, each in enumerate(outcomes)]
    defenses = [defense("none", "leaks", "advantage"), *tried]
    made = report([attack("ours", {"bright": SHOWN})], [update("a", [{}])], defenses)
    assert said in made.verdict_sentence


def test_individuals_are_ranked_by_what_is_read_of_them() -> None:
    """Certified features first, then more properties, then a surer attack."""
    shown = {"bright": SHOWN, "coin": SHOWN}
    both, one = {"bright": True, "coin": True}, {"bright": True, "coin": False}
    rows = [
        {"ours": answer(one, bright=0.99, coin=0.99)},
        {"ours": answer(both, bright=0.6, coin=0.6)},
        {"ours": answer({"bright": False, "coin": False}, bright=0.9, coin=0.9)},
        {"ours": answer(both, bright=0.1, coin=0.9)},
        {"ours": answer(both, bright=0.5, coin=0.5), "exact": CERTIFIED},
    ]
    made = report([attack("ours", shown), attack("exact", certified=1)], [update("a", rows)])
    assert [each.name for each in made.exposed] == ["a/4", "a/3", "a/1", "a/0"]
    assert made.exposed[0].certified_by == ["Exact"]
    assert [read.attack for read in made.exposed[0].read] == ["Exact"]
    assert [read.right for read in made.exposed[-1].read] == [True, False]


def test_nobody_is_exposed_by_an_attack_whose_advantage_is_not_shown() -> None:
    rows = [{"ours": answer({"bright": True}, bright=1.0)}]
    made = report([attack("ours", {"bright": WIDE})], [update("a", rows)])
    assert made.exposed == []
    assert "No individual is shown to be exposed" in html_page(made)


def test_without_truth_rows_of_two_attacks_are_not_taken_for_one_person() -> None:
    certified = CERTIFIED.model_copy(update={"cosine": None, "right": None})
    plain = certified.model_copy(update={"certified": False})
    rows = [{"one": certified, "two": plain}, {"one": certified, "two": plain}]
    rows.append({"one": plain, "two": certified})
    attacks = [attack("one", certified=2), attack("two", certified=1)]
    made = report(attacks, [update("a", rows, known=False, check="not checked")])
    assert made.verdict.certified == 2
    assert [each.certified_by for each in made.exposed] == [["One"], ["One"]]


def test_what_was_not_tested_is_said() -> None:
    attacks = [attack("ours", {"bright": WIDE}), attack("mask_demixing", refused="no ReLU")]
    made = report(attacks, [update("a", [{}], check="not checked")])
    said = " ".join(made.not_tested)
    assert "Properties other than bright were not inferred." in said
    assert "Chosen, but not run: Mask_demixing" in said
    assert "newton_demixing" in said and "mask_demixing," not in said and "blind" not in said
    assert "No defense was tried." in said
    assert "Whether 1 of 1 updates are what the model computes was not checked" in said
    assert "crafted models" in said and "membership" in said


def test_the_page_and_the_summary_begin_with_the_verdict() -> None:
    rows = [{"exact": CERTIFIED}] * (LISTED + 3)
    made = report([attack("exact", certified=LISTED + 3)], [update("a", rows)])
    page = html_page(made)
    headings = ["Verdict", "Who is exposed", "What was not tested", "Findings", "Limitations"]
    places = [page.index(f"<h2>{heading}</h2>") for heading in headings]
    assert places == sorted(places)
    assert page.index(made.verdict_sentence) < places[1]
    assert f"{LISTED + 3} of {LISTED + 3} individuals; the most exposed is a/0" in page
    assert "<summary>3 more</summary>" in page
    assert made.summary.startswith(f"Verdict:\n- {made.verdict_sentence}\nFindings:\n- ")
    # Summaries end in logs.
    assert "a/0" not in made.summary


@pytest.mark.parametrize("known", [True, False])
def test_the_page_says_that_it_holds_personal_data(known: bool) -> None:
    page = html_page(of_one(answer(bright=0.3), known))
    assert "This page holds personal data:" in page
    assert ("with their true properties" in page) is known
