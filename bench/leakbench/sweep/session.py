"""What `leakbench run` and `leakbench report` do."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from rich.console import Console

from leakbench.base.choices import Compiling, DeviceName, ExecutorName, Redo
from leakbench.base.devices import available_cores, check_precision, chosen_device, default_workers
from leakbench.base.errors import UsageError
from leakbench.base.files import replacing
from leakbench.evaluation.preparation import check_available
from leakbench.experiments.descriptions import describe
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import SuiteEntry, expand, load_suite
from leakbench.records.measured import Measured
from leakbench.records.record import Record
from leakbench.records.store import Store, no_record
from leakbench.reports.settings import settings
from leakbench.reports.suite_report import main_tables, markdown, reading_aid
from leakbench.sweep.console import RunConsole, counted, first_line
from leakbench.sweep.events import Watchers
from leakbench.sweep.executor import Executor, Site
from leakbench.sweep.local import LocalExecutor
from leakbench.sweep.log import RunLog
from leakbench.sweep.pending import Pending, sort_out
from leakbench.sweep.plan import plan, plan_text
from leakbench.sweep.rates import Rates
from leakbench.sweep.shard import Shard
from leakbench.sweep.steps import steps_of
from leakbench.sweep.sweep import Failure, Limits, Outcome, Sweep

LOG = "log.jsonl"
"""The log of runs, beside the folder of records."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a suite is measured, and where.

    Attributes:
        workers: single-threaded processes, or steps at once of a Ray cluster; by default one a core
            or GPU, or as many as the cluster takes.
        out: the folder of records, reports and the log.
        lpips_weights: what the user names; see `find_lpips_weights`.
        shard: the part of the chosen cells to measure, as `2/8`; all by default.
        redo: which of the cells that have a record are measured again.
        address: of the Ray cluster.
        time_limit: minutes that a cell may take; None for no limit.
        retries: see `Limits`.
    """

    data_root: Path | None = None
    device: DeviceName = "auto"
    workers: int | None = None
    out: Path
    lpips_weights: str | None = None
    compiling: Compiling = "auto"
    shard: str | None = None
    redo: Redo = "stale"
    executor: ExecutorName = "local"
    address: str | None = None
    time_limit: float | None = None
    retries: int = 2


def run_suite(
    suite_name: str, changes: Sequence[str], only: Sequence[str], options: RunOptions
) -> int:
    """Measure what is not measured yet, write and print the tables; return the exit code.

    0 if all is well, 1 if a cell failed, 2 if cells failed and the user can mend all of them,
    128 + n if signal n ended the run.

    Raises:
        UsageError: the suite, a setting, the data or the weights are not as they must be, or
            nothing can be written any more.
    """
    from leakbench.metrics.lpips_weights import find_lpips_weights

    name, suite = load_suite(suite_name)
    suite = override(suite, changes)
    chosen, every = expand(name, suite, only), expand(name, suite)
    store = Store(options.out / "records")
    console = Console(stderr=True)
    cells = cells_of_part(chosen, options.shard)
    weights = find_lpips_weights(options.lpips_weights)
    wants_lpips = options.lpips_weights is not None
    sorted_out = sort_out(cells, store, options.data_root, wants_lpips, options.redo)
    if sorted_out.kept:
        console.print(f"{len(sorted_out.kept)} of {len(cells)} cells have their record")
    pending, left_out = _available(sorted_out.pending, options.data_root)
    if left_out and len(left_out) == len(cells):
        raise UsageError(next(iter(left_out.values())))
    for sentence in dict.fromkeys(left_out.values()):
        _say(console, f"left out: {sentence}")
    outcome = Outcome()
    if pending:
        pending = [_without_torn_record(each, store, console) for each in pending]
        outcome = _measure(pending, sorted_out.kept, store, options, weights, console)
    if len(outcome.failures) + outcome.left + len(left_out) < len(cells):
        _present(
            name, suite.title, chosen, every, store, options.out, _command(suite_name, changes)
        )
    _list_failures(outcome.failures, options.out, console)
    if outcome.interrupted:
        _say(
            console,
            f"leakbench: interrupted; {outcome.measured} cells were measured, {outcome.left} are "
            f"left; run the same command again to go on",
        )
        return 128 + outcome.interrupted
    if not outcome.failures:
        return 0
    return 2 if all(failure.usage for failure in outcome.failures) else 1


def cells_of_part(chosen: Sequence[SuiteEntry], shard: str | None) -> list[SuiteEntry]:
    """Return the cells of a shard, or all, each once.

    Raises:
        UsageError: the text names no shard.
    """
    unique = list({entry.key: entry for entry in chosen}.values())
    return unique if shard is None else Shard.parse(shard).of(unique)


def plan_suite(
    suite_name: str, changes: Sequence[str], only: Sequence[str], options: RunOptions
) -> str:
    """Return what `run_suite` would do with the same arguments, and about how long it would take.

    Raises:
        UsageError: the suite, a setting or the data are not as they must be.
    """
    name, suite = load_suite(suite_name)
    cells = cells_of_part(expand(name, override(suite, changes), only), options.shard)
    store = Store(options.out / "records")
    wants_lpips = options.lpips_weights is not None
    sorted_out = sort_out(cells, store, options.data_root, wants_lpips, options.redo)
    device = chosen_device(options.device)
    # Of other suites too: any record teaches.
    rates = Rates(store.all(), device, options.out / LOG)
    found = plan(len(cells), sorted_out.pending, rates, options.data_root, device)
    return plan_text(found, options.workers or default_workers(device), device)


def _without_torn_record(pending: Pending, store: Store, console: Console) -> Pending:
    """Move a file that holds no record out of the way, and say so."""
    if pending.record is not None or pending.stamp is None:
        return pending
    key = pending.entry.key
    if (aside := store.quarantine(key)) is None:
        # Another run has put a record there, or the file aside, in the meantime.
        return pending
    _say(console, f"{store.path(key)} held no record that can be read; it is now {aside}")
    return replace(pending, stamp=None)


def _measure(
    pending: Sequence[Pending],
    kept: Sequence[Record],
    store: Store,
    options: RunOptions,
    weights: Path | None,
    console: Console,
) -> Outcome:
    """Measure cells with the chosen executor, watched by the console and the log."""
    cells = [each.entry for each in pending]
    if options.address is not None and options.executor != "ray":
        raise UsageError("--address names a Ray cluster; add --executor ray")
    if options.time_limit is not None and not options.time_limit > 0:
        raise UsageError(f"--time-limit {options.time_limit} is no time; take minutes above 0")
    device = _connected_device(options)
    for entry in cells:
        check_precision(entry.cell.precision, device)
    site = Site(
        data_root=options.data_root.resolve() if options.data_root else None,
        device=device,
        lpips_weights=weights.resolve() if weights else None,
        compiling=options.compiling,
    )
    log = options.out / LOG
    rates = Rates(kept, device, log)
    steps = [replace(step, weight=rates.seconds(step)) for step in steps_of(cells)]
    executor, where = _executor(options, site, len(steps))
    limit = None if options.time_limit is None else 60 * options.time_limit
    # Standard output is for tables; Ray would say there what its daemons say.
    with redirect_stdout(sys.stderr), RunConsole(console) as shown:
        return Sweep(
            steps,
            {each.entry.key: each.stamp for each in pending},
            store,
            executor,
            Watchers(shown, RunLog(log)),
            device,
            Limits(limit, options.retries),
            where,
        ).run()


def _connected_device(options: RunOptions) -> str:
    """Return the device to compute on: this machine's, or that of the Ray cluster, now joined."""
    if options.executor != "ray":
        return chosen_device(options.device)
    from leakbench.sweep.ray_cluster import connect, device_of_cluster

    connect(options.address, options.workers or available_cores())
    return device_of_cluster(options.device)


def _executor(options: RunOptions, site: Site, steps: int) -> tuple[Executor, str]:
    """Return the chosen executor, and what its workers are in words."""
    if options.executor == "ray":
        from leakbench.sweep.ray_cluster import RayExecutor

        ray = RayExecutor(site, options.workers)
        return ray, f"{ray.slots} at once on a Ray cluster"
    workers = min(options.workers or default_workers(site.device), steps)
    gpus = default_workers("cuda") if site.device == "cuda" else 0
    return LocalExecutor(site, workers, gpus), f"{counted(workers, 'worker')} on {site.device}"


def _list_failures(failures: Sequence[Failure], out: Path, console: Console) -> None:
    """Say what failed, each message once, by its first line."""
    for message, several in _by_message(failures).items():
        more = f" (and {len(several) - 1} more cells)" if len(several) > 1 else ""
        where = describe(several[0].entry)
        _say(console, f"failed: {where}{more}: {first_line(message)}", style="red")
    if any(not failure.usage and failure.details for failure in failures):
        _say(console, f"Tracebacks are in {out / LOG}.")


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)


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
    if not any(store.read(entry.key) for entry in chosen):
        raise no_record(store, name, suite_name)
    _present(name, suite.title, chosen, every, store, out, _command(suite_name, changes))


def _available(
    pending: Sequence[Pending], data_root: Path | None
) -> tuple[list[Pending], dict[str, str]]:
    """Return the cells whose data are there, and key → what the optional ones among others need.

    Raises:
        UsageError: the data of a cell that is not optional are not there.
    """
    there, left_out = [], {}
    for each in pending:
        try:
            check_available(each.entry.cell.setup, data_root)
        except UsageError as error:
            if not each.entry.optional:
                raise
            left_out[each.entry.key] = str(error)
        else:
            there.append(each)
    return there, left_out


def _present(
    name: str,
    title: str,
    chosen: Sequence[SuiteEntry],
    every: Sequence[SuiteEntry],
    store: Store,
    out: Path,
    command: str,
) -> None:
    """Print the chosen cells' tables; write the whole suite's."""
    path, beside = out / f"{name}.md", out / f"{name}.reading.md"
    reading = beside.read_text(encoding="utf-8") if beside.is_file() else ""
    with replacing(path) as temporary:
        measured = [Measured(entry, store.read(entry.key)) for entry in every]
        temporary.write_text(markdown(title, measured, command, reading), encoding="utf-8")
    shown = [Measured(entry, store.read(entry.key)) for entry in chosen]
    print(main_tables(shown), reading_aid(shown), settings(shown), sep="\n\n")
    print(f"\nAll metrics are in {path}.")


def _command(suite_name: str, changes: Sequence[str]) -> str:
    """Return the command that measures these cells; data sets lie in the reader's own folder."""
    options = chain.from_iterable(("--set", change) for change in changes)
    return shlex.join(["leakbench", "run", suite_name, *options])
