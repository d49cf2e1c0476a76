"""Tables in the paper's layout, from records alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.cells import Cell
from bench.metrics import Estimate
from bench.registry import ATTACKS
from bench.split import task_attributes
from bench.store import ImageMetrics, Metrics, Record
from bench.suite import Planned

MISSING = "–"
NO_WEIGHTS = "no weights"
IMAGE_COLUMNS = ("PSNR, dB", "SSIM", "LPIPS", "≥ 20 dB, %")

Row = tuple[str, ...]

LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "table1": ("data set", "property"),
    "table2": ("main task", "property", "B"),
    "budget": ("main task", "property", "budget"),
}
"""Leading columns of each layout; settings that vary within a table are put before them."""


@dataclass(frozen=True)
class Measured:
    """A cell's place in a suite and its record, if it has been measured."""

    planned: Planned
    record: Record | None


def markdown(title: str, cells: Sequence[Measured], command: str, reading: str = "") -> str:
    """Return a suite's whole report.

    Args:
        reading: what somebody has to say of the tables, put under them.
    """
    parts = [f"# {title}", f"Made by `{command}`."]
    parts += [main_tables(cells), reading_aid(cells), reading.strip()]
    parts += [details(cells), settings(cells)]
    return "\n\n".join(part for part in parts if part) + "\n"


def main_tables(cells: Sequence[Measured]) -> str:
    """Return one table a group: balanced accuracy with its interval, in percent."""
    groups = list(dict.fromkeys(m.planned.group for m in cells))
    tables = []
    for group in groups:
        of_group = [m for m in cells if m.planned.group == group]
        parts = [f"## {group}", _group_table(of_group), _terms(of_group)]
        tables.append("\n\n".join(part for part in parts if part))
    return "\n\n".join(tables)


def _terms(cells: Sequence[Measured]) -> str:
    """Return a sentence on what attacks were given: evaluations, labels, and what f_p reads."""
    wordings = {
        "budget": "{} gradient evaluations a victim batch",
        "labels": "labels {}",
        "reads": "properties read off {}",
    }
    said = []
    for parameter, wording in wordings.items():
        values: dict[str, list[str]] = {}
        for m in cells:
            known = m.planned.cell.attack_parameters
            if not ATTACKS.get(m.planned.cell.attack).control and parameter in known:
                if parameter in m.planned.swept:
                    break
                columns = values.setdefault(_text(known[parameter]), [])
                columns += [m.planned.column] * (m.planned.column not in columns)
        else:
            shares = [
                value if len(values) == 1 else f"{value} ({', '.join(columns)})"
                for value, columns in values.items()
            ]
            if shares:
                said.append(wording.format(", ".join(shares)))
    return f"Attacks have {'; '.join(said)}." if said else ""


def _group_table(cells: Sequence[Measured]) -> str:
    leading = LAYOUTS[cells[0].planned.layout]
    varying = varying_settings([m.planned for m in cells], leading)
    frame: dict[Row, dict[str, str]] = {}
    for measured in cells:
        for name in measured.planned.cell.properties:
            row = leading_values(measured, name, (*varying, *leading))
            frame.setdefault(row, {})[measured.planned.column] = _accuracy(measured, name)
    columns = list(dict.fromkeys(m.planned.column for m in cells))
    rows = _in_reading_order(frame)
    table = [
        [*_without_repeats(row, rows, i), *(frame[row].get(c, MISSING) for c in columns)]
        for i, row in enumerate(rows)
    ]
    return _table(table, [*varying, *leading, *columns])


def _in_reading_order(frame: Mapping[Row, object]) -> list[Row]:
    """Return rows so that equal leading values stand together, each in order of appearance."""
    ranks = [
        {value: i for i, value in enumerate(dict.fromkeys(column))}
        for column in zip(*frame, strict=True)
    ]
    return sorted(frame, key=lambda row: [rank[v] for rank, v in zip(ranks, row, strict=True)])


def _without_repeats(row: Row, rows: Sequence[Row], index: int) -> list[str]:
    """Return a row's leading values, those blank that only repeat the row above."""
    above = rows[index - 1] if index else ("",) * len(row)
    same = True
    shown = []
    for value, before in zip(row, above, strict=True):
        same = same and value == before
        shown.append("" if same else value)
    return shown


def leading_values(measured: Measured, name: str, columns: Sequence[str]) -> Row:
    """Return what stands in the leading columns for a cell and one of its properties."""
    cell, swept = measured.planned.cell, measured.planned.swept
    values: dict[str, Callable[[], str]] = {
        "data set": lambda: _dataset(cell),
        "main task": lambda: _task(measured),
        "property": lambda: name + ("†" if _implied(measured, name) else ""),
        "B": lambda: str(cell.batch_size),
    }

    def value(column: str) -> str:
        if column in values:
            return values[column]()
        if column in Cell.model_fields:
            return _text(getattr(cell, column))
        return _text(swept[column]) if column in swept else MISSING

    return tuple(value(column) for column in columns)


def varying_settings(planned: Sequence[Planned], leading: Sequence[str]) -> list[str]:
    """Return the settings, besides the leading columns, that differ between cells of a table."""
    cells = [each.cell for each in planned]
    shown = {
        "data set": {"dataset"},
        "main task": {"main_task"},
        "B": {"batch_size"},
    }
    ignored = {"attack", "attack_parameters", "grant", "properties"}
    ignored |= set().union(*(shown.get(column, set()) for column in leading))
    if "data set" in leading and len({(_dataset(c), c.main_task) for c in cells}) == len(
        {_dataset(c) for c in cells}
    ):
        # Each data set has a main task of its own, which the settings name.
        ignored.add("main_task")

    def values(field: str) -> set[str]:
        found = [getattr(cell, field) for cell in cells]
        if field == "dataset_parameters":
            found = [{k: v for k, v in each.items() if k != "subject"} for each in found]
        return {_text(each) for each in found}

    swept = dict.fromkeys(name for each in planned for name in each.swept if name not in leading)
    return [
        *(f for f in Cell.model_fields if f not in ignored and len(values(f)) > 1),
        *(p for p in swept if len({_text(each.swept.get(p, MISSING)) for each in planned}) > 1),
    ]


def _accuracy(measured: Measured, name: str) -> str:
    record = measured.record
    if record is None:
        return MISSING
    if record.metrics is None:
        return "failed"
    shown = _percent(record.metrics.properties[name].balanced_accuracy)
    diverged = record.metrics.diverged
    return f"{shown} ({100 * diverged:.0f} % diverged)" if diverged else shown


def reading_aid(cells: Sequence[Measured]) -> str:
    """Return what a reader must know to read the tables, and what is missing from them."""
    lines = [
        "Balanced accuracy in % [95 % bootstrap interval by victim batch]; chance is 50. "
        "**Prior**: D_aux's majority for everybody. **Blind**: random features of D_aux, matched "
        "to individuals like any attack's, of the batch's labels where they are known; an attack "
        "has learnt only what it earns above this. "
        "**Oracle**: f_p on the true features, the most that any attack through them can earn.",
    ]
    if any(_implied(m, name) for m in cells for name in m.planned.cell.properties):
        lines.append("† The main task's own label gives this property away.")
    unique = {m.planned.key: m for m in cells}.values()
    missing = sum(m.record is None for m in unique)
    failed = [m for m in unique if m.record is not None and m.record.status == "failed"]
    if missing:
        lines.append(f"{missing} of {len(unique)} cells are not measured yet ({MISSING}).")
    for measured in failed:
        assert measured.record is not None
        lines.append(f"Failed: {describe(measured.planned)}: {measured.record.error}")
    return "\n\n".join(lines)


def _labels_right(record: Record) -> str:
    assert record.metrics is not None
    share = record.metrics.label_accuracy
    if share is None:
        return MISSING
    return "granted" if "labels" in record.knowledge else f"{100 * share:.1f}"


def details(cells: Sequence[Measured]) -> str:
    """Return the other metrics: reconstruction by cell, and all of each property's."""
    unique = {m.planned.key: m for m in cells if m.record is not None and m.record.metrics}
    leading = ("data set", "main task", "B")
    varying = varying_settings([m.planned for m in cells], leading)
    fields = [*leading, *(name for name in varying if name in Cell.model_fields)]
    parameters = _varying_parameters(cells)
    reconstruction: list[list[str]] = []
    properties: list[list[str]] = []
    for measured in unique.values():
        record, cell = measured.record, measured.planned.cell
        assert record is not None and record.metrics is not None and record.cost is not None
        place = [measured.planned.column, *leading_values(measured, "", fields)]
        place += [_text(cell.attack_parameters.get(name, MISSING)) for name in parameters]
        control = ATTACKS.get(cell.attack).control
        if control and place in (row[: len(place)] for row in reconstruction):
            continue  # A control that was granted more elsewhere, and used none of it.
        reconstruction.append([*place, *_reconstruction(record.metrics, record)])
        for name, m in record.metrics.properties.items():
            properties.append(
                [
                    *place,
                    name,
                    *(_percent(e) for e in (m.accuracy, m.balanced_accuracy, m.auc)),
                    _percent(m.count_error),
                    f"{100 * m.prevalence:.0f}",
                ]
            )
    if not unique:
        return ""
    place = ["attack", *fields, *parameters]
    what = ["feature cosine", "exact, %", *IMAGE_COLUMNS, "labels right, %", "diverged, %"]
    what += ["steps", "s/batch"]
    each = ["property", "accuracy", "balanced accuracy", "AUC", "count error", "prevalence"]
    return (
        "## Reconstruction\n\nFeature cosine is taken after matching; exact means cosine ≥ 0.99; "
        "PSNR (at most 100 dB an image), SSIM and LPIPS (AlexNet; 0 is equal) compare images in "
        "that same order, clamped to [0, 1]; steps are gradient evaluations a batch.\n\n"
        f"{_table(reconstruction, [*place, *what])}\n\n{_weights_aid(list(unique.values()))}"
        "## All metrics by property\n\nIn %; f_p decides at the threshold of balanced accuracy, "
        "also for accuracy and count. Count error is |inferred − true| number of individuals over "
        f"B and needs no matching.\n\n{_table(properties, [*place, *each])}"
    )


def _varying_parameters(cells: Sequence[Measured]) -> list[str]:
    """Return the parameters of which some column has several values: swept, or a group's own."""
    found: dict[str, dict[str, set[str]]] = {}
    for m in cells:
        for name, value in m.planned.cell.attack_parameters.items():
            found.setdefault(name, {}).setdefault(m.planned.column, set()).add(_text(value))
    return [name for name, of in found.items() if any(len(values) > 1 for values in of.values())]


def _reconstruction(metrics: Metrics, record: Record) -> list[str]:
    assert record.cost is not None
    batches = record.cell.individuals // record.cell.batch_size
    cosine, exact = metrics.feature_cosine, metrics.exact
    return [
        MISSING if cosine is None else _number(cosine, 3),
        MISSING if exact is None else _percent(exact),
        *_images(metrics.images),
        _labels_right(record),
        f"{100 * metrics.diverged:.0f}",
        f"{record.cost.steps:.0f}",
        f"{record.cost.seconds / batches:.2f}",
    ]


def _images(images: ImageMetrics | None) -> list[str]:
    if images is None:
        return [MISSING] * len(IMAGE_COLUMNS)
    return [
        _number(images.psnr, 1),
        _number(images.ssim, 3),
        NO_WEIGHTS if images.lpips is None else _number(images.lpips, 3),
        _percent(images.recognisable),
    ]


def _weights_aid(cells: Sequence[Measured]) -> str:
    """Return how to get the LPIPS that records lack; nothing where none does."""
    found = [m.record.metrics.images for m in cells if m.record and m.record.metrics]
    if all(images is None or images.lpips is not None for images in found):
        return ""
    return (
        f"“{NO_WEIGHTS}”: LPIPS needs AlexNet's weights; run again with `--lpips-weights PATH`, or "
        "with `--lpips-weights download`, which fetches them (240 MB), to measure these cells "
        "with it.\n\n"
    )


def settings(cells: Sequence[Measured]) -> str:
    """Return the settings under the tables: number of individuals, models, threat models."""
    lines = ["## Settings", ""]
    planned = [m.planned.cell for m in cells]
    individuals = sorted({cell.individuals for cell in planned})
    batches = sorted({(c.batch_size, c.individuals // c.batch_size) for c in planned})
    lines.append(
        f"- individuals in each cell: {', '.join(map(str, individuals))}, in "
        f"{', '.join(f'{n} batches of {size}' for size, n in batches)}"
    )
    for setup, main_task in _setups(cells).items():
        lines.append(f"- {setup}: {main_task}")
    lines += _columns(cells)
    defenses = {
        f"{m.planned.cell.defense} {_text(m.planned.cell.defense_parameters)}".strip()
        for m in cells
    }
    lines.append(f"- defense: {', '.join(sorted(defenses))}")
    fingerprints = sorted(
        {
            f"{m.record.cell.dataset} {m.record.fingerprint}"
            for m in cells
            if m.record is not None and m.record.fingerprint
        }
    )
    lines.append(f"- fingerprints of the data: {', '.join(fingerprints) or MISSING}")
    measured = [m.record for m in cells if m.record and m.record.versions]
    versions = {", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in measured}
    devices = sorted({r.device for r in measured})
    lines.append(
        f"- measured on {', '.join(devices) or MISSING} with {'; '.join(sorted(versions))}"
    )
    return "\n".join(lines)


def _columns(cells: Sequence[Measured]) -> list[str]:
    """Return a line for each column; one for each of its forms where groups change it."""
    forms: dict[str, dict[str, list[Measured]]] = {}
    for m in cells:
        parameters = _text(m.planned.cell.attack_parameters | _swept_values(m, cells))
        forms.setdefault(m.planned.column, {}).setdefault(parameters, []).append(m)
    lines = []
    for column, by_parameters in forms.items():
        for parameters, alike in by_parameters.items():
            knows = next((m.record.knowledge for m in alike if m.record and m.record.knowledge), ())
            groups = "”, “".join(dict.fromkeys(m.planned.group for m in alike))
            where = f" in “{groups}”" if len(by_parameters) > 1 else ""
            lines.append(
                f"- {column} (`{alike[0].planned.cell.attack}`){where}: knows "
                f"{', '.join(knows) or MISSING}; {parameters or 'no parameters'}"
            )
    return lines


def _swept_values(measured: Measured, cells: Sequence[Measured]) -> dict[str, str]:
    """Return the parameters that a column sweeps in its group, each with all of its values."""
    planned = measured.planned
    alike = [
        m.planned
        for m in cells
        if (m.planned.group, m.planned.column) == (planned.group, planned.column)
    ]
    found = {}
    for name in planned.swept:
        values = dict.fromkeys(
            _text(each.cell.attack_parameters[name])
            for each in alike
            if name in each.cell.attack_parameters
        )
        if values:
            found[name] = " or ".join(values)
    return found


def _setups(cells: Sequence[Measured]) -> dict[str, str]:
    """Return a sentence for each setup and its main task's accuracy."""
    found: dict[str, str] = {}
    for m in cells:
        cell = m.planned.cell
        sentence = (
            f"{cell.dataset} ({_text(cell.dataset_parameters)}), {cell.image_size} px, main task "
            f"{cell.main_task}; {cell.model} ({_text(cell.model_parameters)}) split after "
            f"{cell.split}; {cell.rounds} rounds of SGD over {cell.clients} clients (batch "
            f"{cell.client_batch}, η = {cell.learning_rate:g}); of all identities "
            f"{100 * cell.auxiliary_share:.0f} % are in D_aux, {100 * cell.victim_share:.0f} % "
            f"victims; clients in {cell.mode} mode; seed {cell.seed}"
        )
        if m.record is not None and m.record.metrics is not None:
            task = m.record.metrics.main_task
            found[sentence] = (
                f"main-task accuracy {100 * task['accuracy']:.1f} % "
                f"(most frequent class {100 * task['most_frequent_class']:.1f} %)"
            )
        else:
            found.setdefault(sentence, "main-task accuracy not measured yet")
    return found


def describe(planned: Planned) -> str:
    """Return a cell in a few words."""
    cell = planned.cell
    swept = _text({k: v for k, v in cell.attack_parameters.items() if k in planned.swept})
    place = f"{planned.column}, {_dataset(cell)}, {cell.main_task}, B = {cell.batch_size}"
    return f"{place}, {swept}" if swept else place


def _dataset(cell: Cell) -> str:
    subject = cell.dataset_parameters.get("subject")
    return f"{cell.dataset} {subject}" if subject else cell.dataset


def _task(measured: Measured) -> str:
    """Return the main task and its number of classes, which for identity only a record knows."""
    record, task = measured.record, measured.planned.cell.main_task
    if attributes := task_attributes(task):
        return f"{task} (K = {2 ** len(attributes)})"
    return (
        task
        if record is None or record.metrics is None
        else f"{task} (K = {record.metrics.classes})"
    )


def _implied(measured: Measured, name: str) -> bool:
    record = measured.record
    return bool(record and record.metrics and record.metrics.properties[name].in_main_task)


def _percent(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "undefined"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _number(estimate: Estimate, digits: int) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "undefined"
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} = {v}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    frame = pd.DataFrame(rows, columns=pd.Index(columns), dtype=str)
    return str(frame.to_markdown(index=False, disable_numparse=True))
