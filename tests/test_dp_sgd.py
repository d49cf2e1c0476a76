"""DP-SGD in closed form, and its ε."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from clients import assert_close, client, defense, flat, sent, small_model
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Update, gradient


def of_each(of: Client) -> list[Update]:
    """The gradient of each individual alone."""
    return [
        gradient(replace(of, images=image[None], labels=label[None]))
        for image, label in zip(of.images, of.labels, strict=True)
    ]


def test_dp_sgd_is_the_mean_of_each_individual_s_clipped_gradient() -> None:
    each = torch.stack([flat(alone) for alone in of_each(client(5))])
    norms = each.norm(dim=1)
    clip = norms.median().item()
    expected = (each * (clip / norms).clamp_max(1)[:, None]).mean(0)
    torch.testing.assert_close(
        flat(sent(client(5), "dp_sgd", clip=clip, noise=0.0)), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("individuals", [1, 6])
def test_dp_sgd_that_clips_nothing_is_the_plain_gradient(individuals: int) -> None:
    update = sent(client(individuals), "dp_sgd", clip=1e6, noise=0.0)
    assert_close(update, gradient(client(individuals)))


def test_dp_sgd_s_noise_is_that_of_the_sum_over_the_number_of_individuals() -> None:
    loud, silent = (
        flat(sent(client(4, width=16), "dp_sgd", clip=0.5, noise=noise)) for noise in (3.0, 0.0)
    )
    noise = loud - silent
    assert len(noise) > 30_000
    assert noise.var().item() == pytest.approx((3.0 * 0.5 / 4) ** 2, rel=0.03)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_dp_sgd_refuses_batch_norm(mode: Any) -> None:
    of = client(2, batch_norm=True)
    with pytest.raises(UsageError, match=r"'dp_sgd' needs a model without BatchNorm.*extractor\.2"):
        sent(replace(of, model=in_mode(of.model, mode)), "dp_sgd", clip=1.0, noise=1.0)


@pytest.mark.parametrize("norm", [0.5, 1e3])
def test_dp_sgd_agrees_with_opacus_s_gradient(norm: float) -> None:
    opacus = pytest.importorskip("opacus", reason="the extra `opacus` is not installed")
    from opacus.optimizers import DPOptimizer

    of = client(5)
    model = opacus.GradSampleModule(small_model().train())
    for parameter in model.parameters():
        parameter.requires_grad_()
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=norm,
        expected_batch_size=5,
    )
    torch.nn.functional.cross_entropy(model(of.images), of.labels).backward()
    assert optimizer.pre_step()
    theirs = {name.removeprefix("_module."): p.grad for name, p in model.named_parameters()}
    ours = sent(of, "dp_sgd", clip=norm, noise=0.0)
    assert list(theirs) == list(ours)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


def test_epsilon_is_that_of_opacus_s_accountant() -> None:
    accountants = pytest.importorskip(
        "opacus.accountants", reason="the extra `opacus` is not installed"
    )
    accountant = accountants.RDPAccountant()
    for _ in range(50):
        accountant.step(noise_multiplier=1.1, sample_rate=0.05)
    private = defense("dp_sgd", clip=1.0, noise=1.1)
    found = private.epsilon(0.05, 50, 1e-3)
    assert found == pytest.approx(accountant.get_epsilon(1e-3))
    assert defense("dp_sgd", clip=7.0, noise=1.1).epsilon(0.05, 50, 1e-3) == found
    assert defense("dp_sgd", clip=1.0, noise=0.0).epsilon(0.05, 50, 1e-3) is None
    assert defense("gaussian", sigma=1.0).epsilon(0.05, 50, 1e-3) is None


def test_n_uses_of_an_individual_per_round_cost_as_much_as_n_rounds_of_all() -> None:
    """With every individual in every batch there is no subsampling, in which the two differ."""
    pytest.importorskip("opacus", reason="the extra `opacus` is not installed")
    table = {"name": "dp_sgd", "clip": 1.0, "noise": 4.0}
    stepping = defense("composed", defenses=[table, {"name": "local_steps", "epochs": 3}])
    alone = defense("dp_sgd", clip=1.0, noise=4.0)
    assert stepping.epsilon(1.0, 10, 1e-3) == pytest.approx(alone.epsilon(1.0, 30, 1e-3))
    assert stepping.epsilon(0.1, 10, 1e-3) > alone.epsilon(0.1, 10, 1e-3)  # type: ignore[operator]


@pytest.mark.filterwarnings("error")
def test_a_meaningless_epsilon_is_found_without_a_warning() -> None:
    pytest.importorskip("opacus", reason="the extra `opacus` is not installed")
    found = defense("dp_sgd", clip=1.0, noise=0.1).epsilon(0.05, 50, 1e-3)
    assert found is not None
    assert found > 100


def test_without_opacus_there_is_no_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leakbench.federation.defenses.dp_sgd.find_spec", lambda name: None)
    assert defense("dp_sgd", clip=1.0, noise=1.1).epsilon(0.05, 50, 1e-3) is None
