"""Facts about masks that differ in few channels, and about masks that belong to no position."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from convolutional_planting import PlantedImages, network, planted_images
from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.convolutional_ends.exchange import contradicted, exchange
from leakbench.attacks.convolutional_ends.found import Column, FoundColumns, nothing_found
from leakbench.attacks.convolutional_ends.gradient import PositionGradient, position_gradient
from leakbench.attacks.convolutional_ends.sparsest import sparsest


def test_the_sparsest_vector_of_a_space_is_found() -> None:
    torch.manual_seed(0)
    sparse = torch.zeros(200)
    sparse[::25] = torch.randn(8)
    basis = torch.linalg.qr(torch.cat([sparse[:, None], torch.randn(200, 20)], dim=1))[0]
    (found,) = sparsest(basis, basis[:1]).mT
    torch.testing.assert_close(found / found[0], sparse / sparse[0], rtol=1e-3, atol=1e-3)


def alike(individuals: int, attack: ConvolutionDemixing) -> PlantedImages:
    """Images whose four positions see nearly the same, in a network of rarely active channels."""
    model = network(seed=1, channels=768)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias -= 1.0
    whole = planted_images(individuals, model, attack=attack)

    def repeated(images: Tensor) -> Tensor:
        patch = images[:, :, :4, :4].tile(1, 1, 2, 2)
        return (patch + 0.1 * torch.randn_like(images)).clamp(0, 1)

    torch.manual_seed(0)
    return replace(whole, images=repeated(whole.images), auxiliary=repeated(whole.auxiliary))


def test_positions_that_see_nearly_the_same_are_found_by_their_differences() -> None:
    without = ConvolutionDemixing(volleys=5, sparse_volleys=0, reflections=0)
    assert not len(alike(6, without).found())
    batch = alike(6, replace(without, sparse_volleys=30))
    found = batch.found()
    assert found.certified.tolist() == [True] * 6
    assert batch.falsely_certified(found) == 0


def planted_columns(batch: PlantedImages) -> tuple[PositionGradient, FoundColumns]:
    """A batch's gradient, and the true columns."""
    end = ConvolutionDemixing().end(batch.model, batch.auxiliary)
    starts = end.preactivations(batch.model, batch.auxiliary)
    gradient = position_gradient(end, batch.update, len(batch.labels), starts)
    active = end.activation.active(end.preactivations(batch.model, batch.images))
    found = nothing_found(gradient.space.basis, 1)
    vectors = active * gradient.directions
    found.add(vectors, active, vectors.new_ones(active.shape[1], 1))
    return gradient, found


def test_a_mask_of_no_position_is_replaced_by_the_true_one() -> None:
    gradient, found = planted_columns(planted_images(3, network()))
    assert not contradicted(gradient, found.vectors, found.active).any()
    true = Column(found.vectors[:, 0], found.active[:, 0], found.residuals[0])
    mixed = nn.functional.normalize(found.vectors[:, 0] + found.vectors[:, 1], dim=0)
    found.replace(0, Column(mixed, found.active[:, 0] | found.active[:, 1], found.residuals[0]))
    assert contradicted(gradient, found.vectors, found.active).any()
    found.spare = [true]
    exchange(gradient, found)
    assert torch.equal(found.active[:, 0], true.active)
    assert not contradicted(gradient, found.vectors, found.active).any()


def test_columns_are_independent_and_others_are_spare() -> None:
    found = nothing_found(torch.eye(4), 1)
    vectors = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    found.add(vectors, vectors != 0, torch.ones(3, 1), 1e-3)
    assert len(found) == 2
    assert found.spare[0].active.tolist() == [True, True, False, False]
    # A mask of few channels waits until it is needed.
    small = torch.tensor([[0.0], [0], [1], [0]])
    found.add(small, small != 0, torch.ones(1, 1), 1e-3, True)
    assert len(found) == 2
    found.complete(3)
    assert len(found) == 3
