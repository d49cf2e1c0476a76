"""Records as a table of numbers, for analyses of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from leakbench.base.errors import UsageError
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Record
from leakbench.records.store import Store


def results(folder: Path) -> pd.DataFrame:
    """Return a run's records, one row for each cell and property; a failed cell has one row.

    Columns are the fields of the cell, parameters as JSON; status, knowledge and error; accuracy,
    balanced accuracy, AUC and count error of the property with the ends of their 95 % intervals
    (`_low`, `_high`); what was reconstructed; and the cost.

    Args:
        folder: that the run had as `--out`.

    Raises:
        UsageError: it holds no records.
    """
    records = folder / "records"
    # Apart, since what a record says once is many times as much as what it says of a property.
    of_records: list[dict[str, Any]] = []
    of_properties: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, record in enumerate(Store(records).all()):
        of_records.append(_of_record(record))
        rows = _of_properties(record) or [{}]
        of_properties += rows
        numbers += [number] * len(rows)
    if not of_records:
        raise UsageError(f"{records} holds no records; name the folder that a run had as --out")
    repeated = pd.DataFrame(of_records).iloc[numbers].reset_index(drop=True)
    return pd.concat([repeated, pd.DataFrame(of_properties)], axis=1)


def write_results(folder: Path, path: Path) -> int:
    """Write a run's records as CSV or Parquet, by the ending; return the number of rows.

    Raises:
        UsageError: there are no records, the ending is another, or Parquet lacks its library.
    """
    frame = results(folder)
    try:
        if path.suffix == ".csv":
            frame.to_csv(path, index=False)
        elif path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            raise UsageError(f"{path} ends neither in .csv nor in .parquet; name such a file")
    except ImportError:
        raise UsageError(
            "Parquet needs a library that is not there; install leakbench[parquet], or take .csv"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return len(frame)


def _of_record(record: Record) -> dict[str, Any]:
    cell = {name: _flat(value) for name, value in record.cell.model_dump(mode="json").items()}
    return {
        "key": record.key,
        **cell,
        "status": record.status,
        "error": record.error,
        "attack_version": record.attack_version,
        "knowledge": _flat(record.knowledge),
        "device": record.device,
        "finished": record.finished,
        **_reconstructed(record),
        **({} if record.cost is None else record.cost.model_dump()),
    }


def _of_properties(record: Record) -> list[dict[str, Any]]:
    if record.metrics is None:
        return []
    return [
        {
            "property": name,
            **_interval("accuracy", metrics.accuracy),
            **_interval("balanced_accuracy", metrics.balanced_accuracy),
            **_interval("auc", metrics.auc),
            **_interval("count_error", metrics.count_error),
            "prevalence": metrics.prevalence,
            "in_main_task": metrics.in_main_task,
        }
        for name, metrics in record.metrics.properties.items()
    ]


def _reconstructed(record: Record) -> dict[str, Any]:
    metrics = record.metrics
    if metrics is None:
        return {}
    found = {
        **_interval("feature_cosine", metrics.feature_cosine),
        **_interval("exact", metrics.exact),
        "label_accuracy": metrics.label_accuracy,
        "diverged": metrics.diverged,
        "main_task_accuracy": metrics.main_task["accuracy"],
        "classes": metrics.classes,
    }
    if metrics.certificates is not None:
        found |= {
            "certified": metrics.certificates.share,
            "certified_falsely": metrics.certificates.false,
        }
    if metrics.membership is not None:
        found |= _interval("membership_auc", metrics.membership.auc)
        found |= _interval("membership_found", metrics.membership.true_positive_rate)
    if metrics.images is not None:
        for name in ("psnr", "ssim", "lpips"):
            found |= _interval(name, getattr(metrics.images, name))
    if metrics.defense is not None:
        for name in ("distortion", "utility", "utility_lost"):
            found |= _interval(name, getattr(metrics.defense, name))
        found |= {"epsilon": metrics.defense.epsilon, "delta": metrics.defense.delta}
    return found


def _interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _flat(value: Any) -> Any:
    """Return a value that fits into a table's field."""
    return _encode(value) if isinstance(value, (dict, list, tuple)) else value
