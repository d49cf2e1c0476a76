"""Attackers that know the defense: what is believed, what is simulated, and what it earns them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.matching.distance import (
    cosine_distance,
    cosine_gaussian_distance,
    layerwise_norm,
    squared_error,
    squared_error_at_best_scale,
    weighted,
)
from leakbench.attacks.matching.dummy_gradients import layers_with_rules, weights_of
from leakbench.attacks.matching.factors import Factors
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import Victim
from leakbench.attacks.matching.posterior import (
    image_prior,
    masked,
    mostly_noise,
    noise_variance,
    weighed,
)
from leakbench.attacks.matching.simulation import Simulation, simulation_of
from leakbench.base.choices import Mode
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Compute, Update, client_update, gradient
from leakbench.federation.defense import Defense, Stage
from leakbench.federation.defenses.composed import Composed
from leakbench.federation.defenses.dp_sgd import DPSGD
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.observation import Observation
from leakbench.threat.server import Auxiliary, FeatureSpace, Server

CLASSES, IMAGE, RATE = 4, (3, 16, 16), 0.5


@dataclass(frozen=True)
class Kept(Defense):
    """Keeps the largest entries of each tensor."""

    fraction: float

    def protect(self, compute: Compute) -> Compute:
        def protected(client: Client) -> Update:
            return {name: self._kept(value) for name, value in compute(client).items()}

        return protected

    def _kept(self, value: Tensor) -> Tensor:
        largest = value.abs().flatten().topk(max(1, round(self.fraction * value.numel()))).values
        return value * (value.abs() >= largest[-1])

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:
        return {name: (value != 0).to(value.dtype) for name, value in update.items()}


@dataclass(frozen=True)
class Steps(Defense):
    """FedAvg, by PyTorch's own optimiser; individuals are taken as they stand."""

    epochs: tuple[tuple[int, ...], ...]
    stage = Stage.STEPS

    def protect(self, compute: Compute) -> Compute:
        def protected(client: Client) -> Update:
            model = copy.deepcopy(client.model)
            optimiser = torch.optim.SGD(model.parameters(), client.learning_rate)
            for sizes in self.epochs:
                batches = (torch.split(t, list(sizes)) for t in (client.images, client.labels))
                for images, labels in zip(*batches, strict=True):
                    optimiser.zero_grad()
                    functional.cross_entropy(model(images), labels).backward()
                    optimiser.step()
            moved = dict(model.named_parameters())
            return {
                name: (before.detach() - moved[name].detach()) / client.learning_rate
                for name, before in client.model.named_parameters()
            }

        return protected

    def local_epochs(self, individuals: int) -> tuple[tuple[int, ...], ...]:
        assert all(sum(sizes) == individuals for sizes in self.epochs)
        return self.epochs


@dataclass(frozen=True)
class Squashed(Defense):
    """Sends a smooth sign."""

    def protect(self, compute: Compute) -> Compute:
        return lambda client: dict(self.surrogate(compute(client)))

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: torch.tanh(100 * value) for name, value in gradients.items()}


@dataclass(frozen=True)
class Aggregated(Defense):
    """The mean of clients with a defense of their own, the individuals shared out as they stand."""

    of: int
    own: Defense | None = None
    stage = Stage.AGGREGATE

    @property
    def clients(self) -> int:
        return self.of

    def client_part(self) -> Defense | None:
        return self.own

    def protect(self, compute: Compute) -> Compute:
        inner = compute if self.own is None else self.own.protect(compute)

        def protected(client: Client) -> Update:
            parts = zip(client.images.chunk(self.of), client.labels.chunk(self.of), strict=True)
            sent = [inner(replace(client, images=i, labels=y)) for i, y in parts]
            return {name: sum(each[name] for each in sent) / self.of for name in sent[0]}

        return protected


def model_of(mode: Mode = "eval", batch_norm: bool = False) -> SharedModel:
    """A model in double precision whose BatchNorm layers have seen some images."""
    torch.manual_seed(0)
    model = SmallCNN(width=4, batch_norm=batch_norm).build(CLASSES, 16, "convolutions").double()
    model(torch.rand(8, *IMAGE, dtype=torch.float64))
    return in_mode(model.eval(), mode)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def sent(
    defense: Defense, model: SharedModel, images: Tensor, labels: Tensor, rate: float = RATE
) -> Update:
    client = Client(model, images, labels, rate, torch.Generator().manual_seed(0))
    return defense.protect(gradient)(client)


# What is believed

DISTANCES: list[Callable[..., Tensor]] = [
    squared_error,
    cosine_distance,
    layerwise_norm,
    lambda a, b: cosine_gaussian_distance(a, b, 1.0),
    FeatureReconstruction().distance,
]


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_tensor_of_which_nothing_is_believed_drops_out(
    distance: Callable[..., Tensor],
) -> None:
    names = ["extractor.a", "extractor.b", "classifier.c", "classifier.d"]
    a, b = ({n: draw(2, 3, 4, seed=10 * s + i) for i, n in enumerate(names)} for s in (1, 2))
    hidden = {names[1]: torch.zeros(2, 1, 1), names[2]: torch.zeros(2, 3, 4)}
    rest = [names[0], names[3]]
    found = distance(weighted(a, hidden), weighted(b, hidden))
    alone = distance({n: a[n] for n in rest}, {n: b[n] for n in rest})
    torch.testing.assert_close(found, alone)
    assert not torch.allclose(found, distance(a, b))


def test_of_a_tensor_half_believed_the_masked_entries_drop_out() -> None:
    a, b = {"w": draw(2, 6, seed=1)}, {"w": draw(2, 6, seed=2)}
    mask = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1]]).double()
    found = cosine_distance(weighted(a, {"w": mask}), weighted(b, {"w": mask}))
    for run in range(2):
        chosen = mask[run].bool()
        expected = 1 - functional.cosine_similarity(a["w"][run][chosen], b["w"][run][chosen], dim=0)
        assert found[run] == pytest.approx(float(expected))


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 7), (2, 1, 7)])
def test_factored_gradients_are_believed_like_their_product(shape: tuple[int, ...]) -> None:
    factors, reliability = Factors(draw(2, 3, 5), draw(2, 3, 7, seed=1)), draw(*shape, seed=2)
    found = weighted({"w": factors}, {"w": reliability})["w"]
    assert isinstance(found, Factors) == (shape == (2, 1, 1))
    product = found.product() if isinstance(found, Factors) else found
    torch.testing.assert_close(product, factors.product() * reliability)


# What is simulated


@pytest.mark.parametrize(("mode", "batch_norm"), [("eval", False), ("eval", True), ("train", True)])
@pytest.mark.parametrize(
    "defense",
    [
        Steps(((4,),) * 3),
        Squashed(),
        Aggregated(2, Steps(((2,),) * 3)),
        Aggregated(2, Squashed()),
        Aggregated(4, Steps(((1,),) * 2)),
    ],
    ids=repr,
)
def test_dummies_in_the_client_s_order_make_the_client_s_update(
    defense: Defense, mode: Mode, batch_norm: bool
) -> None:
    model = model_of(mode, batch_norm)
    simulation = simulation_of(defense, model, 4, RATE)
    assert simulation is not None
    images = torch.stack([draw(4, *IMAGE, seed=seed) for seed in (1, 2)])
    labels = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1]])
    found = updates(simulation, model, images, labels)
    for run in range(2):
        for name, expected in sent(defense, model, images[run], labels[run]).items():
            torch.testing.assert_close(found[name][run], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "others",
    [(), ({"name": "local_steps", "epochs": 3},), ({"name": "secure_aggregation", "of": 2},)],
    ids=str,
)
def test_individuals_whose_gradients_are_clipped_are_simulated_one_by_one(
    others: tuple[dict[str, Any], ...],
) -> None:
    model = model_of()
    images, labels = draw(4, *IMAGE, seed=1), torch.tensor([0, 1, 2, 3])
    norms = [
        torch.cat([v.flatten() for v in client_update(model, i[None], y[None]).values()]).norm()
        for i, y in zip(images, labels, strict=True)
    ]
    clip = float(sum(norms) / 4)
    assert min(norms) < clip < max(norms)
    private = {"name": "dp_sgd", "clip": clip, "noise": 0.0}
    defense = Composed(defenses=(private, *others))
    simulation = simulation_of(defense, model, 4, RATE)
    assert simulation is not None
    found = updates(simulation, model, images[None], labels[None])
    once = client_update(model, images, labels)
    for name, expected in sent(defense, model, images, labels).items():
        torch.testing.assert_close(found[name][0], expected, rtol=1e-6, atol=1e-9)
        assert not torch.allclose(expected, once[name], rtol=1e-3)


def updates(
    simulation: Simulation, model: SharedModel, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Simulated with individuals in the order in which they stand."""
    as_they_stand = torch.arange(images.shape[1]).view(simulation.clients, -1)
    found, statistics = simulation.updates(
        model,
        images,
        labels,
        as_they_stand.expand(len(images), -1, -1),
        layers_with_rules(model, images[0]),
        False,
        weights_of(model),
    )
    assert statistics == {}
    return found


def test_a_simulated_update_can_be_differentiated_by_the_images() -> None:
    model = model_of()
    simulation = simulation_of(Aggregated(2, Steps(((2,),) * 2)), model, 4, RATE)
    assert simulation is not None
    labels = torch.tensor([[0, 1, 2, 3]])
    target = {name: value[None] for name, value in client_update(model, *batch(4)).items()}

    def objective(images: Tensor) -> Tensor:
        return squared_error(updates(simulation, model, images, labels), target).sum()

    images = draw(1, 4, *IMAGE, seed=5).requires_grad_()
    (slope,) = torch.autograd.grad(objective(images), images)
    step = 1e-6 * slope / slope.norm()
    with torch.no_grad():
        rise = (objective(images + step) - objective(images - step)) / 2e-6
    torch.testing.assert_close(rise, slope.norm(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("defense", "simulated"),
    [
        (Kept(0.1), False),
        (GaussianNoise(sigma=0.1), False),
        (Aggregated(2), False),
        (DPSGD(clip=1.0, noise=0.0), True),
        (Aggregated(2, GaussianNoise(sigma=0.1)), False),
        (Squashed(), True),
        (Steps(((4,),)), False),
        (Steps(((2, 2),)), True),
    ],
    ids=repr,
)
def test_only_what_changes_the_gradient_of_all_is_simulated(
    defense: Defense, simulated: bool
) -> None:
    assert (simulation_of(defense, model_of(), 4, RATE) is not None) == simulated


def test_clients_that_normalise_by_their_own_batch_are_simulated_apart() -> None:
    model = model_of("train", batch_norm=True)
    simulation = simulation_of(Aggregated(2), model, 4, RATE)
    assert simulation is not None
    images, labels = batch(4)
    found = updates(simulation, model, images[None], labels[None])
    for name, expected in sent(Aggregated(2), model, images, labels).items():
        torch.testing.assert_close(found[name][0], expected, rtol=1e-6, atol=1e-9)


def test_individuals_are_shared_out_among_clients_at_random() -> None:
    simulation = simulation_of(Aggregated(3, Steps(((4,),) * 2)), model_of(), 12, RATE)
    assert simulation is not None
    shares = simulation.shared_out(12, torch.Generator().manual_seed(0))
    assert shares.shape == (3, 4)
    assert shares.flatten().sort().values.tolist() == list(range(12))
    assert shares.flatten().tolist() != list(range(12))


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_an_order_and_its_reverse_stand_for_all_orders_of_mini_batches(rate: float) -> None:
    """Nearer to their mean, by far, than as many gradients at the shared weights."""
    model, (images, labels) = model_of(), batch(3)
    defense = Steps(((1,) * 3,) * 2)
    simulation = simulation_of(defense, model, 3, rate)
    assert simulation is not None
    simulated = updates(simulation, model, images[None], labels[None])
    once = client_update(model, images, labels)
    orders = [torch.tensor(order) for order in permutations(range(3))]
    each = [sent(defense, model, images[order], labels[order], rate) for order in orders]
    by_steps = by_gradients = 0.0
    for name in once:
        mean = torch.stack([update[name] for update in each]).mean(0)
        by_steps += float((simulated[name][0] - mean).square().sum())
        by_gradients += float((6 * once[name] - mean).square().sum())
    assert by_steps < 0.01 * by_gradients


def test_a_composed_defense_takes_the_steps_of_its_part() -> None:
    defense = Composed(defenses=({"name": "gaussian", "sigma": 1.0},))
    assert defense.local_epochs(4) == ((4,),)
    object.__setattr__(defense, "parts", (Steps(((2, 2), (4,))), *defense.parts))
    assert defense.local_epochs(4) == ((2, 2), (4,))


# Where it is mostly noise


def noisy(sigma: float, reliability: dict[str, Tensor] | None = None) -> Victim:
    """A signal of energy 2,000 in 2,000 entries, in two tensors, with noise of variance σ²."""
    signal = {"a": torch.ones(40, 30), "b": -torch.ones(800)}
    noise = torch.Generator().manual_seed(0)
    update = {
        name: value + sigma * torch.randn(value.shape, generator=noise)
        for name, value in signal.items()
    }
    known = (
        GaussianNoise(sigma=sigma).reliability(update, 1) if reliability is None else reliability
    )
    return Victim(update, None, 1, 0, reliability=known)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 5.0, 50.0])
def test_the_noise_s_variance_is_read_off_what_is_believed(sigma: float) -> None:
    for value in noise_variance(noisy(sigma)).values():
        assert value == pytest.approx(sigma**2, rel=0.1)


@pytest.mark.parametrize(("sigma", "is_noise"), [(0.0, False), (0.8, False), (1.2, True)])
def test_half_of_the_energy_divides_clear_updates_from_noisy_ones(
    sigma: float, is_noise: bool
) -> None:
    assert mostly_noise(noisy(sigma)) == is_noise


def test_withheld_entries_are_no_noise_and_drop_out() -> None:
    update = {"w": torch.tensor([[0.0, 3.0], [0.0, -4.0]]), "b": torch.zeros(2)}
    victim = Victim(update, None, 1, 0, reliability=dict(Kept(0.5).reliability(update, 1)))
    assert noise_variance(victim) == {"w": 0.0, "b": 0.0}
    assert not mostly_noise(victim)
    assert masked(victim).reliability["w"].tolist() == [[0, 1], [0, 1]]
    assert masked(victim).reliability["b"].tolist() == [0, 0]
    half = replace(
        victim, reliability={name: t.clamp_min(0.5) for name, t in victim.reliability.items()}
    )
    assert masked(half).reliability["w"].tolist() == [[0.5, 1], [0.5, 1]]


def test_under_noise_the_distance_is_the_negative_log_likelihood_at_the_best_scale() -> None:
    """Of a tensor without noise the weight is large, but finite."""
    victim = noisy(2.0)
    dummy = {n: 7 * value + draw(*value.shape).float() for n, value in victim.update.items()}
    reliability = {name: factor[None] for name, factor in weighed(victim).reliability.items()}
    target = weighted({name: value[None] for name, value in victim.update.items()}, reliability)
    found = squared_error_at_best_scale(
        weighted({n: v[None] for n, v in dummy.items()}, reliability), target
    )

    def minus_log_likelihood(scale: float) -> float:
        variance = noise_variance(victim)
        errors = (
            (scale * dummy[n] - u).square() / (2 * variance[n]) for n, u in victim.update.items()
        )
        return float(sum(error.double().sum() for error in errors))

    assert found[0] == pytest.approx(minimize_scalar(minus_log_likelihood).fun, rel=1e-3)
    half = noisy(2.0, {"a": torch.full((1, 1), 0.1)})
    ratio = weighed(half).reliability["b"] / weighed(half).reliability["a"]
    assert float(ratio) == pytest.approx(1e3, rel=1e-3)


def test_the_image_prior_is_the_normal_density_of_its_principal_components() -> None:
    """By scikit-learn's own log-likelihood; constants cancel in differences."""
    generator = torch.Generator().manual_seed(1)
    along = torch.randn(500, 20, generator=generator) @ torch.randn(20, 192, generator=generator)
    images = 0.5 + 0.05 * along + 0.03 * torch.randn(500, 192, generator=generator)
    fitted = PCA(64, svd_solver="randomized", random_state=0).fit(images.numpy())
    expected = -torch.from_numpy(fitted.score_samples(images[:6].numpy())).float()
    images = images.view(-1, 3, 8, 8)
    found = image_prior(images)(images[:6, None])
    torch.testing.assert_close(found - found[0], expected - expected[0], rtol=1e-3, atol=1e-2)
    together = image_prior(images)(images[:6].view(2, 3, 3, 8, 8))
    torch.testing.assert_close(together, found.view(2, 3).sum(1), rtol=1e-4, atol=1e-3)


# What it earns


def batch(size: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    return draw(size, *IMAGE, seed=seed), torch.arange(size) % CLASSES


def server_of(model: SharedModel, defense: Defense | None) -> Server:
    auxiliary = Auxiliary(
        draw(80, *IMAGE, seed=9).float(), torch.arange(80) % CLASSES, {}, torch.arange(80)
    )
    return Server(
        CLASSES,
        IMAGE,
        (),
        model=model,
        auxiliary=auxiliary,
        feature_space=FeatureSpace(model.features(auxiliary.images), lambda features: {}),
        learning_rate=RATE,
        defense=defense,
        compiling="off",
    )


def reached(
    attack: GradientMatching,
    defense: Defense,
    model: SharedModel,
    size: int,
    known: bool,
    victims: int = 3,
) -> float:
    """The mean cosine of reconstructed features, matched to the nearest."""
    model = model.float()
    server = server_of(model, defense if known else None)
    cosines = []
    for seed in range(victims):
        images, labels = batch(size, seed=100 + seed)
        images = images.float()
        update = sent(defense, model, images, labels)
        (found,) = attack.infer(
            server, [Observation(size, seed, update, labels)], lambda share: None
        )
        assert found.features is not None
        true = model.features(images).detach()
        between = functional.cosine_similarity(found.features[:, None], true[None], dim=2)
        cosines.append(float(between.max(1).values.mean()))
    return sum(cosines) / victims


@pytest.mark.parametrize(
    ("defense", "size", "gain"),
    [
        (Kept(0.1), 2, 0.02),
        (Steps(((2,),) * 4), 2, 0.1),
        (Squashed(), 1, 0.01),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "attack",
    [FeatureReconstruction(budget=100, learning_rate=0.05), InvertingGradients(budget=100)],
)
def test_who_knows_the_defense_sees_more(
    attack: GradientMatching, defense: Defense, size: int, gain: float
) -> None:
    static, adaptive = (
        reached(attack, defense, model_of(), size, known) for known in (False, True)
    )
    assert adaptive > static + gain


@pytest.mark.parametrize("sigma", [0.05])
def test_who_knows_how_strong_the_noise_is_sees_more(sigma: float) -> None:
    attack = FeatureReconstruction(budget=100, learning_rate=0.05)
    static, adaptive = (
        reached(attack, GaussianNoise(sigma=sigma), model_of(), 1, known) for known in (False, True)
    )
    assert adaptive > static


def test_an_adaptive_answer_depends_on_its_own_observation_alone() -> None:
    """Also where one update is mostly noise and another is not."""
    attack, model = FeatureReconstruction(budget=8), model_of().float()
    images = [draw(2, *IMAGE, seed=seed).float() for seed in range(3)]
    labels = torch.tensor([0, 1])
    clear, mixed, hidden = (
        Observation(2, seed, sent(GaussianNoise(sigma=sigma), model, images[seed], labels), labels)
        for seed, sigma in enumerate((1e-3, 1e-3, 1.0))
    )
    # The server believes in noise of 1e-2 in all of them, which only the last is made of.
    server = server_of(model, GaussianNoise(sigma=1e-2))
    together = attack.infer(server, [clear, hidden, mixed], lambda share: None)
    for observation, expected in zip([clear, hidden, mixed], together, strict=True):
        (alone,) = attack.infer(server, [observation], lambda share: None)
        torch.testing.assert_close(alone.images, expected.images, rtol=1e-3, atol=1e-4)
