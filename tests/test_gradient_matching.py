"""The engine of gradient matching: what each run is given, keeps, loses and hands back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import count, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from leakbench.attacks.matching import memory
from leakbench.attacks.matching.distance import Gradients, cosine_distance, squared_error
from leakbench.attacks.matching.dummy_gradients import dummy_gradients
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.method import (
    CENTRED,
    RAW,
    Iterate,
    Method,
    PixelRange,
    Reconstruction,
    Victim,
)
from leakbench.attacks.matching.optimisers import LBFGS, Adam, Optimiser, State
from leakbench.attacks.matching.schedules import cosine_decay
from leakbench.base.choices import Mode
from leakbench.federation.batch_norm import batch_norm_layers, batch_statistics, in_mode
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.resnet18 import ResNet18
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Architecture, SharedModel

CLASSES = 4
IMAGE = (3, 16, 16)
PIXELS = 3 * 16 * 16


def built(architecture: Architecture) -> SharedModel:
    """A model in double precision whose BatchNorm layers have seen some images."""
    torch.manual_seed(0)
    model = architecture.build(CLASSES, 16, "convolutions").double()
    for _ in range(3):
        model(torch.rand(8, *IMAGE, dtype=torch.float64))
    return model.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


# Dummy gradients

MODELS = [
    (LeNet(), "eval"),
    (SmallCNN(width=4), "eval"),
    (SmallCNN(width=4, pooling="max"), "eval"),
    (SmallCNN(width=4, batch_norm=True), "eval"),
    (SmallCNN(width=4, batch_norm=True), "train"),
    (ResNet18(), "eval"),
    (ResNet18(), "train"),
]


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


# The engine, with methods made by hand


@dataclass(frozen=True)
class Walk(Optimiser):
    """Moves every variable by `pace` times the factor, whatever the gradient; keeps a log."""

    pace: float | Tensor = 0.01
    log: list[Step] = field(default_factory=list)

    def begin(self, variables: Tensor, steps: int) -> State:
        return {"age": variables.new_zeros(len(variables))}

    def step(
        self, variables: Tensor, gradient: Tensor, state: State, factor: Tensor, number: int
    ) -> tuple[Tensor, State, Tensor]:
        self.log.append(Step(variables, gradient, factor.flatten().tolist(), number, state["age"]))
        stalled = torch.zeros(len(variables), dtype=torch.bool)
        return variables + self.pace * factor, {"age": state["age"] + 1}, stalled


@dataclass(frozen=True)
class Step:
    variables: Tensor
    gradient: Tensor
    factor: list[float]
    number: int
    age: Tensor


@dataclass(frozen=True)
class Logged(Adam):
    """Adam that keeps the variables and gradients it is given."""

    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def step(
        self, variables: Tensor, gradient: Tensor, state: State, factor: Tensor, number: int
    ) -> tuple[Tensor, State, Tensor]:
        self.seen.append((variables, gradient))
        return super().step(variables, gradient, state, factor, number)


def uniform(victim: Victim, generator: torch.Generator) -> Tensor:
    return torch.rand(victim.batch_size, *IMAGE, generator=generator, dtype=torch.float64)


def flat(gradients: Gradients) -> Tensor:
    """Zero for each run, but a function of its gradients."""
    return 0 * next(reversed(gradients.values())).flatten(1).sum(1)


def scripted() -> Callable[[Gradients, Gradients], Tensor]:
    """A distance that each victim's `update` says in advance, evaluation by evaluation."""
    evaluation = count()

    def distance(gradients: Gradients, target: Gradients) -> Tensor:
        return target["script"][:, next(evaluation)] + flat(gradients)

    return distance


def script(*distances: float, seed: int = 0) -> Victim:
    return Victim({"script": torch.tensor(distances).double()}, torch.tensor([0]), 1, seed)


def run(method: Method, *victims: Victim, model: SharedModel | None = None) -> list[Reconstruction]:
    return match_gradients(
        model or built(LeNet()), method, victims, CLASSES, progress=lambda share: None
    )


def run_script(
    *victims: Victim, optimiser: Walk | None = None, **how: Any
) -> tuple[list[Reconstruction], list[Step]]:
    """Run victims whose update is a script; return the answers and each evaluation's step."""
    method = Method(
        distance=scripted(),
        optimiser=optimiser or Walk(),
        start=uniform,
        steps=len(victims[0].update["script"]),
        projected=0,
    )
    method = replace(method, **how)
    return run(method, *victims), method.optimiser.log


def innermost(images: Tensor) -> Tensor:
    """Images (..., 3, size, size) as variables have them: flat, channels innermost."""
    return images.movedim(-3, -1).flatten()


def assert_images(found: Reconstruction, variables: Tensor) -> None:
    assert torch.equal(innermost(found.images), variables[: found.images.numel()])


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
    found = run(method, *victims, model=model)
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


# Moves of the images


def standing_still(gradients: Gradients, target: Gradients) -> Tensor:
    return 1 + flat(gradients)


@pytest.mark.parametrize("learning_rate", [1e-3, 10.0])
def test_noise_is_added_to_the_images_after_adam_and_scaled_by_the_schedule(
    learning_rate: float,
) -> None:
    states: dict[int, Tensor] = {}

    def start(victim: Victim, generator: torch.Generator) -> Tensor:
        images = uniform(victim, generator)
        states[victim.seed] = generator.get_state()
        return images

    adam = Logged(learning_rate)
    method = Method(
        standing_still, adam, start, steps=5, schedule=cosine_decay, noise=0.3, projected=0
    )
    update = {"": torch.ones(1)}
    victims = [Victim(update, torch.tensor([0, 1]), 2, seed) for seed in (7, 8)]
    run(method, *victims)
    for row, victim in enumerate(victims):
        generator = torch.Generator()
        generator.set_state(states[victim.seed])
        for number, (before, after) in enumerate(pairwise(adam.seen)):
            drawn = innermost(torch.randn(2, *IMAGE, generator=generator).double())
            factor = (1 + math.cos(math.pi * number / 5)) / 2
            torch.testing.assert_close(
                after[0][row] - before[0][row], 0.3 * factor * drawn, rtol=1e-5, atol=1e-6
            )
    assert not any(gradient.any() for _, gradient in adam.seen)


def test_noise_leaves_label_logits_alone() -> None:
    victim = replace(script(3, 2, 1), labels=None)
    _, log = run_script(victim, noise=0.3, optimiser=Walk(0.0))
    before, after = log[0].variables[0], log[2].variables[0]
    assert before[PIXELS:].numel() == CLASSES
    assert torch.equal(before[PIXELS:], after[PIXELS:])
    assert (before != after)[:PIXELS].all()


@pytest.mark.parametrize("pixels", [RAW, CENTRED, PixelRange(-2.0, 3.0)])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_projection_keeps_images_in_the_pixel_range(noise: float, pixels: PixelRange) -> None:
    walk = Walk(torch.linspace(-4, 4, PIXELS).double())
    (found,), log = run_script(
        script(4, 3, 2, 1), optimiser=walk, noise=noise, pixels=pixels, projected=math.inf
    )
    for step in log[1:]:
        assert step.variables.min() == pixels.low
        assert step.variables.max() == pixels.high
    assert found.images.min() == 0
    assert found.images.max() == 1


@pytest.mark.parametrize("pixels", [RAW, CENTRED])
def test_a_projected_answer_is_in_the_pixel_range_even_if_it_is_the_start(
    pixels: PixelRange,
) -> None:
    def start(victim: Victim, generator: torch.Generator) -> Tensor:
        return 3 * torch.randn(1, *IMAGE, generator=generator).double()

    (found,), log = run_script(script(1, 2), start=start, pixels=pixels, projected=math.inf)
    expected = pixels.to_pixels(log[0].variables[0]).clamp(0, 1)
    torch.testing.assert_close(innermost(found.images), expected)
    assert found.images.max() == 1


def test_without_projection_images_leave_the_pixel_range() -> None:
    pace = torch.linspace(-4, 4, PIXELS).double()
    (found,), log = run_script(script(4, 3, 2, 1), optimiser=Walk(pace))
    torch.testing.assert_close(log[3].variables, log[0].variables + 3 * pace)
    assert found.images.min() < -10
    assert found.images.max() > 10


def test_projection_ends_after_the_evaluations_given_and_begins_again_with_a_fresh_start() -> None:
    _, log = run_script(script(9, 8, 7, math.nan, 5, 4, 3), optimiser=Walk(5.0), projected=2)
    # What evaluation n sees has been moved n times since the start.
    inside = [bool(step.variables.max() == 1) for step in log]
    assert inside == [False, True, True, False, False, True, True]
    assert log[3].variables.min() > 5


def test_projection_leaves_label_logits_alone() -> None:
    victim = replace(script(4, 3, 2, 1), labels=None)
    _, log = run_script(victim, optimiser=Walk(5.0), projected=math.inf)
    logits = [step.variables[0, PIXELS:] for step in log]
    torch.testing.assert_close(logits[3], logits[0] + 15)


@pytest.mark.parametrize("pixels", [RAW, CENTRED])
def test_the_loss_is_the_distance_of_the_update_that_the_answer_makes(pixels: PixelRange) -> None:
    model = built(SmallCNN(width=4))
    labels = torch.tensor([0, 2, 2])
    update = client_update(model, draw(3, *IMAGE), labels)
    method = Method(cosine_distance, Adam(0.05), uniform, steps=8, pixels=pixels)
    (found,) = run(method, Victim(update, labels, 3, 0), model=model)
    again = client_update(model, found.images, found.labels)
    expected = cosine_distance(
        {n: g[None] for n, g in again.items()}, {n: g[None] for n, g in update.items()}
    )
    assert found.loss == pytest.approx(expected.item())
    assert found.labels.tolist() == [0, 2, 2]
    assert not found.diverged


# What a prior sees


def test_a_prior_sees_each_run_s_images_share_victim_and_statistics() -> None:
    model = built(SmallCNN(width=4, batch_norm=True))
    iterates: list[Iterate] = []

    def prior(iterate: Iterate) -> Tensor:
        iterates.append(iterate)
        return (iterate.images - 0.25).square().flatten(1).sum(1) / 2

    scripts = [script(5, 4, 3, 2), script(5, 1, 1, 1, seed=1), script(5, 4, 3, 2, seed=2)]
    layers = batch_norm_layers(model)
    victims = [
        replace(
            victim,
            labels=torch.tensor([0, 1]),
            batch_size=2,
            statistics={
                name: (draw(layer.num_features, seed=n), draw(layer.num_features, seed=n + 9))
                for name, layer in layers.items()
            },
        )
        for n, victim in enumerate(scripts)
    ]
    walk = Walk()
    method = Method(
        scripted(), walk, uniform, steps=4, prior=prior, pixels=CENTRED, tolerance=1.0, runs=2
    )
    run(method, *victims, model=model)
    assert [i.victim.tolist() for i in iterates] == [[0, 0, 1, 1, 2, 2]] * 2 + [[0, 0, 2, 2]] * 2
    for number, (iterate, step) in enumerate(zip(iterates, walk.log, strict=True)):
        assert iterate.done.tolist() == [number / 4] * len(iterate.victim)
        assert torch.equal(torch.stack([innermost(x) for x in iterate.images]), step.variables)
        torch.testing.assert_close(step.gradient, step.variables - 0.25)
        for row, victim in enumerate(iterate.victim.tolist()):
            true = batch_statistics(model, CENTRED.to_pixels(iterate.images[row].detach()))
            for layer in layers:
                for part in (0, 1):
                    torch.testing.assert_close(
                        iterate.statistics[layer][part][row], true[layer][part]
                    )
                    assert torch.equal(
                        iterate.target_statistics[layer][part][row],
                        victims[victim].statistics[layer][part],
                    )


def test_a_prior_gets_no_statistics_where_the_victim_s_are_not_known() -> None:
    seen: list[Iterate] = []

    def prior(iterate: Iterate) -> Tensor:
        seen.append(iterate)
        return flat({"": iterate.images})

    run(
        Method(scripted(), Walk(), uniform, steps=1, prior=prior),
        script(1),
        model=built(SmallCNN(width=4, batch_norm=True)),
    )
    assert seen[0].statistics == {}
    assert seen[0].target_statistics == {}


# Labels


def test_joint_labels_are_those_of_the_best_iterate_s_logits_one_for_each_individual() -> None:
    batch = 3
    towards = torch.zeros(batch, CLASSES).double()
    towards[[0, 1, 2], [2, 0, 3]] = 10.0
    pace = torch.cat([torch.zeros(batch * PIXELS).double(), towards.flatten()])
    for best in (0, 2):
        distances = [5.0] * 4
        distances[best] = 1.0
        victim = replace(script(*distances), labels=None, batch_size=batch)
        (found,), log = run_script(victim, optimiser=Walk(pace))
        logits = [step.variables[0, batch * PIXELS :].reshape(batch, CLASSES) for step in log]
        assert torch.cdist(logits[0], logits[0]).add(10 * torch.eye(batch)).min() > 0.1
        assert found.labels.tolist() == logits[best].argmax(1).tolist()
    assert found.labels.tolist() == [2, 0, 3]
    assert logits[0].argmax(1).tolist() != [2, 0, 3]


def test_joint_labels_are_the_soft_labels_of_the_cross_entropy() -> None:
    """Each individual's logits have the gradient of their own softmax."""
    model, walk = built(LeNet()), Walk()
    update = client_update(model, draw(2, *IMAGE), torch.tensor([1, 3]))
    method = Method(squared_error, walk, uniform, steps=1)
    run(method, Victim(update, None, 2, 0), model=model)
    leaf = walk.log[0].variables[0].clone().requires_grad_()
    images = leaf[: 2 * PIXELS].reshape(2, *IMAGE[1:], IMAGE[0]).movedim(-1, 1)
    logits = leaf[2 * PIXELS :].reshape(2, CLASSES)
    parameters = list(model.parameters())
    loss = functional.cross_entropy(model(images), logits.softmax(1))
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    differences = zip(gradients, update.values(), strict=True)
    distance = torch.stack([(g - u).square().sum() for g, u in differences]).sum()
    (expected,) = torch.autograd.grad(distance, leaf)
    torch.testing.assert_close(walk.log[0].gradient[0], expected)
    of_labels = expected[2 * PIXELS :].reshape(2, CLASSES)
    assert of_labels.abs().amax(1).min() > 1e-6
    assert (of_labels[0] - of_labels[1]).norm() > 0.1 * of_labels[0].norm()


def test_joint_labels_of_one_individual_are_found_from_any_start() -> None:
    model = built(SmallCNN(width=4))
    victims = [
        Victim(client_update(model, draw(1, *IMAGE, seed=n), torch.tensor([n])), None, 1, n)
        for n in range(CLASSES)
    ]
    adam = Logged(0.1)
    method = Method(cosine_distance, adam, uniform, steps=60)
    found = run(method, *victims, model=model)
    assert [answer.labels.tolist() for answer in found] == [[n] for n in range(CLASSES)]
    begun = adam.seen[0][0][:, PIXELS:].argmax(1).tolist()
    assert begun != list(range(CLASSES))


# Victims side by side


def overflowing_at_first(victim: Victim, generator: torch.Generator) -> Tensor:
    """Half of the starts overflow."""
    images = uniform(victim, generator)
    return images / 0 if images[0, 0, 0, 0] < 0.5 else images


def victims_of(model: SharedModel, labels: bool) -> list[Victim]:
    truths = [(draw(2, *IMAGE, seed=n), torch.tensor([n % CLASSES, 1])) for n in range(4)]
    return [
        Victim(client_update(model, *truth), truth[1] if labels else None, 2, seed)
        for seed, truth in enumerate(truths)
    ]


ADAM = Method(
    cosine_distance,
    Adam(0.05),
    overflowing_at_first,
    steps=16,
    runs=2,
    schedule=cosine_decay,
    noise=0.01,
    pixels=CENTRED,
)
L_BFGS = Method(
    squared_error,
    LBFGS(history=4),
    overflowing_at_first,
    steps=24,
    projected=0,
    patience=3,
)


def assert_same(a: Reconstruction, b: Reconstruction) -> None:
    for part in fields(Reconstruction):
        left, right = getattr(a, part.name), getattr(b, part.name)
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "labels", "tolerance"),
    [(ADAM, True, 0.0042), (ADAM, False, 0.06), (L_BFGS, True, 0.19), (L_BFGS, False, 0.3)],
    ids=["Adam, labels known", "Adam, joint", "L-BFGS, labels known", "L-BFGS, joint"],
)
def test_a_victim_s_answer_is_the_same_alone_and_among_others(
    method: Method, labels: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of these end early and some start afresh, which the others must not notice."""
    method = replace(method, tolerance=tolerance)
    model = built(LeNet())
    victims = victims_of(model, labels)
    together = run(method, *victims, model=model)
    assert len({answer.steps for answer in together}) > 1
    assert len({answer.restarts for answer in together}) > 1
    for victim, answer in zip(victims, together, strict=True):
        assert_same(run(method, victim, model=model)[0], answer)
    for a, b in zip(run(method, *reversed(victims), model=model), reversed(together), strict=True):
        assert_same(a, b)
    monkeypatch.setattr(memory, "CACHED", 1)
    for a, b in zip(run(method, *victims, model=model), together, strict=True):
        assert_same(a, b)


def test_victims_of_one_seed_start_alike_and_those_of_others_do_not() -> None:
    _, log = run_script(script(2, 1, seed=4), script(2, 1, seed=4), script(2, 1, seed=5))
    same, as_well, other = log[0].variables
    assert torch.equal(same, as_well)
    assert (same != other).all()


def test_no_victims_have_no_answers() -> None:
    shares: list[float] = []
    method = Method(scripted(), Walk(), uniform, steps=3)
    assert match_gradients(built(LeNet()), method, [], CLASSES, shares.append) == []
    assert shares == []


@pytest.mark.parametrize("cached", [memory.CACHED, 1], ids=["together", "in turn"])
def test_progress_only_grows_and_ends_at_one(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CACHED", cached)
    model, shares = built(LeNet()), []
    match_gradients(model, ADAM, victims_of(model, True), CLASSES, shares.append)
    assert all(a <= b for a, b in pairwise(shares))
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1
    assert len(shares) >= ADAM.steps - 1


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_model_and_victims_are_left_as_they_were(mode: Mode) -> None:
    shared = built(SmallCNN(width=4, batch_norm=True))
    model = in_mode(shared, mode)

    def prior(iterate: Iterate) -> Tensor:
        return sum(
            (iterate.statistics[layer][0] - mean).square().sum(1)
            for layer, (mean, _) in iterate.target_statistics.items()
        )

    victims = [
        replace(victim, statistics=batch_statistics(model, draw(2, *IMAGE, seed=seed)))
        for seed, victim in enumerate(victims_of(model, True))
    ]

    def everything() -> list[Tensor]:
        given = [t for v in victims for t in (*v.update.values(), v.labels)]
        given += [t for v in victims for pair in v.statistics.values() for t in pair]
        return [*shared.state_dict().values(), *model.state_dict().values(), *given]

    before = [tensor.clone() for tensor in everything()]
    modes = [module.training for module in model.modules()]
    run(replace(ADAM, prior=prior), *victims, model=model)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert modes == [module.training for module in model.modules()]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
