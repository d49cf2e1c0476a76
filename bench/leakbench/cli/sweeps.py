"""Commands that measure cells, and on the records that come of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from leakbench.cli.options import (
    DEFAULT_OUT,
    Compile,
    DataRootOption,
    Device,
    DeviceOption,
    Executor,
    LpipsOption,
    OnlyOption,
    OutOption,
    Redo,
    RedoOption,
    SetOption,
    ShardOption,
    SuiteArgument,
    WorkersOption,
)


class Rule(StrEnum):
    """How a record is compared with its measurement anew."""

    AUTO = "auto"
    EQUAL = "equal"
    INTERVAL = "interval"


def plan(
    suite: SuiteArgument,
    data_root: DataRootOption = None,
    device: DeviceOption = Device.AUTO,
    workers: WorkersOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
    lpips_weights: LpipsOption = None,
    shard: ShardOption = None,
    redo: RedoOption = Redo.STALE,
) -> None:
    """Say what `run` would measure with these options, and about how long it would take.

    Data sets are read, and kept decoded for the run, to tell what is in the cache.
    """
    from leakbench.sweep.session import RunOptions, plan_suite

    options = RunOptions(
        data_root=data_root,
        device=device.value,
        workers=workers,
        out=out,
        lpips_weights=lpips_weights,
        shard=shard,
        redo=redo.value,
    )
    typer.echo(plan_suite(suite, settings or [], only or [], options))


def run(
    suite: SuiteArgument,
    data_root: DataRootOption = None,
    device: DeviceOption = Device.AUTO,
    workers: WorkersOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
    lpips_weights: LpipsOption = None,
    compiling: Annotated[
        Compile,
        typer.Option(
            "--compile",
            help="Compile the steps of attacks; `auto` where it takes less time than it saves. "
            "Needs a C++ compiler, and Triton on a GPU; what is compiled is kept in the cache.",
        ),
    ] = Compile.AUTO,
    shard: ShardOption = None,
    redo: RedoOption = Redo.STALE,
    executor: Annotated[
        Executor,
        typer.Option("--executor", help="Processes of this machine, or tasks of a Ray cluster."),
    ] = Executor.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Of the Ray cluster; default $RAY_ADDRESS, or one of this machine alone.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit", metavar="MINUTES", help="That a cell may take before it fails."
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            "--retries",
            min=0,
            help="How often a cell is tried again whose worker died, or lacked memory or disk.",
        ),
    ] = 2,
) -> None:
    """Measure a suite's cells, those with a record excepted, and print its tables."""
    from leakbench.sweep.session import RunOptions, run_suite

    options = RunOptions(
        data_root=data_root,
        device=device.value,
        workers=workers,
        out=out,
        lpips_weights=lpips_weights,
        compiling=compiling.value,
        shard=shard,
        redo=redo.value,
        executor=executor.value,
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
) -> None:
    """Print a suite's tables from the records that exist."""
    from leakbench.sweep.session import report_suite

    report_suite(suite, settings or [], only or [], out)


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders that runs had as --out.")
    ],
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Unite the records of several runs; refuse, and name, those that contradict each other."""
    from leakbench.records.merge import merge as unite

    done = unite(folders, out)
    for path in done.unreadable:
        typer.echo(f"left where it is, for it holds no record: {path}", err=True)
    again = f" {done.verified} of them were measured again." if done.verified else ""
    typer.echo(f"{done.taken} records came to {done.had} that {out} had.{again}")


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that a run had as --out.")
    ],
    data_root: DataRootOption = None,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="How many records to measure again.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", help="By which they are drawn.")] = 0,
    device: Annotated[
        Device, typer.Option("--device", help="`auto` is the record's own where it is here.")
    ] = Device.AUTO,
    rule: Annotated[
        Rule,
        typer.Option(
            "--rule",
            help="How a record is compared: `equal` up to rounding, or new values inside its "
            "`interval`; `auto` is `equal` where device and versions are the record's.",
        ),
    ] = Rule.AUTO,
    keep: Annotated[
        bool, typer.Option("--keep", help="Believe a verified.json that is there, and add to it.")
    ] = False,
) -> None:
    """Check somebody's records, measure a sample of them again, and write verified.json.

    Exit code 0 where nothing is wrong, 1 where something is.
    """
    from leakbench.verification.verify import verify as check_records

    found = check_records(folder, data_root, sample, seed, device.value, rule.value, keep)
    typer.echo(found.text())
    if found.wrong:
        raise typer.Exit(1)


def results(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .parquet file.")],
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Write the records of a run as a table of numbers, one row a cell and property.

    In Python, `leakbench.records.data_frame.results(folder)` is the same as a pandas DataFrame.
    """
    from leakbench.records.data_frame import write_results

    typer.echo(f"{write_results(out, path)} rows are in {path}.")
