"""Facts about attacks that know the defense: reliability and simulated updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from defended_models import IMAGE, RATE, Kept, Squashed, Steps, batch, draw, model_of, sent
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.matching.distance import (
    cosine_distance,
    cosine_gaussian_distance,
    layerwise_norm,
    squared_error,
    weighted,
)
from leakbench.attacks.matching.dummy_gradients import layers_with_rules, weights_of
from leakbench.attacks.matching.factors import Factors
from leakbench.attacks.matching.simulation import Simulation, simulation_of
from leakbench.base.choices import Mode
from leakbench.federation.client import Client, Compute, Update, client_update
from leakbench.federation.defense import Defense, Stage
from leakbench.federation.defenses.composed import Composed
from leakbench.federation.defenses.dp_sgd import DPSGD
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.shared_model import SharedModel


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


DISTANCES: list[Callable[..., Tensor]] = [
    squared_error,
    cosine_distance,
    layerwise_norm,
    lambda a, b: cosine_gaussian_distance(a, b, 1.0),
    FeatureReconstruction().distance,
]


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
