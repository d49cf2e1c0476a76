"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakbench.base.choices import DeviceName, Redo

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: a cell field (several values, separated by commas, are swept), "
        "attack.PARAMETER (likewise), attack.COLUMN.PARAMETER, attack.COLUMN.preset, "
        "dataset.PARAMETER, model.PARAMETER, defense.PARAMETER.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="FIELD=VALUE[,…]", help="Select cells by field; globs are allowed."
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of records and reports.")]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="LEAKBENCH_DATA_ROOT",
        help="Folder that holds the data sets, each in its official subfolder.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Worker processes; by default one per core or GPU."),
]
LpipsOption = Annotated[
    str | None,
    typer.Option(
        "--lpips-weights",
        metavar="PATH|download",
        envvar="LEAKBENCH_LPIPS",
        help="AlexNet's weights for LPIPS: a .pth or .safetensors file, a folder that holds "
        "one, or `download` (240 MB); by default torch hub's cache. Cells whose images have no "
        "LPIPS yet are measured again.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Measure part I of N, from 1/N to N/N, e.g. in a cluster's job array. Use a separate "
        "--out for each part and unite them with `leakbench merge`, or the same --out for all.",
    ),
]
RedoOption = Annotated[
    Redo,
    typer.Option(
        "--redo",
        help="Which cells that have a record are measured again. never: none. failed: those that "
        "failed. stale: also those whose data set has changed, or whose images have no LPIPS "
        "although --lpips-weights is given. all: every cell. A new version of an attack makes new "
        "cells, without a record.",
    ),
]
SuiteArgument = Annotated[str, typer.Argument(help="Name of a suite, or a TOML file.")]
DeviceOption = Annotated[
    DeviceName,
    typer.Option("--device", help="Where tensors are computed; auto: on a GPU if there is one."),
]
DEFAULT_OUT = Path("results/runs")

TrustVerifiedOption = Annotated[
    bool,
    typer.Option(
        "--trust-verified",
        help="Show entries of verified.json that another machine wrote like those of this one.",
    ),
]
