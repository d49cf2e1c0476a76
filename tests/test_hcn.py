"""HCN: its losses and rules, what its training sees, and what its outputs tell."""

from __future__ import annotations

from dataclasses import fields, replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import measuring
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS
from leakbench.baselines.hcn import HonestButCurious
from leakbench.baselines.hybrid_capturing import training as hcn_training
from leakbench.baselines.hybrid_capturing.backbone import frozen_backbone
from leakbench.baselines.hybrid_capturing.networks import (
    best_threshold,
    classifier,
    entropy_score,
    parametrised_loss,
    reader,
    regularised_loss,
)
from leakbench.baselines.hybrid_capturing.training import Examples
from leakbench.data.images import to_images
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.shared_model import Normalise
from leakbench.records.measured import Measured
from leakbench.records.record import Record
from leakbench.reports.details import details
from leakbench.reports.suite_page import Heading, page
from leakbench.reports.suite_report import SuiteReport
from leakbench.threat.server import Auxiliary, Server, granted

FORMS = ("parametrised", "regularised", "honest")


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


def quick(form: str) -> HonestButCurious:
    made: HonestButCurious = build(ATTACKS, "hcn", {"form": form, "epochs": 1, "width": 4})
    return made


def server(context: EvaluationContext) -> Server:
    return granted(context.server, HonestButCurious().required_knowledge)


def measured(
    setup: Setup,
    data_root: Path | None,
    form: str,
    parameters: dict[str, object] | None = None,
    **fields: object,
) -> Record:
    granted_to_hcn = {"grant": ("auxiliary", "outputs")} | fields
    return measuring.measured(
        setup, data_root, "hcn", {"form": form, **(parameters or {})}, **granted_to_hcn
    )


def test_the_parametrised_loss_is_the_weighted_sum_of_its_three_terms() -> None:
    logits = torch.tensor([[log(3.0), 0.0], [0.0, 0.0]])  # p = (3/4, 1/4), (1/2, 1/2)
    read = torch.tensor([[0.0, log(4.0)], [0.0, 0.0]])  # presence 4/5, 1/2
    labels, secret = torch.tensor([0, 1]), torch.tensor([1, 1])
    main = -(log(3 / 4) + log(1 / 2)) / 2
    hidden = -(log(4 / 5) + log(1 / 2)) / 2
    entropies = (-(3 / 4) * log(3 / 4) - (1 / 4) * log(1 / 4) + log(2)) / 2
    for betas in ((5.0, 5.0, 2.0), (1.0, 0.0, 0.0), (1.0, 3.0, 0.0)):
        loss = parametrised_loss(logits, labels, read, secret, torch.ones(2), betas)
        assert loss.item() == pytest.approx(
            betas[0] * main + betas[1] * hidden + betas[2] * entropies, abs=1e-6
        )


def test_the_regularised_loss_sharpens_absence_and_blurs_presence() -> None:
    logits = torch.tensor([[log(3.0), 0.0], [0.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 0, 0])
    sharp = -(3 / 4) * log(3 / 4) - (1 / 4) * log(1 / 4)
    main = -(log(3 / 4) + 2 * log(1 / 2)) / 3
    blurred_presence = regularised_loss(logits, labels, torch.tensor([0, 1, 1]), (5.0, 4.0))
    assert blurred_presence.item() == pytest.approx(5 * main + 4 * (sharp - log(2)), abs=1e-6)
    blurred_absence = regularised_loss(logits, labels, torch.tensor([1, 0, 0]), (5.0, 4.0))
    assert blurred_absence.item() == pytest.approx(5 * main + 4 * (log(2) - sharp), abs=1e-6)
    nobody = regularised_loss(logits, labels, torch.tensor([0, 0, 0]), (0.0, 1.0))
    assert nobody.item() == pytest.approx((sharp + 2 * log(2)) / 3, abs=1e-6)


def test_the_threshold_is_the_best_in_balanced_accuracy() -> None:
    draw = torch.Generator().manual_seed(0)
    secret = (torch.rand(200, generator=draw) < 0.2).long()
    uncertain = (torch.rand(200, generator=draw) + 0.5 * secret).round(decimals=2)

    def reached(threshold: float) -> float:
        said = uncertain >= threshold
        return float((said[secret == 1].float().mean() + (~said[secret == 0]).float().mean()) / 2)

    threshold, value = best_threshold(uncertain, secret)
    assert reached(threshold) == pytest.approx(value)
    assert value == pytest.approx(max(reached(t) for t in np.arange(-0.005, 1.6, 0.01)))


def test_where_entropies_do_not_differ_the_threshold_earns_nothing() -> None:
    assert best_threshold(torch.ones(4), torch.tensor([0, 0, 0, 1]))[1] == 0.5


def test_an_entropy_s_score_is_a_half_at_the_threshold_and_grows() -> None:
    entropies = torch.linspace(0, log(8), 100)
    scores = entropy_score(entropies, 0.7, 8)
    assert torch.equal(scores >= 0.5, entropies >= 0.7)
    assert bool((scores.diff() > 0).all())
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_networks_are_those_of_the_paper_at_64_px() -> None:
    network = classifier(3, 64, 64)
    assert isinstance(network[0], Normalise)
    shapes = [tuple(p.shape) for n, p in network.named_parameters() if p.ndim > 1]
    assert shapes == [
        (128, 3, 2, 2),
        (128, 128, 2, 2),
        (64, 128, 2, 2),
        (64, 64, 2, 2),
        (128, 64 * 4 * 4),
        (3, 128),
    ]
    assert [tuple(p.shape) for p in reader(3).parameters() if p.ndim > 1] == [
        (60, 3),
        (30, 60),
        (2, 30),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_trained_models_are_found_in_the_cache(
    form: str, context: EvaluationContext, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, holds = quick(form), server(context)
    images = torch.rand(3, 3, 32, 32)
    first = {n: m(images) for n, m in attack.deploy(holds, lambda share: None).items()}
    monkeypatch.setattr(
        hcn_training, "_keep_best", lambda *a: pytest.fail("trained although it is in the cache")
    )
    again = {n: m(images) for n, m in attack.deploy(holds, lambda share: None).items()}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert list(first) == ["gender", "glasses"]
    changed = replace(attack, epochs=2)
    with pytest.raises(pytest.fail.Exception, match="although it is in the cache"):
        changed.deploy(holds, lambda share: None)


def test_a_training_s_randomness_is_its_own(context: EvaluationContext, own_cache: Path) -> None:
    before = torch.random.get_rng_state()
    models = quick("parametrised").deploy(server(context), lambda share: None)
    assert torch.equal(torch.random.get_rng_state(), before)
    for file in own_cache.rglob("*.safetensors"):
        file.unlink()
    torch.manual_seed(1)
    again = quick("parametrised").deploy(server(context), lambda share: None)
    weights = [list(m["gender"].state_dict().values()) for m in (models, again)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_honest_models_are_the_same_for_every_property_and_others_are_not(
    context: EvaluationContext,
) -> None:
    images = torch.rand(3, 3, 32, 32)
    for form in FORMS:
        models = quick(form).deploy(server(context), lambda share: None)
        same = torch.equal(models["gender"](images), models["glasses"](images))
        assert same == (form == "honest")


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_what_is_handed_out_is_what_is_asked_for(outputs: str, context: EvaluationContext) -> None:
    attack = replace(quick("honest"), outputs=outputs)
    found = attack.deploy(server(context), lambda share: None)["gender"](torch.rand(3, 3, 32, 32))
    sums = found.sum(1)
    assert torch.allclose(sums, torch.ones(3), atol=1e-5) == (outputs == "probabilities")


@pytest.mark.parametrize("form", FORMS)
def test_training_sees_d_aux_alone_and_steps_leave_out_who_validates(
    form: str, context: EvaluationContext, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Tensor] = []
    keep_best = hcn_training._keep_best

    def spy(network, epochs, step, value, data: Examples, seed, progress) -> None:
        def watched(rows: Tensor) -> None:
            trained.append(rows)
            assert not bool(data.held_out[rows].any())
            step(rows)

        people = context.server.auxiliary.identities
        assert set(people[data.held_out].tolist()).isdisjoint(people[~data.held_out].tolist())
        known = {image.tobytes() for image in data.inputs.numpy()}
        victims = to_images(context.individuals.images[context.split.victims]).numpy()
        assert not any(image.tobytes() in known for image in victims)
        keep_best(network, epochs, watched, value, data, seed, progress)

    monkeypatch.setattr(hcn_training, "_keep_best", spy)
    quick(form).deploy(server(context), lambda share: None)
    assert trained


def test_the_best_epoch_s_weights_are_kept(context: EvaluationContext) -> None:
    auxiliary = context.server.auxiliary
    assert auxiliary is not None
    data = Examples.of(auxiliary, auxiliary.images, auxiliary.properties["gender"], 8)
    network = torch.nn.Linear(1, 1)
    values = iter([0.2, 0.9, 0.4])
    epochs = 0

    def value() -> float:
        nonlocal epochs
        epochs += 1
        torch.nn.init.constant_(network.weight, epochs)
        return next(values)

    hcn_training._keep_best(network, 3, lambda rows: None, value, data, 0, lambda share: None)
    assert network.weight.item() == 2


@pytest.mark.parametrize("form", FORMS)
def test_identity_as_main_task_is_refused(form: str, small_setup: Setup) -> None:
    setup = small_setup.model_copy(update={"main_task": "identity"})
    made = prepare(setup, None, "cpu", lambda message: None)
    with pytest.raises(UsageError, match=r"'hcn' trains a model .* main task of attributes"):
        quick(form).deploy(server(made), lambda share: None)


def test_a_cell_that_does_not_grant_outputs_is_refused(small_setup: Setup) -> None:
    with pytest.raises(UsageError, match="'hcn' needs to know outputs"):
        measured(small_setup, None, "honest", batch_size=1, grant=("model", "auxiliary"))


def test_the_record_and_the_report_say_whose_accuracy_it_is(small_setup: Setup) -> None:
    small = {"epochs": 1, "width": 4}
    cells = []
    for form, column in (("parametrised", "HCN"), ("honest", "Honest outputs")):
        for batch_size in (1, 4):
            fields = {"batch_size": batch_size, "individuals": 8, "parameters": small}
            record = measured(small_setup, None, form, **fields)
            entry = SuiteEntry(ResolvedCell.of(record.cell), record.key, "T", "table2", column)
            cells.append(Measured(entry, record))
    deployed = [m.record.metrics.deployed for m in cells if m.record and m.record.metrics]
    assert deployed[0] == deployed[1]
    assert deployed[0] is not None
    assert set(deployed[0]) == {"gender", "glasses"}
    assert deployed[2] is not None
    assert len(set(deployed[2].values())) == 1
    report = page(Heading("t", "T", "leakbench run t"), SuiteReport(cells))
    assert "**HCN, Honest outputs**: another threat model" in report
    assert "- HCN (`hcn`): knows auxiliary, outputs; form = parametrised" in report
    rows = details(cells)
    hcn = rows[rows.attack == "HCN"].iloc[0]
    shared = cells[0].record.metrics.main_task["accuracy"]  # type: ignore[union-attr]
    assert hcn["deployed for gender, %"] == round(100 * deployed[0]["gender"], 4)
    assert hcn["deployed for glasses, %"] == round(100 * deployed[0]["glasses"], 4)
    assert hcn["main-task accuracy, %"] == round(100 * shared, 4)


def assert_more_than_honest(setup: Setup, data_root: Path | None, form: str) -> None:
    """Fail unless the interval of what is read off a curious model lies above an honest one's."""
    fields = {"batch_size": 8, "individuals": 256, "parameters": {"epochs": 20}}
    curious, honest = (measured(setup, data_root, f, **fields).metrics for f in (form, "honest"))
    assert curious is not None
    assert honest is not None
    (name,) = setup.properties
    low = curious.properties[name].balanced_accuracy.low
    high = honest.properties[name].balanced_accuracy.high
    assert low is not None
    assert high is not None
    assert low > high


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [pytest.param("parametrised", marks=pytest.mark.nightly), "regularised"]
)
def test_on_drawn_faces_its_outputs_tell_more_than_honest_ones(form: str) -> None:
    setup = Setup(
        dataset="synthetic",
        dataset_parameters={"individuals": 2_000},
        image_size=32,
        properties=("dark_hair",),
        main_task="hat+looking_left",
        model_parameters={"width": 4},
        rounds=2,
    )
    assert_more_than_honest(setup, None, form)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("form", ["parametrised", "regularised"])
def test_on_real_faces_its_outputs_tell_more_than_honest_ones(data_root: Path, form: str) -> None:
    setup = Setup(
        dataset="celeba",
        dataset_parameters={"selection": "natural"},
        image_size=32,
        properties=("gender",),
        main_task="Mouth_Slightly_Open+Black_Hair+Bangs",
        model_parameters={"width": 4},
        rounds=2,
    )
    assert_more_than_honest(setup, data_root, form)


def test_with_a_backbone_only_what_follows_it_is_trained(
    context: EvaluationContext, own_cache: Path
) -> None:
    name = "mobilenet_v3_small"
    attack: HonestButCurious = build(
        ATTACKS, "hcn", {"form": "honest", "epochs": 1, "width": 4, "backbone": name}
    )
    seen = server(context)
    assert seen.auxiliary is not None
    some = {
        field.name: getattr(seen.auxiliary, field.name)[:40]
        for field in fields(Auxiliary)
        if field.name != "properties"
    }
    properties = {"gender": seen.auxiliary.properties["gender"][:40]}
    few = replace(seen, auxiliary=Auxiliary(**some, properties=properties), properties=("gender",))
    deployed = attack.deploy(few, lambda _: None)["gender"]
    untrained = frozen_backbone(name, "none", few.image_shape[-1], "cpu")
    assert deployed[0].state_dict().keys() == untrained.state_dict().keys()
    images = some["images"][:3]
    with torch.no_grad():
        expected = deployed[2](deployed[1](untrained(images)))
        torch.testing.assert_close(deployed(images), expected)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "mobilefacenett"}, "mobilefacenet"),
        ({"backbone": "lenet"}, "takes no weights"),
        ({"weights": "package"}, "name it with `backbone`"),
        ({"backbone": "mobilefacenet", "weights": "package"}, "package"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(
    context: EvaluationContext, parameters: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(ATTACKS, "hcn", parameters).deploy(server(context), lambda _: None)
