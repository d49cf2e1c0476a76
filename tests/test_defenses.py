"""What noise and clipping do to an update, and which parameters each defense refuses."""

from __future__ import annotations

from math import pi
from typing import Any

import pytest
import torch

from clients import assert_equal, client, constant_update, defense, flat, sent
from leakbench.base.errors import UsageError
from leakbench.federation.client import gradient


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gaussian", {"sigma": 0.0}),
        ("laplace", {"sigma": 0.0}),
        ("sparsify", {"fraction": 1.0}),
        ("sparsify", {"fraction": 1.0, "choice": "random", "scope": "global"}),
        ("local_steps", {}),
        ("local_steps", {"batch": 9}),
        ("secure_aggregation", {"of": 1}),
        ("clip", {"norm": 1e6}),
        (
            "composed",
            {"defenses": [{"name": "gaussian", "sigma": 0}, {"name": "local_steps"}][::-1]},
        ),
    ],
)
def test_a_defense_that_changes_nothing_gives_the_gradient_bit_for_bit(
    name: str, parameters: dict[str, Any]
) -> None:
    assert_equal(sent(client(3), name, **parameters), gradient(client(3)))


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_noise_has_the_asked_variance(name: str) -> None:
    noise = defense(name, sigma=0.3).protect(constant_update(torch.zeros(400_000)))(client(1))["w"]
    assert noise.mean().item() == pytest.approx(0, abs=0.003)
    assert noise.var().item() == pytest.approx(0.09, rel=0.02)
    # The mean magnitude tells the two from each other.
    magnitude = 0.3 * {"gaussian": (2 / pi) ** 0.5, "laplace": 0.5**0.5}[name]
    assert noise.abs().mean().item() == pytest.approx(magnitude, rel=0.01)


def test_clipping_scales_a_long_update_and_leaves_a_short_one() -> None:
    plain = flat(gradient(client(3)))
    clipped = flat(sent(client(3), "clip", norm=0.25 * plain.norm().item()))
    torch.testing.assert_close(clipped, 0.25 * plain)
    shorter = flat(sent(client(3), "clip", norm=2 * plain.norm().item()))
    assert torch.equal(shorter, plain)


def test_clipping_s_surrogate_clips_each_run_and_has_a_gradient() -> None:
    runs = {"w": torch.tensor([[3.0, 0.0], [0.3, 0.4]]), "b": torch.tensor([[4.0], [0.0]])}
    runs["w"].requires_grad_()
    clipped = defense("clip", norm=1.0).surrogate(runs)
    torch.testing.assert_close(clipped["w"], torch.tensor([[0.6, 0.0], [0.3, 0.4]]))
    torch.testing.assert_close(clipped["b"], torch.tensor([[0.8], [0.0]]))
    clipped["w"].sum().backward()
    assert runs["w"].grad is not None


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gaussian", {"sigma": -1}, r"'gaussian': sigma: .*greater than or equal to 0 \(got -1\)"),
        ("laplace", {"sigma": -0.1}, r"'laplace': sigma: .*\(got -0\.1\)"),
        ("gaussian", {}, r"'gaussian': key 'sigma' is missing"),
        ("sparsify", {"fraction": 0}, r"'sparsify': fraction: .*greater than 0 \(got 0\)"),
        ("sparsify", {"fraction": 1.1}, r"'sparsify': fraction: .*less than .*1 \(got 1\.1\)"),
        ("sparsify", {"fraction": 0.5, "choice": "first"}, r"choice: .*'largest'.*'first'"),
        ("soteria", {"fraction": 0.0}, r"'soteria': fraction: .*\(got 0\.0\)"),
        ("soteria", {"fraction": 2.0}, r"'soteria': fraction: .*\(got 2\.0\)"),
        ("quantise", {"bits": 0}, r"'quantise': bits: .*greater than or equal to 1 \(got 0\)"),
        ("dp_sgd", {"clip": 0, "noise": 1}, r"'dp_sgd': clip: .*greater than 0 \(got 0\)"),
        ("dp_sgd", {"clip": 1, "noise": -1}, r"'dp_sgd': noise: .*\(got -1\)"),
        ("clip", {"norm": 0}, r"'clip': norm: .*\(got 0\)"),
        ("local_steps", {"epochs": 0}, r"'local_steps': epochs: .*\(got 0\)"),
        ("local_steps", {"batch": 0}, r"'local_steps': batch: .*\(got 0\)"),
        ("secure_aggregation", {"of": 0}, r"'secure_aggregation': of: .*\(got 0\)"),
        ("gausian", {"sigma": 1}, r"unknown defense 'gausian'; did you mean gaussian"),
    ],
)
def test_a_parameter_that_does_not_fit_is_one_sentence(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        defense(name, **parameters)
    assert "\n" not in str(caught.value)
