"""Facts about the engine of gradient matching: gradients of dummies, restarts and patience."""

from __future__ import annotations

import math
from itertools import count, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from leakbench.attacks.matching.distance import Gradients, squared_error
from leakbench.attacks.matching.dummy_gradients import dummy_gradients
from leakbench.attacks.matching.method import (
    Iterate,
    Method,
    Reconstruction,
    Victim,
)
from leakbench.attacks.matching.optimisers import Adam, State
from leakbench.base.choices import Mode
from leakbench.federation.batch_norm import batch_norm_layers, batch_statistics, in_mode
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.resnet18 import ResNet18
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Architecture
from matching_runs import (
    CLASSES,
    IMAGE,
    PIXELS,
    Walk,
    built,
    draw,
    flat,
    innermost,
    run_method,
    run_script,
    script,
    uniform,
)

MODELS = [
    (LeNet(), "eval"),
    (SmallCNN(width=4), "eval"),
    (SmallCNN(width=4, pooling="max"), "eval"),
    (SmallCNN(width=4, batch_norm=True), "eval"),
    (SmallCNN(width=4, batch_norm=True), "train"),
    (ResNet18(), "eval"),
    (ResNet18(), "train"),
]


def assert_images(found: Reconstruction, variables: Tensor) -> None:
    assert torch.equal(innermost(found.images), variables[: found.images.numel()])


class IndexingCounted(TorchDispatchMode):
    """Counts how often tensors are indexed by tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += func.overloadpacket is torch.ops.aten.index
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("architecture", "mode"), MODELS, ids=repr)
def test_each_run_s_dummies_have_the_gradient_a_client_would_send(
    architecture: Architecture, mode: Mode
) -> None:
    model = in_mode(built(architecture), mode)
    images = draw(2, 3, *IMAGE)
    hard = torch.tensor([[0, 1, 1], [3, 2, 0]])
    soft = draw(2, 3, CLASSES, seed=1).mul(3).softmax(2)
    for targets in (hard, soft):
        found, statistics = dummy_gradients(model, images, targets)
        assert statistics == {}
        assert list(found) == [name for name, _ in model.named_parameters()]
        for run in range(2):
            for name, sent in client_update(model, images[run], targets[run]).items():
                torch.testing.assert_close(found[name][run], sent, rtol=1e-6, atol=1e-9)


def test_clients_that_normalise_by_the_batch_send_another_gradient() -> None:
    model = built(SmallCNN(width=4, batch_norm=True))
    images, labels = draw(1, 3, *IMAGE), torch.tensor([[0, 1, 1]])
    by_mode = [dummy_gradients(in_mode(model, m), images, labels)[0] for m in ("eval", "train")]
    for name in ("extractor.1.weight", "classifier.0.weight"):
        a, b = (gradients[name] for gradients in by_mode)
        assert (a - b).norm() > 0.1 * a.norm()


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("architecture", [SmallCNN(width=4, batch_norm=True), ResNet18()], ids=repr)
def test_each_run_s_statistics_are_those_of_its_own_batch(
    architecture: Architecture, mode: Mode
) -> None:
    model = in_mode(built(architecture), mode)
    images, labels = draw(2, 3, *IMAGE), torch.tensor([[0, 1, 1], [3, 2, 0]])
    _, found = dummy_gradients(model, images, labels, with_statistics=True)
    assert found.keys() == batch_norm_layers(model).keys()
    for run in range(2):
        for layer, expected in batch_statistics(model, images[run]).items():
            for part, whole in zip(expected, found[layer], strict=True):
                torch.testing.assert_close(whole[run], part)


def test_statistics_are_the_mean_and_the_biased_variance_of_the_layer_s_input() -> None:
    model = built(SmallCNN(width=4, batch_norm=True))
    images = draw(1, 3, *IMAGE)
    _, found = dummy_gradients(model, images, torch.tensor([[0, 1, 1]]), with_statistics=True)
    normalise, convolution = model.extractor[:2]
    entering = convolution(normalise(images[0])).detach().transpose(0, 1).flatten(1)
    mean, variance = found["extractor.2"]
    torch.testing.assert_close(mean[0], entering.mean(1))
    torch.testing.assert_close(variance[0], entering.var(1, correction=0))


@pytest.mark.parametrize(
    ("architecture", "mode"), [m for m in MODELS if not isinstance(m[0], ResNet18)], ids=repr
)
def test_dummy_gradients_can_be_differentiated_by_images_and_labels(
    architecture: Architecture, mode: Mode
) -> None:
    model = in_mode(built(architecture), mode)
    target = client_update(model, draw(2, *IMAGE, seed=1), torch.tensor([0, 3]))
    variables = draw(2 * PIXELS + 2 * CLASSES)
    direction = torch.cat([torch.zeros(2 * PIXELS), torch.ones(2 * CLASSES)]).double()
    direction *= draw(len(variables), seed=3) - 0.5

    def objective(x: Tensor) -> Tensor:
        soft = x[2 * PIXELS :].reshape(1, 2, CLASSES).softmax(2)
        images = x[: 2 * PIXELS].reshape(1, 2, *IMAGE)
        gradients, _ = dummy_gradients(model, images, soft)
        return squared_error(gradients, {n: t[None] for n, t in target.items()}).sum()

    leaf = variables.requires_grad_()
    (slope,) = torch.autograd.grad(objective(leaf), leaf)
    for along in (direction, slope / slope.norm()):
        step = 1e-6 * along
        with torch.no_grad():
            rise = (objective(leaf + step) - objective(leaf - step)) / 2e-6
        torch.testing.assert_close(torch.dot(slope, along), rise, rtol=1e-4, atol=1e-8)


def test_the_best_iterate_is_kept_not_the_last_and_not_the_one_after() -> None:
    (found,), log = run_script(script(5, 4, 1, 9, 3))
    assert found.loss == 1
    assert found.steps == 5
    assert found.restarts == 0
    assert not found.diverged
    assert_images(found, log[2].variables[0])
    assert not torch.equal(log[1].variables, log[2].variables)
    assert not torch.equal(log[3].variables, log[2].variables)


def test_a_run_whose_first_iterate_is_its_best_has_diverged() -> None:
    (found,), log = run_script(script(1, 2, 1, 3))
    assert found.diverged
    assert found.loss == 1
    assert_images(found, log[0].variables[0])


@pytest.mark.parametrize("infinity", [math.nan, math.inf, -math.inf])
def test_a_run_of_no_finite_distance_starts_afresh_within_its_budget(infinity: float) -> None:
    (lost, other), log = run_script(script(3, 2.5, infinity, 2, 4, 6), script(3, 2, 5, 4, 1, 1))
    assert (lost.restarts, other.restarts) == (1, 0)
    assert (lost.steps, other.steps) == (6, 6)
    assert (lost.loss, other.loss) == (2, 1)
    assert_images(lost, log[3].variables[0])
    assert_images(other, log[4].variables[1])
    moves = [(b.variables - a.variables).abs().amax(1).tolist() for a, b in pairwise(log)]
    assert [move[0] > 0.5 for move in moves] == [False, False, True, False, False]
    assert all(move[1] == pytest.approx(0.01) for move in moves)
    assert [step.age.tolist() for step in log] == [[0, 0], [1, 1], [2, 2], [0, 3], [1, 4], [2, 5]]


def test_a_fresh_start_has_the_whole_schedule_before_it() -> None:
    _, log = run_script(
        script(1, math.nan, 1, 1, 1, 1), script(1, 1, 1, 1, 1, 1), schedule=lambda done: done
    )
    lost, other = zip(*(step.factor for step in log), strict=True)
    assert lost == pytest.approx([0, 1 / 6, 0, 1 / 4, 2 / 4, 3 / 4])
    assert other == pytest.approx([n / 6 for n in range(6)])


def test_what_a_run_found_before_it_was_lost_still_counts() -> None:
    (found,), log = run_script(script(3, 1, math.nan, 7, 2))
    assert found.loss == 1
    assert_images(found, log[1].variables[0])


def test_a_run_of_no_finite_distance_at_all_has_diverged() -> None:
    (found,), _ = run_script(script(*[math.nan] * 5))
    assert found.diverged
    assert found.loss == math.inf
    assert found.steps == 5
    assert found.restarts == 4
    assert found.images.isfinite().all()


def test_a_run_that_was_lost_at_once_and_then_found_something_has_not_diverged() -> None:
    (found,), _ = run_script(script(math.nan, 4, 5))
    assert not found.diverged
    assert found.loss == 4


def test_an_infinite_gradient_loses_a_run_as_an_infinite_distance_does() -> None:
    def prior(iterate: Iterate) -> Tensor:
        # √0 has no finite slope.
        return (0 * iterate.images).flatten(1).sum(1).sqrt() * (iterate.done == 0.5)

    (found,), log = run_script(script(4, 3, 1, 2), prior=prior)
    assert found.restarts == 3
    assert found.loss == math.inf
    assert not log[0].gradient.isfinite().all()


def test_starts_that_overflow_are_drawn_again_until_one_does_not() -> None:
    model, drawn = built(LeNet()), {seed: [] for seed in range(6)}

    def start(victim: Victim, generator: torch.Generator) -> Tensor:
        images = uniform(victim, generator)
        if generator.initial_seed() == torch.Generator().initial_seed():
            return images  # The engine looks at the size only.
        drawn[victim.seed].append(bool(images[0, 0, 0, 0] < 0.6))
        return images / 0 if drawn[victim.seed][-1] else images

    victims = [
        Victim(client_update(model, draw(1, *IMAGE, seed=n), torch.tensor([1])), None, 1, n)
        for n in range(6)
    ]
    method = Method(squared_error, Adam(0.05), start, steps=12, projected=0)
    found = run_method(method, *victims, model=model)
    restarts = [answer.restarts for answer in found]
    assert restarts == [sum(of_victim) for of_victim in drawn.values()]
    assert min(restarts) == 0
    assert max(restarts) > 1
    for answer in found:
        assert answer.steps == 12
        assert math.isfinite(answer.loss)
        assert answer.images.isfinite().all()


def test_runs_end_at_the_tolerance_and_the_others_go_on() -> None:
    found, log = run_script(
        script(5, 4, 3, 1, 0, 0, seed=1),
        script(5, 4, 4, 3, 3, 2, seed=2),
        script(5, 0.5, 0, 0, 0, 0, seed=3),
        tolerance=1.0,
    )
    assert [answer.steps for answer in found] == [4, 6, 2]
    assert [answer.loss for answer in found] == [1, 2, 0.5]
    assert [len(step.variables) for step in log] == [3, 3, 2, 2, 1, 1]
    assert not any(answer.diverged for answer in found)
    assert_images(found[0], log[3].variables[0])
    assert_images(found[1], log[5].variables[0])
    assert_images(found[2], log[1].variables[2])


def test_hundreds_of_runs_that_end_one_by_one_are_gathered_in_one_pass() -> None:
    """The work of an end does not grow with the number of victims."""
    victims = [
        script(*[9.0 + seed] * seed, *[seed / 1000] * (200 - seed), seed=seed)
        for seed in range(200)
    ]
    with IndexingCounted() as indexing:
        found, log = run_script(*victims, tolerance=0.5)
    assert [answer.steps for answer in found] == [seed + 1 for seed in range(200)]
    assert [answer.loss for answer in found] == pytest.approx([n / 1000 for n in range(200)])
    assert [len(step.variables) for step in log] == list(range(200, 0, -1))
    for number, answer in enumerate(found):
        assert_images(answer, log[number].variables[0])
    assert indexing.count < 50 * len(victims)


def test_a_run_within_the_tolerance_at_once_has_not_diverged() -> None:
    (found,), _ = run_script(script(0.5, 7), tolerance=1.0)
    assert found.steps == 1
    assert not found.diverged


def test_a_run_that_ends_does_not_start_afresh() -> None:
    (last, found), _ = run_script(
        script(2, 2, math.nan), script(2, 1, 1), tolerance=1.0, patience=1
    )
    assert found.restarts == 0
    assert last.restarts == 1


def test_a_stuck_run_starts_afresh_when_patience_is_out() -> None:
    stuck = [5.0] * 7
    slow = [5 * 0.995**n for n in range(7)]
    steady = [5 * 0.98**n for n in range(7)]
    late = [5, 5, 4, 4, 3, 3, 2]
    victims = [script(*distances) for distances in (stuck, slow, steady, late)]
    found, log = run_script(*victims, patience=2)
    assert [answer.restarts for answer in found] == [2, 2, 0, 0]
    assert [answer.steps for answer in found] == [7, 7, 7, 7]
    assert [step.age[0].item() for step in log] == [0, 1, 2, 0, 1, 2, 0]
    assert [answer.restarts for answer in run_script(*victims)[0]] == [0, 0, 0, 0]


def test_patience_begins_anew_with_each_start() -> None:
    """What the first start reached does not count against the second."""
    (found,), _ = run_script(script(1, math.nan, 9, 8, 7, 6, 5), patience=2)
    assert found.restarts == 1


def test_a_run_whose_optimiser_stalls_starts_afresh() -> None:
    class Stalling(Walk):
        def step(
            self, variables: Tensor, gradient: Tensor, state: State, factor: Tensor, number: int
        ) -> tuple[Tensor, State, Tensor]:
            moved, state, _ = super().step(variables, gradient, state, factor, number)
            return moved, state, state["age"] == 3

    (found,), _ = run_script(script(*range(10, 0, -1)), optimiser=Stalling())
    assert found.restarts == 3
    assert found.steps == 10


def test_of_several_runs_the_one_of_least_distance_counts_whatever_the_prior() -> None:
    images: list[Tensor] = []

    def distance(gradients: Gradients, target: Gradients) -> Tensor:
        by_run = torch.tensor([3.0, 1.0, 2.0, 5.0, 6.0, 4.0]).double()
        return by_run / (1 + len(images)) + flat(gradients)

    def prior(iterate: Iterate) -> Tensor:
        images.append(iterate.images.detach())
        return torch.tensor([0.0, 100.0, 0.0, 0.0, 0.0, 100.0]) + flat({"": iterate.images})

    found, _ = run_script(
        script(0, 0, 0), script(0, 0, 0, seed=1), runs=3, distance=distance, prior=prior
    )
    for answer, best, loss in zip(found, (1, 5), (1 / 3, 4 / 3), strict=True):
        assert answer.loss == pytest.approx(loss)
        assert torch.equal(answer.images, images[2][best])
        assert answer.steps == 9
    starts = images[0].flatten(1)
    assert torch.cdist(starts, starts).add(torch.eye(6)).min() > 0.5


def test_diverged_is_said_of_the_run_that_counts() -> None:
    evaluation = count()

    def distance(gradients: Gradients, target: Gradients) -> Tensor:
        by_evaluation = torch.tensor([[5.0, 1.0], [4.0, 2.0]]).double()
        return by_evaluation[next(evaluation)] + flat(gradients)

    (found,), _ = run_script(script(0, 0), runs=2, distance=distance)
    assert found.loss == 1
    assert found.diverged


def test_a_run_that_converged_wins_over_runs_that_diverged() -> None:
    def distance(gradients: Gradients, target: Gradients) -> Tensor:
        by_run = torch.tensor([math.nan, 1.0, math.nan]).double()
        return (by_run if len(next(iter(target.values()))) == 3 else by_run[::2]) + flat(gradients)

    (found,), _ = run_script(script(0, 0, 0), runs=3, distance=distance, tolerance=1.0)
    assert found.loss == 1
    assert found.steps == 3 + 1 + 3
    assert found.restarts == 2 + 0 + 2
    assert not found.diverged
