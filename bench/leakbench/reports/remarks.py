"""What a reader must know of a row before its numbers: remarks at the row, explained below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_setups import (
    CENTRAL_ACCURACY,
    MAIN_TASK_ACCURACY,
    MOST_FREQUENT_CLASS,
)
from leakbench.metrics.spec import MetricSpec
from leakbench.records.measured import Measured

ORACLE_BELOW_CHANCE = "oracle below chance"
MAIN_TASK_BELOW_MAJORITY = "main task below majority"
MAIN_TASK_BEHIND_CENTRAL = "main task behind central"
KNOWLEDGE_DIFFERS = "knowledge differs"
NO_LABEL_BASELINE = "no label baseline"

BEHIND = 0.05
"""Main-task accuracy by which clients' model may be behind the centrally trained one."""

EXPLANATIONS: Mapping[str, str] = {
    ORACLE_BELOW_CHANCE: (
        "f_p on the true features has a balanced accuracy below 50 %, so that the row says nothing "
        "about attacks that infer through features"
    ),
    MAIN_TASK_BELOW_MAJORITY: (
        "the shared model is less accurate in its main task than always naming the most frequent "
        "class, so that it is no model that anybody would deploy"
    ),
    MAIN_TASK_BEHIND_CENTRAL: (
        f"the shared model's main-task accuracy is more than {100 * BEHIND:.0f} points below that "
        "of the same model trained on all clients' data in one place, so that the clients' "
        "training was not carried through"
    ),
    KNOWLEDGE_DIFFERS: (
        "the attacks of the row have different threat models, see what each knows below; what one "
        "is above another may be due to that"
    ),
    NO_LABEL_BASELINE: (
        "no control, such as `labels`, shows what an attack's main-task labels tell by themselves; "
        "none of it need be due to the update, and no attack is marked"
    ),
}
"""Remark → its explanation."""

FEW_BATCHES = 8
"""Victim batches below which a table says at the number how many there are: intervals of fewer
cover less than their nominal 95 %."""


def row_remarks(
    cells: Sequence[Measured],
    upper_bounds: Iterable[Estimate],
    knowledge: Iterable[frozenset[str]],
    lacks_label_baseline: bool,
) -> tuple[str, ...]:
    """Return the remarks on a row.

    Args:
        cells: of the row.
        upper_bounds: balanced accuracies of its controls that are upper bounds, if it shows these.
        knowledge: what each attack that competes in it knew.
        lacks_label_baseline: whether one of these is compared with no label baseline.
    """
    is_below_chance = any(each.value is not None and each.value < 0.5 for each in upper_bounds)
    holds = {
        ORACLE_BELOW_CHANCE: is_below_chance,
        MAIN_TASK_BELOW_MAJORITY: any(_is_below(each, MOST_FREQUENT_CLASS) for each in cells),
        MAIN_TASK_BEHIND_CENTRAL: any(_is_below(each, CENTRAL_ACCURACY, BEHIND) for each in cells),
        KNOWLEDGE_DIFFERS: len(set(knowledge)) > 1,
        NO_LABEL_BASELINE: lacks_label_baseline,
    }
    return tuple(remark for remark, does in holds.items() if does)


def explained(remarks: Iterable[str]) -> str:
    """Return the explanations of remarks, each once, in a paragraph; empty without remarks."""
    found = set(remarks)
    lines = [f"{remark}: {why}" for remark, why in EXPLANATIONS.items() if remark in found]
    return f"Remarks: {'; '.join(lines)}." if lines else ""


def batches_text(updates: int) -> str:
    """Return the number of victim batches where it is small, else nothing.

    >>> batches_text(6), batches_text(1), batches_text(8)
    ('(6 batches)', '(1 batch)', '')
    """
    if updates >= FEW_BATCHES:
        return ""
    return f"({updates} batch)" if updates == 1 else f"({updates} batches)"


def _is_below(measured: Measured, other: MetricSpec, by: float = 0.0) -> bool:
    """Whether the main-task accuracy is below another one by more than a number."""
    metrics = measured.record.metrics if measured.record else None
    accuracy, compared = (spec.value(metrics) for spec in (MAIN_TASK_ACCURACY, other))
    if not isinstance(accuracy, float) or not isinstance(compared, float):
        return False
    return accuracy < compared - by
