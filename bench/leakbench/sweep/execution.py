"""Execution of a sweep, with the executor that the options choose."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from leakbench.base.devices import available_cores, check_precision, chosen_device, default_workers
from leakbench.base.errors import UsageError
from leakbench.metrics.formatting import counted
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.sweep.console import RunConsole
from leakbench.sweep.events import Watchers
from leakbench.sweep.executor import Executor, Site
from leakbench.sweep.local import LocalExecutor
from leakbench.sweep.log import RunLog
from leakbench.sweep.outcome import Limits, Outcome
from leakbench.sweep.pending import Pending
from leakbench.sweep.rates import Rates
from leakbench.sweep.run_options import RunOptions
from leakbench.sweep.steps import steps_of
from leakbench.sweep.sweep import Sweep


def measure_cells(
    pending: Sequence[Pending],
    kept: Sequence[Record],
    store: Store,
    options: RunOptions,
    weights: Path | None,
    console: Console,
) -> Outcome:
    """Measure cells; show the progress on the console, and log it.

    Args:
        kept: records of other cells, from which durations are estimated.
        weights: AlexNet's, for LPIPS.

    Raises:
        UsageError: an option does not fit, or no record can be written any more.
    """
    cells = [each.entry for each in pending]
    if options.address is not None and options.executor != "ray":
        raise UsageError("--address names a Ray cluster; add --executor ray")
    if options.time_limit is not None and not options.time_limit > 0:
        raise UsageError(f"--time-limit {options.time_limit} is not a time; take minutes above 0")
    device = _connected_device(options)
    for entry in cells:
        check_precision(entry.cell.precision, device)
    site = Site(
        data_root=options.data_root.resolve() if options.data_root else None,
        device=device,
        lpips_weights=weights.resolve() if weights else None,
        compiling=options.compiling,
    )
    rates = Rates(kept, device, options.log)
    steps = [replace(step, weight=rates.seconds(step)) for step in steps_of(cells)]
    executor, where = _executor(options, site, len(steps))
    limit = None if options.time_limit is None else 60 * options.time_limit
    # Standard output is for tables; Ray would print the output of its daemons there.
    with redirect_stdout(sys.stderr), RunConsole(console) as shown:
        return Sweep(
            steps,
            {each.entry.key: each.stamp for each in pending},
            store,
            executor,
            Watchers(shown, RunLog(options.log)),
            device,
            Limits(limit, options.retries),
            where,
        ).run()


def _connected_device(options: RunOptions) -> str:
    """Return the device to compute on: this machine's, or the Ray cluster's after joining it."""
    if options.executor != "ray":
        return chosen_device(options.device)
    from leakbench.sweep.ray_cluster import connect, device_of_cluster

    connect(options.address, options.workers or available_cores())
    return device_of_cluster(options.device)


def _executor(options: RunOptions, site: Site, steps: int) -> tuple[Executor, str]:
    """Return the chosen executor, and a description of its workers."""
    if options.executor == "ray":
        from leakbench.sweep.ray_cluster import RayExecutor

        ray = RayExecutor(site, options.workers)
        return ray, f"{ray.slots} at once on a Ray cluster"
    workers = min(options.workers or default_workers(site.device), steps)
    gpus = default_workers("cuda") if site.device == "cuda" else 0
    return LocalExecutor(site, workers, gpus), f"{counted(workers, 'worker')} on {site.device}"
