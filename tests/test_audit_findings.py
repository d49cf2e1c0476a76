"""Verdicts, findings and limitations of an audit, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from auditing import (
    VICTIMS,
    audited,
    audited_with_truth,
    by_name,
    net,
    people,
)
from leakbench import Report
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.auditing.findings import (
    DefenseEffect,
    NoBaseline,
    findings_of,
)
from leakbench.auditing.report_parts import AttackReport, Verdict
from leakbench.auditing.sentences import sentence, verdict_text
from leakbench.auditing.verdicts import verdict_on
from leakbench.federation.shared_model import deep_features
from leakbench.metrics.estimates import Estimate
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@pytest.fixture(scope="module", name="with_truth")
def _with_truth() -> Report:
    return audited_with_truth()


def inexact(attack: AttackReport) -> AttackReport:
    """An attack of whose features it is not known how many are exact."""
    assert attack.metrics is not None
    metrics = attack.metrics.model_copy(update={"exact": None})
    return attack.model_copy(update={"metrics": metrics})


def judged(
    report: Report, blind: float = 0.5, refused: str = "", **advantages: Estimate
) -> Verdict:
    """The verdict where an attack that certifies nothing has these advantages."""
    attacks = by_name(report.attacks)
    base, control = inexact(attacks["mask_demixing"]), attacks["blind"]
    assert control.metrics is not None
    found = control.metrics.properties["bright"]
    accuracy = replace(found.balanced_accuracy, value=blind)
    known = dict.fromkeys(advantages, found.model_copy(update={"balanced_accuracy": accuracy}))
    return verdict_on(
        [
            control.model_copy(
                update={"metrics": control.metrics.model_copy(update={"properties": known})}
            ),
            base.model_copy(
                update={
                    "certified": None,
                    "advantage": advantages,
                    "baselines": dict.fromkeys(advantages, "blind"),
                }
            ),
            *([base.model_copy(update={"refused": refused})] if refused else []),
        ]
    )


def between(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high)


def test_a_verdict_is_no_leak_only_where_an_advantage_is_excluded(with_truth: Report) -> None:
    small, wide, large = between(-0.05, 0.05), between(-0.3, 0.3), between(0.1, 0.3)
    excluded = judged(with_truth, bright=small)
    assert excluded == Verdict(outcome="no leak", reason="advantage excluded", bound=0.05)
    leaking = judged(with_truth, bright=large)
    assert leaking == Verdict(outcome="leaks", reason="advantage", advantage=large)
    constant = Estimate(value=None, low=None, high=None)
    no_interval = Estimate(value=0.0, low=None, high=None)
    for reason, found in (
        ("wide interval", judged(with_truth, bright=wide)),
        ("attack not run", judged(with_truth, refused="it is not", bright=small)),
        ("constant property", judged(with_truth, bright=small, coin=constant)),
        ("accurate baseline", judged(with_truth, blind=0.917, bright=small)),
        ("no interval", judged(with_truth, bright=no_interval)),
    ):
        assert (found.outcome, found.reason) == ("undecided", reason)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (
            Verdict(outcome="leaks", reason="advantage", advantage=between(0.1, 0.3)),
            "leaks: +20.0 [+10.0, +30.0] points above the best baseline",
        ),
        (
            Verdict(outcome="no leak", reason="advantage excluded", bound=0.0541),
            "no leak: an advantage of more than 6 points over the best baseline is excluded",
        ),
        (
            Verdict(outcome="no leak", reason="advantage excluded", bound=0.0),
            "no leak: any advantage over the best baseline is excluded",
        ),
        (
            Verdict(outcome="undecided", reason="wide interval", bound=0.3),
            "undecided: no advantage shown, but up to 30 points are not excluded",
        ),
        (
            Verdict(outcome="undecided", reason="attack not run", not_run=["IG"]),
            "undecided: no advantage shown, but not every attack was run; IG could not be run",
        ),
        (
            Verdict(outcome="undecided", reason="constant property", properties=["coin"]),
            "undecided: coin is the same for everybody",
        ),
        (
            Verdict(
                outcome="undecided",
                reason="accurate baseline",
                properties=["bright"],
                baseline=0.917,
            ),
            "undecided: the best baseline is right in 91.7 % of bright, so that no advantage of "
            "more than 10 points is possible",
        ),
        (
            Verdict(outcome="undecided", reason="no interval"),
            "undecided: fewer than 5 batches, or people, give no interval",
        ),
    ],
)
def test_a_verdict_is_a_table_cell(verdict: Verdict, text: str) -> None:
    assert verdict_text(verdict) == text


def test_a_verdict_without_a_baseline_says_so_and_not_that_the_property_is_constant(
    with_truth: Report,
) -> None:
    found = inexact(by_name(with_truth.attacks)["mask_demixing"])
    lacking = found.model_copy(
        update={
            "certified": None,
            "advantage": {"bright": Estimate(value=None, low=None, high=None)},
            "baselines": {},
        }
    )
    verdict = verdict_on([lacking])
    assert (verdict.outcome, verdict.reason) == ("undecided", "no baseline")
    assert verdict_text(verdict) == (
        "undecided: no baseline with the attacks' knowledge was measured in bright"
    )
    (finding,) = findings_of(with_truth.updates, [lacking], [])
    assert isinstance(finding, NoBaseline)
    assert sentence(finding).startswith("bright: Mask demixing has a balanced accuracy of ")
    assert "no baseline with its knowledge was measured" in sentence(finding)


def test_the_page_shows_the_swapped_cosine_beside_each_cosine(
    with_truth: Report, tmp_path: Path
) -> None:
    text = with_truth.write(tmp_path)[0].read_text(encoding="utf-8")
    attack = by_name(with_truth.attacks)["mask_demixing"]
    assert attack.metrics is not None and attack.metrics.swapped_cosine is not None
    assert attack.metrics.swapped_cosine.value is not None
    assert f"<br>swapped {attack.metrics.swapped_cosine.value:.3f}" in text
    answers = [i.answers["mask_demixing"] for u in with_truth.updates for i in u.individuals]
    cosines = [each.swapped_cosine for each in answers if each.swapped_cosine is not None]
    assert len(cosines) == len(answers) == 24
    # The same swaps as those of the mean.
    mean = sum(cosines) / len(cosines)
    assert mean == pytest.approx(attack.metrics.swapped_cosine.value, abs=1e-5)
    for each, swapped in zip(answers, cosines, strict=True):
        assert f"feature cosine {each.cosine:.3f} (swapped {swapped:.3f})" in text


def test_certificates_that_are_false_are_no_leak(with_truth: Report) -> None:
    found = inexact(by_name(with_truth.attacks)["mask_demixing"])
    assert (found.certified, found.false_certificates) == (24, 0)
    undefined = {"bright": Estimate(value=None, low=None, high=None)}
    false = found.model_copy(update={"false_certificates": 24, "advantage": undefined})
    verdict = verdict_on([false])
    assert (verdict.outcome, verdict.certified) == ("undecided", 0)
    verdict = verdict_on([false.model_copy(update={"false_certificates": 21})])
    assert (verdict.outcome, verdict.certified) == ("leaks", 3)
    (finding, *_) = findings_of(with_truth.updates, [false], [])
    assert "24 certificates are false" in sentence(finding)


def test_certificates_are_counted_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four certificates are false in each of three runs: two are true, not none."""

    def infer(
        self: FeatureReconstruction, server: Server, observations: Sequence[Observation], _: Any
    ) -> list[AttackResult]:
        assert server.feature_space is not None
        found = []
        for truth in true:
            features = deep_features(server.model, truth)
            features[2:] += 1000 * torch.rand(2, features.shape[1])
            found.append(features)
        return [
            AttackResult(
                scores={"bright": torch.full((4,), 0.5)},
                features=features,
                certified=torch.ones(4, dtype=torch.bool),
            )
            for features in found
        ]

    true = VICTIMS.images.split(4)
    monkeypatch.setattr(FeatureReconstruction, "infer", infer)
    monkeypatch.setattr(FeatureReconstruction, "least_runs", 3)
    report = audited(
        net(), None, truth=VICTIMS, batch_size=4, attacks={"feature": {"labels": "counts"}}
    )
    found = by_name(report.attacks)["feature"]
    assert found.metrics is not None and found.metrics.certificates is not None
    assert (found.metrics.runs, found.metrics.certificates.false) == (3, 36)
    assert (found.certified, found.false_certificates) == (24, 12)
    assert verdict_on(report.attacks).certified == 12


LEAKS = Verdict(outcome="leaks", reason="certified features", certified=3)


NO_LEAK = Verdict(outcome="no leak", reason="advantage excluded", bound=0.05)


UNDECIDED = Verdict(outcome="undecided", reason="no interval")


@pytest.mark.parametrize(
    ("before", "after", "effect", "text"),
    [
        (LEAKS, NO_LEAK, "stopped", "Stopped by gaussian"),
        (NO_LEAK, NO_LEAK, "no leak", "no defense can be said to stop one"),
        (UNDECIDED, NO_LEAK, "no leak", "no defense can be said to stop one"),
        (LEAKS, UNDECIDED, "undecided", "Undecided under gaussian"),
        (LEAKS, LEAKS, "not stopped", "Not stopped by gaussian"),
    ],
)
def test_only_what_leaks_without_a_defense_is_stopped_by_one(
    with_truth: Report, before: Verdict, after: Verdict, effect: str, text: str
) -> None:
    verdicts = zip(with_truth.defenses[:2], (before, after), strict=True)
    defenses = [each.model_copy(update={"verdict": verdict}) for each, verdict in verdicts]
    (finding,) = findings_of(with_truth.updates, with_truth.attacks, defenses)[2:]
    assert isinstance(finding, DefenseEffect)
    assert (finding.effect, finding.defenses) == (effect, ["gaussian (sigma = 100.0)"])
    assert text in sentence(finding)


def stopping(report: Report, *costs: Estimate | None) -> DefenseEffect:
    """The finding where the two defenses stop the attacks at these utility costs."""
    before = Estimate(value=0.0, low=0.0, high=0.0)
    defenses = [
        each.model_copy(update={"verdict": verdict, "utility_cost": cost})
        for each, verdict, cost in zip(
            report.defenses, (LEAKS, NO_LEAK, NO_LEAK), (before, *costs), strict=True
        )
    ]
    finding = findings_of(report.updates, report.attacks, defenses)[-1]
    assert isinstance(finding, DefenseEffect) and finding.effect == "stopped"
    return finding


def test_the_cheapest_of_the_defenses_that_stop_the_attacks_is_named(with_truth: Report) -> None:
    finding = stopping(with_truth, between(0.25, 0.35), between(0.0, 0.2))
    assert finding.cost is not None and finding.cost.value == pytest.approx(0.1)
    assert finding.cheapest == "secure_aggregation (of = 4)"
    assert "secure_aggregation (of = 4) has the least utility cost" in sentence(finding)
    assert ", 10.0 [0.0, 20.0] points of accuracy" in sentence(finding)


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (between(0.1, 0.3), "10.0 [0.0, 20.0] points of accuracy"),
        (Estimate(value=0.3, low=None, high=None), "30.0 (no interval) points of accuracy"),
        (None, "gaussian (sigma = 100.0) not measured"),
    ],
)
def test_costs_whose_intervals_overlap_are_listed_and_none_is_the_least(
    with_truth: Report, cost: Estimate | None, text: str
) -> None:
    finding = stopping(with_truth, cost, between(0.0, 0.2))
    assert (finding.cheapest, finding.cost) == (None, None)
    assert "their utility costs are not told apart: gaussian (sigma = 100.0) " in sentence(finding)
    assert "secure_aggregation (of = 4) 10.0 [0.0, 20.0]" in sentence(finding)
    assert text in sentence(finding)


def test_costs_that_nobody_measured_are_not_compared(with_truth: Report) -> None:
    assert sentence(stopping(with_truth, None, None)).endswith("utility cost was not measured.")


def test_one_batch_gives_no_interval_and_stops_nothing() -> None:
    report = audited(
        net(),
        None,
        truth=people(8, seed=2),
        batch_size=8,
        defenses=[{"name": "gaussian", "sigma": 100.0}],
        attacks={"feature": {"budget": 2, "labels": "counts"}},
    )
    found = by_name(report.attacks)["feature"]
    assert found.advantage["bright"].value is not None and found.advantage["bright"].low is None
    assert found.metrics is not None
    assert found.metrics.properties["bright"].balanced_accuracy.low is None
    assert "(no interval)" in report.findings[0]
    assert "which could be chance" in report.findings[0]
    assert [each.verdict.outcome for each in report.defenses] == ["undecided"] * 2
    assert any("no interval is given" in limitation for limitation in report.limitations)


def test_a_verdict_names_attacks_that_could_not_be_run(with_truth: Report) -> None:
    attacks = by_name(with_truth.attacks)
    verdict = verdict_on(list(attacks.values()))
    assert verdict.not_run == ["Newton demixing"]
    assert verdict_text(verdict) == (
        "leaks: 24 exact features certified; Newton demixing could not be run"
    )


def test_a_label_that_gives_a_property_away_is_pointed_out() -> None:
    aux = people(120, seed=1)
    implied = replace(aux, labels=aux.properties["bright"].long())
    report = audited(net(), None, auxiliary=implied, truth=VICTIMS, batch_size=4)
    assert any(
        each.startswith("The main task's label alone reveals bright") for each in report.limitations
    )


def test_a_class_of_one_person_gives_no_property_away() -> None:
    aux = people(120, seed=1)
    alone = replace(aux, labels=torch.arange(120) % 2, identities=torch.arange(120) % 4)
    alone = replace(alone, labels=alone.identities)
    report = audited(net(), None, auxiliary=alone, truth=VICTIMS, batch_size=4)
    assert not any("label alone reveals" in each for each in report.limitations)


def test_the_best_of_several_attacks_is_said_to_be_chosen() -> None:
    attacks = {"feature": {"budget": 2, "labels": "counts"}, "mask_demixing": {"budget": 2}}
    report = audited(net(), None, truth=VICTIMS, batch_size=4, attacks=attacks)
    assert "(the best of 2 attacks, chosen afterwards: biased upwards)" in report.findings[-1]


def test_dropout_is_pointed_out() -> None:
    model = net()
    model.head.insert(3, torch.nn.Dropout(0.5))
    report = audited(model, None, truth=people(8, seed=2), batch_size=4)
    assert "The model has dropout, which is inactive here." in report.limitations


def test_the_page_and_the_numbers_say_the_same_and_escape_everything(
    with_truth: Report, tmp_path: Path
) -> None:
    attack = "<script>alert(1)</script>"
    individual = with_truth.updates[0].individuals[0].model_copy(update={"name": attack})
    update = with_truth.updates[0].model_copy(
        update={"name": f'"><img src=x onerror="{attack}">', "individuals": [individual]}
    )
    model = with_truth.model.model_copy(update={"name": attack})
    page, data = with_truth.model_copy(update={"updates": [update], "model": model}).write(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "http://" not in text and "src=" not in text.replace("src=x", "")
    back = Report.model_validate(json.loads(data.read_text(encoding="utf-8")))
    assert back.model.name == attack
    assert all(sentence.split(";")[0] in text for sentence in back.findings[:1])
