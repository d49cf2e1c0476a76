"""Priors, schedules and distances have the values that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from leakbench.attacks.matching.distance import (
    Gradients,
    cosine_distance,
    cosine_gaussian_distance,
    layerwise_norm,
    squared_error,
)
from leakbench.attacks.matching.priors import (
    Statistics,
    distance_to,
    group_mean,
    image_norm,
    statistics_distance,
    total_variation,
)
from leakbench.attacks.matching.schedules import (
    Schedule,
    constant,
    cosine_decay,
    step_decay,
    warm_cosine_decay,
)

Distance = Callable[[Gradients, Gradients], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Priors


def test_total_variation_of_a_ramp_is_the_sum_of_its_slopes() -> None:
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    ramps = torch.stack([0.25 * rows - 0.5 * columns, 2 * rows, 0 * rows])
    found = total_variation(ramps[:, None, None].expand(3, 4, 3, 5, 7))
    torch.testing.assert_close(found, torch.tensor([0.75, 2.0, 0.0]))


def test_total_variation_of_a_checkerboard_is_two_and_of_stripes_one() -> None:
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    patterns = torch.stack([(rows + columns) % 2, rows % 2, columns % 2]).float()
    found = total_variation(patterns[:, None, None])
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0, 1.0]))


def test_total_variation_is_a_mean_over_the_batch_for_each_run() -> None:
    images = draw(3, 2, 3, 8, 8)
    each = torch.stack([total_variation(images[:, i : i + 1]) for i in range(2)])
    torch.testing.assert_close(total_variation(images), each.mean(0))
    torch.testing.assert_close(total_variation(images)[1:2], total_variation(images[1:2]))


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.rot90(1, (3, 4)),
        lambda images: images.flip(4),
        lambda images: images.flip(3),
        lambda images: images.transpose(3, 4),
        lambda images: images + 0.7,
        lambda images: -images,
        lambda images: images[:, :, [2, 0, 1]],
    ],
    ids=["turned", "mirrored", "upside down", "transposed", "brighter", "negative", "recoloured"],
)
def test_total_variation_is_the_same(change: Callable[[Tensor], Tensor]) -> None:
    images = draw(2, 3, 3, 8, 8)
    torch.testing.assert_close(total_variation(change(images)), total_variation(images))


def test_total_variation_grows_with_contrast() -> None:
    images = draw(2, 3, 3, 8, 8)
    torch.testing.assert_close(total_variation(3 * images), 3 * total_variation(images))


def test_image_norm_is_the_mean_length_of_the_individuals() -> None:
    images = torch.zeros(2, 2, 3, 4, 4)
    images[0, 0, 0, 1, 2], images[0, 0, 2, 3, 3] = 3.0, 4.0
    images[0, 1, 1, 0, 0] = -1.0
    images[1, 1] = 1.0
    expected = torch.tensor([(5 + 1) / 2, math.sqrt(48) / 2])
    torch.testing.assert_close(image_norm(images), expected)


def test_distance_to_is_the_mean_length_of_the_differences() -> None:
    images = draw(2, 3, 3, 4, 4)
    consensus = images.clone()
    consensus[1, 2, 0, 0, 0] += 6.0
    torch.testing.assert_close(
        distance_to(images, consensus), torch.tensor([0.0, 2.0], dtype=torch.float64)
    )


def test_norms_of_images_have_a_gradient_where_they_are_zero() -> None:
    images = torch.zeros(1, 2, 3, 4, 4, requires_grad=True)
    (image_norm(images) + distance_to(images, torch.zeros_like(images))).sum().backward()
    assert images.grad is not None
    assert not images.grad.any()


def test_group_mean_is_over_the_runs_of_the_same_victim() -> None:
    images, victim = draw(5, 2, 3, 4, 4), torch.tensor([2, 0, 2, 0, 2])
    found = group_mean(images, victim)
    odd, even = images[1::2].mean(0), images[0::2].mean(0)
    torch.testing.assert_close(found, torch.stack([even, odd, even, odd, even]))


def test_a_run_on_its_own_agrees_with_its_group() -> None:
    images = draw(3, 2, 3, 4, 4)
    torch.testing.assert_close(group_mean(images, torch.tensor([0, 4, 2])), images)


def statistics(mean: list[float], variance: list[float]) -> Statistics:
    return {"bn": (torch.tensor([mean]), torch.tensor([variance]))}


def test_statistics_distance_is_a_sum_of_unsquared_norms() -> None:
    dummy = {"a": (draw(2, 4), draw(2, 4, seed=1)), "b": (draw(2, 3, seed=2), draw(2, 3, seed=3))}
    target = {layer: (mean + 0, variance + 0) for layer, (mean, variance) in dummy.items()}
    target["a"][0][0, 0] += 3
    target["a"][0][0, 3] -= 4
    target["a"][1][0, 1] += 2
    target["b"][1][0, 2] -= 0.5
    target["b"][0][1, 1] += 7
    expected = torch.tensor([5 + 2 + 0.5, 7.0], dtype=torch.float64)
    torch.testing.assert_close(statistics_distance(dummy, target), expected)


def test_statistics_distance_is_zero_only_where_mean_and_variance_are_equal() -> None:
    target = statistics([0.5, 2.0], [1.0, 3.0])
    assert statistics_distance(target, target).item() < 1e-12
    for mean, variance in (([0.5, 2.01], [1.0, 3.0]), ([0.5, 2.0], [1.01, 3.0])):
        assert statistics_distance(statistics(mean, variance), target).item() > 1e-3


def test_statistics_distance_has_a_gradient_at_zero() -> None:
    mean = torch.ones(1, 3, requires_grad=True)
    still = torch.ones(1, 3)
    statistics_distance({"bn": (mean, still)}, {"bn": (still, still)}).sum().backward()
    assert mean.grad is not None
    assert not mean.grad.any()


# Schedules


def test_step_decay_falls_to_a_tenth_at_three_five_and_seven_eighths() -> None:
    steps = 24_000
    for edge, before, after in ((3, 1, 0.1), (5, 0.1, 0.01), (7, 0.01, 0.001)):
        number = edge * steps // 8
        done = torch.tensor([[number - 1], [number]]).float() / steps
        found = step_decay(done)
        torch.testing.assert_close(found, torch.tensor([[before], [after]]).float())
    assert step_decay(torch.tensor([[0.0]])).item() == 1
    torch.testing.assert_close(step_decay(torch.ones(1, 1)), torch.full((1, 1), 1e-3))


def test_cosine_decay_falls_from_one_over_a_half_to_zero() -> None:
    found = cosine_decay(torch.tensor([0.0, 1 / 3, 0.5, 2 / 3, 1.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


@pytest.mark.parametrize("warm_up", [0.0025, 0.1, 0.5, 0.9])
def test_warm_cosine_rises_to_one_and_then_falls_to_zero(warm_up: float) -> None:
    done = torch.linspace(0, 1, 4_001)[:, None]
    found = warm_cosine_decay(warm_up)(done).flatten()
    peak = int(found.argmax())
    assert done[peak].item() == pytest.approx(warm_up, abs=1 / 4_000)
    assert found[peak].item() == pytest.approx(1, abs=2e-3)
    assert (found[: peak + 1].diff() >= 0).all()
    assert (found[peak:].diff() <= 0).all()
    assert (found >= 0).all()
    assert 0 < found[0].item() <= 0.02
    assert found[-1].item() == pytest.approx(0, abs=1e-6)


def test_warm_cosine_rises_in_proportion() -> None:
    found = warm_cosine_decay(0.4)(torch.tensor([[0.1], [0.2], [0.3], [0.7]]))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.25, 0.5, 0.75, 0.5]))


def test_warm_cosine_without_warm_up_is_cosine_decay() -> None:
    done = torch.linspace(0, 1, 50)[:, None]
    torch.testing.assert_close(warm_cosine_decay(0.0)(done), cosine_decay(done))


@pytest.mark.parametrize("schedule", [constant, cosine_decay, step_decay, warm_cosine_decay(0.25)])
def test_each_run_has_the_factor_of_its_own_share(schedule: Schedule) -> None:
    done = torch.tensor([[0.0], [0.9], [0.25], [0.5]])
    found = schedule(done)
    assert found.shape == done.shape
    alone = torch.cat([schedule(row[None]) for row in done])
    torch.testing.assert_close(found, alone)


# Distances


def gaussian(kernel_width: float) -> Distance:
    def distance(gradients: Gradients, target: Gradients) -> Tensor:
        return cosine_gaussian_distance(gradients, target, kernel_width)

    return distance


DISTANCES = {
    "squared": squared_error,
    "cosine": cosine_distance,
    "layerwise": layerwise_norm,
    "gaussian": gaussian(1.0),
}
EVERY_DISTANCE = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)


def gradients(seed: int, runs: int = 3) -> dict[str, Tensor]:
    return {
        "weight": draw(runs, 4, 5, seed=seed),
        "bias": draw(runs, 4, seed=seed + 100),
        "kernel": draw(runs, 2, 3, 3, 3, seed=seed + 200),
    }


def scaled(of: Gradients, factor: float) -> dict[str, Tensor]:
    return {name: factor * gradient for name, gradient in of.items()}


def flat(of: Gradients) -> Tensor:
    return torch.cat([gradient.flatten(1) for gradient in of.values()], 1)


def away(target: Gradients, factor: float) -> dict[str, Tensor]:
    """Gradients that differ from the target by `factor` times something."""
    difference = gradients(seed=9)
    return {name: target[name] + factor * difference[name] for name in target}


def test_distances_are_what_their_papers_say() -> None:
    g, target = gradients(1), gradients(2)
    a, b = flat(g), flat(target)
    cosine = torch.cosine_similarity(a, b)
    squares = (a - b).square().sum(1)
    by_layer = torch.stack([(g[n] - target[n]).flatten(1).norm(dim=1) for n in g])
    torch.testing.assert_close(squared_error(g, target), squares)
    torch.testing.assert_close(cosine_distance(g, target), 1 - cosine)
    torch.testing.assert_close(layerwise_norm(g, target), by_layer.sum(0))
    kernel = torch.exp(-squares / (3 * b.square().sum(1)))
    torch.testing.assert_close(gaussian(3.0)(g, target), 2 - cosine - kernel)


@EVERY_DISTANCE
def test_distance_is_zero_at_equality_and_positive_elsewhere(distance: Distance) -> None:
    target = gradients(1)
    torch.testing.assert_close(
        distance(target, target), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert (distance(away(target, 0.1), target) > 1e-3).all()
    assert (distance(away(target, 1.0), target) > distance(away(target, 0.1), target)).all()


@EVERY_DISTANCE
def test_distance_of_a_run_depends_on_its_own_gradients_alone(distance: Distance) -> None:
    g, target = gradients(1), gradients(2)
    for run in range(3):
        alone = distance(
            {n: value[run : run + 1] for n, value in g.items()},
            {n: value[run : run + 1] for n, value in target.items()},
        )
        torch.testing.assert_close(distance(g, target)[run : run + 1], alone)


@EVERY_DISTANCE
def test_distance_leaves_out_what_the_target_leaves_out(distance: Distance) -> None:
    g, target = gradients(1), gradients(2)
    del target["bias"]
    without = {name: value for name, value in g.items() if name in target}
    assert torch.equal(distance(g, target), distance(without, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("size", "target_size"), [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1e-12, 1.0)]
)
@EVERY_DISTANCE
def test_distance_and_its_gradient_are_finite(
    distance: Distance, size: float, target_size: float, dtype: torch.dtype
) -> None:
    """At equality, and where gradients vanish: a dead network, a pruned update."""
    leaves = {n: (size * g).to(dtype).requires_grad_() for n, g in gradients(1).items()}
    target = {n: (target_size * g).to(dtype) for n, g in gradients(1).items()}
    value = distance(leaves, target)
    assert value.isfinite().all()
    for gradient in torch.autograd.grad(value.sum(), list(leaves.values())):
        assert gradient.isfinite().all()


@EVERY_DISTANCE
def test_the_gradient_of_a_distance_points_away_from_the_target(distance: Distance) -> None:
    target = gradients(1)
    leaves = {n: g.requires_grad_() for n, g in away(target, 0.1).items()}
    slopes = torch.autograd.grad(distance(leaves, target).sum(), list(leaves.values()))
    nearer = {
        n: leaf.detach() - 1e-4 * slope
        for (n, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }
    assert (distance(nearer, target) < distance(leaves, target)).all()


@pytest.mark.parametrize(
    ("distance", "growth"), [(squared_error, 4.0), (layerwise_norm, 2.0)], ids=["L2²", "L2"]
)
def test_twice_the_difference(distance: Distance, growth: float) -> None:
    """DLG's distance is squared, GradInversion's is not."""
    target = gradients(1)
    torch.testing.assert_close(
        distance(away(target, 0.2), target), growth * distance(away(target, 0.1), target)
    )


def test_cosine_distance_is_blind_to_scale_and_ends_at_two() -> None:
    g, target = gradients(1), gradients(2)
    torch.testing.assert_close(
        cosine_distance(scaled(g, 7.0), scaled(target, 0.01)), cosine_distance(g, target)
    )
    two = torch.full((3,), 2.0, dtype=torch.float64)
    torch.testing.assert_close(cosine_distance(scaled(target, -3.0), target), two)


def test_cosine_distance_takes_all_layers_as_one_vector() -> None:
    """The mean of the layers' cosines would be one half."""
    g = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 3.0]])}
    target = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[3.0, 0.0]])}
    torch.testing.assert_close(cosine_distance(g, target), torch.tensor([0.9]))


def test_gaussian_distance_sees_scale_but_not_the_unit_of_both() -> None:
    g, target = gradients(1), gradients(2)
    distance = gaussian(1.0)
    torch.testing.assert_close(distance(scaled(g, 5.0), scaled(target, 5.0)), distance(g, target))
    expected = torch.full((3,), 1 - math.exp(-1), dtype=torch.float64)
    torch.testing.assert_close(distance(scaled(target, 2.0), target), expected)


@pytest.mark.parametrize("distance", [cosine_distance, gaussian(1.0)], ids=["cosine", "gaussian"])
def test_directions_of_tiny_single_precision_gradients_are_told_apart(distance: Distance) -> None:
    """Their squares' product would underflow."""
    g = {n: (1e-13 * value).float() for n, value in gradients(1).items()}
    target = {n: (1e-13 * value).float() for n, value in gradients(2).items()}
    expected = distance(gradients(1), gradients(2)).float()
    torch.testing.assert_close(distance(g, target), expected, rtol=1e-4, atol=1e-5)
