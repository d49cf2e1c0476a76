"""Columns on a defense's utility cost and distortion, beside what still leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from leakbench.metrics.formatting import FormattedNumber
from leakbench.metrics.of_setups import (
    DELTA,
    DISTORTION,
    EPSILON,
    MAIN_TASK_ACCURACY,
    UTILITY,
    UTILITY_LOST,
)
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics


@dataclass(frozen=True)
class CostColumn:
    """A column on what a row's defense costs.

    Attributes:
        heading: of the column.
        number: returns what it shows of the metrics of any cell under the defense.
    """

    heading: str
    number: Callable[[Metrics], FormattedNumber]


def _utility(metrics: Metrics) -> FormattedNumber:
    if metrics.defense is None:
        return MAIN_TASK_ACCURACY.text(metrics)
    utility = UTILITY.format(metrics.defense.utility.value)
    return FormattedNumber(utility.value, f"({UTILITY_LOST.text(metrics)})")


def _distortion(metrics: Metrics) -> FormattedNumber:
    if metrics.defense is None:
        return FormattedNumber("0")
    return DISTORTION.format(metrics.defense.distortion.value)


UTILITY_COLUMN = CostColumn("utility (lost), %", _utility)
DISTORTION_COLUMN = CostColumn(DISTORTION.heading, _distortion)
EPSILON_COLUMN = CostColumn(EPSILON.heading, EPSILON.text)


def cost_columns(rows: Iterable[Metrics | None]) -> tuple[CostColumn, ...]:
    """Return the columns of a table with these rows; ε only where a row has it.

    Args:
        rows: the metrics of a cell of each row; None where none was measured.
    """
    has_epsilon = any(EPSILON.value(metrics) is not None for metrics in rows)
    return (UTILITY_COLUMN, DISTORTION_COLUMN, *((EPSILON_COLUMN,) if has_epsilon else ()))


def cost_aid(cells: Sequence[Measured]) -> list[str]:
    """Return how to read these columns; nothing where no table has them."""
    if not any(m.entry.layout == "defense" for m in cells):
        return []
    text = (
        "**Utility**: main-task accuracy, on the victims' images, of a model trained as long as "
        "the shared model but under the defense; no client has these images. In parentheses: by "
        "how much it is below the shared model's, which is attacked and was trained without the "
        "defense, on the same images, with the 95 % interval by identity; the variation between "
        "trainings is not part of it. **Distortion**: ‖update − g‖ / ‖g‖, where g is the gradient "
        "and the update what the server receives; mean of the victims' updates."
    )
    metrics = [m.record.metrics for m in cells if m.record and m.record.metrics]
    deltas = {m.defense.delta for m in metrics if m.defense and m.defense.delta is not None}
    if deltas:
        at = " or ".join(DELTA.format(delta).value for delta in sorted(deltas))
        text += (
            f" **ε**: of the differential privacy of that training for one individual of a "
            f"client, at δ = {at}, as if batches were drawn by Poisson sampling."
        )
    return [text]
