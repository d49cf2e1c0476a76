"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where tensors are computed."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Compile(StrEnum):
    """Whether attacks compile their steps."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Executor(StrEnum):
    """Who measures cells."""

    LOCAL = "local"
    RAY = "ray"


class Redo(StrEnum):
    """Which cells that have a record are measured again."""

    NEVER = "never"
    FAILED = "failed"
    STALE = "stale"
    ALL = "all"


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
    typer.Option("--only", metavar="FIELD=VALUE[,…]", help="Take only these cells; globs work."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of records and reports.")]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="LEAKBENCH_DATA_ROOT",
        help="Folder in which each data set lies in its official folder.",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes; default one a core or GPU.")
]
LpipsOption = Annotated[
    str | None,
    typer.Option(
        "--lpips-weights",
        metavar="PATH|download",
        envvar="LEAKBENCH_LPIPS",
        help="AlexNet's weights for LPIPS: a .pth or .safetensors file, a folder that holds "
        "one, or `download` (240 MB); default torch hub's cache. Cells whose images have no "
        "LPIPS yet are measured again.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Measure part I of N, from 1/N to N/N: for a cluster's array of jobs. Give each "
        "an --out of its own, or all the same; `leakbench merge` unites them.",
    ),
]
RedoOption = Annotated[
    Redo,
    typer.Option(
        "--redo",
        help="Which cells that have a record are measured again: none; those that failed; also "
        "those whose data set, or the attack's version, moved on; or all.",
    ),
]
SuiteArgument = Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where tensors are computed.")]
DEFAULT_OUT = Path("results/runs")
