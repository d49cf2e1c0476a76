"""A round of training leaves nothing in memory while the next one computes its gradients."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor

from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.shared_model import SharedModel
from leakbench.federation.training import ClientData, train


def test_no_update_of_a_round_outlives_it() -> None:
    torch.manual_seed(0)
    model: SharedModel = build(MODELS, "small_cnn", {}).build(3, 32, "convolutions")
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (6, 3, 32, 32), np.uint8)
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def counted(client: Client) -> Update:
        alive.append(sum(each() is not None for each in made))
        update = gradient(client)
        made.extend(weakref.ref(each) for each in [client.images, *update.values()])
        return update

    train(model, [ClientData(images, np.arange(6) % 3)], range(4), 0.1, 6, 0, counted)
    assert alive == [0] * 4
