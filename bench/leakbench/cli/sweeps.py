"""Commands that measure cells, and commands on their records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from leakbench.base.choices import Compiling, DeviceName, ExecutorName
from leakbench.base.long_lived import MIDDLE_WHERE_MEASURED, collecting_seldom
from leakbench.cli.loading import loading
from leakbench.cli.options import (
    DEFAULT_OUT,
    DataRootOption,
    DeviceOption,
    LpipsOption,
    OnlyOption,
    OutOption,
    RedoOption,
    SetOption,
    ShardOption,
    SuiteArgument,
    TrustVerifiedOption,
    WorkersOption,
)

Rule = Literal["auto", "equal", "interval"]
"""How a record is compared with a new measurement of its cell."""


def plan(
    suite: SuiteArgument,
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
    lpips_weights: LpipsOption = None,
    shard: ShardOption = None,
    redo: RedoOption = "stale",
) -> None:
    """Print what `run` would measure with these options, and an estimate of its time.

    Data sets are read, and stay decoded in the cache, to find which trained models are there.
    """
    with loading():
        from leakbench.sweep.run_options import RunOptions
        from leakbench.sweep.session import plan_suite

    options = RunOptions(
        data_root=data_root,
        device=device,
        workers=workers,
        out=out,
        lpips_weights=lpips_weights,
        shard=shard,
        redo=redo,
    )
    with collecting_seldom():
        plan_suite(suite, settings or [], only or [], options)


def run(
    suite: SuiteArgument,
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
    lpips_weights: LpipsOption = None,
    compiling: Annotated[
        Compiling,
        typer.Option(
            "--compile",
            help="Compile the steps of attacks; auto: if that takes less time than it saves. "
            "Needs a C++ compiler, or Triton on a GPU; compiled code is kept in the cache.",
        ),
    ] = "auto",
    shard: ShardOption = None,
    redo: RedoOption = "stale",
    executor: Annotated[
        ExecutorName,
        typer.Option(
            "--executor",
            help="Run cells in processes of this machine, or as tasks of a Ray cluster.",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Address of the Ray cluster; by default $RAY_ADDRESS, or a new one here.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", metavar="MINUTES", help="A cell that takes longer fails."),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            "--retries",
            min=0,
            help="How often to try a cell again if its worker died, or ran out of memory or disk.",
        ),
    ] = 2,
) -> None:
    """Measure the cells of a suite that have no record yet, and print its tables."""
    with loading():
        from leakbench.sweep.run_options import RunOptions
        from leakbench.sweep.session import run_suite

    options = RunOptions(
        data_root=data_root,
        device=device,
        workers=workers,
        out=out,
        lpips_weights=lpips_weights,
        compiling=compiling,
        shard=shard,
        redo=redo,
        executor=executor,
        address=address,
        time_limit=time_limit,
        retries=retries,
    )
    try:
        code = run_suite(suite, settings or [], only or [], options)
    except KeyboardInterrupt:
        typer.echo("leakbench: interrupted; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)


def report(
    suite: SuiteArgument,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
    trust_verified: TrustVerifiedOption = False,
) -> None:
    """Print a suite's tables from existing records."""
    with loading():
        from leakbench.sweep.suite_tables import report_suite

    with collecting_seldom():
        report_suite(suite, settings or [], only or [], out, trust_verified)


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders that were --out of runs.")
    ],
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Unite the records of several runs; refuse, and name, records that contradict each other."""
    with loading():
        from leakbench.records.merge import merge as unite

    with collecting_seldom():
        done = unite(folders, out)
    for path, why in done.left_out.items():
        typer.echo(f"not merged: {path}: {why}", err=True)
    if done.foreign:
        typer.echo(
            f"not merged: {done.foreign} entries of verified.json, since this machine did not "
            f"write them; `leakbench verify {out}` measures a sample again",
            err=True,
        )
    again = f" {done.verified} of them are verified." if done.verified else ""
    typer.echo(f"Added {done.taken} records to the {done.had} in {out}.{again}")


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that was --out of a run.")
    ],
    data_root: DataRootOption = None,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="How many records to measure again.")
    ] = 3,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed of the sample; by default drawn at random, and printed."),
    ] = None,
    device: Annotated[
        DeviceName,
        typer.Option(
            "--device",
            help="Where tensors are computed; auto: on the record's own device if present.",
        ),
    ] = "auto",
    rule: Annotated[
        Rule,
        typer.Option(
            "--rule",
            help="How a record is compared. equal: same values up to rounding. interval: values "
            "no further apart than both intervals allow. auto: equal if device and versions are "
            "the record's.",
        ),
    ] = "auto",
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep entries of an existing verified.json that other machines wrote."
        ),
    ] = False,
) -> None:
    """Check submitted records, measure a sample of them again, and write verified.json.

    Exit code 0 if nothing is wrong and the whole sample agrees; 1 if a record has a fault or
    differs; 3 if nothing is wrong, but part of the sample cannot be measured or tested here.
    """
    with loading():
        from leakbench.verification.verify import verify as check_records

    try:
        with collecting_seldom(MIDDLE_WHERE_MEASURED):
            found = check_records(folder, data_root, sample, seed, device, rule, keep)
    except KeyboardInterrupt:
        typer.echo("leakbench: interrupted; what was measured again is in verified.json", err=True)
        raise typer.Exit(130) from None
    typer.echo(found.text())
    if found.code:
        raise typer.Exit(found.code)


def results(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .parquet file.")],
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Write the records of a run as a table of numbers, one row per cell and property.

    In Python, `leakbench.results(folder)` returns the same table as a pandas DataFrame.
    """
    with loading():
        from leakbench.records.data_frame import write_results

    with collecting_seldom():
        typer.echo(f"Wrote {write_results(out, path)} rows to {path}.")
