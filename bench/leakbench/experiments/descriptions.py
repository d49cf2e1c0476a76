"""Cells and their settings as text."""

from __future__ import annotations

import json
from collections.abc import Mapping

from leakbench.base.canonical import by_content
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.defense_labels import defense_text
from leakbench.experiments.expansion import SuiteEntry
from leakbench.federation.backbones.weight_registry import weights_text


def describe(entry: SuiteEntry) -> str:
    """Return a cell in a few words."""
    cell = entry.cell
    swept = text_of({k: v for k, v in cell.attack_parameters.items() if k in entry.swept})
    data = dataset_name(cell)
    if cell.auxiliary_dataset:
        data += f" with D_aux of {auxiliary_name(cell)}"
    place = f"{entry.column}, {data}, {cell.main_task}, B = {cell.batch_size}"
    if cell.defense != "none":
        place += f", under {defense_text(cell)}"
    return f"{place}, {swept}" if swept else place


def dataset_name(cell: Cell) -> str:
    """Return the data set, with its subject where it has several."""
    return _with_subject(cell.dataset, cell.dataset_parameters)


def auxiliary_name(cell: Cell) -> str:
    """Return the data set that D_aux comes from, with its subject where it has several."""
    if not cell.auxiliary_dataset:
        return dataset_name(cell)
    return _with_subject(cell.auxiliary_dataset, cell.auxiliary_dataset_parameters)


def _with_subject(name: str, parameters: Mapping[str, object]) -> str:
    subject = parameters.get("subject")
    return f"{name} {subject}" if subject else name


def text_of(value: object) -> str:
    """Return a setting as text, a mapping as `key = value, …`, names of weights shortened."""
    if isinstance(value, str):
        return weights_text(value)
    if type(value) is int:
        return str(value)
    # Tables of thousands of cells ask for the same ones again and again.
    return _text(value)


@by_content
def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{k} = {weights_text(v) if isinstance(v, str) else v}" for k, v in value.items()
        )
    # As JSON has it.
    return json.dumps(value)


def training_text(setup: Setup) -> str:
    """Return how the shared model is trained, without settings that are as in plain SGD."""
    way = "FedAvg" if setup.local_epochs else "SGD"
    details = [f"batch {setup.client_batch}"]
    if setup.local_epochs:
        steps = setup.local_batch or "the whole batch"
        details.append(f"local epochs {setup.local_epochs} in steps of {steps}")
    details.append(f"η = {setup.learning_rate:g}")
    if setup.momentum:
        details.append(f"momentum {setup.momentum:g}")
    if setup.weight_decay:
        details.append(f"weight decay {setup.weight_decay:g}")
    if setup.schedule != "constant":
        details.append(f"{setup.schedule} schedule")
    if setup.augmentation != "none":
        details.append(f"augmentation {setup.augmentation}")
    return f"{setup.rounds} rounds of {way} over {setup.clients} clients ({', '.join(details)})"
