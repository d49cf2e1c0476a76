"""Audits end to end, with the truth and without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from auditing import (
    DEMIXING,
    VICTIMS,
    audited,
    audited_with_truth,
    by_name,
    gradient,
    gradients,
    in_batches,
    net,
    people,
    stepped,
)
from leakbench import Report
from leakbench.auditing.findings import (
    CertifiedFeatures,
    InferredProperty,
    TruthUnknown,
    UpdatesDiffer,
)


@pytest.fixture(scope="module", name="with_truth")
def _with_truth() -> Report:
    return audited_with_truth()


def test_exact_features_give_everybodys_property_away(with_truth: Report) -> None:
    attacks = by_name(with_truth.attacks)
    found = attacks["mask_demixing"]
    assert found.certified == 24
    assert found.metrics is not None and found.metrics.certificates is not None
    assert found.metrics.certificates.false == 0
    assert found.metrics.properties["bright"].balanced_accuracy.value == 1.0
    prior = attacks["prior"].metrics
    assert prior is not None and prior.properties["bright"].balanced_accuracy.value == 0.5
    assert with_truth.findings_as_data[0] == CertifiedFeatures(
        attack="Mask demixing", certified=24, individuals=24, false=0
    )
    assert with_truth.findings[0] == (
        "Mask demixing certifies the exact deep feature of 24 of 24 individuals; of those whose "
        "truth is known, 0 certificates are false."
    )


def test_where_nothing_is_matched_all_of_it_is_learnt_from_the_update() -> None:
    model = net()
    report = audited(model, gradients(model, VICTIMS, 1), truth=in_batches(VICTIMS, 1))
    attacks = by_name(report.attacks)
    controls = {}
    for name in ("prior", "blind", "labels"):
        metrics = attacks[name].metrics
        assert metrics is not None
        controls[name] = metrics.properties["bright"].balanced_accuracy.value or 0.0
    best = attacks["mask_demixing"].baselines["bright"]
    control = controls[best]
    advantage = attacks["mask_demixing"].advantage["bright"]
    assert control == max(controls.values()) < 0.8
    assert advantage.value == pytest.approx(1 - control)
    assert advantage.low is not None and advantage.low > 0.1
    finding = report.findings_as_data[1]
    assert isinstance(finding, InferredProperty)
    assert (finding.subject, finding.attack) == ("bright", "Mask demixing")
    assert finding.accuracy.value == 1.0 and finding.shown
    assert finding.advantage == advantage
    assert report.findings[1].startswith("bright: Mask demixing has a balanced accuracy of 100.0 ")
    assert f"the best baseline, {attacks[best].title}, {100 * control:.1f} " in report.findings[1]


def test_the_inferences_about_each_individual_are_reported_with_whether_they_are_right(
    with_truth: Report,
) -> None:
    assert [update.size for update in with_truth.updates] == [4] * 6
    for update in with_truth.updates:
        assert update.mismatch is not None and update.mismatch < 1e-5
        for individual in update.individuals:
            answer = individual.answers["mask_demixing"]
            assert individual.properties is not None and answer.right == {"bright": True}
            assert (answer.probabilities["bright"] >= 0.5) == individual.properties["bright"]
            assert answer.label == individual.label
            assert answer.certified and answer.cosine == pytest.approx(1.0, abs=1e-4)
            assert answer.swapped_cosine is not None and answer.swapped_cosine < 0.9
    names = [individual.name for update in with_truth.updates for individual in update.individuals]
    assert names == [f"individual {number}" for number in range(1, 25)]


def test_an_attack_that_does_not_fit_says_so_and_the_others_go_on(with_truth: Report) -> None:
    refused = by_name(with_truth.attacks)["newton_demixing"]
    assert "needs smooth activations" in refused.refused
    assert refused.metrics is None
    assert any(
        limitation.startswith("Newton demixing was not run")
        for limitation in with_truth.limitations
    )


def test_only_the_oracle_knows_features(with_truth: Report) -> None:
    knows = {attack.name: attack.knows for attack in with_truth.attacks}
    assert [name for name, known in knows.items() if "features" in known] == ["oracle"]
    assert not any("labels" in known for known in knows.values())


def test_to_know_the_truth_changes_no_answer(with_truth: Report) -> None:
    model = net()
    blind = audited(
        model,
        gradients(model, VICTIMS, 4),
        batch_size=4,
        attacks={"mask_demixing": DEMIXING, "feature": {"budget": 5, "labels": "counts"}},
    )
    known = audited(
        model,
        gradients(model, VICTIMS, 4),
        truth=in_batches(VICTIMS, 4),
        attacks={"mask_demixing": DEMIXING, "feature": {"budget": 5, "labels": "counts"}},
    )
    for without, of in zip(blind.updates, known.updates, strict=True):
        for attack in ("mask_demixing", "feature"):
            found, expected = (
                sorted(i.answers[attack].probabilities["bright"] for i in update.individuals)
                for update in (without, of)
            )
            assert found == pytest.approx(expected, abs=1e-6)


def test_without_the_truth_no_accuracy_is_reported() -> None:
    model = net()
    report = audited(model, gradients(model, VICTIMS, 4), batch_size=4)
    assert [attack.name for attack in report.attacks] == ["mask_demixing"]
    assert report.attacks[0].metrics is None and report.attacks[0].certified == 24
    assert report.defenses == []
    assert isinstance(report.findings_as_data[-1], TruthUnknown)
    assert "How often it would be right cannot be said." in report.findings[-1]
    individual = report.updates[0].individuals[0]
    assert (individual.label, individual.properties) == (None, None)
    answer = individual.answers["mask_demixing"]
    assert (answer.right, answer.cosine, answer.certified) == (None, None, True)


def test_a_truth_of_some_updates_is_scored_on_those() -> None:
    model = net()
    some = replace(
        VICTIMS, updates=[f"client {row // 4}" if row < 8 else "" for row in range(len(VICTIMS))]
    )
    report = audited(model, gradients(model, VICTIMS, 4), truth=some, batch_size=4)
    assert [update.truth_known for update in report.updates] == [True, True, *[False] * 4]
    assert report.attacks[-1].certified == 24
    assert any("2 of 6 updates whose truth is known" in each for each in report.limitations)
    assert (
        "16 individuals of the truth are in no update, and are not counted." in report.limitations
    )


def test_batches_of_several_sizes_are_scored_together() -> None:
    model, sizes = net(), [1, 3, 4, 4]
    names = [f"u{number}" for number, size in enumerate(sizes) for _ in range(size)]
    twelve = people(12, seed=2)
    updates = {}
    for name in dict.fromkeys(names):
        updates[name] = gradient(model, twelve, [i for i, n in enumerate(names) if n == name])
    report = audited(model, updates, truth=replace(twelve, updates=names))
    found = by_name(report.attacks)["mask_demixing"]
    assert found.metrics is not None and found.certified == 12
    assert found.metrics.properties["bright"].accuracy.value == 1.0
    assert found.metrics.properties["bright"].count_error.value == 0.0


def test_updates_that_were_not_captured_are_computed_from_the_truth() -> None:
    report = audited(net(), None, truth=VICTIMS, batch_size=4)
    assert [update.captured for update in report.updates] == [False] * 6
    assert by_name(report.attacks)["mask_demixing"].certified == 24


def test_an_update_that_is_not_its_truths_is_noticed() -> None:
    model = net()
    doubled = {
        name: {key: 4 * value for key, value in update.items()}
        for name, update in gradients(model, VICTIMS, 4).items()
    }
    report = audited(model, doubled, truth=in_batches(VICTIMS, 4))
    assert report.updates[0].mismatch == pytest.approx(3.0, rel=1e-3)
    assert report.updates[0].check == "differs"
    assert isinstance(report.findings_as_data[0], UpdatesDiffer)
    assert "its sum instead of its mean" in report.findings[0]


def test_local_steps_are_recognised_as_what_they_are() -> None:
    model = net()
    after = {"client 0": dict(stepped(model, 3, 0.1).state_dict())}
    report = audited(
        model,
        after,
        truth=in_batches(people(4), 4),
        kind="weights",
        learning_rate=0.1,
        local_steps=3,
        attacks={"feature": {"budget": 2, "labels": "counts"}},
    )
    assert report.updates[0].defense == {"name": "local_steps", "epochs": 3}
    assert report.updates[0].learning_rate == 0.1
    assert report.updates[0].mismatch is not None and report.updates[0].mismatch < 1e-3
    assert "defense" in report.attacks[-1].knows


def test_batch_normalisation_by_the_batch_is_simulated() -> None:
    torch.manual_seed(0)
    model = net()
    model.features.insert(1, torch.nn.BatchNorm2d(8))
    model.train()
    captured = gradients(model, VICTIMS, 4)
    for mode, right in (("train", True), ("eval", False)):
        report = audited(
            model,
            captured,
            truth=in_batches(VICTIMS, 4),
            mode=mode,
            attacks={"feature": {"budget": 2, "labels": "counts"}},
        )
        mismatch = report.updates[0].mismatch
        assert mismatch is not None and (mismatch < 1e-4) == right
