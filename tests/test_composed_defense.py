"""Defenses one after another: their order, their combined effect, and invalid orders."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clients import client, flat
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import DEFENSES
from leakbench.federation.client import gradient
from leakbench.federation.defense import Defense

GAUSSIAN = {"name": "gaussian", "sigma": 0.1}
SPARSE = {"name": "sparsify", "fraction": 0.1}
PRIVATE = {"name": "dp_sgd", "clip": 1.0, "noise": 1.0}
SOTERIA = {"name": "soteria", "fraction": 0.5}
STEPS = {"name": "local_steps", "epochs": 2, "batch": 2}
SUM = {"name": "secure_aggregation", "of": 4}


def composed(*defenses: dict[str, Any]) -> Defense:
    built: Defense = build(DEFENSES, "composed", {"defenses": list(defenses)})
    return built


def test_defenses_apply_in_the_order_given() -> None:
    zeros = {
        order: int((flat(composed(*order_of(order)).protect(gradient)(client(2))) == 0).sum())
        for order in ("sparse first", "noise first")
    }
    assert zeros["sparse first"] == 0
    entries = len(flat(gradient(client(2))))
    assert zeros["noise first"] == pytest.approx(0.9 * entries, rel=0.01)


def order_of(name: str) -> list[dict[str, Any]]:
    return [SPARSE, GAUSSIAN] if name == "sparse first" else [GAUSSIAN, SPARSE]


def test_sparsification_and_then_noise_is_just_that() -> None:
    sparse = build(DEFENSES, "sparsify", {"fraction": 0.1}).protect(gradient)
    noisy = build(DEFENSES, "gaussian", {"sigma": 0.1}).protect(sparse)
    update = composed(SPARSE, GAUSSIAN).protect(gradient)(client(2))
    for name, value in noisy(client(2)).items():
        assert torch.equal(update[name], value)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([GAUSSIAN, PRIVATE], "'dp_sgd' cannot come after 'gaussian': it changes how a gradient"),
        ([STEPS, PRIVATE], "'dp_sgd' cannot come after 'local_steps': it changes how a gradient"),
        ([SUM, PRIVATE], "'dp_sgd' cannot come after 'secure_aggregation': it changes how"),
        ([PRIVATE, SOTERIA], "'soteria' cannot come after 'dp_sgd': both decide.*keep one"),
        ([SPARSE, STEPS], "'local_steps' cannot come after 'sparsify': it takes steps"),
        ([STEPS, STEPS], "'local_steps' cannot come after 'local_steps': both decide.*keep one"),
        ([SUM, GAUSSIAN], "'gaussian' cannot come after 'secure_aggregation': it changes what one"),
        ([SUM, SUM], "both decide.*keep one"),
        ([{"sigma": 0.1}], r"has no name; write \{ name = "),
        ([{"name": "composed", "defenses": [SPARSE]}], "cannot hold itself"),
        ([{"name": "gausian"}], "unknown defense 'gausian'; did you mean gaussian"),
        ([{"name": "gaussian", "sigma": -1}], r"'gaussian': sigma: .*\(got -1\)"),
        ([], "defenses: .*at least 1"),
    ],
)
def test_an_invalid_composition_is_refused_in_one_sentence(
    order: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        composed(*order)
    assert "\n" not in str(caught.value)


def test_every_stage_after_another_is_accepted() -> None:
    everything = composed(PRIVATE, STEPS, SPARSE, GAUSSIAN, SUM)
    assert everything.clients == 4
    assert everything.uses == 2
    assert set(everything.protect(gradient)(client(8))) == set(gradient(client(8)))


def test_parameters_are_filled_in_and_build_the_same_again() -> None:
    made = composed(SPARSE, GAUSSIAN)
    parameters = parameters_of(made)
    assert parameters["defenses"][0]["choice"] == "largest"
    assert build(DEFENSES, "composed", parameters) == made


def test_a_client_s_part_is_all_but_the_aggregation() -> None:
    assert composed(SPARSE, SUM).client_part() == composed(SPARSE)
    assert composed(SUM).client_part() is None


def test_reliability_is_the_product_of_its_parts() -> None:
    update = {"w": torch.tensor([0.0, 3.0, 1.0, 0.0])}
    noise = {"name": "gaussian", "sigma": 1.0}
    # Two of four entries were sent: their energy is 10, of which noise is 2.
    found = composed(noise, SPARSE | {"choice": "random"}).reliability(update, 1)["w"]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.8, 0.8, 0.0]))


def shares(order: list[dict[str, Any]], individuals: int) -> tuple[float, float]:
    """The reliability of an update, and the share of its energy that is not noise."""
    made = composed(*order)
    of = client(individuals, width=16)
    quiet = [
        each | {parameter: 0.0 for parameter in ("noise", "sigma") if parameter in each}
        for each in order
    ]
    signal = composed(*quiet).protect(gradient)(of)
    received = made.protect(gradient)(client(individuals, width=16))
    name = "classifier.0.weight"
    noise = (received[name] - signal[name]).square().sum()
    expected = 1 - noise / received[name].square().sum()
    return made.reliability(received, individuals)[name].item(), expected.item()


@pytest.mark.parametrize(
    "order",
    [
        [{"name": "gaussian", "sigma": 0.01}, SUM],
        [{"name": "dp_sgd", "clip": 1.0, "noise": 0.05}],
        [{"name": "dp_sgd", "clip": 1.0, "noise": 0.02}, SUM],
    ],
)
def test_reliability_expects_the_noise_that_reaches_the_server(
    order: list[dict[str, Any]],
) -> None:
    reliability, true = shares(order, 8)
    assert 0.05 < true < 0.95
    assert reliability == pytest.approx(true, abs=0.05)


def test_noise_of_several_steps_adds_up() -> None:
    private = {"name": "dp_sgd", "clip": 1.0, "noise": 0.02}
    made = composed(private, {"name": "local_steps", "epochs": 2, "batch": 2})
    update = {"w": torch.full((100,), 0.05)}
    # Eight individuals in pairs, twice over: 8 steps, each with noise of 0.02 · 1 / 2.
    assert made.reliability(update, 8)["w"].item() == pytest.approx(1 - 8 * 0.01**2 / 0.05**2)


def test_surrogates_follow_one_another() -> None:
    runs = {"w": torch.tensor([[3.0, -4.0]])}
    one_bit, clip = {"name": "quantise", "bits": 1}, {"name": "clip", "norm": 1.0}
    assert composed(clip, one_bit).surrogate(runs)["w"].abs().max() < 1
    assert composed(one_bit, clip).surrogate(runs)["w"].norm().item() == pytest.approx(1)
    assert composed(SPARSE, GAUSSIAN).surrogate(runs) is runs
