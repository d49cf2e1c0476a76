"""One cell, measured in this process, and the comparison of two."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.evaluation.measuring import measure
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.record import Metrics, Record


def measured(
    setup: Setup,
    data_root: Path | None,
    attack: str,
    parameters: dict[str, object],
    **fields: object,
) -> Record:
    """Measure a cell of an attack with these parameters and other fields of the cell."""
    complete = parameters_of(build(ATTACKS, attack, parameters))
    cell = Cell.model_validate(
        setup.model_dump() | {"attack": attack, "attack_parameters": complete, **fields}
    )
    resolved = ResolvedCell.of(cell)
    made = [prepare(each, data_root, "cpu", lambda message: None) for each in resolved.setups]
    return measure(resolved, made, lambda share: None)


def assert_same_inference(found: Metrics, oracle: Metrics) -> None:
    """Assert that two attacks infer the same of each individual: equal metrics of all properties.

    Features that are equal up to rounding give Brier scores that are equal up to rounding.
    """
    assert list(found.properties) == list(oracle.properties)
    for name, ours in found.properties.items():
        theirs = oracle.properties[name]
        decided = [each.model_copy(update={"brier_score": None}) for each in (ours, theirs)]
        assert decided[0] == decided[1], name
        assert ours.brier_score is not None and theirs.brier_score is not None
        assert asdict(ours.brier_score) == pytest.approx(asdict(theirs.brier_score), abs=1e-5)
