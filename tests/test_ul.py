"""UL: what its features are, what it trains on, and that it learns from one individual's update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.choices import Mode
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS
from leakbench.baselines import ul
from leakbench.baselines.ul import UnintendedLeakage, update_features
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup
from leakbench.federation.client import client_update
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.threat.attack import AttackResult
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation, observe
from leakbench.threat.server import granted
from measuring import measured


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


def observations(context: EvaluationContext, batch_size: int, number: int) -> list[Observation]:
    assert context.server.model is not None
    needs = UnintendedLeakage().required_knowledge
    return [
        observe(t, client_update(context.server.model, t.images, t.labels), needs, seed)
        for seed, t in enumerate(victim_batches(context, batch_size, batch_size * number))
    ]


def answers(
    context: EvaluationContext, seen: list[Observation], batches: int = 20
) -> list[AttackResult]:
    attack = UnintendedLeakage(batches=batches)
    return attack.infer(
        granted(context.server, attack.required_knowledge), seen, lambda share: None
    )


def test_features_are_the_largest_magnitudes_of_kernels_and_small_matrices_whole() -> None:
    update = {
        "convolution": torch.tensor([[[[1.0, -3.0], [2.0, 0.0]]], [[[-0.5, 0.0], [0.0, 0.25]]]]),
        "convolution bias": torch.tensor([9.0, -9.0]),
        "matrix": torch.tensor([[1.0, -2.0], [-4.0, 3.0], [0.0, 7.0]]),
        "matrix bias": torch.tensor([9.0]),
    }
    assert update_features(update).tolist() == [3.0, 0.5, 1.0, 2.0, 4.0, 3.0, 0.0, 7.0]


def test_of_a_large_matrix_the_largest_of_each_input_s_entries_is_kept() -> None:
    """PyTorch's layout is (units, inputs); the published code's last axis are the units."""
    matrix = torch.zeros(2, 2501)
    matrix[0, 0], matrix[1, 0], matrix[1, 2500] = 2.0, -5.0, 1.0
    features = update_features({"matrix": matrix})
    assert features.shape == (2501,)
    assert features[[0, 1, 2500]].tolist() == [5.0, 0.0, 1.0]
    assert update_features({"matrix": matrix[:, :2500]}).shape == (5000,)


def test_a_convolution_of_more_than_5000_kernels_is_left_out() -> None:
    small, large = torch.ones(50, 100, 3, 3), torch.ones(50, 101, 3, 3)
    matrix = torch.ones(1, 2)
    assert update_features({"small": small, "matrix": matrix}).shape == (5002,)
    assert update_features({"large": large, "matrix": matrix}).shape == (2,)


def test_of_one_individual_s_hidden_layer_the_features_are_its_deep_feature(
    small_setup: Setup,
) -> None:
    """∂L/∂W = δ hᵀ at B = 1, so that the largest entries over units are |h|·max|δ|."""
    setup = small_setup.model_copy(update={"model_parameters": {"width": 8, "hidden": 64}})
    server = prepare(setup, None, "cpu", lambda message: None).server
    assert server.model is not None
    assert server.auxiliary is not None
    image, label = server.auxiliary.images[:1], server.auxiliary.labels[:1]
    update = client_update(server.model, image, label)
    features = update_features({"w": update["classifier.0.weight"]})
    feature = server.model.features(image)[0]
    cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(features), feature.abs(), 0)
    assert cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "counts"), [(1, {1}), (2, {1, 2}), (8, {8, 6, 4, 3}), (32, {32, 25, 19, 12})]
)
def test_half_of_the_batches_lack_the_property_and_the_others_have_each_share(
    batch_size: int, counts: set[int]
) -> None:
    present = torch.arange(400) % 3 == 0
    drawn = UnintendedLeakage(batches=80)._draw(present, batch_size, torch.Generator())
    assert [contains for _, contains in drawn] == [True, False] * 40
    assert all(len(rows) == batch_size for rows, _ in drawn)
    having = [int(present[rows].sum()) for rows, contains in drawn if contains]
    assert set(having) == counts
    assert not any(present[rows].any() for rows, contains in drawn if not contains)


def test_nobody_is_seen_twice_at_b_1_however_rare_the_property() -> None:
    present = torch.zeros(500, dtype=torch.bool)
    present[::50] = True
    drawn = UnintendedLeakage(batches=1000)._draw(present, 1, torch.Generator())
    rows = [row for batch, _ in drawn for row in batch]
    assert len(rows) == len(set(rows)) == 20


def test_all_members_of_a_batch_get_the_batch_s_answer(context: EvaluationContext) -> None:
    found = answers(context, observations(context, 4, 5))
    for result in found:
        assert result.features is None
        for scores in result.scores.values():
            assert scores.shape == (4,)
            assert len(scores.unique()) == 1
    assert len({float(result.scores["gender"][0]) for result in found}) > 1


def test_an_answer_depends_on_its_update_alone(context: EvaluationContext) -> None:
    """Neither on the other observations, nor on their order, number or batch size, nor on seeds."""
    seen = observations(context, 1, 6)
    whole = answers(context, seen)
    for part in ([5], [3, 1], [5, 4, 3, 2, 1, 0]):
        for number, result in zip(part, answers(context, [seen[i] for i in part]), strict=True):
            assert result.scores == whole[number].scores
    mixed = answers(context, [*observations(context, 4, 2), *seen])
    assert [m.scores for m in mixed[2:]] == [w.scores for w in whole]


@pytest.mark.parametrize("known", [False, True])
def test_who_knows_the_defense_trains_on_updates_that_it_lets_pass(
    context: EvaluationContext, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated: list[Mapping[str, Tensor]] = []

    def spy(update: Mapping[str, Tensor]) -> NDArray[np.float32]:
        simulated.append(update)
        return update_features(update)

    attack, noise = UnintendedLeakage(batches=10), GaussianNoise(sigma=100.0)
    seen = observations(context, 2, 2)
    server = replace(
        granted(context.server, attack.required_knowledge), defense=noise if known else None
    )
    monkeypatch.setattr(ul, "update_features", spy)
    attack.infer(server, seen, lambda share: None)
    trained_on = simulated[len(seen) :]
    spreads = torch.tensor([float(u["extractor.1.weight"].std()) for u in trained_on])
    assert bool((spreads > 50).all()) == known
    biases = torch.stack([update["classifier.0.bias"] for update in trained_on])
    assert len(biases.unique(dim=0)) == len(trained_on)


def test_random_labels_are_drawn_where_the_main_task_is_identity(small_setup: Setup) -> None:
    setup = small_setup.model_copy(update={"main_task": "identity"})
    context = prepare(setup, None, "cpu", lambda message: None)
    assert context.server.auxiliary is not None
    assert bool((context.server.auxiliary.labels == -1).all())
    assert len(answers(context, observations(context, 2, 2))) == 2


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_server_simulates_in_the_clients_mode(
    small_setup: Setup, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = small_setup.model_copy(update={"model_parameters": {"width": 4, "batch_norm": True}})
    context = prepare(setup, None, "cpu", lambda message: None)
    trained: list[bool] = []

    def spy(model: torch.nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        trained.append(all(layer.running_mean is None for layer in layers))
        return client_update(model, images, labels)  # type: ignore[arg-type]

    monkeypatch.setattr("leakbench.federation.client.client_update", spy)
    attack = UnintendedLeakage(batches=4)
    server = replace(granted(context.server, attack.required_knowledge), mode=mode)
    attack.infer(server, observations(context, 2, 1), lambda share: None)
    assert trained == [mode == "train"] * 8


def test_it_needs_no_labels() -> None:
    assert Knowledge.LABELS not in UnintendedLeakage().required_knowledge


@pytest.mark.parametrize("parameters", [{"shares": []}, {"shares": [0.0]}, {"batches": 1}])
def test_parameters_out_of_range_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="attack 'ul'"):
        build(ATTACKS, "ul", parameters)


def assert_clear_of_the_prior(
    setup: Setup, data_root: Path | None, individuals: int, batches: int
) -> None:
    """Fail unless each property's interval lies above a half, at B = 1."""
    fields = {"batch_size": 1, "individuals": individuals}
    metrics = measured(setup, data_root, "ul", {"batches": batches}, **fields).metrics
    assert metrics is not None
    for name in setup.properties:
        low = metrics.properties[name].balanced_accuracy.low
        assert low is not None
        assert low > 0.5, name


@pytest.mark.slow
def test_it_beats_the_prior_on_drawn_faces_at_b_1() -> None:
    setup = Setup(
        dataset="synthetic",
        dataset_parameters={"individuals": 1_600},
        image_size=32,
        properties=("gender", "glasses"),
        main_task="hat+dark_hair+looking_left",
        model_parameters={"width": 8},
        rounds=100,
    )
    assert_clear_of_the_prior(setup, None, individuals=200, batches=400)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.real_data
def test_it_beats_the_prior_on_real_faces_at_b_1(data_root: Path) -> None:
    setup = Setup(
        dataset="celeba",
        dataset_parameters={"selection": "natural"},
        image_size=32,
        properties=("gender", "smile"),
        main_task="Mouth_Slightly_Open+Black_Hair+Bangs",
        model_parameters={"width": 8},
        rounds=40,
    )
    assert_clear_of_the_prior(setup, data_root, individuals=256, batches=600)
