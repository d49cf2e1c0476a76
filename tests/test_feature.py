"""The proposed attack: its equations, and that a single individual's feature comes back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from conforming import ALIKE, DEEP
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.matching.distance import cosine_gaussian_distance
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.method import Reconstruction, Victim
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import MODELS
from leakbench.evaluation.measuring import measure, victim_batches
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.client import client_update
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Architecture, SharedModel
from leakbench.records.record import Record
from leakbench.threat.label_recovery import recover_labels
from leakbench.threat.observation import observe
from leakbench.threat.server import Auxiliary, Server


def small_model(classes: int = 2) -> SharedModel:
    torch.manual_seed(0)
    return SmallCNN(width=4).build(classes, 16, "convolutions")


def alone(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients as those of a single run."""
    return {name: gradient[None] for name, gradient in gradients.items()}


def test_eq_3_on_vectors_of_known_angle_and_length() -> None:
    g = {"a": torch.tensor([[3.0]]), "b": torch.tensor([[[4.0]]])}
    turned = {"a": torch.tensor([[-4.0]]), "b": torch.tensor([[[3.0]]])}
    assert cosine_gaussian_distance(g, g, 0.4).item() == pytest.approx(0)
    # Orthogonal, so the cosine part is 1; ‖g − g̃‖² = 49 + 1, and σ² = 0.4 · 25.
    expected = 1 + 1 - math.exp(-50 / 10)
    assert cosine_gaussian_distance(turned, g, 0.4).item() == pytest.approx(expected)


def test_eq_2_weighs_the_extractor_by_lambda_and_the_kernel_by_the_part_s_norm() -> None:
    model = small_model()
    update = client_update(model, torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))
    dummy = client_update(model, torch.rand(2, 3, 16, 16), torch.tensor([1, 1]))

    def flat(gradients: dict[str, Tensor], prefix: str) -> Tensor:
        return torch.cat([g.flatten() for n, g in gradients.items() if n.startswith(prefix)])

    def eq_3(prefix: str) -> float:
        g, target = flat(dummy, prefix), flat(update, prefix)
        cosine = torch.dot(g, target) / (g.norm() * target.norm())
        kernel = torch.exp(-(g - target).square().sum() / (2 * target.square().sum()))
        return (2 - cosine - kernel).item()

    for lam in (0.0, 0.3):
        attack = FeatureReconstruction(lam=lam, kernel_width=2.0)
        expected = lam * eq_3("extractor.") + eq_3("classifier.")
        assert attack.distance(alone(dummy), alone(update)).item() == pytest.approx(
            expected, rel=1e-5
        )
        assert attack.distance(alone(update), alone(update)).item() == pytest.approx(0, abs=1e-5)


def test_the_update_of_the_true_batch_has_no_loss_in_any_order() -> None:
    model = small_model()
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 1, 0])
    order = torch.tensor([2, 0, 3, 1])
    update = client_update(model, images, labels)
    again = client_update(model, images[order], labels[order])
    distance = FeatureReconstruction().distance(alone(again), alone(update))
    assert distance.item() == pytest.approx(0, abs=1e-5)


def matched(
    model: SharedModel, attack: FeatureReconstruction, victims: list[Victim], classes: int
) -> list[Reconstruction]:
    auxiliary = Auxiliary(torch.rand(4, 3, 16, 16), torch.arange(4), {}, torch.arange(4))
    server = Server(classes, (3, 16, 16), (), model=model, auxiliary=auxiliary)
    return match_gradients(model, attack.method(server), victims, classes, lambda share: None)


def test_joint_labels_are_the_optimised_ones() -> None:
    """The label that the update was made with is found from random logits, at B = 1."""
    model = small_model(classes=4)
    updates = [client_update(model, torch.rand(1, 3, 16, 16), torch.tensor([k])) for k in range(4)]
    attack = FeatureReconstruction(budget=150, learning_rate=0.1, labels="joint")
    victims = [Victim(update, None, 1, seed) for seed, update in enumerate(updates)]
    assert [found.labels.item() for found in matched(model, attack, victims, 4)] == [0, 1, 2, 3]


def test_the_engine_finds_what_stands_in_the_update_in_closed_form() -> None:
    """At B = 1 a hidden layer's weight gradient over its bias gradient is the feature."""
    model = small_model()
    update = client_update(model, torch.rand(1, 3, 16, 16), torch.tensor([1]))
    weight, bias = update["classifier.0.weight"], update["classifier.0.bias"]
    row = bias.abs().argmax()
    closed_form = weight[row] / bias[row]
    label = recover_labels("idlg", model, update, 1)
    assert label.tolist() == [1]
    attack = FeatureReconstruction(budget=600, learning_rate=0.05)
    (found,) = matched(model, attack, [Victim(update, label, 1, 0)], 2)
    reached = functional.cosine_similarity(model.features(found.images)[0], closed_form, dim=0)
    assert reached > 0.999


def test_a_start_from_auxiliary_images_takes_individuals_of_the_batch_s_labels() -> None:
    model = small_model(classes=4)
    images = torch.rand(40, 3, 16, 16)
    auxiliary = Auxiliary(images, torch.arange(40) % 4, {}, torch.arange(40))
    server = Server(4, (3, 16, 16), (), model=model, auxiliary=auxiliary)
    start = FeatureReconstruction(start="auxiliary").method(server).start
    victim = Victim({}, torch.tensor([0, 2, 2, 3]), 4, 0)
    drawn = start(victim, torch.Generator().manual_seed(0))
    rows = [int((images == image).all((1, 2, 3)).nonzero()) for image in drawn]
    assert [row % 4 for row in rows] == [0, 2, 2, 3]
    assert len(set(rows)) == 4


def test_a_single_individual_s_feature_stands_in_the_update_in_closed_form() -> None:
    model = small_model()
    image, label = torch.rand(1, 3, 16, 16), torch.tensor([1])
    update = client_update(model, image, label)
    weight, bias = update["classifier.0.weight"], update["classifier.0.bias"]
    row = bias.abs().argmax()
    torch.testing.assert_close(
        weight[row] / bias[row], model.features(image)[0], rtol=1e-4, atol=1e-5
    )


def b1_cell(**fields: object) -> Cell:
    defaults: dict[str, object] = {
        "dataset": "synthetic",
        "image_size": 32,
        "dataset_parameters": {"individuals": 1200},
        "properties": ("gender", "glasses", "smile", "young"),
        "main_task": "hat+dark_hair+looking_left",
        "model_parameters": {"width": 8},
        "rounds": 100,
        "client_batch": 16,
        "attack": "feature",
        "batch_size": 1,
        "individuals": 12,
    }
    return Cell.model_validate({**defaults, **fields})


def measured(cell: Cell) -> Record:
    context = prepare(cell.setup, None, "cpu", lambda message: None)
    return measure(ResolvedCell.of(cell), [context], lambda share: None)


@pytest.mark.slow
def test_a_single_individual_is_recovered_so_that_f_p_sees_what_the_oracle_sees() -> None:
    """Labels are read off the update, which at B = 1 is exact: none are granted."""
    attack = FeatureReconstruction(labels="idlg")
    cell = b1_cell(
        attack_parameters=parameters_of(attack),
        grant=("model", "update", "auxiliary"),
        individuals=6,
    )
    context = prepare(cell.setup, None, "cpu", lambda message: None)
    truths = victim_batches(context, 1, cell.individuals)
    model, space = context.server.model, context.server.feature_space
    assert model is not None
    assert space is not None
    observations = [
        observe(
            truth,
            client_update(model, truth.images, truth.labels),
            attack.required_knowledge,
            number,
        )
        for number, truth in enumerate(truths)
    ]
    results = attack.infer(context.server, observations, lambda share: None)
    assert [i.labels for i in results] == [t.labels for t in truths]
    found = torch.cat([i.features for i in results if i.features is not None])
    true = torch.cat([truth.features for truth in truths])
    assert functional.cosine_similarity(found, true).mean() >= 0.99
    for name, seen in space.property_model(true).items():
        inferred = torch.cat([i.scores[name] for i in results])
        assert (inferred - seen).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("model", "split"),
    [
        ("lenet", "convolutions"),
        ("small_cnn", "hidden"),
        pytest.param("resnet18", "convolutions", marks=pytest.mark.nightly),
    ],
)
def test_every_model_is_trained_attacked_and_scored(model: str, split: str) -> None:
    cell = b1_cell(
        model=model,
        model_parameters={},
        split=split,
        dataset_parameters={"individuals": 200},
        clients=2,
        client_batch=4,
        rounds=1,
        victim_share=0.2,
        individuals=2,
        batch_size=2,
        attack_parameters={"budget": 2},
    )
    record = measured(cell)
    assert record.status == "done"
    assert record.metrics is not None
    assert record.metrics.feature_cosine is not None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly if name in ALIKE | DEEP else ())
        for name in MODELS.names()
    ],
)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_every_model_takes_every_size(name: str, size: int) -> None:
    """Deep models of 32 and 64 px every time by the conformance suite."""
    example = getattr(MODELS.get(name), "example_parameters", {})
    architecture: Architecture = build(MODELS, name, example)
    for split in architecture.splits:
        architecture.check(size, split)
        model = architecture.build(5, size, split).eval()
        images = torch.rand(2, 3, size, size)
        assert model(images).shape == (2, 5)
        output = list(model.classifier.modules())[-1]
        assert isinstance(output, nn.Linear)
        assert torch.equal(model.classifier(model.features(images)), model(images))


def test_d_aux_s_model_is_the_one_that_is_attacked() -> None:
    """E(D_aux) is computed with the weights of the attacked round."""
    few = {"individuals": 400}
    cells = [b1_cell(rounds=rounds, dataset_parameters=few) for rounds in (0, 2)]
    setups = [Setup.model_validate(cell.setup.model_dump()) for cell in cells]
    for setup in setups:
        server = prepare(setup, None, "cpu", lambda message: None).server
        assert server.model is not None
        assert server.auxiliary is not None
        assert server.feature_space is not None
        torch.testing.assert_close(
            server.model.features(server.auxiliary.images[:5]), server.feature_space.features[:5]
        )
