"""Metrics of each property: how well an attack infers it, and how frequent it is."""

from __future__ import annotations

from leakbench.metrics.classification import (
    accuracy,
    auc,
    balanced_accuracy,
    brier_score,
    count_error,
)
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.scored import ScoredProperty
from leakbench.metrics.spec import BY_BATCH, BY_INDIVIDUAL, MetricSpec


def _count_error(scored: ScoredProperty) -> Estimate:
    return scored.by_batch.mean(count_error(scored.scores, scored.present, scored.batches))


ACCURACY = MetricSpec(
    name="accuracy",
    path="properties.*.accuracy",
    title="accuracy",
    description="share of correct decisions at threshold ½",
    unit="%",
    better="higher",
    interval=BY_INDIVIDUAL,
    counted="individuals",
    of_property=lambda scored: scored.estimate(accuracy),
)

BALANCED_ACCURACY = MetricSpec(
    name="balanced_accuracy",
    path="properties.*.balanced_accuracy",
    title="balanced accuracy",
    description="mean of sensitivity and specificity at threshold ½; chance is 50 %",
    unit="%",
    better="higher",
    interval=BY_INDIVIDUAL,
    in_cell_tables=True,
    of_property=lambda scored: scored.estimate(balanced_accuracy),
)

AUC = MetricSpec(
    name="auc",
    path="properties.*.auc",
    title="AUC",
    description="area under the ROC curve of the scores; chance is 50 %",
    unit="%",
    better="higher",
    interval=BY_INDIVIDUAL,
    in_cell_tables=True,
    of_property=lambda scored: scored.estimate(auc),
)

BRIER_SCORE = MetricSpec(
    name="brier_score",
    path="properties.*.brier_score",
    title="Brier score",
    description=(
        "mean squared error of the scores as probabilities of the property; a score of ½ for all "
        "gives 0.25"
    ),
    form=".3f",
    better="lower",
    interval=BY_INDIVIDUAL,
    optional="later",
    in_cell_tables=True,
    of_property=lambda scored: scored.estimate(brier_score),
)

SWAPPED_BALANCED_ACCURACY = MetricSpec(
    name="swapped_balanced_accuracy",
    path="properties.*.swapped_balanced_accuracy",
    title="swapped",
    description=(
        "balanced accuracy of the attack's own answers for individuals of other batches with the "
        "same labels, matched to this batch: what matching and labels alone give it"
    ),
    unit="%",
    interval=BY_INDIVIDUAL,
    optional="later",
    in_cell_tables=True,
    of_property=lambda scored: (
        None if scored.swapped is None else scored.swapped.estimate(balanced_accuracy)
    ),
)

COUNT_ERROR = MetricSpec(
    name="count_error",
    path="properties.*.count_error",
    title="count error",
    description="|inferred − true| number of individuals with the property over B; mean of batches",
    unit="%",
    better="lower",
    interval=BY_BATCH,
    counted="individuals",
    of_property=_count_error,
)

PREVALENCE = MetricSpec(
    name="prevalence",
    path="properties.*.prevalence",
    title="prevalence",
    description="share of individuals with the property",
    unit="%",
    form=".0f",
    counted="individuals",
    certain=True,
    of_property=lambda scored: float(scored.present.mean()),
)

IN_MAIN_TASK = MetricSpec(
    name="in_main_task",
    path="properties.*.in_main_task",
    title="in main task",
    description="whether the main task's label implies the property",
    certain=True,
    of_property=lambda scored: scored.in_main_task,
)

PROPERTY_METRICS = (
    ACCURACY,
    BALANCED_ACCURACY,
    AUC,
    SWAPPED_BALANCED_ACCURACY,
    BRIER_SCORE,
    COUNT_ERROR,
    PREVALENCE,
    IN_MAIN_TASK,
)
"""In the order in which tables have them."""
