"""Write what `tox -e perf` has measured as markdown: report.py JSON… results/performance.md.

What stands in `performance.reading.md` beside it comes first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

Row = dict[str, Any]

COMMAND = "tox -e perf"


def main(sources: list[Path], target: Path) -> None:
    """Read the files of pytest-benchmark and write the page."""
    found = [json.loads(source.read_text(encoding="utf-8")) for source in sources]
    rows = [each["extra_info"] for file in found for each in file["benchmarks"]]
    beside = target.with_suffix(".reading.md")
    reading = [beside.read_text(encoding="utf-8").strip()] if beside.is_file() else []
    parts = [
        "# Performance",
        f"Measured by `{COMMAND}` on {machine(found[0])}. Medians; one thread; rounds in turns.",
        *reading,
        *steps(rows),
        *qualities(rows),
        *memory(rows),
        *starts(rows),
        *workers(rows),
    ]
    target.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def machine(file: Row) -> str:
    """Return the processor and the versions that pytest-benchmark has noted."""
    info = file["machine_info"]
    cpu, python = info["cpu"], info["python_version"]
    import torch

    return f"{cpu.get('brand_raw', 'a CPU')}, Python {python}, PyTorch {torch.__version__}"


def of_kind(rows: Iterable[Row], kind: str) -> list[Row]:
    """Return the rows of one kind of measurement."""
    return [row for row in rows if row.get("kind") == kind]


def attainable(rows: list[Row]) -> float:
    """Return the operations a second of the faster of the large product and convolution."""
    kinds = of_kind(rows, "matrix product") + of_kind(rows, "convolution")
    return max((row["flops a second"] for row in kinds), default=float("nan"))


def steps(rows: list[Row]) -> list[str]:
    """Return the tables of milliseconds a step, one for each model and image size."""
    measured = of_kind(rows, "step")
    if not measured:
        return []
    most = attainable(rows)
    parts = ["## Milliseconds of one victim's step"]
    if not isnan(most):
        parts.append(
            f"One core can do {most / 1e9:.0f} GFLOP/s, the faster of a large matrix product and a "
            f"large convolution. The share is leakbench's, of the products in convolutions and "
            f"linear layers."
        )
    frame = pd.DataFrame(measured)
    for (model, size), part in frame.groupby(["model", "size"], sort=False):
        parts.append(f"### {model}, {size} px")
        lines = []
        for (attack, batch_size), cell in part.groupby(["attack", "batch_size"], sort=False):
            times = {
                engine: list(of_engine.sort_values("number")["step"])
                for engine, of_engine in cell.groupby("engine")
            }
            ours = median(times["leakbench"])
            lines.append(
                {
                    "attack": attack,
                    "B": batch_size,
                    **{
                        engine: f"{median(times[engine]):.2f}" if engine in times else "—"
                        for engine in ("leakbench", "plain loop", "breaching")
                    },
                    **{
                        f"{engine} ÷ leakbench": ratio(times.get(engine), times["leakbench"])
                        for engine in ("plain loop", "breaching")
                    },
                    "share of FLOP/s": f"{100 * cell['flops'].iloc[0] / (ours / 1e3) / most:.0f} %",
                }
            )
        parts.append(table(lines))
    return parts


def ratio(theirs: list[float] | None, ours: list[float]) -> str:
    """Return the median of the rounds' ratios, and between which they lie."""
    if theirs is None:
        return "—"
    of_rounds = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return f"{median(of_rounds):.1f} ({of_rounds[0]:.1f}–{of_rounds[-1]:.1f})"


def qualities(rows: list[Row]) -> list[str]:
    """Return the table of seconds to a quality."""
    measured = [
        {"quality": quality, **row, **found}
        for row in of_kind(rows, "quality")
        for quality, found in row["qualities"].items()
    ]
    if not measured:
        return []
    measured.sort(key=lambda row: (row["quality"], row["batch_size"]))
    lines = []
    for row in measured:
        peer = next(
            other
            for other in measured
            if other["engine"] == "breaching"
            and (other["quality"], other["batch_size"]) == (row["quality"], row["batch_size"])
        )
        lines.append(
            {
                "quality": row["quality"],
                "B": row["batch_size"],
                "engine": row["engine"],
                "attack": row["attack"],
                "steps": row["steps"] if row["reached"] else f"> {row['steps']}",
                "reached": f"{row['found']:.3g}",
                "seconds a victim": f"{row['seconds']:.2f}"
                if row["reached"]
                else f"> {row['seconds']:.2f}",
                "breaching ÷ it": quotient(peer, row),
            }
        )
    return [
        "## Seconds to a quality",
        "Synthetic faces at 32 px, the small CNN, medians over individuals: PSNR of 20 dB, and a "
        "cosine of 0.99 between true and reconstructed deep features. The fewest of 25, 50, 100, "
        "… steps, each budget's schedule run to its end, times a step's time.",
        table(lines),
    ]


def quotient(peer: Row, row: Row) -> str:
    """Return how many times the peer's seconds are an engine's; a bound where it fell short."""
    if not row["reached"]:
        return "—"
    least = "" if peer["reached"] else "> "
    return f"{least}{peer['seconds'] / row['seconds']:.1f}"


def memory(rows: list[Row]) -> list[str]:
    """Return the table of peak memory."""
    return _listed(
        "## Peak memory of a process",
        of_kind(rows, "memory"),
        lambda row: {
            "model": f"{row['model']}, {row['size']} px",
            "victims": row["victims"],
            "B": row["batch_size"],
            "before the attack, MiB": f"{row['before']:.0f}",
            "at most, MiB": f"{row['peak']:.0f}",
        },
    )


def starts(rows: list[Row]) -> list[str]:
    """Return the table of the time to begin."""
    names = {"help": "`leakbench --help`", "resumed": "a suite: first measured, then resumed"}
    return _listed(
        "## Seconds to begin",
        [row for row in rows if row.get("kind") in names],
        lambda row: {
            "command": names[row["kind"]],
            "first": f"{row['first']:.2f}",
            "again": f"{row['again']:.2f}",
        },
    )


def workers(rows: list[Row]) -> list[str]:
    """Return the table of one worker against two."""
    return _listed(
        "## Two workers against one",
        of_kind(rows, "workers"),
        lambda row: {
            "independent cells": row["cells"],
            "one worker, s": f"{median(row['one']):.0f}",
            "two workers, s": f"{median(row['two']):.0f}",
            "times as fast": ratio(row["one"], row["two"]),
        },
    )


def _listed(title: str, rows: list[Row], line: Callable[[Row], Row]) -> list[str]:
    return [title, table([line(row) for row in rows])] if rows else []


def table(lines: list[Row]) -> str:
    """Return rows as a table of markdown."""
    return str(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:-1]], Path(sys.argv[-1]))
