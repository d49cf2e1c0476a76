"""The settings under the tables: individuals, setups, knowledge and parameters, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.defense_labels import defense_text
from leakbench.experiments.descriptions import dataset_name, text_of, training_text
from leakbench.metrics.formatting import MISSING, counted
from leakbench.metrics.of_setups import CENTRAL_ACCURACY, MAIN_TASK_ACCURACY, MOST_FREQUENT_CLASS
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics, Record

SETUPS = 200
"""Setups that a page of the site lists at most."""


def setting_lines(cells: Sequence[Measured], brief: bool = False) -> list[str]:
    """Return the settings, one per line.

    Args:
        brief: whether to list `SETUPS` setups at most, and to say of how many cells others are.
    """
    lines = []
    resolved = [m.entry.resolved for m in cells]
    every_cell = [each.cell for each in resolved]
    shown: dict[int, list[str]] = {}
    for cell in every_cell:
        shown.setdefault(cell.individuals, []).append(dataset_name(cell))
    individuals = ", ".join(
        f"{n} ({', '.join(dict.fromkeys(names))})" if len(shown) > 1 else str(n)
        for n, names in shown.items()
    )
    sizes = [(each.individuals_in_update, each.cell.individuals) for each in resolved]
    batches = sorted({(size, individuals // size) for size, individuals in sizes})
    lines.append(
        f"individuals in each cell: {individuals}, in "
        f"{', '.join(f'{n} batches of {size}' for size, n in batches)}"
    )
    lines += _runs(cells)
    setups, others = _setups(cells, SETUPS if brief else None)
    lines += [f"{setup}: {main_task}" for setup, main_task in setups.items()]
    if others:
        lines.append(
            f"the setups of {counted(others, 'more cell')} are left out here, where at most "
            f"{SETUPS} are listed; `leakbench results` writes those of all cells"
        )
    lines += _columns(cells)
    defenses = dict.fromkeys(map(defense_text, every_cell))
    lines.append(f"defense: {'; '.join(defenses)}")
    precisions = sorted({m.entry.cell.precision for m in cells})
    if precisions != ["float32"]:
        lines.append(f"attacks' copy of the model computes in {', '.join(precisions)}")
    recorded = [m.record for m in cells if m.record is not None]
    # One record for each of their texts, of which there are few.
    sources = {(r.fingerprint, r.cell.dataset, r.cell.auxiliary_dataset): r for r in recorded}
    fingerprints = sorted(
        {
            f"{name} {fingerprint}"
            for record in sources.values()
            for name, fingerprint in _fingerprints(record)
        }
    )
    lines.append(f"fingerprints of the data: {', '.join(fingerprints) or MISSING}")
    measured = [record for record in recorded if record.versions]
    # Records that are alive, most of which share these.
    tables = {id(record.versions): record.versions for record in measured}.values()
    versions = {", ".join(f"{k} {v}" for k, v in of.items()) for of in tables}
    devices = sorted({r.device for r in measured})
    lines.append(
        f"measured on {', '.join(devices) or MISSING}{_computing(measured)} with "
        f"{'; '.join(sorted(versions))}"
    )
    return lines


def _runs(cells: Sequence[Measured]) -> list[str]:
    """Return over what the numbers are means, a line for each answer with its groups."""
    groups: dict[str, dict[str, None]] = {}
    for m in cells:
        resolved = m.entry.resolved
        trainings, seeds = resolved.trainings, resolved.runs
        if resolved.attack.control or trainings * seeds == 1:
            continue
        of = counted(trainings, "training")
        text = f"mean over {of} of the shared model and {counted(seeds, 'attack seed')} on each"
        groups.setdefault(text, {})[m.entry.group] = None
    return [f"{text}: {'; '.join(of)}" for text, of in groups.items()]


def _computing(records: Sequence[Record]) -> str:
    """Return how many threads computed and whether steps were compiled; empty if not recorded."""
    known = [record.environment for record in records if record.environment is not None]
    if not known:
        return ""
    threads = sorted({each.threads for each in known})
    compiled = sum(bool(each.compiled) for each in known)
    steps = f"; the attacks' steps of {compiled} of {len(records)} cells were compiled"
    of_threads = " or ".join(map(str, threads))
    return f" in {of_threads} {'thread' if threads == [1] else 'threads'}{steps}"


def _fingerprints(record: Record) -> list[tuple[str, str]]:
    """Return each of a record's data sets with its fingerprint; a record joins these by `+`."""
    if not record.fingerprint:
        return []
    datasets = (record.cell.dataset, record.cell.auxiliary_dataset)
    return list(zip(datasets, record.fingerprint.split("+"), strict=False))


def _columns(cells: Sequence[Measured]) -> list[str]:
    """Return a line for each column, and for each of its settings where groups change them."""
    forms: dict[str, dict[str, list[Measured]]] = {}
    swept = _swept_values(cells)
    for m in cells:
        varied = swept[m.entry.group, m.entry.column]
        of_cell = {name: varied[name] for name in m.entry.swept if name in varied}
        parameters = text_of(m.entry.cell.attack_parameters | of_cell)
        forms.setdefault(m.entry.column, {}).setdefault(parameters, []).append(m)
    lines = []
    for column, by_parameters in forms.items():
        for parameters, alike in by_parameters.items():
            knows = next((m.record.knowledge for m in alike if m.record and m.record.knowledge), ())
            groups = "”, “".join(dict.fromkeys(m.entry.group for m in alike))
            where = f" in “{groups}”" if len(by_parameters) > 1 else ""
            lines.append(
                f"{column} (`{alike[0].entry.cell.attack}`){where}: knows "
                f"{', '.join(knows) or MISSING}; {parameters or 'no parameters'}"
            )
    return lines


def _swept_values(cells: Sequence[Measured]) -> dict[tuple[str, str], dict[str, str]]:
    """Return (group, column) → the parameters that it sweeps, each with all its values."""
    values: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for entry in (m.entry for m in cells):
        of_column = values.setdefault((entry.group, entry.column), {})
        for name in entry.swept:
            of_column.setdefault(name, {})
    for entry in (m.entry for m in cells):
        for name, texts in values[entry.group, entry.column].items():
            if name in entry.cell.attack_parameters:
                texts[text_of(entry.cell.attack_parameters[name])] = None
    return {
        place: {name: " or ".join(texts) for name, texts in of_column.items() if texts}
        for place, of_column in values.items()
    }


def _auxiliary(cell: Cell) -> str:
    """Return what the identities that are reserved for D_aux are used for, and where it is from."""
    limit = cell.auxiliary_individuals
    few = f" (at most {limit} individuals)" if limit else ""
    if not cell.auxiliary_dataset:
        return f"in D_aux{few}"
    source = _with_parameters(cell.auxiliary_dataset, cell.auxiliary_dataset_parameters)
    return f"reserved and not used, since D_aux is {source}{few}"


def _with_parameters(dataset: str, parameters: Mapping[str, Any]) -> str:
    return f"{dataset} ({text_of(parameters)})" if parameters else dataset


def _setups(cells: Sequence[Measured], most: int | None) -> tuple[dict[str, str], int]:
    """Return a sentence for each setup and its main task's accuracy, and of how many cells not.

    Args:
        most: setups; all if None.
    """
    # Sentence → the last record, that of the most trainings, over which the accuracy is a mean.
    found: dict[str, Record | None] = {}
    # The cells of a setup follow from each other by attack and defense alone.
    sentences: dict[tuple[object, ...], str | None] = {}
    listed: dict[tuple[object, ...], str] = {}
    others = 0
    for m in sorted(cells, key=lambda m: m.entry.resolved.trainings):
        cell = m.entry.cell
        shown, parameters = SHOWN_OF_A_SETUP(cell), PARAMETERS(cell)
        setup = (*shown, *map(id, parameters))
        if setup not in sentences:
            # There may be several equal tables of parameters.
            content = (*shown, *map(text_of, parameters))
            if content not in listed and (most is None or len(listed) < most):
                listed[content] = _setup(cell)
            sentences[setup] = listed.get(content)
        sentence = sentences[setup]
        if sentence is None:
            others += 1
        elif m.record is not None and m.record.metrics is not None:
            found[sentence] = m.record
        else:
            found.setdefault(sentence, None)
    return {sentence: _reached(record) for sentence, record in found.items()}, others


PARAMETER_FIELDS = ("dataset_parameters", "model_parameters", "auxiliary_dataset_parameters")

PARAMETERS = attrgetter(*PARAMETER_FIELDS)

SHOWN_OF_A_SETUP = attrgetter(
    "mode", *(field for field in Setup.model_fields if field not in PARAMETER_FIELDS)
)
"""All that `_setup` says of a cell, and more, without parameters."""


def _setup(cell: Cell) -> str:
    """Return the sentence on a cell's setup."""
    return (
        f"{_with_parameters(cell.dataset, cell.dataset_parameters)}, {cell.image_size} px, "
        f"main task {cell.main_task}; {cell.model} ({text_of(cell.model_parameters)}) split "
        f"after {cell.split}; {training_text(cell)}; of all identities "
        f"{100 * cell.auxiliary_share:.0f} % are {_auxiliary(cell)}, "
        f"{100 * cell.victim_share:.0f} % victims; "
        f"f_p {cell.property_model}; "
        f"clients in {cell.mode} mode; seed {cell.seed}"
    )


def _reached(record: Record | None) -> str:
    """Return the main-task accuracy in a record's setup."""
    if record is None or record.metrics is None:
        return "main-task accuracy not measured yet"
    unlabelled = (
        record.cell.auxiliary_dataset and not record.metrics.main_task["labelled_auxiliary"]
    )
    more = "; D_aux has no labels of the main task" if unlabelled else ""
    return f"{_accuracies(record.metrics)}{more}"


def _accuracies(metrics: Metrics) -> str:
    """Return the main-task accuracy with what it compares with."""
    central = CENTRAL_ACCURACY.text(metrics)
    beside = "" if CENTRAL_ACCURACY.value(metrics) is None else f"centrally trained {central} %, "
    return (
        f"main-task accuracy {MAIN_TASK_ACCURACY.text(metrics)} % "
        f"({beside}most frequent class {MOST_FREQUENT_CLASS.text(metrics)} %)"
    )
