"""All other metrics of a suite under its tables: of each cell, and of each property."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leakbench.base.markdown import markdown_table
from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.experiments.descriptions import text_of
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.of_attacks import CERTIFIED_FALSELY, CERTIFIED_SHARE, LABEL_ACCURACY, LPIPS
from leakbench.metrics.of_setups import (
    CENTRAL_ACCURACY,
    DEPLOYED,
    MAIN_TASK_ACCURACY,
    MOST_FREQUENT_CLASS,
)
from leakbench.metrics.spec import MetricSpec
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics, Record
from leakbench.reports.columns import (
    STEPS,
    RecordColumn,
    cell_metrics,
    property_metrics,
    seconds_per_batch,
)
from leakbench.reports.rows import leading_values, varying_settings

NO_WEIGHTS = "no weights"


def details(cells: Sequence[Measured]) -> str:
    """Return the sections on reconstruction by cell, deployed models, and each property."""
    measured = [
        MeasuredCell(m, m.record, m.record.metrics)
        for m in {m.entry.key: m for m in cells}.values()
        if m.record is not None and m.record.metrics is not None
    ]
    if not measured:
        return ""
    settings = Settings.of(cells)
    shown = _without_repeated_controls(measured, settings)
    parts = [
        _reconstruction(shown, settings),
        _weights_aid(measured),
        _deployed(measured),
        _by_property(shown, settings),
    ]
    return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class MeasuredCell:
    """A suite entry with its record, whose metrics are there.

    Attributes:
        measured: the entry with its record.
        record, metrics: the same record, and its metrics.
    """

    measured: Measured
    record: Record
    metrics: Metrics


@dataclass(frozen=True)
class Settings:
    """The leading columns: attack, settings in which cells differ, and parameters.

    Attributes:
        fields: settings, by name.
        parameters: parameters of attacks.
    """

    fields: tuple[str, ...]
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[Measured]) -> Settings:
        """Return the columns that separate these cells."""
        leading = ("data set", "main task", "B")
        varying = varying_settings([m.entry for m in cells], leading)
        fields = (*leading, *(name for name in varying if name in Cell.model_fields))
        return cls(fields, tuple(varying_parameters(cells)))

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the columns."""
        return ("attack", *self.fields, *self.parameters)

    def values(self, measured: Measured) -> tuple[str, ...]:
        """Return a cell's values in the columns."""
        given = measured.entry.cell.attack_parameters
        return (
            measured.entry.column,
            *leading_values(measured, "", self.fields),
            *(text_of(given.get(name, MISSING)) for name in self.parameters),
        )


def varying_parameters(cells: Sequence[Measured]) -> list[str]:
    """Return the parameters that have several values in a column: swept, or set by a group."""
    found: dict[str, dict[str, set[str]]] = {}
    for m in cells:
        for name, value in m.entry.cell.attack_parameters.items():
            found.setdefault(name, {}).setdefault(m.entry.column, set()).add(text_of(value))
    return [name for name, of in found.items() if any(len(values) > 1 for values in of.values())]


def _without_repeated_controls(
    cells: Sequence[MeasuredCell], settings: Settings
) -> list[MeasuredCell]:
    """Return the cells; a control that was granted more elsewhere, and used none of it, once."""
    seen: set[tuple[str, ...]] = set()
    shown = []
    for each in cells:
        values = settings.values(each.measured)
        if not (ATTACKS.get(each.record.cell.attack).control and values in seen):
            shown.append(each)
        seen.add(values)
    return shown


def _reconstruction(cells: Sequence[MeasuredCell], settings: Settings) -> str:
    metrics = cell_metrics("details", [each.record for each in cells])
    columns = [*map(_column, metrics), STEPS, RecordColumn("s/batch", _seconds)]
    rows = [
        [*settings.values(each.measured), *(column.text(each.record) for column in columns)]
        for each in cells
    ]
    headings = [*settings.headings, *(column.heading for column in columns)]
    return (
        "## Reconstruction\n\nFeature cosine is taken after matching; exact means cosine ≥ 0.99; "
        "certified are the individuals whose features the attack claims to have exactly, in "
        "parentheses the number of these claims with a cosine below 0.9999; "
        "PSNR (at most 100 dB an image), SSIM and LPIPS (AlexNet; 0 is equal) compare images in "
        "that same order, clamped to [0, 1]; steps are gradient evaluations per batch.\n\n"
        f"{markdown_table(rows, headings)}"
    )


def _seconds(record: Record) -> str:
    return MISSING if record.cost is None else f"{seconds_per_batch(record):.2f}"


def _column(spec: MetricSpec) -> RecordColumn:
    """Return the column of a metric of a cell."""
    if spec is CERTIFIED_SHARE:
        return RecordColumn(f"{spec.heading} (false)", _certified)
    text = SPECIAL.get(spec.name, lambda record: str(spec.text(record.metrics)))
    return RecordColumn(spec.heading, text)


def _certified(record: Record) -> str:
    assert record.metrics is not None
    if record.metrics.certificates is None:
        return MISSING
    share, false = (s.text(record.metrics) for s in (CERTIFIED_SHARE, CERTIFIED_FALSELY))
    return f"{share} ({false})"


def _labels(record: Record) -> str:
    assert record.metrics is not None
    inferred = record.metrics.label_accuracy is not None
    is_granted = inferred and "labels" in record.knowledge
    return "granted" if is_granted else str(LABEL_ACCURACY.text(record.metrics))


def _lpips(record: Record) -> str:
    assert record.metrics is not None
    images = record.metrics.images
    lacks_weights = images is not None and images.lpips is None
    return NO_WEIGHTS if lacks_weights else str(LPIPS.text(record.metrics))


SPECIAL: Mapping[str, Callable[[Record], str]] = {
    LABEL_ACCURACY.name: _labels,
    LPIPS.name: _lpips,
}
"""Metrics that are printed with more than their number."""


def _weights_aid(cells: Sequence[MeasuredCell]) -> str:
    """Return how to measure the LPIPS that records lack; nothing where none does."""
    images = [each.metrics.images for each in cells]
    if all(of is None or of.lpips is not None for of in images):
        return ""
    return (
        f"“{NO_WEIGHTS}”: LPIPS needs AlexNet's weights; run again with `--lpips-weights PATH`, or "
        "with `--lpips-weights download`, which fetches them (240 MB), to measure these cells "
        "with it."
    )


def _deployed(cells: Sequence[MeasuredCell]) -> str:
    """Return the section on models that attacks deployed; nothing where none did."""
    leading = ("data set", "main task")
    entries = [each.measured.entry for each in cells]
    fields = [*leading, *varying_settings(entries, (*leading, "B"))]
    trained_centrally = any(CENTRAL_ACCURACY.value(each.metrics) is not None for each in cells)
    shown = [MAIN_TASK_ACCURACY, *[CENTRAL_ACCURACY] * trained_centrally, MOST_FREQUENT_CLASS]
    rows: dict[tuple[str, ...], None] = {}
    for each in cells:
        m, metrics = each.measured, each.metrics
        for name in metrics.deployed or {}:
            setting = (m.entry.column, *leading_values(m, "", fields), name)
            accuracies = (
                DEPLOYED.text(metrics, name),
                *(spec.text(metrics) for spec in shown),
            )
            # The victims are the same at every batch size.
            rows.setdefault((*setting, *map(str, accuracies)))
    if not rows:
        return ""
    compared = [f"{spec.title}, %" for spec in shown[1:]]
    shares = ["deployed, %", "shared model, %", *compared]
    return (
        "## Deployed models\n\nMain-task accuracy, on the victims' images, of the models that a "
        "server deployed, trained on D_aux, beside the shared model's, which clients trained.\n\n"
        f"{markdown_table(list(rows), ['attack', *fields, 'model for', *shares])}"
    )


def _by_property(cells: Sequence[MeasuredCell], settings: Settings) -> str:
    metrics = property_metrics("details", [each.record for each in cells])
    rows = [
        [
            *settings.values(each.measured),
            name,
            *(str(spec.text(each.metrics, name)) for spec in metrics),
        ]
        for each in cells
        for name in each.metrics.properties
    ]
    headings = [*settings.headings, "property", *(spec.title for spec in metrics)]
    others = [spec for spec in metrics if spec.unit != "%"]
    excepted = f", {' and '.join(spec.title for spec in others)} excepted" if others else ""
    explained = "".join(f" {spec.title}: {spec.description}." for spec in others)
    return (
        f"## All metrics by property\n\nIn %{excepted}; f_p decides at the threshold of balanced "
        "accuracy, also for accuracy and count. Count error is |inferred − true| number of "
        f"individuals over B and does not depend on the matching.{explained}\n\n"
        f"{markdown_table(rows, headings)}"
    )
