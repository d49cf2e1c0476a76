"""How a metric is declared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import FormattedNumber, formatted
from leakbench.metrics.scored import ScoredCell, ScoredProperty

Unit = Literal["%", "dB", ""]
"""`%`: a share, recorded in [0, 1] and printed in percent."""

BY_INDIVIDUAL = "victim batch, and identity where one appears several times"
BY_BATCH = "victim batch"
BY_CANDIDATE = "victim batch, and identity"
BY_IDENTITY = "identity"

SIGNED = (-1.0, 1.0)
NON_NEGATIVE = (0.0, math.inf)

EACH = "*"
"""In a path: any property, or any deployed model."""

OF_EACH_PROPERTY = ("properties", EACH)

Value = Estimate | float | None


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A metric of the catalogue, declared once.

    Attributes:
        name: its column in the data frame of results, unique.
        path: where a record's metrics hold it: names of fields, with dots between them, and `*`
            for any property or model. See `leakbench.records.record.Metrics`.
        title: what tables call it.
        description: what it is, in a phrase.
        unit: of its values.
        form: the format in which tables print it.
        range: the least and the greatest possible value, as recorded.
        better: whether higher or lower values mean a more successful attack; None for what
            describes the cell and not the attack.
        interval: by what its bootstrap resamples; empty for a number without an interval.
        counted: of what it is a count divided by their number, if it is.
        certain: whether the data alone decide it, so that no rounding changes it.
        optional: why a record may lack it where another record of its cell has it: `extra`, it
            needs weights or a library; `later`, it was added after records had been published.
        in_cell_tables: whether the site's tables of cells have a column for it.
        hides_zero: whether tables of cells leave out a value of 0.
        exported: whether the data frame of results, and the CSV of a suite, have it.
        of_property: computes it for one property.
        of_cell: computes it for a cell. A metric that has neither is measured elsewhere: of
            the shared model while it is prepared, or of its defense.
    """

    name: str
    path: str
    title: str
    description: str
    unit: Unit = ""
    form: str = ".1f"
    range: tuple[float, float] = (0.0, 1.0)
    better: Literal["higher", "lower"] | None = None
    interval: str = ""
    counted: Literal["individuals", "updates"] | None = None
    certain: bool = False
    optional: Literal["extra", "later"] | None = None
    in_cell_tables: bool = False
    hides_zero: bool = False
    exported: bool = True
    of_property: Callable[[ScoredProperty], Value] | None = None
    of_cell: Callable[[ScoredCell], Value] | None = None

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The path's parts."""
        return tuple(self.path.split("."))

    @cached_property
    def is_per_property(self) -> bool:
        """Whether each property has a value of its own."""
        return self.fields[:2] == OF_EACH_PROPERTY

    @property
    def heading(self) -> str:
        """The title with the unit, as a heading of a column."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def fits(self, path: tuple[str, ...]) -> bool:
        """Whether this is the metric at a place in a record's metrics."""
        return len(path) == len(self.fields) and all(
            pattern in (EACH, part) for pattern, part in zip(self.fields, path, strict=True)
        )

    def value(self, metrics: object, each: str = "") -> Value:
        """Return the value in a record's metrics; None where the record has none.

        Args:
            metrics: a `leakbench.records.record.Metrics`.
            each: the property or model, for a path with `*`.
        """
        found: Any = metrics
        # Nearly all are in the metrics themselves or in those of a property, and large tables ask
        # for millions.
        if self.is_per_property and found is not None:
            found, fields = found.properties.get(each), self.fields[2:]
        else:
            fields = self.fields
        for field in fields:
            if found is None:
                return None
            key = each if field == EACH else field
            # A dictionary, since asking for a Mapping takes half of the time of a large data frame.
            found = found.get(key) if isinstance(found, dict) else getattr(found, key)
        value: Value = found
        return value

    def bounded(self, value: Value) -> Value:
        """Return an estimate whose interval does not leave the range of possible values."""
        if not isinstance(value, Estimate) or value.low is None or value.high is None:
            return value
        least, most = self.range
        return replace(value, low=max(least, value.low), high=min(most, value.high))

    def format(self, value: Value) -> FormattedNumber:
        """Return a value as tables print it, with its interval as the detail."""
        return formatted(value, self.form, 100 if self.unit == "%" else 1)

    def text(self, metrics: object, each: str = "") -> FormattedNumber:
        """Return the value in a record's metrics as tables print it; see `value`."""
        return self.format(self.value(metrics, each))


class Leaf(NamedTuple):
    """A number in a record's metrics.

    Attributes:
        path: fields and keys that lead to it.
        name: the same as text, such as `properties['gender'].auc`.
        value: the number, with its interval if it has one.
    """

    path: tuple[str, ...]
    name: str
    value: Estimate | float


_leaf: Callable[[tuple[tuple[str, ...], str, Estimate | float]], Leaf] = partial(
    tuple.__new__, Leaf
)
"""Make a leaf of its parts, in a third of the time."""


def leaves(tree: Any) -> list[Leaf]:
    """Return all estimates, numbers and booleans of a record's metrics, or of a part of them."""
    found: list[Leaf] = []
    _collect(tree, ROOT, found)
    return found


def _collect(tree: Any, place: Place, found: list[Leaf]) -> None:
    if isinstance(tree, dict):
        inside = [(value, place.of_key(key)) for key, value in tree.items()]
    else:
        # Not `getattr`, since all numbers of all records come here.
        content = tree.__dict__
        inside = [(content[field], at) for field, at in place.of_fields(type(tree))]
    for value, at in inside:
        # Asking for abstract types takes longer than all else.
        if isinstance(value, (float, int, Estimate)):
            found.append(_leaf((at.path, at.name, value)))
        elif value is not None:
            _collect(value, at, found)


class Place:
    """A place in the metrics of all records; its path and name are made once, not in each record.

    Attributes:
        path, name: see `Leaf`.
    """

    __slots__ = ("_fields", "_keys", "name", "path")

    def __init__(self, path: tuple[str, ...] = (), name: str = "") -> None:
        self.path = path
        self.name = name
        self._fields: dict[type, tuple[tuple[str, Place], ...]] = {}
        self._keys: dict[str, Place] = {}

    def of_fields(self, model: Any) -> tuple[tuple[str, Place], ...]:
        """Return the fields of a pydantic model that stands here, with their places."""
        if model not in self._fields:
            self._fields[model] = tuple(
                (field, Place((*self.path, field), f"{self.name}.{field}".removeprefix(".")))
                for field in model.model_fields
            )
        return self._fields[model]

    def of_key(self, key: str) -> Place:
        """Return the place of a key of the dictionary that stands here."""
        known = self._keys.get(key)
        if known is None:
            known = Place((*self.path, key), f"{self.name}[{key!r}]")
            if len(self._keys) < MOST_KEYS:
                self._keys[key] = known
        return known


MOST_KEYS = 1024
"""Keys of a dictionary whose places are kept: hostile records may have any number."""

ROOT = Place()
"""The metrics themselves."""
