"""Metrics of the shared model and of the clients' defense, which no attack changes."""

from __future__ import annotations

import math

from leakbench.metrics.spec import BY_BATCH, BY_IDENTITY, NON_NEGATIVE, SIGNED, MetricSpec

MAIN_TASK_ACCURACY = MetricSpec(
    name="main_task_accuracy",
    path="main_task.accuracy",
    title="main-task accuracy",
    description="of the shared model on the victims' images, none of which it was trained on",
    unit="%",
)

CENTRAL_ACCURACY = MetricSpec(
    name="central_accuracy",
    path="main_task.central",
    title="centrally trained",
    description=(
        "main-task accuracy, on the victims' images, of the same model trained on all clients' "
        "data in one place"
    ),
    unit="%",
)

MOST_FREQUENT_CLASS = MetricSpec(
    name="most_frequent_class",
    path="main_task.most_frequent_class",
    title="most frequent class",
    description="main-task accuracy of the most frequent class for all victims' images",
    unit="%",
)

LABELLED_AUXILIARY = MetricSpec(
    name="labelled_auxiliary",
    path="main_task.labelled_auxiliary",
    title="labelled D_aux",
    description="whether a D_aux of another data set has labels of the main task",
    exported=False,
)

CLASSES = MetricSpec(
    name="classes",
    path="classes",
    title="classes",
    description="number of main-task classes",
    form=".0f",
    range=(2.0, math.inf),
    certain=True,
)

DEPLOYED = MetricSpec(
    name="deployed",
    path="deployed.*",
    title="deployed",
    description="main-task accuracy, on the victims' images, of a model that the server deployed",
    unit="%",
    counted="individuals",
    exported=False,
)

DISTORTION = MetricSpec(
    name="distortion",
    path="defense.distortion",
    title="distortion",
    description="‖update − gradient‖ / ‖gradient‖ under the defense, mean of the victims' updates",
    form=".3g",
    range=NON_NEGATIVE,
    interval=BY_BATCH,
)

UTILITY = MetricSpec(
    name="utility",
    path="defense.utility",
    title="utility",
    description="main-task accuracy, on the victims' images, of a model trained under the defense",
    unit="%",
    interval=BY_IDENTITY,
    in_cell_tables=True,
)

UTILITY_LOST = MetricSpec(
    name="utility_lost",
    path="defense.utility_lost",
    title="utility lost",
    description="by how much the utility is below the shared model's, on the same images",
    unit="%",
    range=SIGNED,
    interval=BY_IDENTITY,
)

EPSILON = MetricSpec(
    name="epsilon",
    path="defense.epsilon",
    title="ε",
    description="of the differential privacy of the training under the defense",
    form=".3g",
    range=NON_NEGATIVE,
    optional="extra",
)

DELTA = MetricSpec(
    name="delta",
    path="defense.delta",
    title="δ",
    description="of the differential privacy of the training under the defense",
    form=".2g",
    optional="extra",
)

RUNS = MetricSpec(
    name="runs",
    path="runs",
    title="runs",
    description="of the attack, over which metrics are means: trainings of the model times seeds",
    form=".0f",
    range=(1.0, math.inf),
    certain=True,
    optional="later",
)

SETUP_METRICS = (
    MAIN_TASK_ACCURACY,
    CENTRAL_ACCURACY,
    MOST_FREQUENT_CLASS,
    LABELLED_AUXILIARY,
    CLASSES,
    RUNS,
    DEPLOYED,
    DISTORTION,
    UTILITY,
    UTILITY_LOST,
    EPSILON,
    DELTA,
)
"""In the order in which tables have them."""
