"""The options of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leakbench.base.choices import Compiling, DeviceName, ExecutorName, Redo


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How and where a suite is measured.

    Attributes:
        workers: number of single-threaded processes, or of steps at once on a Ray cluster; by
            default one per core or GPU, or as many as the cluster runs.
        out: the folder of records, reports and the log.
        lpips_weights: as the user gave it; see `find_lpips_weights`.
        shard: the part of the chosen cells to measure, e.g. `2/8`; by default all.
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

    @property
    def log(self) -> Path:
        """The log of runs, beside the folder of records."""
        return self.out / "log.jsonl"
