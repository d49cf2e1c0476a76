"""Newton demixing: smooth layers, output layers alone, layers on layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from leakbench.attacks.linear_layers.activations import Rectifier, Smooth, activation_of
from leakbench.attacks.linear_layers.demixing.deflated_subspace import deflated_subspace
from leakbench.attacks.linear_layers.demixing.gradient_space import GradientSpace
from leakbench.attacks.linear_layers.demixing.levenberg_marquardt import least_squares
from leakbench.attacks.linear_layers.demixing.problem import smooth_problem
from leakbench.attacks.linear_layers.demixing.recovered import recovered_from_features
from leakbench.attacks.linear_layers.demixing.reflections import WIDEST
from leakbench.attacks.linear_layers.head import head_of
from leakbench.attacks.newton_demixing import NewtonDemixing
from leakbench.base.errors import UsageError
from leakbench.experiments.cell import Setup
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.of_attacks import CERTIFIED
from measuring import assert_same_inference, measured
from planting import Planted, best_cosines, budget, found_in, planted

SMOOTH = ["gelu", "silu", "tanh"]


def _space(batch: Planted) -> GradientSpace:
    problem = smooth_problem(batch.head, batch.batch, batch.population)
    assert problem is not None
    return problem.space


@pytest.mark.parametrize("activation", [*SMOOTH, "leaky_relu"])
@pytest.mark.parametrize("classes", [2, 8, 100])
@pytest.mark.parametrize("individuals", [1, 8, 24])
def test_everybody_is_found_exactly_whatever_the_activation(
    activation: str, classes: int, individuals: int
) -> None:
    batch = planted(individuals, classes, activation=activation)
    (found,) = found_in([batch])
    assert len(found) == individuals
    assert found.certified.all()
    assert best_cosines(found, batch.features).min() > CERTIFIED


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu"])
@pytest.mark.parametrize("hidden_layers", [2, 3])
def test_everybody_is_found_before_several_hidden_layers(
    activation: str, hidden_layers: int
) -> None:
    batch = planted(8, 4, activation=activation, hidden_layers=hidden_layers)
    (found,) = found_in([batch])
    assert found.certified.all()
    pairs = functional.cosine_similarity(
        batch.features.double()[:, None], found.features[None], dim=2
    )
    assert pairs.max(1).values.min() > CERTIFIED
    assert torch.equal(found.labels[pairs.argmax(1)], batch.labels)


@pytest.mark.parametrize(("classes", "individuals"), [(8, 1), (8, 3), (100, 8), (100, 32)])
def test_an_output_layer_tells_of_up_to_half_as_many_as_classes(
    classes: int, individuals: int
) -> None:
    batch = planted(individuals, classes, hidden_layers=0)
    (found,) = found_in([batch])
    assert len(found) == individuals
    assert found.certified.all()
    assert best_cosines(found, batch.features).min() > CERTIFIED


def test_of_two_classes_an_output_layer_cannot_certify_whom_it_has() -> None:
    """Whoever it is, x is the same direction."""
    batch = planted(1, 2, hidden_layers=0)
    (found,) = found_in([batch])
    assert found.certain.all()
    assert not found.certified.any()
    assert best_cosines(found, batch.features).min() > CERTIFIED


@pytest.mark.parametrize(("classes", "individuals"), [(2, 2), (2, 8), (8, 8), (8, 32)])
def test_of_more_than_classes_an_output_layer_tells_nobody_apart(
    classes: int, individuals: int
) -> None:
    (found,) = found_in([planted(individuals, classes, hidden_layers=0)])
    assert not found.certain.any()


def test_errors_and_their_derivatives_are_those_of_the_loss() -> None:
    for activation in (*SMOOTH, "relu", "leaky_relu"):
        batch = planted(5, 4, units=12, activation=activation, hidden_layers=2)
        head = batch.head
        targets = functional.one_hot(batch.labels, 4).double()
        z = head.first.forward(batch.features.double()).requires_grad_()
        logits = head.after(1).inputs_after(head.first.activation.value(z), 1)  # type: ignore[union-attr]
        loss = functional.cross_entropy(head.output.forward(logits), batch.labels, reduction="sum")
        (x,) = torch.autograd.grad(loss, z)
        torch.testing.assert_close(head.errors(z.detach(), targets), x)
        tangents = torch.randn(12, 3).double()
        found, moving = head.linearised(z.detach(), tangents, targets, None)
        torch.testing.assert_close(found, x)
        step = 1e-6
        there = [
            head.errors(z.detach() + step * tangent, targets) for tangent in tangents.unbind(1)
        ]
        expected = torch.stack([(moved - x) / step for moved in there], dim=2)
        torch.testing.assert_close(moving, expected, rtol=1e-3, atol=1e-4)


def test_a_softened_kink_becomes_the_kink() -> None:
    z = torch.tensor([-2.0, -0.1, 0.1, 2.0]).double()
    leaky = Rectifier(0.1)
    torch.testing.assert_close(leaky.value(z), functional.leaky_relu(z, 0.1))
    sharp = torch.tensor(1e4).double()
    torch.testing.assert_close(leaky.value(z, sharp), leaky.value(z))
    torch.testing.assert_close(leaky.derivative(z, sharp), leaky.derivative(z))
    soft = torch.tensor(2.0).double()
    step = 1e-6
    slope = (leaky.value(z + step, soft) - leaky.value(z, soft)) / step
    torch.testing.assert_close(leaky.value_derivative(z, soft), slope, rtol=1e-4, atol=1e-5)
    slope = (leaky.derivative(z + step, soft) - leaky.derivative(z, soft)) / step
    torch.testing.assert_close(leaky.second_derivative(z, soft), slope, rtol=1e-4, atol=1e-5)


def test_a_module_that_works_in_place_does_not_change_what_it_is_given() -> None:
    activation = activation_of(nn.SiLU(inplace=True))
    assert isinstance(activation, Smooth)
    z = torch.tensor([1.0, -1.0])
    activation.value(z)
    assert z.tolist() == [1.0, -1.0]


def test_least_squares_fits_a_curve_that_is_not_linear() -> None:
    times = torch.linspace(0, 1, 20).double()
    true = torch.tensor([[2.0, -1.5], [0.5, 1.0]]).double()

    def equations(unknowns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size, rate = unknowns[:, :1], unknowns[:, 1:]
        grown = (rate * times).exp()
        wanted = true[:, :1] * (true[:, 1:] * times).exp()
        return size * grown - wanted, torch.stack([grown, size * times * grown], dim=2)

    found = least_squares(equations, torch.ones(2, 2).double(), 60)
    torch.testing.assert_close(found, true, rtol=1e-6, atol=1e-6)


def test_who_is_found_leaves_the_others_a_dimension_less_and_is_no_longer_there() -> None:
    batch = planted(6)
    space, columns = batch.space, batch.columns()
    extended = functional.pad(batch.features.double(), (0, 1), value=1.0) @ space.rows
    subspace = deflated_subspace(space, columns[:, :2])
    assert subspace.directions.shape == (3, 6)
    away = extended - subspace.origin
    outside = (away - away @ subspace.directions.mT @ subspace.directions).norm(dim=1)
    assert outside[2:].max() < 1e-3 * away.norm(dim=1).max()
    assert outside[:2].min() > 1e-2 * away.norm(dim=1).max()


def test_with_all_but_one_found_there_is_nothing_left_to_search() -> None:
    batch = planted(4)
    subspace = deflated_subspace(batch.space, batch.columns()[:, :3])
    assert subspace.directions.shape == (0, 4)
    last = functional.pad(batch.features[3:].double(), (0, 1), value=1.0) @ batch.space.rows
    torch.testing.assert_close(subspace.origin[None], last, rtol=1e-3, atol=1e-3)


def test_where_classes_are_many_newton_s_method_finds_masks() -> None:
    batch = planted(32, 100, 256)
    assert batch.space.directions.shape[1] > WIDEST
    (found,) = found_in([batch], budget(reflections=0))
    assert found.certified.all()
    assert best_cosines(found, batch.features).min() > CERTIFIED


def test_who_is_found_alone_is_certified_though_others_are_missing() -> None:
    batch = planted(12, 100, hidden_layers=0)
    alone = recovered_from_features(batch.head, _space(batch), batch.features[:5].double())
    assert alone.certified.all()


def test_somebody_else_is_not_certified_alone() -> None:
    batch = planted(12, 100, hidden_layers=0)
    alone = recovered_from_features(batch.head, _space(batch), batch.auxiliary[:20].double())
    assert not alone.certain.any()


@pytest.mark.slow
@pytest.mark.parametrize("part", [20, pytest.param(1, marks=pytest.mark.nightly)])
def test_no_certificate_is_false_over_ten_thousand_individuals(
    part: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Smooth layers, output layers, layers on layers; easy cases and hard ones; daily a part."""
    rows = []
    for activation, layers, classes, units, individuals, batches in (
        ("gelu", 1, 2, 128, 16, 100),
        ("gelu", 1, 8, 64, 28, 60),
        ("tanh", 2, 8, 96, 16, 80),
        ("relu", 0, 100, 64, 16, 150),
        ("relu", 0, 100, 64, 40, 40),
        ("relu", 0, 8, 64, 3, 200),
        ("relu", 2, 8, 128, 16, 100),
        ("leaky_relu", 1, 8, 128, 24, 60),
    ):
        certified = false = exact = 0
        seeds = range(0, batches, part)
        for seed in seeds:
            batch = planted(individuals, classes, units, seed, activation, layers)
            (found,) = found_in([batch], budget(300, 64, rounds=30))
            cosines = best_cosines(found, batch.features) if len(found) else torch.empty(0)
            certified += int(found.certified.sum())
            false += int((cosines[found.certified] < CERTIFIED).sum())
            exact += int((cosines[found.certain] >= CERTIFIED).sum())
        of = (
            activation,
            layers,
            classes,
            units,
            individuals,
            len(seeds) * individuals,
        )
        rows.append((*of, exact, certified, false))
    with capsys.disabled():
        print("\nactivation, hidden layers, K, m, B, individuals, exact, certified, false")
        print("\n".join(", ".join(map(str, row)) for row in rows))
    assert sum(row[5] for row in rows) >= 10_000 / part
    assert sum(row[7] for row in rows) >= 9_000 / part
    assert sum(row[8] for row in rows) == 0


@pytest.mark.parametrize("layers", [0, 1])
def test_it_is_level_with_the_oracle_without_labels(small_setup: Setup, layers: int) -> None:
    model = (
        {"split": "hidden", "main_task": "identity"}
        if layers == 0
        else {"model": "small_cnn_mlp", "model_parameters": {"width": 4, "activation": "gelu"}}
    )
    setup = small_setup.model_copy(update=model)
    fields = {"batch_size": 4, "individuals": 8}
    grant = ("model", "update", "auxiliary")
    found = measured(setup, None, "newton_demixing", {}, grant=grant, **fields).metrics
    oracle = measured(
        setup, None, "oracle", {}, grant=("model", "auxiliary", "features"), **fields
    ).metrics
    assert found is not None
    assert oracle is not None
    assert found.certificates is not None
    assert (found.certificates.share, found.certificates.false) == (1.0, 0)
    assert found.label_accuracy == 1
    assert_same_inference(found, oracle)


@pytest.mark.parametrize(
    ("batch_size", "defense", "parameters"),
    [
        (1, "soteria", {"fraction": 0.5}),
        (1, "local_steps", {"epochs": 2}),
        (1, "local_steps", {"epochs": 10}),
        (2, "local_steps", {"epochs": 2}),
        (1, "gaussian", {"sigma": 1e-4}),
    ],
)
@pytest.mark.parametrize("main_task", ["hat", "hat+dark_hair", "hat+dark_hair+looking_left"])
def test_what_changes_an_output_layer_s_gradient_is_not_certified_falsely(
    small_setup: Setup,
    main_task: str,
    batch_size: int,
    defense: str,
    parameters: dict[str, float],
) -> None:
    setup = small_setup.model_copy(update={"split": "hidden", "main_task": main_task})
    record = measured(
        setup,
        None,
        "newton_demixing",
        {"budget": 1},
        batch_size=batch_size,
        individuals=16,
        defense=defense,
        defense_parameters=parameters,
    )
    assert record.metrics is not None
    assert record.metrics.certificates is not None
    assert record.metrics.certificates.false == 0


def test_kinks_are_refused() -> None:
    with pytest.raises(UsageError, match="take mask_demixing"):
        NewtonDemixing().check_head(planted(2).head)


def test_a_classifier_of_other_layers_is_refused() -> None:
    layers = [nn.Linear(4, 4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 2)]
    model = SharedModel(nn.Identity(), nn.Sequential(*layers))
    with pytest.raises(UsageError, match="this one has Linear, Dropout, ReLU, Linear; split"):
        head_of(model, "newton_demixing")
