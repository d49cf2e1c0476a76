"""Audits end to end: what is said with the truth and without, of defenses, and of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import leakbench
from auditing import audited, gradient, gradients, in_batches, net, people
from leakbench.auditing import attacking, defending
from leakbench.auditing.audit import FederatedTraining, LabelledImages
from leakbench.auditing.findings import findings, verdict
from leakbench.auditing.report import AttackReport, Report
from leakbench.base.errors import UsageError
from leakbench.federation.defense import Defense
from leakbench.metrics.estimates import Estimate
from test_audit_updates import stepped

VICTIMS = people(24, seed=2)


@pytest.fixture(scope="module")
def with_truth() -> Report:
    model = net()
    return audited(
        model,
        gradients(model, VICTIMS, 4),
        truth=in_batches(VICTIMS, 4),
        attacks={"mask_demixing": {"budget": 20}, "newton_demixing": {}},
        defenses=[
            {"name": "gaussian", "sigma": 100.0},
            {"name": "secure_aggregation", "of": 4},
        ],
    )


def by_name(reports: Sequence[AttackReport]) -> dict[str, AttackReport]:
    return {report.name: report for report in reports}


def test_exact_features_give_everybodys_property_away(with_truth: Report) -> None:
    attacks = by_name(with_truth.attacks)
    found = attacks["mask_demixing"]
    assert found.certified == 24
    assert found.metrics is not None and found.metrics.certificates is not None
    assert found.metrics.certificates.false == 0
    assert found.metrics.properties["bright"].balanced_accuracy.value == 1.0
    prior = attacks["prior"].metrics
    assert prior is not None and prior.properties["bright"].balanced_accuracy.value == 0.5
    assert with_truth.findings[0] == (
        "Mask demixing certifies the exact deep feature of 24 of 24 individuals; of those whose "
        "truth is known, 0 certificates are false."
    )


def test_where_nothing_is_matched_all_of_it_is_learnt_from_the_update() -> None:
    model = net()
    report = audited(model, gradients(model, VICTIMS, 1), truth=in_batches(VICTIMS, 1))
    attacks = by_name(report.attacks)
    blind = attacks["blind"].metrics
    assert blind is not None
    control = blind.properties["bright"].balanced_accuracy.value
    lead = attacks["mask_demixing"].lead["bright"]
    assert control is not None and control < 0.8
    assert lead.value == pytest.approx(1 - control)
    assert lead.low is not None and lead.low > 0.1
    assert report.findings[1].startswith("bright: Mask demixing is right in 100.0 ")


def test_each_individual_is_told_what_was_inferred_and_whether_it_is_right(
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
    names = [individual.name for update in with_truth.updates for individual in update.individuals]
    assert names == [f"individual {number}" for number in range(1, 25)]


def test_an_attack_that_does_not_fit_says_so_and_the_others_go_on(with_truth: Report) -> None:
    refused = by_name(with_truth.attacks)["newton_demixing"]
    assert "needs smooth activations" in refused.refused
    assert refused.metrics is None
    assert any(
        caution.startswith("Newton demixing was not run") for caution in with_truth.limitations
    )


def test_only_the_oracle_knows_features(with_truth: Report) -> None:
    knows = {attack.name: attack.knows for attack in with_truth.attacks}
    assert [name for name, known in knows.items() if "features" in known] == ["oracle"]
    assert not any("labels" in known for known in knows.values())


def test_a_defense_is_judged_by_attacks_that_know_it(with_truth: Report) -> None:
    defenses = {defense.name: defense for defense in with_truth.defenses}
    assert list(defenses) == ["none", "gaussian", "secure_aggregation"]
    assert defenses["none"].verdict == "leaks: 24 exact features certified"
    noisy = defenses["gaussian"]
    assert "defense" in by_name(noisy.attacks)["mask_demixing"].knows
    assert by_name(noisy.attacks)["mask_demixing"].certified == 0
    assert not noisy.verdict.startswith("leaks")
    assert noisy.change is not None and noisy.change.value is not None and noisy.change.value > 10
    assert noisy.utility is None and noisy.untrained.startswith("utility was not measured")
    # Four of the six clients make one group; the others are in none.
    together = defenses["secure_aggregation"]
    assert (together.individuals, together.left_out) == (16, 8)


def test_to_know_the_truth_changes_no_answer(with_truth: Report) -> None:
    model = net()
    blind = audited(
        model,
        gradients(model, VICTIMS, 4),
        batch_size=4,
        attacks={"mask_demixing": {"budget": 20}, "feature": {"budget": 5, "labels": "counts"}},
    )
    known = audited(
        model,
        gradients(model, VICTIMS, 4),
        truth=in_batches(VICTIMS, 4),
        attacks={"mask_demixing": {"budget": 20}, "feature": {"budget": 5, "labels": "counts"}},
    )
    for without, of in zip(blind.updates, known.updates, strict=True):
        for attack in ("mask_demixing", "feature"):
            found, expected = (
                sorted(i.answers[attack].probabilities["bright"] for i in update.individuals)
                for update in (without, of)
            )
            assert found == pytest.approx(expected, abs=1e-6)


def test_without_the_truth_no_accuracy_is_told() -> None:
    model = net()
    report = audited(model, gradients(model, VICTIMS, 4), batch_size=4)
    assert [attack.name for attack in report.attacks] == ["mask_demixing"]
    assert report.attacks[0].metrics is None and report.attacks[0].certified == 24
    assert report.defenses == []
    assert "How often it would be right cannot be said." in report.findings[-1]
    told = report.updates[0].individuals[0]
    assert (told.label, told.properties) == (None, None)
    answer = told.answers["mask_demixing"]
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
    assert "16 individuals of the truth are in no update, and count nowhere." in report.limitations


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
    assert "its sum instead of its mean" in report.limitations[0]


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


def test_the_price_of_a_defense_is_that_of_training_under_it() -> None:
    asked: list[str | None] = []

    def training(defense: Defense | None) -> list[bool]:
        asked.append(None if defense is None else defense.name)
        return [defense is None or number % 2 == 0 for number in range(40)]

    report = audited(
        net(),
        None,
        truth=VICTIMS,
        batch_size=4,
        defenses=[{"name": "gaussian", "sigma": 100.0}],
        training=training,
    )
    assert asked == [None, "gaussian"]
    none, noisy = report.defenses
    assert none.lost is not None and none.lost.value == 0.0
    assert noisy.utility is not None and noisy.utility.value == 0.5
    assert noisy.lost is not None and noisy.lost.value == 0.5 and noisy.lost.low is not None
    assert 0 < noisy.lost.low < 0.5


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (ZeroDivisionError("lost"), "under gaussian failed: ZeroDivisionError: lost"),
        ([True], "tests 2 images without a defense and 1 under 'gaussian'"),
        ([None, None], "under gaussian failed: it must give True or False"),
    ],
)
def test_a_training_that_fails_costs_its_price_alone(after: Any, said: str) -> None:
    def training(defense: Defense | None) -> Any:
        if defense is not None and isinstance(after, Exception):
            raise after
        return [True, False] if defense is None else after

    tables = [{"name": "gaussian", "sigma": 1.0}]
    given: dict[str, Any] = {"truth": people(8, seed=2), "batch_size": 4, "defenses": tables}
    given["attacks"] = {"feature": {"budget": 2, "labels": "counts"}}
    report = audited(net(), None, **given, training=training)
    none, noisy = report.defenses
    assert none.utility is not None and noisy.utility is None
    assert noisy.attacks and said in noisy.untrained

    def broken(_: Defense | None) -> Any:
        raise ZeroDivisionError

    report = audited(net(), None, **given, training=broken)
    assert all("without a defense failed" in each.untrained for each in report.defenses)


def test_a_defense_comes_on_top_of_what_clients_do_already() -> None:
    data, seen = people(16, seed=5), []
    assert data.labels is not None
    training = FederatedTraining(
        images=data.images,
        labels=data.labels,
        test_images=data.images,
        test_labels=data.labels,
        rounds=1,
        clients=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defending, "train", lambda *given: seen.append(given[-1]))
        report = audited(
            net(),
            None,
            truth=people(8, seed=2),
            batch_size=4,
            learning_rate=0.1,
            local_steps=2,
            defenses=[{"name": "gaussian", "sigma": 1.0}, {"name": "local_steps", "epochs": 4}],
            training=training,
            attacks={"feature": {"budget": 2, "labels": "counts"}},
        )
    none, noisy, twice = report.defenses
    # Two steps are about twice one gradient.
    assert none.change is not None and none.change.value is not None and none.change.value > 0.5
    assert noisy.change is not None and "defense" in by_name(none.attacks)["feature"].knows
    assert "local_steps" in twice.refused and "cannot come after" in twice.refused
    assert len(seen) == 2
    assert all("LocalSteps" in step.__qualname__ for step in seen[:1])


def test_federated_training_starts_from_weights_drawn_anew() -> None:
    data = people(64, seed=5)
    bright = data.properties["bright"].long()
    test = people(64, seed=6)
    training = FederatedTraining(
        images=data.images,
        labels=bright,
        test_images=test.images,
        test_labels=test.properties["bright"].long(),
        rounds=60,
    )
    report = audited(
        net(2),
        None,
        truth=replace(VICTIMS, labels=VICTIMS.properties["bright"].long()),
        auxiliary=replace(people(120, seed=1), labels=None),
        batch_size=4,
        defenses=[{"name": "dp_sgd", "clip": 0.01, "noise": 100.0}],
        training=training,
    )
    none, private = report.defenses
    assert none.utility is not None and none.utility.value is not None
    assert none.utility.value > 0.9
    assert private.lost is not None and private.lost.value is not None and private.lost.value > 0.2
    assert private.delta == 1 / 8


@pytest.mark.slow
def test_the_usual_defenses_are_at_levels_of_the_gradient() -> None:
    report = audited(net(), None, truth=people(8, seed=2), batch_size=4, defenses=None)
    names = [defense.name for defense in report.defenses]
    assert names[0] == "none" and {"gaussian", "dp_sgd", "sparsify", "local_steps"} <= set(names)
    noise = next(defense for defense in report.defenses if defense.name == "gaussian")
    assert noise.change is not None and noise.change.value is not None
    assert 0.5 < noise.change.value < 2
    assert "Further local steps are tried with learning rate 0.1." in report.limitations
    assert "secure_aggregation" not in names


def judged(report: Report, blind: float = 0.5, refused: str = "", **leads: Estimate) -> str:
    """The verdict where an attack that certifies nothing has these leads."""
    attacks = by_name(report.attacks)
    base, control = attacks["mask_demixing"], attacks["blind"]
    assert control.metrics is not None
    found = control.metrics.properties["bright"]
    accuracy = found.balanced_accuracy.model_copy(update={"value": blind})
    known = dict.fromkeys(leads, found.model_copy(update={"balanced_accuracy": accuracy}))
    return verdict(
        [
            control.model_copy(
                update={"metrics": control.metrics.model_copy(update={"properties": known})}
            ),
            base.model_copy(update={"certified": None, "lead": leads}),
            *([base.model_copy(update={"refused": refused})] if refused else []),
        ]
    )


def lead(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high)


NOT_DEFINED = Estimate(value=None, low=None, high=None)


def test_a_verdict_is_no_leak_only_where_a_lead_is_excluded(with_truth: Report) -> None:
    small = lead(-0.05, 0.05)
    assert judged(with_truth, bright=small) == "no leak: at most 5 points above blind"
    assert judged(with_truth, bright=lead(0.1, 0.3)).startswith("leaks: +20.0")
    for said, found in (
        ("no lead shown, but up to 30 points", judged(with_truth, bright=lead(-0.3, 0.3))),
        ("no lead shown, but not every", judged(with_truth, refused="it is not", bright=small)),
        ("coin is the same", judged(with_truth, bright=small, coin=NOT_DEFINED)),
        ("blind is right in 91.7 % of bright", judged(with_truth, blind=0.917, bright=small)),
        (
            "fewer than 5 batches, or people, give no interval",
            judged(with_truth, bright=Estimate(value=0.0, low=None, high=None)),
        ),
    ):
        assert found.startswith(f"undecided: {said}"), found


def test_certificates_that_are_false_are_no_leak(with_truth: Report) -> None:
    found = by_name(with_truth.attacks)["mask_demixing"]
    assert found.metrics is not None and found.metrics.certificates is not None
    false = found.metrics.certificates.model_copy(update={"false": 24})
    metrics = found.metrics.model_copy(update={"certificates": false})
    leads = {"bright": NOT_DEFINED}
    assert verdict([found.model_copy(update={"metrics": metrics, "lead": leads})]).startswith(
        "undecided"
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("leaks: much", "no leak: at most 5", "Stopped by gaussian"),
        ("no leak: at most 5", "no leak: at most 5", "nothing can be said to be stopped"),
        ("undecided: few", "no leak: at most 5", "nothing can be said to be stopped"),
        ("leaks: much", "undecided: few", "Undecided under gaussian"),
        ("leaks: much", "leaks: much", "Not stopped by gaussian"),
    ],
)
def test_only_what_leaks_without_a_defense_is_stopped_by_one(
    with_truth: Report, before: str, after: str, said: str
) -> None:
    verdicts = zip(with_truth.defenses[:2], (before, after), strict=True)
    defenses = [each.model_copy(update={"verdict": verdict}) for each, verdict in verdicts]
    (sentence,) = findings(with_truth.updates, with_truth.attacks, defenses)[2:]
    assert said in sentence


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
    assert found.lead["bright"].value is not None and found.lead["bright"].low is None
    assert found.metrics is not None
    assert found.metrics.properties["bright"].balanced_accuracy.low is None
    assert "(no interval)" in report.findings[0]
    assert "which could be chance" in report.findings[0]
    assert [each.verdict[:9] for each in report.defenses] == ["undecided"] * 2
    assert any("no interval is given" in caution for caution in report.limitations)


def test_a_defense_under_which_no_attack_can_be_run_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = attacking._attacked

    def refusing(case: Any, attack: Any, batches: Any, compiling: Any) -> Any:
        if batches[0].defense["name"] == "gaussian" and not attack.control:
            raise UsageError("it does not fit")
        return run(case, attack, batches, compiling)

    monkeypatch.setattr(attacking, "_attacked", refusing)
    tables = [{"name": "gaussian", "sigma": 1.0}]
    report = audited(net(), None, truth=people(8, seed=2), batch_size=4, defenses=tables)
    assert report.defenses[1].refused == "no attack could be run: it does not fit"
    assert "gaussian (sigma = 1.0) was not tried: no attack could" in " ".join(report.limitations)


def test_a_verdict_names_attacks_that_could_not_be_run(with_truth: Report) -> None:
    attacks = by_name(with_truth.attacks)
    assert verdict(list(attacks.values())) == (
        "leaks: 24 exact features certified; Newton demixing could not be run"
    )


def test_a_label_that_gives_a_property_away_is_pointed_out() -> None:
    aux = people(120, seed=1)
    implied = replace(aux, labels=aux.properties["bright"].long())
    report = audited(net(), None, auxiliary=implied, truth=VICTIMS, batch_size=4)
    assert any(
        each.startswith("The main task's label alone gives bright") for each in report.limitations
    )


def test_a_class_of_one_person_gives_no_property_away() -> None:
    aux = people(120, seed=1)
    alone = replace(aux, labels=torch.arange(120) % 2, identities=torch.arange(120) % 4)
    alone = replace(alone, labels=alone.identities)
    report = audited(net(), None, auxiliary=alone, truth=VICTIMS, batch_size=4)
    assert not any("label alone gives" in each for each in report.limitations)


def test_the_best_of_several_attacks_is_said_to_be_chosen() -> None:
    attacks = {"feature": {"budget": 2, "labels": "counts"}, "mask_demixing": {"budget": 2}}
    report = audited(net(), None, truth=VICTIMS, batch_size=4, attacks=attacks)
    assert "(the best of 2 attacks, chosen afterwards, which flatters it)" in report.findings[-1]


def test_dropout_is_pointed_out() -> None:
    model = net()
    model.head.insert(3, torch.nn.Dropout(0.5))
    report = audited(model, None, truth=people(8, seed=2), batch_size=4)
    assert "The model has dropout, which is off here." in report.limitations


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


def test_what_cannot_be_audited_is_left_out_and_the_rest_goes_on() -> None:
    model, aux = net(), people(120, seed=1)
    sent = gradients(model, VICTIMS, 4)
    sent["client 1"]["head.3.bias"] = torch.full((4,), torch.nan)
    sent["client 2"]["head.3.bias"] = torch.zeros(3)
    told: list[str] = []
    report = audited(
        model,
        sent,
        truth=in_batches(VICTIMS, 4),
        auxiliary=replace(aux, properties={**aux.properties, "never": torch.zeros(120)}),
        properties=("bright", "glasses", "never"),
        say=told.append,
    )
    assert [update.name for update in report.updates] == [f"client {row}" for row in (0, 3, 4, 5)]
    assert by_name(report.attacks)["mask_demixing"].certified == 16
    assert list(report.auxiliary.properties) == ["bright"]
    for said in (
        "D_aux has no property 'glasses'; it has bright",
        "in D_aux the property 'never' is never present",
        "tensor 'head.3.bias' of update 'client 1' holds NaN",
        "update 'client 2' does not fit the model",
    ):
        assert any(caution.startswith(f"Left out: {said}") for caution in report.limitations)
        assert any(line.startswith(f"left out: {said}") for line in told)


def test_the_documented_import_is_the_audit() -> None:
    with pytest.raises(UsageError, match="there is nothing to audit"):
        leakbench.audit(net(), "features", None, people(12), ("bright",))


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


# Bad input, a sentence each.


def refused(message: str, **changed: object) -> None:
    model = net()
    arguments: dict[str, object] = {"truth": in_batches(people(4, seed=2), 4)} | changed
    with pytest.raises(UsageError, match=message):
        audited(model, gradients(model, people(4, seed=2), 4), **arguments)


def test_paths_may_be_text(files: Path) -> None:
    report = audited(net(), str(files / "updates"), auxiliary=str(files / "aux"), batch_size=4)
    assert report.attacks[0].certified == 8


def test_a_program_is_audited_from_files(run: Run, files: Path) -> None:
    example = (people(3).images,)
    program = torch.export.export(
        net().eval(), example, dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, files / "net.pt2")
    arguments = [*changed(("--model", "net.pt2"), ("--attack", "mask_demixing"))]
    del arguments[arguments.index("--weights") : arguments.index("--weights") + 2]
    code, out, err = run(*arguments, "--batch-size", "4", "--budget", "20")
    assert code == 0, err
    assert "certifies the exact deep feature of 8 of 8 individuals" in out


def test_bad_input_is_refused_in_a_sentence() -> None:
    four = in_batches(people(4, seed=2), 4)
    aux = people(120, seed=1)
    refused("D_aux has no property 'brigt'; it has bright", properties=("brigt",))
    refused("say at least one property", properties=())
    refused(
        "label 4 of individual 2 in the truth is no class: the model has 4, from 0 to 3",
        truth=replace(four, labels=torch.tensor([0, 4, 1, 1])),
    )
    refused(
        "label -2 of individual 1 in D_aux is no class",
        auxiliary=replace(aux, labels=torch.full((120,), -2)),
    )
    refused(
        "the property 'bright' is never present",
        auxiliary=replace(aux, properties={"bright": torch.zeros(120)}),
    )
    refused(
        "must be 0 or 1 for everybody",
        auxiliary=replace(aux, properties={"bright": torch.full((120,), 2)}),
    )
    refused(
        r"'bright' of D_aux has shape \(3,\), but there are 120 images",
        auxiliary=replace(aux, properties={"bright": torch.ones(3)}),
    )
    refused("pixels of D_aux must be in", auxiliary=replace(aux, images=255 * aux.images))
    refused("fewer than 3 people", auxiliary=replace(aux, identities=torch.zeros(120).long()))
    refused("in update 'nobody', which there is not", truth=replace(four, updates=["nobody"] * 4))
    refused("no labels of the main task", truth=replace(four, labels=None))
    refused("no submodule 'feature'", split="feature")
    refused("unknown attack 'mask_demixin'", attacks=["mask_demixin"])
    refused("unknown defense 'gausian'", defenses=[{"name": "gausian"}])
    refused("has no name", defenses=[{"sigma": 1.0}])
    refused("mode: ", mode="training")
    refused("pixel_mean has 2 numbers, but images have 3 channels", pixel_mean=(0.5, 0.5))
    refused("needs to know outputs", attacks={"hcn": {}})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"attacks": []}, "say at least one attack"),
        ({"attacks": {}}, "say at least one attack"),
        ({"attacks": ["blind"]}, "say at least one attack"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available here"),
        ({"device": "gpu"}, "device 'gpu' is not available here"),
        ({"names": ["one"]}, "'names' of the truth has 1 entries, but there are 4 images"),
        ({"updates": ["client 0"]}, "'updates' of the truth has 1 entries"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "the truth shows nobody"),
        ({"labels": torch.tensor([0, 0.5, 1, 1])}, "label 0.5 of individual 2 in the truth"),
        ({"labels": torch.full((4,), torch.nan)}, "label nan of individual 1 in the truth"),
        ({"identities": torch.full((4,), 0.5)}, "identities of the truth must be whole numbers"),
    ],
)
def test_what_the_audit_cannot_take_is_a_sentence(changed: dict[str, Any], said: str) -> None:
    if not changed.keys() & {"attacks", "device"}:
        changed = {"truth": replace(in_batches(people(4, seed=2), 4), **changed)}
    refused(said, **changed)


@pytest.mark.parametrize("kind", [torch.int32, torch.float32, torch.float64])
def test_labels_and_images_of_any_precision_are_taken(kind: torch.dtype) -> None:
    four, aux = in_batches(people(4, seed=2), 4), people(120, seed=1)
    assert four.labels is not None and aux.labels is not None
    model = net()
    images = four.images if kind is torch.int32 else four.images.to(kind)
    report = audited(
        model,
        gradients(model, people(4, seed=2), 4),
        truth=replace(
            four, labels=four.labels.to(kind), images=images, identities=torch.arange(4).to(kind)
        ),
        auxiliary=replace(aux, labels=aux.labels.to(kind)),
    )
    assert report.attacks[-1].certified == 4
    same = aux.images.clone()
    same[3] = four.images[1]
    refused(
        "individual 2 of the truth is in D_aux too",
        truth=replace(four, images=images),
        auxiliary=replace(aux, images=same.double()),
    )


def test_nobody_of_the_truth_may_be_in_d_aux() -> None:
    aux, four = people(120, seed=1), in_batches(people(4, seed=2), 4)
    images = aux.images.clone()
    images[7] = four.images[2]
    refused("individual 3 of the truth is in D_aux too", auxiliary=replace(aux, images=images))
    refused(
        r"individual 2 of the truth is a person whom D_aux shows too \(identity 5\)",
        auxiliary=replace(aux, identities=torch.arange(120)),
        truth=replace(four, identities=torch.tensor([200, 5, 201, 202])),
    )


# The command line.

Run = Callable[..., tuple[int, str, str]]

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(8 * 16, 64), nn.ReLU(), nn.Linear(64, 4)
        )

    def forward(self, images):
        return self.head(self.features(images))
"""


def write_folder(folder: Path, of: LabelledImages) -> None:
    """Images and a CSV file."""
    folder.mkdir()
    assert of.labels is not None
    updates = of.updates or [""] * len(of)
    lines = ["file,label,identity,update,bright"]
    for row, image in enumerate(of.images):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{row}.png")
        present = int(of.properties["bright"][row])
        lines.append(f"{row}.png,{of.labels[row]},{folder.name} {row},{updates[row]},{present}")
    (folder / "people.csv").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    model = net()
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "updates").mkdir()
    # As the images are once they are written and read again.
    victims = people(8, seed=2)
    victims = replace(victims, images=(victims.images * 255).round() / 255)
    for name, tensors in gradients(model, victims, 4).items():
        save_file(tensors, tmp_path / "updates" / f"{name}.safetensors")
    write_folder(tmp_path / "aux", people(60, seed=1))
    write_folder(tmp_path / "truth", in_batches(victims, 4))
    return tmp_path


GIVEN = (
    *("audit", "--model", "net.py:Net", "--weights", "weights.safetensors"),
    *("--split", "features", "--updates", "updates", "--auxiliary", "aux"),
    *("--property", "bright", "--device", "cpu"),
)


def test_the_command_audits_what_lies_in_files(run: Run, files: Path) -> None:
    code, out, err = run(
        *GIVEN,
        *("--truth", "truth", "--attack", "mask_demixing", "--budget", "20"),
        *("--defense", "gaussian:sigma=10.0", "--out", "found"),
    )
    assert code == 0, err
    assert "- Mask demixing certifies the exact deep feature of 8 of 8 individuals" in out
    assert f"The report is in {Path('found/audit.html')}" in out
    report = Report.model_validate_json((files / "found" / "audit.json").read_text("utf-8"))
    assert report.updates[0].mismatch is not None and report.updates[0].mismatch < 1e-4
    assert report.updates[0].individuals[0].name == "0.png"
    assert [defense.name for defense in report.defenses] == ["none", "gaussian"]


def changed(*pairs: tuple[str, str]) -> tuple[str, ...]:
    """The arguments with the values of some options changed, or added."""
    arguments = list(GIVEN)
    for option, value in pairs:
        if option in arguments:
            arguments[arguments.index(option) + 1] = value
        else:
            arguments += [option, value]
    return tuple(arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (GIVEN, "the batch size of update 'client 0' is not known"),
        (changed(("--split", "featurs")), "no submodule 'featurs' to split after; did you mean fe"),
        (changed(("--property", "glasses")), "D_aux has no property 'glasses'; it has bright"),
        (
            changed(("--batch-size", "4"), ("--kind", "difference")),
            "is a difference of weights, whose scale is the learning rate's; say learning_rate",
        ),
        (changed(("--model", "nets.py:Net")), "model file nets.py not found"),
        (changed(("--model", "net.py:Nett")), "net.py has no 'Nett'"),
        (changed(("--model", "net.pth")), "may be a pickle, which is never loaded"),
        (changed(("--weights", "none.safetensors")), "weights file none.safetensors not found"),
        (changed(("--auxiliary", "nowhere")), "D_aux nowhere not found"),
        (changed(("--defense", "gaussian:sigma")), "is not of the form PARAMETER=VALUE"),
        (changed(("--defense", "gaussian:sigma=-1")), "defense 'gaussian': sigma"),
        (changed(("--training", "aux")), "utility is measured on the truth"),
    ],
)
def test_wrong_arguments_are_a_sentence_and_code_2(
    run: Run, files: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("leakbench: ")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label,bright\n0.png,0,maybe\n", "'maybe' is no presence"),
        ("file,label,bright\n0.png,red,1\n", "column `label`"),
        ("file,label,bright\nnot.png,0,1\n", "cannot be decoded"),
        ("file,label,bright\n../0.png,0,1\n", "lies outside"),
        ("name,bright\n0.png,1\n", "needs a column `file`"),
    ],
)
def test_a_folder_of_people_that_is_malformed_is_a_sentence(
    run: Run, files: Path, text: str, said: str
) -> None:
    (files / "aux" / "people.csv").write_text(text, encoding="utf-8")
    code, _, err = run(*changed(("--batch-size", "4")))
    assert code == 2
    assert said in err.splitlines()[-1]


def test_weights_that_nobody_named_are_pointed_out(run: Run, files: Path) -> None:
    arguments = [*changed(("--batch-size", "4"), ("--attack", "mask_demixing"))]
    del arguments[arguments.index("--weights") : arguments.index("--weights") + 2]
    code, _, err = run(*arguments, "--budget", "5")
    assert code == 0, err
    assert err.startswith("no --weights: those that net.py:Net makes are taken for the clients'")


def test_images_of_the_audit_are_left_in_no_cache(run: Run, files: Path, cache: Path) -> None:
    before = set(cache.glob("images/*"))
    code, _, err = run(*changed(("--batch-size", "4"), ("--attack", "mask_demixing")))
    assert code == 0, err
    assert set(cache.glob("images/*")) == before
