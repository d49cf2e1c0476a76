"""Records as a data frame, for analyses of one's own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from leakbench.base.canonical import by_content
from leakbench.base.errors import UsageError
from leakbench.metrics.catalogue import CELL_METRICS, PROPERTY_METRICS
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.spec import MetricSpec, Value
from leakbench.records.record import Metrics, Record
from leakbench.records.store import Store, warn_of


def results(folder: Path) -> pd.DataFrame:
    """Return a run's records, one row for each cell and property; a failed cell has one row.

    Columns are the fields of the cell, with parameters as JSON; status, knowledge and error; the
    metrics of the cell and of the property by their names in `leakbench.metrics.catalogue`, with
    the ends of their 95 % intervals (`_low`, `_high`); and the cost. Files that hold no record, or
    one whose content does not make its key, are left out, with a `BadRecordWarning` each.

    Args:
        folder: that the run had as `--out`.

    Raises:
        UsageError: it holds no records.
    """
    records = folder / "records"
    # Apart, since a record has many times as many columns as one of its properties.
    of_records, of_properties = _Rows(), _Rows()
    numbers: list[int] = []
    left_out: dict[str, str] = {}
    for number, record in enumerate(Store(records).all(left_out)):
        of_records.add(_of_record(record))
        rows = _of_properties(record) or [{}]
        for row in rows:
            of_properties.add(row)
        numbers += [number] * len(rows)
    warn_of(left_out)
    if not numbers:
        raise UsageError(f"{records} holds no records; name the folder that a run had as --out")
    repeated = of_records.frame().iloc[numbers].reset_index(drop=True)
    return pd.concat([repeated, of_properties.frame()], axis=1)


class _Rows:
    """Rows of a data frame as lists: a dictionary for each would take several times the memory."""

    def __init__(self) -> None:
        self._columns: dict[str, int] = {}
        self._rows: list[list[Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, by column."""
        if row.keys() != self._columns.keys():
            for name in row:
                self._columns.setdefault(name, len(self._columns))
        self._rows.append([row.get(name, math.nan) for name in self._columns])

    def frame(self) -> pd.DataFrame:
        """Return the data frame, whose columns are in the order in which they came."""
        for row in self._rows:
            row.extend([math.nan] * (len(self._columns) - len(row)))
        return pd.DataFrame(self._rows, columns=list(self._columns))


def write_results(folder: Path, path: Path) -> int:
    """Write a run's records as CSV or Parquet, by the ending; return the number of rows.

    Raises:
        UsageError: there are no records, the ending is neither, or Parquet's library is missing.
    """
    frame = results(folder)
    try:
        if path.suffix == ".csv":
            without_formulas(frame).to_csv(path, index=False)
        elif path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            raise UsageError(f"{path} ends neither in .csv nor in .parquet; name such a file")
    except ImportError:
        raise UsageError(
            "Parquet needs a library that is not installed; install leakbench[parquet], or name a "
            "file that ends in .csv"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return len(frame)


FORMULA = tuple("=+-@")
"""A text that begins so is computed as a formula by spreadsheets that open a CSV file."""


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with its texts, and headings, as `without_formula` has them."""
    made = frame.copy()
    for name in frame.select_dtypes(exclude="number"):
        # Few texts stand in many rows, and hardly any begins so.
        if all(without_formula(each) is each for each in frame[name].unique()):
            continue
        # With the column's type, since a new one would make integers with gaps floating point.
        texts = [without_formula(value) for value in frame[name]]
        made[name] = pd.Series(texts, index=frame.index, dtype=frame[name].dtype)
    return made.rename(columns=without_formula)


def without_formula(value: Any) -> Any:
    """Return a value for a CSV file, a text that would be a formula with `'` before it.

    Carriage returns become line feeds.
    """
    if not isinstance(value, str):
        return value
    if "\r" not in value and not value.lstrip().startswith(FORMULA):
        return value
    # A carriage return would end the row, since the writer quotes line feeds only.
    one = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{one}" if one.lstrip().startswith(FORMULA) else one


def _of_record(record: Record) -> dict[str, Any]:
    cell = {name: _flat(value) for name, value in record.cell.__dict__.items()}
    return {
        "key": record.key,
        **cell,
        "status": record.status,
        "error": record.error,
        "attack_version": record.attack_version,
        "knowledge": _flat(record.knowledge),
        "device": record.device,
        "finished": record.finished,
        **({} if record.metrics is None else _values(CELL_COLUMNS, record.metrics)),
        **({} if record.cost is None else record.cost.model_dump()),
    }


def _of_properties(record: Record) -> list[dict[str, Any]]:
    if record.metrics is None:
        return []
    return [
        {"property": name, **_values(PROPERTY_COLUMNS, record.metrics, name)}
        for name in record.metrics.properties
    ]


def _values(specs: Sequence[MetricSpec], metrics: Metrics, name: str = "") -> dict[str, Any]:
    """Return metrics by column, estimates with the ends of their intervals.

    Args:
        name: the property.
    """
    found: dict[str, Any] = {}
    for spec in specs:
        value = spec.value(metrics, name)
        if spec.interval:
            found[spec.name], found[f"{spec.name}_low"], found[f"{spec.name}_high"] = _ends(value)
        else:
            found[spec.name] = value
    return found


def _ends(value: Value) -> tuple[float | None, float | None, float | None]:
    """Return a value and the ends of its interval, None where there are none."""
    if isinstance(value, Estimate):
        return value.value, value.low, value.high
    return value, None, None


PROPERTY_COLUMNS = [spec for spec in PROPERTY_METRICS if spec.exported]
CELL_COLUMNS = [spec for spec in CELL_METRICS if spec.exported]


_encode = json.JSONEncoder(ensure_ascii=False).encode

_encode_tuple = lru_cache(maxsize=1024)(_encode)
"""Of names: records of a run share theirs."""


_encode_parameters = by_content(_encode)
"""Of tables and lists: most records share them."""


def _flat(value: Any) -> Any:
    """Return a value that fits into a field of a table."""
    if isinstance(value, tuple):
        return _encode_tuple(value)
    if not isinstance(value, (dict, list)):
        return value
    return _encode_parameters(value)
