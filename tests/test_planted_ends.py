"""No certificate is false: individuals planted over all networks with ends before the head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from convolutional_planting import (
    HOSTILE,
    bottleneck_network,
    hostile,
    network,
    residual_network,
)
from leakbench.attacks.convolution_demixing import ConvolutionDemixing
from leakbench.attacks.linear_layers.certifying_attack import CertifyingAttack
from leakbench.federation.shared_model import SharedModel
from token_planting import SEARCH, vision_transformer

QUICK = ConvolutionDemixing(volleys=5, reflections=40, reflected_at_once=32)
PATIENT = ConvolutionDemixing(volleys=20, reflections=400, reflected_at_once=32)


def of(activation: Callable[[], nn.Module], kernel: int = 1) -> Callable[[int], SharedModel]:
    return lambda seed: network(2, activation(), seed, kernel=kernel)


NETWORKS: dict[str, tuple[Callable[[int], SharedModel], CertifyingAttack]] = {
    "ReLU": (of(nn.ReLU), QUICK),
    "ReLU6": (of(nn.ReLU6), QUICK),
    "leaky ReLU": (of(lambda: nn.LeakyReLU(0.1)), QUICK),
    "kernel of nine": (of(nn.ReLU, 3), QUICK),
    "ResNet-18's block": (residual_network, QUICK),
    "ResNet-50's block": (bottleneck_network, QUICK),
    "class token": (vision_transformer, SEARCH),
}
"""Name → what builds it, and its attack."""

EVERY = ("none", *HOSTILE)
"""Kinds of batches and updates."""


def certificates(name: str, kind: str, seed: int) -> tuple[int, int]:
    """How many of four are certified, and how many falsely."""
    build, attack = NETWORKS[name]
    if kind == "none" and attack is QUICK:
        attack = PATIENT
    batch, update = hostile(kind, build, seed, attack)
    found = batch.found(update)
    return int(found.certified.sum()), batch.falsely_certified(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_certificate_is_false(name: str) -> None:
    """Batches of four without tricks and with some: each trick is in several networks."""
    place = [*NETWORKS].index(name)
    some = [HOSTILE[(place + number) % len(HOSTILE)] for number in (0, 2, 3)]
    counted = [certificates(name, kind, place) for kind in ("none", *some)]
    assert sum(false for _, false in counted) == 0
    # Without tricks; a weak individual's certificate may be denied for its rounding.
    assert counted[0][0] >= 3


@pytest.mark.nightly
@pytest.mark.timeout(3_000)
def test_no_certificate_is_false_over_twenty_thousand_individuals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.set_num_threads(1)
    rows = []
    batches = -(-20_000 // (4 * len(NETWORKS) * len(EVERY)))
    for name in NETWORKS:
        for kind in EVERY:
            counted = [certificates(name, kind, seed) for seed in range(batches)]
            rows.append((name, kind, 4 * batches, *map(sum, zip(*counted, strict=True))))
    with capsys.disabled():
        print("\nnetwork, update, individuals, certified, false")
        print("\n".join(", ".join(map(str, row)) for row in rows))
    assert sum(row[2] for row in rows) >= 20_000
    assert all(row[3] >= 0.9 * row[2] for row in rows if row[1] == "none")
    assert sum(row[4] for row in rows) == 0
