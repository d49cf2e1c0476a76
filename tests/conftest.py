"""Fixtures that every test may use; each test session has a cache folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bench.cells import Setup

# One thread a process: tests run on all cores at once.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder, shared by the session's worker processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["LEAKBENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; skips where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("LEAKBENCH_DATA_ROOT", beside))
    if not (root / "celeba").is_dir():
        pytest.skip(f"no real data: neither $LEAKBENCH_DATA_ROOT nor {beside} has celeba/")
    return root


@pytest.fixture(scope="session")
def small_setup() -> Setup:
    """A setup that is prepared in seconds: 8 classes, 80 victims."""
    return Setup(
        dataset="synthetic",
        dataset_parameters={"individuals": 400},
        properties=("gender", "glasses"),
        main_task="hat+dark_hair+looking_left",
        model_parameters={"width": 4},
        rounds=2,
        victim_share=0.2,
    )
