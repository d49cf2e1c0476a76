"""Facts about noise, projection, priors and joint labels in gradient matching."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.matching.distance import Gradients, cosine_distance, squared_error
from leakbench.attacks.matching.method import (
    CENTRED,
    RAW,
    Iterate,
    Method,
    PixelRange,
    Victim,
)
from leakbench.attacks.matching.optimisers import Adam, State
from leakbench.attacks.matching.schedules import cosine_decay
from leakbench.federation.batch_norm import batch_norm_layers, batch_statistics
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.small_cnn import SmallCNN
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
    scripted,
    uniform,
)


@dataclass(frozen=True)
class Logged(Adam):
    """Adam that keeps the variables and gradients it is given."""

    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def step(
        self, variables: Tensor, gradient: Tensor, state: State, factor: Tensor, number: int
    ) -> tuple[Tensor, State, Tensor]:
        self.seen.append((variables, gradient))
        return super().step(variables, gradient, state, factor, number)


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
    run_method(method, *victims)
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
    (found,) = run_method(method, Victim(update, labels, 3, 0), model=model)
    again = client_update(model, found.images, found.labels)
    expected = cosine_distance(
        {n: g[None] for n, g in again.items()}, {n: g[None] for n, g in update.items()}
    )
    assert found.loss == pytest.approx(expected.item())
    assert found.labels.tolist() == [0, 2, 2]
    assert not found.diverged


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
    run_method(method, *victims, model=model)
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

    run_method(
        Method(scripted(), Walk(), uniform, steps=1, prior=prior),
        script(1),
        model=built(SmallCNN(width=4, batch_norm=True)),
    )
    assert seen[0].statistics == {}
    assert seen[0].target_statistics == {}


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
    run_method(method, Victim(update, None, 2, 0), model=model)
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
    found = run_method(method, *victims, model=model)
    assert [answer.labels.tolist() for answer in found] == [[n] for n in range(CLASSES)]
    begun = adam.seen[0][0][:, PIXELS:].argmax(1).tolist()
    assert begun != list(range(CLASSES))
