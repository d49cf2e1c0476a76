"""Facts about demixing of last convolutions: who is found, what is certified, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from convolutional_planting import SHAPE, PlantedImages, network, planted_images
from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.convolutional_ends.grouping import groups_of
from leakbench.attacks.convolutional_ends.rules import CONVOLUTION
from leakbench.attacks.demixable_ends.registry import demixable_ends
from leakbench.attacks.linear_layers.head import LINEAR_LAYERS
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.of_attacks import EXACT
from leakbench.metrics.standardisation import Standardisation


def with_slopes(slopes: torch.Tensor) -> nn.PReLU:
    activation = nn.PReLU(len(slopes))
    activation.weight.data = slopes
    return activation


@pytest.mark.parametrize(
    ("classes", "activation"),
    [
        (2, nn.ReLU()),
        (2, nn.ReLU6()),
        (2, nn.PReLU(192, init=0.2)),
        (2, with_slopes(torch.linspace(-2, 1.4, 192))),
        (8, nn.LeakyReLU(0.1)),
    ],
    ids=["ReLU", "ReLU6", "PReLU", "PReLU of all slopes", "LeakyReLU, K = 8"],
)
def test_everybody_is_found_exactly_with_their_labels(classes: int, activation: nn.Module) -> None:
    batch = planted_images(3, network(classes, activation))
    found = batch.found()
    assert found.certified.tolist() == [True] * 3
    apart = torch.cdist(batch.features.double(), found.features)
    torch.testing.assert_close(
        found.features[apart.argmin(1)].float(), batch.features, rtol=1e-3, atol=1e-4
    )
    assert torch.equal(found.labels[apart.argmin(1)], batch.labels)


def test_positions_of_a_kernel_of_nine_are_found_too() -> None:
    batch = planted_images(2, network(kernel=3))
    found = batch.found()
    assert found.certified.all()
    assert len(found) == 2
    assert batch.falsely_certified(found) == 0


def test_one_wrong_mask_takes_all_certificates() -> None:
    batch = planted_images(2, network())
    update = batch.update
    name = next(each for each in update if each.startswith("extractor.2.0"))
    update[name] = update[name] + 0.5 * update[name].roll(1, dims=1)
    assert not batch.found(update, reflections=60).certified.any()


def test_positions_are_one_individuals_where_their_residuals_agree_and_others_do_not() -> None:
    residuals = torch.tensor([[1.0], [2.0], [1.0], [-1.0], [2.0], [-1.0]]).double()
    residuals = residuals + 1e-6 * torch.arange(6.0).double()[:, None]
    assert groups_of(residuals, 2).tolist() == [[1, 4], [0, 2], [3, 5]]
    # Two individuals of one residual, or one whose positions differ, are none.
    assert len(groups_of(torch.ones(4, 1).double(), 2)) == 0
    assert len(groups_of(torch.tensor([[1.0], [1.1]]).double(), 2)) == 0
    assert groups_of(torch.empty(0, 2), 3).shape == (0, 3)


def with_extractor(*layers: nn.Module, head: nn.Module | None = None) -> SharedModel:
    """A model of some layers and one linear layer."""
    return SharedModel(nn.Sequential(*layers), nn.Sequential(head or nn.Linear(16, 2))).eval()


CONVOLVED = nn.Conv2d(3, 16, 3)
AVERAGED = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Shortcut(nn.Sequential):
    """Adds what it takes."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + super().forward(maps)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (with_extractor(CONVOLVED, nn.GELU(), *AVERAGED), "ends in Conv2d, GELU, Adaptive"),
        (
            with_extractor(CONVOLVED, Shortcut(nn.Conv2d(16, 16, 1), nn.ReLU()), *AVERAGED),
            "what is averaged comes from no such activation",
        ),
        (
            with_extractor(CONVOLVED, nn.ReLU(), nn.Flatten(), head=nn.Linear(576, 2)),
            "ends in Conv2d, ReLU, Flatten, Linear",
        ),
        (
            with_extractor(
                CONVOLVED,
                nn.ReLU(),
                *AVERAGED,
                head=nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)),
            ),
            "classifier of Linear, ReLU, Linear; take mask_demixing",
        ),
        (
            with_extractor(nn.Conv2d(3, 16, 3, bias=False), nn.ReLU(), *AVERAGED),
            "ends in Conv2d, ReLU, AdaptiveAvgPool2d",
        ),
    ],
    ids=["GELU", "shortcut after the activation", "no average", "hidden layer", "no bias"],
)
def test_other_networks_are_refused_by_what_they_have(model: SharedModel, found: str) -> None:
    batch = PlantedImages(model, torch.rand(2, *SHAPE), torch.tensor([0, 1]), torch.rand(4, *SHAPE))
    server = PlantedImages(network(), batch.images, batch.labels, batch.auxiliary).server
    with pytest.raises(UsageError, match="needs a model that ends in a convolution") as error:
        ConvolutionDemixing().infer(replace(server, model=model), [], lambda share: None)
    assert found in str(error.value)


def test_frozen_layers_are_refused() -> None:
    model = build(
        MODELS, "mobilefacenet", {"input_size": 32, "hidden_layers": 0, "trained": "head"}
    )
    shared = model.build(2, 32, "convolutions").eval()
    with pytest.raises(UsageError, match="clients do not send all of them"):
        ConvolutionDemixing().end(shared, torch.rand(2, 3, 32, 32))


def test_clients_that_normalise_by_the_batch_are_refused() -> None:
    server = replace(planted_images(2, network()).server, mode="train")
    with pytest.raises(UsageError, match="needs clients that compute in evaluation mode"):
        ConvolutionDemixing().infer(server, [], lambda share: None)


def test_models_are_asked_for_their_ends() -> None:
    assert set(demixable_ends(network(), torch.rand(2, *SHAPE))) == {CONVOLUTION, LINEAR_LAYERS}
    flat = with_extractor(CONVOLVED, nn.ReLU(), nn.Flatten(), head=nn.Linear(576, 2))
    assert set(demixable_ends(flat, torch.rand(2, *SHAPE))) == {LINEAR_LAYERS}


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite0",
        "mobilefacenet",
        pytest.param("mobilenet_v2", marks=pytest.mark.nightly),
    ],
)
def test_networks_that_people_deploy_have_a_convolutional_end(name: str) -> None:
    parameters = {"input_size": 64, "hidden_layers": 0}
    shared = build(MODELS, name, parameters).build(2, 32, "convolutions").eval()
    end = ConvolutionDemixing().end(shared, torch.rand(2, 3, 32, 32))
    images = torch.rand(3, 3, 32, 32)
    z = end.preactivations(shared, images)
    cosines = functional.cosine_similarity(end.pooled(z), shared.features(images).double())
    torch.testing.assert_close(cosines, torch.ones(3).double())


@pytest.mark.parametrize(
    ("individuals", "channels", "sigma", "certified"), [(3, 384, 3e-6, 3), (2, 1024, 1e-5, 0)]
)
def test_noise_leaves_claims_that_are_right(
    individuals: int, channels: int, sigma: float, certified: int
) -> None:
    """Channels that noise may carry past a kink contradict nothing; more noise, no certificates."""
    batch = planted_images(individuals, network(seed=1, channels=channels))
    draw = torch.Generator().manual_seed(0)
    noisy = {
        name: gradient + sigma * torch.randn(gradient.shape, generator=draw)
        for name, gradient in batch.update.items()
    }
    found = batch.found(noisy)
    assert int(found.certain.sum()) == individuals
    assert int(found.certified.sum()) == certified
    assert batch.falsely_certified(found) == 0
    standardise = Standardisation.of(batch.model.features(batch.auxiliary).detach().double())
    claimed, true = standardise(found.features[found.certain]), standardise(batch.features.double())
    cosines = functional.cosine_similarity(claimed[:, None], true[None], dim=2)
    assert float(cosines.amax(1).min()) >= EXACT
