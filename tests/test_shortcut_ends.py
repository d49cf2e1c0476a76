"""Facts about last convolutions behind shortcuts, and about what zeros at edges tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from convolutional_planting import (
    SHAPE,
    PlantedImages,
    bottleneck_network,
    of_blocks,
    planted_images,
    residual_network,
)
from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.convolutional_ends.gradient import position_gradient
from leakbench.attacks.convolutional_ends.padding import padded_spaces, zeros_seen
from leakbench.attacks.convolutional_ends.shortcut import shortcut_of
from leakbench.attacks.demixable_ends.calls import inputs_of
from leakbench.base.errors import UsageError
from leakbench.federation.shared_model import SharedModel


class Block(nn.Module):
    """Layers beside a shortcut, as plain as it can be."""

    def __init__(self, *branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut = shortcut or nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.shortcut(maps) + self.branch(maps))


def single() -> SharedModel:
    torch.manual_seed(0)
    return of_blocks(Block(nn.Conv2d(128, 128, 1), nn.BatchNorm2d(128)), channels=128)


def assert_everybody_is_found(batch: PlantedImages) -> None:
    found = batch.found()
    assert found.certified.tolist() == [True] * len(batch.labels)
    apart = torch.cdist(batch.features.double(), found.features)
    nearest = found.features[apart.argmin(1)].float()
    torch.testing.assert_close(nearest, batch.features, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.labels[apart.argmin(1)], batch.labels)


@pytest.mark.parametrize(
    "model",
    [residual_network(), residual_network(classes=4), bottleneck_network(), single()],
    ids=["ResNet-18's block", "ResNet-18's, K = 4", "ResNet-50's block", "one convolution"],
)
def test_everybody_is_found_behind_a_shortcut(model: SharedModel) -> None:
    assert_everybody_is_found(planted_images(3, model))


@pytest.mark.nightly
def test_everybody_is_found_on_larger_maps() -> None:
    """4×4 positions: what sees an edge is told apart from what sees another, or none."""
    assert_everybody_is_found(planted_images(2, residual_network(stride=2)))


@pytest.mark.parametrize("stride", [4, 2])
def test_zeros_at_edges_take_the_column_space_apart(stride: int) -> None:
    batch = planted_images(2, residual_network(stride=stride))
    end = ConvolutionDemixing().end(batch.model, batch.auxiliary)
    starts = end.preactivations(batch.model, batch.auxiliary)
    gradient = position_gradient(end, batch.update, 2, starts)
    active = (end.preactivations(batch.model, batch.images) > 0).double()
    x = active * gradient.directions
    spaces = padded_spaces(gradient)
    zeros = zeros_seen(end)
    kinds = len(torch.unique(zeros, dim=0))
    assert len(spaces) == kinds == (4 if stride == 4 else 9)
    for each in spaces:
        # In it are the x of its kind, and of those that see zeros only where these do.
        of_kind = ~(zeros & ~zeros[each.position]).any(1)
        assert each.columns.shape[1] == 2 * int(of_kind.sum())
        inside = (each.columns.mT @ x).norm(dim=0) / x.norm(dim=0)
        expected = of_kind.repeat(2)
        assert inside[expected].min() > 1 - 1e-6
        assert inside[~expected].max() < 1 - 1e-3


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (
            Block(
                nn.Conv2d(32, 32, 3, padding=1),
                nn.BatchNorm2d(32),
                shortcut=nn.Conv2d(32, 32, 1),
            ),
            "and the shortcut passes layers other than convolutions of stride 1 with ReLU",
        ),
        (
            BasicBlock(32, 32, groups=1, norm_layer=lambda c: nn.GroupNorm(4, c)),
            "GroupNorm",
        ),
        (
            Block(nn.Conv2d(32, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 32, 1)),
            "the shortcut passes layers other than convolutions of stride 1 with ReLU",
        ),
    ],
    ids=["projection", "GroupNorm", "GELU beside the shortcut"],
)
def test_other_shortcuts_are_refused(block: nn.Module, found: str) -> None:
    model = of_blocks(block, channels=32)
    with pytest.raises(UsageError, match=found):
        ConvolutionDemixing().end(model, torch.rand(2, *SHAPE))


def test_a_channel_that_rounding_hides_does_not_spoil_what_the_shortcut_adds() -> None:
    """One entry of a is taken for inactive that is not: its error counts for its row alone."""
    batch = planted_images(6, residual_network())
    end = ConvolutionDemixing().end(batch.model, batch.auxiliary)
    convolution = end.convolution
    inputs = convolution.inputs(inputs_of(batch.model, convolution.module, batch.images))
    inputs = inputs.flatten(0, 1)
    without = convolution.z(inputs)
    z = end.preactivations(batch.model, batch.images)
    errors = end.probabilities(batch.features.double())
    errors = errors - torch.eye(end.classes).double()[batch.labels]
    back = (errors @ end.output.weight / len(batch.labels) / end.positions).mT
    x = back.repeat_interleave(end.positions, 1) * (z > 0)
    places = inputs.reshape(len(inputs), -1, 9)
    channel = int((places[0, :, 4] > 0).nonzero()[0])
    places[0, channel, 4] = 0.0
    noise = torch.full((len(inputs),), 1e-7).double()
    added = shortcut_of(end, batch.update, inputs, x, noise)
    assert added is not None
    assert float(added.error.max()) < 1e-4
    torch.testing.assert_close(added.values, z - without, rtol=1e-3, atol=1e-3)
