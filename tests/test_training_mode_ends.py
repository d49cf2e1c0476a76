"""Convolutional ends of clients whose BatchNorm normalises by their batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from convolutional_planting import SHAPE, PlantedImages, network, planted_images, residual_network
from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.convolutional_ends.batch_normalised import as_frozen
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import batch_norm_layers, batch_statistics, in_mode
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server

QUICK = ConvolutionDemixing(volleys=20, reflections=400, reflected_at_once=32)


@dataclass(frozen=True)
class Normalised:
    """A batch that BatchNorm normalises by itself."""

    batch: PlantedImages

    @property
    def model(self) -> SharedModel:
        return in_mode(self.batch.model, "train")

    @property
    def update(self) -> dict[str, Tensor]:
        return client_update(self.model, self.batch.images, self.batch.labels)

    @property
    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        return batch_statistics(self.model, self.batch.images)

    @property
    def auxiliary(self) -> Tensor:
        """Features of D_aux, in batches as large as this one."""
        size, images = len(self.batch.labels), self.batch.auxiliary
        whole = images[: len(images) // size * size]
        return torch.cat([self.model.features(some) for some in whole.split(size)]).detach()

    @property
    def server(self) -> Server:
        server = self.batch.server
        assert server.feature_space is not None
        space = replace(server.feature_space, features=self.auxiliary, by_batch=True)
        return replace(server, mode="train", feature_space=space)

    def found(
        self,
        update: dict[str, Tensor] | None = None,
        statistics: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> RecoveredIndividuals:
        statistics = self.statistics if statistics is None else statistics
        seen = Observation(len(self.batch.labels), 0, update or self.update, statistics=statistics)
        (found,) = QUICK.recovered(self.server, [seen], lambda share: None)
        return found

    def cosines(self, found: RecoveredIndividuals) -> Tensor:
        """Of the features that are certified with whom they are nearest to, standardised."""
        standardise = Standardisation.of(self.auxiliary.double())
        true = standardise(self.model.features(self.batch.images).detach().double())
        certified = standardise(found.features[found.certified])
        return functional.cosine_similarity(certified[:, None], true[None], dim=2).amax(1)


def normalised(
    individuals: int, classes: int = 2, seed: int = 0, activation: nn.Module | None = None
) -> Normalised:
    model = network(classes, activation, seed, inputs=96, channels=512)
    return Normalised(planted_images(individuals, model, seed))


@pytest.mark.parametrize(("individuals", "classes"), [(1, 2), (2, 2), (4, 2), (4, 8), (6, 2)])
def test_everybody_is_certified(individuals: int, classes: int) -> None:
    batch = normalised(individuals, classes)
    found = batch.found()
    assert int(found.certified.sum()) == individuals
    assert batch.cosines(found).min() > CERTIFIED


def test_the_completed_gradient_is_that_of_a_frozen_batch_norm() -> None:
    batch = normalised(3)
    model = batch.batch.model
    end = QUICK.end(model, batch.batch.auxiliary)
    (name,) = batch_norm_layers(model)
    mean, variance = batch.statistics[name]
    completed = as_frozen(end, batch.update, variance, 3)
    assert completed is not None
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.BatchNorm2d)
    # A network that is frozen at this batch's statistics, and its gradient less the mean input's.
    layer.running_mean, layer.running_var = mean, variance
    frozen = (
        end.convolution.weight_gradient(batch.batch.update)
        * (
            end.convolution.row_scale
            * (variance.double() + layer.eps).sqrt()
            / layer.weight.double()
        )[:, None].detach()
    )
    patches = model.extractor[:2](batch.batch.images).detach().double().mean((0, 2, 3))
    bias = batch.update[end.convolution.bias_name].double()
    expected = frozen - bias[:, None] * patches
    found = completed.gradient.gradient[:, :-1]
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_too_few_channels_for_the_unknowns_find_nobody() -> None:
    batch = normalised(10)
    assert len(batch.found()) == 0


def _hostile(kind: str, seed: int) -> tuple[Normalised, RecoveredIndividuals]:
    batch = normalised(4, seed=seed)
    images, labels = batch.batch.images.clone(), batch.batch.labels.clone()
    if kind == "duplicates":
        images[1], labels[1] = images[0], labels[0]
    elif kind == "near-duplicates":
        images[1] = images[0] + 1e-4 * torch.randn(SHAPE)
    batch = Normalised(replace(batch.batch, images=images, labels=labels))
    update, statistics = batch.update, batch.statistics
    if kind == "rounded to half precision":
        update = {name: value.half().float() for name, value in update.items()}
    elif kind == "rounded statistics":
        statistics = {n: (m.half().float(), v.half().float()) for n, (m, v) in statistics.items()}
    elif kind == "statistics of another batch":
        statistics = normalised(4, seed=seed + 100).statistics
    elif kind == "noise":
        update = {n: v + 1e-3 * v.std() * torch.randn_like(v) for n, v in update.items()}
    return batch, batch.found(update, statistics)


@pytest.mark.parametrize(
    "kind",
    [
        "duplicates",
        "near-duplicates",
        "rounded to half precision",
        "rounded statistics",
        "statistics of another batch",
        "noise",
    ],
)
def test_no_certificate_is_false(kind: str) -> None:
    for seed in range(3):
        batch, found = _hostile(kind, seed)
        assert (batch.cosines(found) > CERTIFIED).all()


def test_without_statistics_it_is_refused() -> None:
    batch = normalised(2)
    with pytest.raises(UsageError, match="grant statistics"):
        batch.found(statistics={})


def test_a_shortcut_is_refused() -> None:
    batch = Normalised(planted_images(2, residual_network()))
    with pytest.raises(UsageError, match="without a shortcut"):
        batch.found()


def test_batch_norm_before_the_convolution_changes_nothing_but_the_features() -> None:
    model = network(inputs=96, channels=256)
    inner = model.extractor[2]
    assert isinstance(inner, nn.Sequential)
    biased = nn.Conv2d(96, 256, 1)
    block = nn.Sequential(biased, nn.ReLU())
    extractor = nn.Sequential(
        model.extractor[0], nn.BatchNorm2d(96), nn.Tanh(), block, *model.extractor[3:]
    )
    batch = Normalised(planted_images(4, SharedModel(extractor, model.classifier).eval()))
    found = batch.found(statistics={})
    assert int(found.certified.sum()) == 4
    assert batch.cosines(found).min() > CERTIFIED
