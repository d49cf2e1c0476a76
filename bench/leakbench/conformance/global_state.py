"""The global random generators, which plugins must not use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from leakbench.conformance.check import FindingError, Trial


def fingerprints() -> dict[str, Any]:
    """Return the state of each global generator by the name of its library."""
    numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "random": random.getstate(),
        "numpy.random": (numpy[1].tobytes(), *numpy[2:]),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all global generators, and restore their states afterwards."""
    before = random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def refuse_moved(trial: Trial, before: dict[str, Any], draw_from: str) -> None:
    """Refuse a plugin that drew from, or seeded, a global generator.

    Args:
        before: `fingerprints` from before it ran.
        draw_from: what it is to draw from instead.

    Raises:
        FindingError: names the library.
    """
    for library, state in fingerprints().items():
        if state != before[library]:
            raise FindingError(
                f"{trial} changes the state of {library}'s global generator, on which others may "
                f"depend; draw from {draw_from} instead"
            )
