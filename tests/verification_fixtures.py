"""Fixtures: a folder of records that were measured here; and entries of what was verified."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from editing import path_of
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import DATASETS, MODELS
from leakbench.conformance.setting import SETUP
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.records.verified import Remeasured, content_hash
from measuring import measured

RESULTS = Path(__file__).resolve().parents[1] / "results"

OF_GENDER = "metrics/properties/gender"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the records of three attacks on 24 individuals, as measured here."""
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "records")
    cells: list[tuple[str, dict[str, object]]] = [
        ("prior", {}),
        ("feature", {"budget": 4}),
        ("mask_demixing", {"budget": 4}),
    ]
    complete = {
        "dataset_parameters": parameters_of(build(DATASETS, "synthetic", SETUP.dataset_parameters)),
        "model_parameters": parameters_of(build(MODELS, SETUP.model, SETUP.model_parameters)),
    }
    setup = SETUP.model_copy(update=complete)
    for attack, parameters in cells:
        store.write(
            measured(setup, None, attack, parameters, batch_size=2, individuals=24, defense="none")
        )
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "theirs"))


@pytest.fixture
def record(made: Path) -> Record:
    read = Store(made / "records").read(path_of(made, "feature").stem)
    assert read is not None
    return read


def entry_of(record: Record, agrees: bool = True) -> Remeasured:
    """An entry as this machine writes it."""
    return foreign_entry(record, agrees).signed(record.key)


def foreign_entry(record: Record, agrees: bool = True) -> Remeasured:
    """An entry as anybody can write it by hand."""
    return Remeasured(
        content=content_hash(record),
        when="2026-01-01T00:00:00+00:00",
        rule="equal",
        agrees=agrees,
        differences=() if agrees else ("accuracy 0.9, again 0.5",),
        device="cpu",
        versions={},
    )
