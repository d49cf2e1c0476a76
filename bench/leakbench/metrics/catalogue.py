"""The catalogue of metrics: each is declared once, and all that shows or checks it reads it here.

To add a metric, declare it in `of_properties`, `of_attacks` or `of_setups`, give it a field in
`leakbench.records.record`, and write the function that computes it, if there is none yet. Scoring,
tables, the site, the data frame of results, the checks of records and `leakbench verify` then have
it.
"""

from __future__ import annotations

from functools import lru_cache

from leakbench.metrics.of_attacks import ATTACK_METRICS
from leakbench.metrics.of_properties import PROPERTY_METRICS
from leakbench.metrics.of_setups import SETUP_METRICS
from leakbench.metrics.spec import MetricSpec

__all__ = ["CELL_METRICS", "METRICS", "PROPERTY_METRICS", "spec_of"]

CELL_METRICS = ATTACK_METRICS + SETUP_METRICS
"""All that have one value for a cell."""

METRICS: tuple[MetricSpec, ...] = PROPERTY_METRICS + CELL_METRICS
"""All, in the order in which tables and the data frame of results have them."""


@lru_cache(maxsize=4096)
def spec_of(path: tuple[str, ...]) -> MetricSpec | None:
    """Return the metric at a place in a record's metrics; None where the catalogue has none.

    >>> spec_of(("properties", "gender", "auc")).title
    'AUC'
    """
    return next((spec for spec in METRICS if spec.fits(path)), None)
