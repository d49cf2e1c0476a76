"""What `leakbench run` and `leakbench report` do."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from rich.console import Console

from bench.cache import replacing
from bench.cells import Cell
from bench.console import RunConsole
from bench.errors import UsageError
from bench.executor import Failure, run_cells
from bench.override import override
from bench.preparation import check_available, check_precision
from bench.report import main_tables, markdown, reading_aid
from bench.rows import Measured, describe
from bench.settings import settings
from bench.shard import Shard
from bench.store import Store
from bench.suite import Planned, expand, load_suite
from bench.threat import Compiling


def run_suite(
    suite_name: str,
    changes: Sequence[str],
    only: Sequence[str],
    data_root: Path | None,
    device: str,
    workers: int | None,
    out: Path,
    lpips_weights: str | None = None,
    compiling: Compiling = "auto",
    shard: str | None = None,
    redo: Redo = "stale",
) -> int:
    """Measure what is not measured yet, write and print the tables; return the exit code.

    Args:
        shard: the part of the chosen cells to measure, as `2/8`; all by default.
        redo: which of the cells that have a record are measured again, see `Redo`.
        lpips_weights: what the user names; see `find_lpips_weights`.

    Raises:
        UsageError: the suite, a setting, the data or the weights are not as they must be.
    """
    from bench.lpips_weights import find_lpips_weights

    name, suite = load_suite(suite_name)
    suite = override(suite, changes)
    chosen, every = expand(name, suite, only), expand(name, suite)
    store = Store(out / "records")
    console = Console(stderr=True)
    unique = {planned.key: planned for planned in chosen}
    if shard is not None:
        unique = {each.key: each for each in Shard.parse(shard).of(list(unique.values()))}
    weights = find_lpips_weights(lpips_weights)
    pending = _pending(list(unique.values()), store, data_root, lpips_weights is not None, redo)
    for planned in pending:
        if aside := store.set_aside(planned.key):
            path = store.path(planned.key)
            sentence = f"{path} held no record that can be read; it is now {aside}"
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if len(unique) > len(pending):
        console.print(f"{len(unique) - len(pending)} of {len(unique)} cells have their record")
    failures: list[Failure] = []
    pending, left_out = _available(pending, data_root)
    if left_out and len(left_out) == len(unique):
        raise UsageError(next(iter(left_out.values())))
    for sentence in dict.fromkeys(left_out.values()):
        console.print(f"left out: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if pending:
        where = chosen_device(device)
        for planned in pending:
            check_precision(planned.cell.precision, where)
        count = workers or (1 if where != "cpu" else _cores())
        with RunConsole(console, len(pending)) as watcher:
            failures = run_cells(
                pending, store, data_root, where, count, watcher, weights, compiling
            )
    if len(failures) + len(left_out) < len(unique):
        _present(name, suite.title, chosen, every, store, out, _command(suite_name, changes))
    for message, several in _by_message(failures).items():
        more = f" (and {len(several) - 1} more cells)" if len(several) > 1 else ""
        where = describe(several[0].planned)
        sentence = f"failed: {where}{more}: {message}"
        console.print(sentence, markup=False, style="red", soft_wrap=True)
        if not several[0].usage:
            console.print(several[0].details, markup=False)
    if not failures:
        return 0
    return 2 if all(failure.usage for failure in failures) else 1


def _by_message(failures: Sequence[Failure]) -> dict[str, list[Failure]]:
    found: dict[str, list[Failure]] = {}
    for failure in failures:
        found.setdefault(failure.message, []).append(failure)
    return found


def report_suite(suite_name: str, changes: Sequence[str], only: Sequence[str], out: Path) -> None:
    """Write and print a suite's tables from the records that exist.

    Raises:
        UsageError: there are none.
    """
    name, suite = load_suite(suite_name)
    suite = override(suite, changes)
    chosen, every = expand(name, suite, only), expand(name, suite)
    store = Store(out / "records")
    if not any(store.read(planned.key) for planned in chosen):
        raise no_record(store, name, suite_name)
    _present(name, suite.title, chosen, every, store, out, _command(suite_name, changes))


def no_record(store: Store, name: str, suite_name: str) -> UsageError:
    """Return the error of a suite that has no record in a folder."""
    return UsageError(
        f"{store.folder} holds no record of suite {name!r} with these settings; run "
        f"`leakbench run {suite_name}` first or name another folder with --out"
    )


Redo = Literal["never", "failed", "stale", "all"]
"""Which cells that have a record are measured again: none; those that failed; also those whose data
set is no longer the one that was measured, or whose images lack an LPIPS that can be had; or all. A
cell whose attack has another version is another cell, and has no record."""


def _pending(
    cells: Sequence[Planned],
    store: Store,
    data_root: Path | None,
    wants_lpips: bool,
    redo: Redo,
) -> list[Planned]:
    """Return the cells to measure: those without a record, and those to be measured again.

    Args:
        wants_lpips: also those whose images were scored without LPIPS.
    """
    pending = []
    fingerprints: dict[str, str | None] = {}
    for planned in cells:
        record = store.read(planned.key)
        failed = record is not None and record.status == "failed"
        if record is None or redo == "all" or (failed and redo != "never"):
            pending.append(planned)
            continue
        if failed or redo != "stale":
            continue
        images = record.metrics.images if record.metrics else None
        if wants_lpips and images is not None and images.lpips is None:
            pending.append(planned)
            continue
        data = _data_key(planned.cell)
        if data not in fingerprints:
            fingerprints[data] = _fingerprint(planned.cell, data_root)
        if fingerprints[data] not in (None, record.fingerprint):
            pending.append(planned)
    return pending


def _available(
    cells: Sequence[Planned], data_root: Path | None
) -> tuple[list[Planned], dict[str, str]]:
    """Return the cells whose data are there, and key → what the optional ones among others need.

    Raises:
        UsageError: the data of a cell that is not optional are not there.
    """
    there, left_out = [], {}
    for planned in cells:
        try:
            check_available(planned.cell.setup, data_root)
        except UsageError as error:
            if not planned.optional:
                raise
            left_out[planned.key] = str(error)
        else:
            there.append(planned)
    return there, left_out


def _data_key(cell: Cell) -> str:
    own = f"{cell.dataset} {cell.dataset_parameters} {cell.image_size}"
    return f"{own} {cell.auxiliary_dataset} {cell.auxiliary_dataset_parameters}"


def _fingerprint(cell: Cell, data_root: Path | None) -> str | None:
    """Return the fingerprint of the cell's data; None where they are not there to compare."""
    from bench.preparation import data_fingerprint

    try:
        check_available(cell.setup, data_root)
    except UsageError:
        return None
    return data_fingerprint(cell.setup, data_root)


def _present(
    name: str,
    title: str,
    chosen: Sequence[Planned],
    every: Sequence[Planned],
    store: Store,
    out: Path,
    command: str,
) -> None:
    """Print the chosen cells' tables; write the whole suite's."""
    path, beside = out / f"{name}.md", out / f"{name}.reading.md"
    reading = beside.read_text(encoding="utf-8") if beside.is_file() else ""
    with replacing(path) as temporary:
        measured = [Measured(planned, store.read(planned.key)) for planned in every]
        temporary.write_text(markdown(title, measured, command, reading), encoding="utf-8")
    shown = [Measured(planned, store.read(planned.key)) for planned in chosen]
    print(main_tables(shown), reading_aid(shown), settings(shown), sep="\n\n")
    print(f"\nAll metrics are in {path}.")


def _command(suite_name: str, changes: Sequence[str]) -> str:
    """Return the command that measures these cells; data sets lie in the reader's own folder."""
    options = chain.from_iterable(("--set", change) for change in changes)
    return shlex.join(["leakbench", "run", suite_name, *options])


def chosen_device(name: str) -> str:
    """Return the device to compute on; `auto` takes a GPU where there is one.

    Raises:
        UsageError: it is not there.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        raise UsageError(f"device {name!r} is not available here; use --device auto")
    return name


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
