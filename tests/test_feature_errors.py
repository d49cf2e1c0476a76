"""What an update's noise may do to certified features is bounded, and denies certificates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from convolutional_planting import network, planted_images, residual_network
from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.convolutional_ends.alternating import AlternatingProjections
from leakbench.attacks.convolutional_ends.feature_errors import (
    feature_errors,
    preactivation_errors,
)
from leakbench.attacks.convolutional_ends.found import nothing_found
from leakbench.attacks.convolutional_ends.gradient import position_gradient
from leakbench.attacks.convolutional_ends.kinked import Kinked
from leakbench.attacks.convolutional_ends.masked_vectors import Sought
from leakbench.attacks.convolutional_ends.search import PositionSearch


def noisy(update: dict[str, Tensor], relative: float) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: value + relative * value.std() * torch.randn(value.shape, generator=draw)
        for name, value in update.items()
    }


@pytest.mark.parametrize("relative", [1e-5, 1e-3])
def test_errors_of_features_are_about_as_large_as_they_are_said_to_be(relative: float) -> None:
    batch = planted_images(4, network())
    end = ConvolutionDemixing().end(batch.model, batch.auxiliary)
    starts = end.preactivations(batch.model, batch.auxiliary)
    gradient = position_gradient(end, noisy(batch.update, relative), 4, starts)
    true = end.preactivations(batch.model, batch.images)
    columns = end.activation.derivative(end.activation.active(true)) * gradient.directions
    inverse = torch.linalg.pinv(columns)
    extended = inverse @ gradient.space.gradient
    z = end.convolution.z(extended[:, :-1] / extended[:, -1:])
    amplified = inverse.norm(dim=1) / extended[:, -1].abs()
    errors = preactivation_errors(gradient, z, amplified, torch.zeros(len(inverse)).double())
    assert 0.4 < float(((z - true) / errors).square().mean().sqrt()) < 1.1
    features = end.pooled(z)
    away = gradient.standardise(features) - gradient.standardise(end.pooled(true))
    actual = away.norm(dim=1) / gradient.standardise(features).norm(dim=1)
    said = feature_errors(gradient, features, z, errors)
    assert bool((actual < 1.2 * said).all())
    assert bool((said < 5 * actual).all())


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_certified_falsely_behind_a_shortcut_in_half_precision(seed: int) -> None:
    """Their cosines were 0.995 and more, for which the shortcut's own error is not to blame."""
    batch = planted_images(4, residual_network(seed), seed)
    found = batch.found({name: value.half().float() for name, value in batch.update.items()}, 100)
    assert len(found)
    assert batch.falsely_certified(found) == 0


def test_masks_that_have_most_channels_in_common_are_found_in_the_column_space_alone() -> None:
    """As those of an untrained network's: two of three channels are the same for everybody."""
    draw = torch.Generator().manual_seed(0)
    common = torch.rand(384, 1, generator=draw) < 0.7
    varies = torch.rand(384, 1, generator=draw) < 0.33
    others = torch.rand(384, 224, generator=draw) < 0.6
    z = torch.where(torch.where(varies, others, common), 1.0, -1.0).double()
    masks = (z[:, :24] > 0).double()
    zeros = torch.zeros(384).double()
    sought = Sought(
        basis=torch.linalg.qr(masks)[0],
        directions=torch.ones(384, 1).double(),
        activation=Kinked(zeros, zeros + torch.inf),
        starts=z[:, 24:],
        residuals=torch.ones(200, 1).double(),
        tolerance=lambda vectors: vectors.new_full((vectors.shape[1],), 1e-3),
    )
    projected = nothing_found(sought.basis, 1)
    AlternatingProjections(sought, projected, 64, 0).search(24, 20)
    reflected = nothing_found(sought.basis, 1)
    PositionSearch(sought, reflected, None, 64, 0).search(24, 400, 400)
    assert len(projected) < 24
    assert len(reflected) == 24
    own = functional.normalize(masks, dim=0)
    assert float((own.mT @ reflected.vectors).amax(1).min()) > 1 - 1e-9
