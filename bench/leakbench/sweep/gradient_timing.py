"""How long a model's gradient takes on this machine, for models that no earlier run has trained."""

from __future__ import annotations

import time

import torch

from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import MODELS
from leakbench.experiments.cell import Setup
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import Architecture

IMAGES = 4
"""In the batch whose gradient is timed."""


def seconds_of_gradient(setup: Setup) -> float:
    """Return the seconds that one thread of this processor takes for an image's gradient.

    Timed once for each model, on random weights and images.

    Raises:
        UsageError: the model does not fit the image size or the split.
    """
    model = setup.spec("model")
    # As text, since parameters may be lists.
    timed = (model.name, repr(model.parameters), setup.image_size, setup.split)
    if timed not in _timed:
        _timed[timed] = _seconds(model, setup.image_size, setup.split)
    return _timed[timed]


_timed: dict[tuple[str, str, int, str], float] = {}


def _seconds(model: PluginSpec, size: int, split: str) -> float:
    # Random weights take as long as pretrained ones, which may not be here.
    parameters = {name: value for name, value in model.parameters.items() if name != "weights"}
    architecture: Architecture = PluginSpec(model.name, parameters).build(MODELS)
    architecture.check(size, split)
    with torch.random.fork_rng(devices=[]):
        shared = architecture.build(2, size, split).eval()
        images, labels = torch.rand(IMAGES, 3, size, size), torch.zeros(IMAGES, dtype=torch.long)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        client_update(shared, images, labels)  # Once for what it sets up.
        started = time.perf_counter()
        client_update(shared, images, labels)
        return (time.perf_counter() - started) / IMAGES
    finally:
        torch.set_num_threads(threads)
