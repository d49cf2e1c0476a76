"""Optimisers over many runs at once move each run as PyTorch's move it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from leakbench.attacks.matching.distance import squared_error
from leakbench.attacks.matching.dummy_gradients import dummy_gradients
from leakbench.attacks.matching.optimisers import LBFGS, Adam, Optimiser, State
from leakbench.attacks.matching.schedules import (
    Schedule,
    constant,
    cosine_decay,
    step_decay,
    warm_cosine_decay,
)
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.shared_model import SharedModel

Function = Callable[[Tensor], Tensor]
"""Variables, shape (n,), to a value."""

Gradient = Callable[[Tensor], Tensor]
"""Variables of all runs, shape (R, n), to their gradients."""

N = 60
EVALUATIONS = 64


def bowl(conditioning: float, extra: Function) -> Function:
    """A rotated quadratic whose curvatures span `conditioning` decades, plus something."""
    turn = torch.linalg.qr(
        torch.randn(N, N, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    )[0]
    curvatures = torch.logspace(0, conditioning, N, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return (0.5 * curvatures * (turn @ x).square()).sum() + extra(x)

    return function


def rounded(x: Tensor) -> Tensor:
    return x.cosh().log().sum()


def quartic(x: Tensor) -> Tensor:
    return 0.1 * x.pow(4).sum()


def ripples(x: Tensor) -> Tensor:
    return 1.5 * x.cos().sum()


SLOW = [bowl(3, rounded), bowl(3, quartic), bowl(3, ripples), bowl(2, ripples)]
"""Functions on which L-BFGS without line search still moves after `EVALUATIONS`, in order."""


def starts(count: int, size: int = N) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def gradient_of(functions: Sequence[Function]) -> Gradient:
    def gradient(variables: Tensor) -> Tensor:
        leaf = variables.clone().requires_grad_()
        values = [function(row) for function, row in zip(functions, leaf, strict=True)]
        return torch.autograd.grad(torch.stack(values).sum(), leaf)[0]

    return gradient


def trajectory(
    optimiser: Optimiser,
    gradient: Gradient,
    variables: Tensor,
    steps: int,
    schedule: Schedule = constant,
) -> tuple[Tensor, Tensor]:
    """The points at which gradients are taken, (steps, R, n), and stalls, (steps, R)."""
    state = optimiser.begin(variables, steps)
    points, stalls = [], []
    for number in range(steps):
        points.append(variables)
        factor = schedule(torch.full((len(variables), 1), number / steps))
        variables, state, stalled = optimiser.step(
            variables, gradient(variables), state, factor, number
        )
        stalls.append(stalled)
    return torch.stack(points), torch.stack(stalls)


def torch_trajectory(
    build: Callable[[list[Tensor]], torch.optim.Optimizer],
    function: Function,
    start: Tensor,
    steps: int,
    schedule: Schedule | None = None,
    sign: bool = False,
) -> Tensor:
    """The points at which PyTorch takes gradients, (steps, n), each counted once."""
    x = start.clone().requires_grad_()
    optimiser = build([x])
    rate = optimiser.param_groups[0]["lr"]
    points: list[Tensor] = []

    def closure() -> Tensor:
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x)
        x.grad = gradient.sign() if sign else gradient
        # A step of torch's L-BFGS that ends early begins the next with the same point again.
        if not points or not torch.equal(points[-1], x):
            points.append(x.detach().clone())
        return value

    for _ in range(steps):
        if schedule is not None:
            done = torch.tensor([[len(points) / steps]])
            optimiser.param_groups[0]["lr"] = rate * schedule(done).item()
        optimiser.step(closure)
        if len(points) >= steps:
            break
    return torch.stack(points[:steps])


def assert_same_trajectories(found: Tensor, expected: Sequence[Tensor]) -> None:
    """Equal up to the rounding that some dozens of steps multiply, and not standing still."""
    for run, points in enumerate(expected):
        assert len(points) == len(found)
        assert not torch.allclose(points[-1], points[-2], rtol=1e-6, atol=0)
        torch.testing.assert_close(found[:, run], points, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", [constant, cosine_decay, step_decay, warm_cosine_decay(0.3)])
@pytest.mark.parametrize("signed", [False, True])
def test_adam_moves_each_run_as_torch_does(signed: bool, schedule: Schedule) -> None:
    found, stalls = trajectory(
        Adam(0.1, signed=signed), gradient_of(SLOW), starts(len(SLOW)), 40, schedule
    )
    for run, (function, start) in enumerate(zip(SLOW, starts(len(SLOW)), strict=True)):
        expected = torch_trajectory(
            lambda variables: torch.optim.Adam(variables, lr=0.1),
            function,
            start,
            40,
            schedule,
            sign=signed,
        )
        torch.testing.assert_close(found[:, run], expected, rtol=1e-6, atol=1e-6)
    assert not stalls.any()


def test_adam_in_single_precision_moves_as_torch_does() -> None:
    flat: Function = lambda x: (x.pow(4) / 4 + x.cos()).sum()  # noqa: E731
    begin = starts(2).float()
    found, _ = trajectory(Adam(0.01), gradient_of([flat, flat]), begin, 60)
    for run in range(2):
        expected = torch_trajectory(
            lambda variables: torch.optim.Adam(variables, lr=0.01), flat, begin[run], 60
        )
        torch.testing.assert_close(found[:, run], expected, rtol=1e-3, atol=1e-4)


def test_adam_s_first_step_has_the_length_of_the_learning_rate() -> None:
    gradient = torch.tensor([[1e-3, -40.0, 0.0]])
    for signed in (False, True):
        adam = Adam(0.25, signed=signed)
        moved, _, _ = adam.step(
            torch.zeros(1, 3), gradient, adam.begin(gradient, 9), torch.tensor([[0.5]]), 0
        )
        expected = torch.tensor([[-0.125, 0.125, 0.0]])
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("history", [100, 5])
def test_lbfgs_moves_each_run_as_torch_does(history: int) -> None:
    begin = starts(len(SLOW))
    found, stalls = trajectory(LBFGS(history=history), gradient_of(SLOW), begin, EVALUATIONS)
    expected = [
        torch_trajectory(
            lambda variables: torch.optim.LBFGS(variables, history_size=history),
            function,
            start,
            EVALUATIONS,
        )
        for function, start in zip(SLOW, begin, strict=True)
    ]
    assert_same_trajectories(found, expected)
    assert not stalls.any()


def test_a_short_history_of_lbfgs_moves_otherwise_than_a_long_one() -> None:
    """Or the test above would not see what an overflowing history does."""
    long, short = (
        trajectory(LBFGS(history=history), gradient_of(SLOW), starts(len(SLOW)), 20)[0]
        for history in (100, 5)
    )
    torch.testing.assert_close(long[:7], short[:7])
    assert ((long[-1] - short[-1]).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("learning_rate", [0.3, 1.0])
def test_lbfgs_multiplies_its_moves_by_learning_rate_and_schedule(learning_rate: float) -> None:
    schedule = warm_cosine_decay(0.2)
    found, _ = trajectory(LBFGS(learning_rate), gradient_of(SLOW), starts(len(SLOW)), 30, schedule)
    for run, (function, start) in enumerate(zip(SLOW, starts(len(SLOW)), strict=True)):
        expected = torch_trajectory(
            # One iteration a step, so that the rate can be set for each.
            lambda variables: torch.optim.LBFGS(variables, lr=learning_rate, max_iter=1),
            function,
            start,
            30,
            schedule,
        )
        torch.testing.assert_close(found[:, run], expected, rtol=1e-6, atol=1e-7)


def test_lbfgs_leaves_out_pairs_of_negative_curvature_as_torch_does() -> None:
    """Between the two wells of (x² − 1)² the curvature is negative."""
    weights = torch.linspace(1, 3, 6, dtype=torch.float64)
    wells: Function = lambda x: (weights * (x.square() - 1).square()).sum() / 4  # noqa: E731
    start = 0.1 * starts(1, size=6)[0]
    gradient = gradient_of([wells])
    found, _ = trajectory(LBFGS(), gradient, start[None], 12)
    gradients = torch.stack([gradient(points) for points in found])
    curvatures = torch.linalg.vecdot(found.diff(dim=0), gradients.diff(dim=0))
    assert (curvatures < -1e-3).any()
    assert (curvatures > 1e-3).any()
    expected = torch_trajectory(torch.optim.LBFGS, wells, start, 12)
    assert_same_trajectories(found, [expected])


def lenet() -> SharedModel:
    torch.manual_seed(0)
    return LeNet().build(5, 16, "convolutions").double()


def test_lbfgs_moves_each_run_of_dlg_as_torch_does() -> None:
    """DLG of Zhu et al. 2019 on the sigmoid LeNet: images and soft labels together."""
    model, batch, shape = lenet(), 2, (3, 16, 16)
    pixels = batch * 3 * 16 * 16
    generator = torch.Generator().manual_seed(1)
    truths = [
        client_update(model, images, labels)
        for images, labels in (
            (
                torch.rand(batch, *shape, generator=generator, dtype=torch.float64),
                torch.randint(5, (batch,), generator=generator),
            )
            for _ in range(3)
        )
    ]
    target = {name: torch.stack([truth[name] for truth in truths]) for name in truths[0]}
    begin = torch.randn(3, pixels + batch * 5, generator=generator, dtype=torch.float64)

    def gradient(variables: Tensor) -> Tensor:
        leaf = variables.clone().requires_grad_()
        images = leaf[:, :pixels].reshape(3, batch, *shape)
        soft = leaf[:, pixels:].reshape(3, batch, 5).softmax(2)
        loss = squared_error(dummy_gradients(model, images, soft)[0], target)
        return torch.autograd.grad(loss.sum(), leaf)[0]

    def objective(truth: dict[str, Tensor]) -> Function:
        def function(x: Tensor) -> Tensor:
            parameters = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
            logits = functional_call(model, parameters, (x[:pixels].reshape(batch, *shape),))
            soft = x[pixels:].reshape(batch, 5).softmax(1)
            gradients = torch.autograd.grad(
                functional.cross_entropy(logits, soft),
                list(parameters.values()),
                create_graph=True,
            )
            differences = zip(gradients, truth.values(), strict=True)
            return torch.stack([(g - t).square().sum() for g, t in differences]).sum()

        return function

    found, _ = trajectory(LBFGS(), gradient, begin, 60)
    expected = [
        torch_trajectory(torch.optim.LBFGS, objective(truth), start, 60)
        for truth, start in zip(truths, begin, strict=True)
    ]
    assert_same_trajectories(found, expected)


@pytest.mark.parametrize(
    ("size", "variables"), [(0.0, 4), (1e-8, 4), (1e-6, 4), (1e-4, 4), (1.0, 4), (9e-8, 10**6)]
)
def test_lbfgs_stalls_at_once_exactly_where_torch_stays_for_good(
    size: float, variables: int
) -> None:
    start = torch.full((variables,), size, dtype=torch.float64)
    x = start.clone().requires_grad_()
    peer = torch.optim.LBFGS([x], max_iter=1)
    for _ in range(3):
        x.grad = x.detach().clone()
        peer.step(lambda: x.square().sum() / 2)
    assert first_stalls(LBFGS(), start) == torch.equal(x, start)


def first_stalls(optimiser: LBFGS, gradient: Tensor) -> bool:
    """Whether a run stalls at the first step from a point of this gradient."""
    variables = gradient.new_zeros(1, len(gradient))
    state = optimiser.begin(variables, 1)
    _, _, stalled = optimiser.step(variables, gradient[None], state, gradient.new_ones(1, 1), 0)
    return bool(stalled)


def test_lbfgs_stalls_at_a_move_of_nearly_nothing() -> None:
    gradient = torch.ones(4, dtype=torch.float64)
    assert first_stalls(LBFGS(learning_rate=1e-9), gradient)
    assert not first_stalls(LBFGS(learning_rate=1e-8), gradient)


def test_lbfgs_stalls_at_the_minimum_where_torch_s_points_end() -> None:
    function, start = bowl(2, rounded), starts(1)[0]
    expected = torch_trajectory(torch.optim.LBFGS, function, start, EVALUATIONS)
    assert len(expected) < EVALUATIONS
    found, stalls = trajectory(LBFGS(), gradient_of([function]), start[None], EVALUATIONS)
    first = int(stalls[:, 0].nonzero()[0])
    assert first == len(expected) - 1
    torch.testing.assert_close(found[: first + 1, 0], expected)


def test_a_run_of_lbfgs_that_stalls_leaves_the_others_going() -> None:
    flat: Function = lambda x: (x * 0).sum()  # noqa: E731
    begin = starts(3)
    found, stalls = trajectory(LBFGS(), gradient_of([SLOW[0], flat, SLOW[1]]), begin, 12)
    assert stalls.all(0).tolist() == [False, True, False]
    assert stalls.any(0).tolist() == [False, True, False]
    assert found.isfinite().all()
    for run, function in ((0, SLOW[0]), (2, SLOW[1])):
        alone, _ = trajectory(LBFGS(), gradient_of([function]), begin[run][None], 12)
        torch.testing.assert_close(found[:, run], alone[:, 0])


OPTIMISERS = pytest.mark.parametrize(
    "optimiser", [Adam(0.1), Adam(0.1, signed=True), LBFGS(), LBFGS(history=3)], ids=repr
)


def go_on(
    optimiser: Optimiser,
    gradient: Gradient,
    variables: Tensor,
    state: State,
    numbers: range,
) -> tuple[Tensor, State]:
    for number in numbers:
        factor = variables.new_ones(len(variables), 1)
        variables, state, _ = optimiser.step(variables, gradient(variables), state, factor, number)
    return variables, state


@OPTIMISERS
def test_runs_that_are_dropped_leave_the_others_as_they_are(optimiser: Optimiser) -> None:
    begin, kept = starts(4), torch.tensor([True, False, True, False])
    whole, _ = go_on(optimiser, gradient_of(SLOW), begin, optimiser.begin(begin, 20), range(15))
    some, state = go_on(optimiser, gradient_of(SLOW), begin, optimiser.begin(begin, 20), range(7))
    rest, _ = go_on(
        optimiser,
        gradient_of([SLOW[0], SLOW[2]]),
        some[kept],
        {key: value[kept] for key, value in state.items()},
        range(7, 15),
    )
    assert (rest != some[kept]).any(1).all()
    torch.testing.assert_close(rest, whole[kept])


@OPTIMISERS
def test_runs_that_start_afresh_forget_and_leave_the_others_as_they_are(
    optimiser: Optimiser,
) -> None:
    begin, lost = starts(8)[:4], torch.tensor([False, True, False, True])
    anew = torch.where(lost[:, None], starts(8)[4:], begin)
    whole, _ = go_on(optimiser, gradient_of(SLOW), begin, optimiser.begin(begin, 20), range(15))
    fresh, _ = go_on(optimiser, gradient_of(SLOW), anew, optimiser.begin(anew, 20), range(8))
    found, state = go_on(optimiser, gradient_of(SLOW), begin, optimiser.begin(begin, 20), range(7))
    found = torch.where(lost[:, None], anew, found)
    state = {
        key: torch.where(lost.view(-1, *[1] * (old.ndim - 1)), new, old)
        for (key, old), new in zip(state.items(), optimiser.begin(found, 20).values(), strict=True)
    }
    found, _ = go_on(optimiser, gradient_of(SLOW), found, state, range(7, 15))
    torch.testing.assert_close(found, torch.where(lost[:, None], fresh, whole))


@OPTIMISERS
def test_what_is_stepped_from_is_left_as_it_was(optimiser: Optimiser) -> None:
    variables = starts(4)
    gradient = gradient_of(SLOW)(variables)
    before = variables.clone(), gradient.clone()
    optimiser.step(variables, gradient, optimiser.begin(variables, 5), torch.ones(4, 1).double(), 0)
    assert torch.equal(variables, before[0])
    assert torch.equal(gradient, before[1])
