"""Check and time leakbench on a CUDA device, and write what was found: gpu.py results/runs/gpu.md.

`tox -e gpu` calls it. It takes eight minutes at most: a part that is not done by then is ended, and
the page says so. Without a CUDA device it says that in one sentence, and writes nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import pandas as pd

HERE = Path(__file__).parent
TESTS = HERE.parent
SUITE = HERE / "gpu.toml"

LIMIT = 480.0
"""Seconds for all parts together."""

SHARES = {"conformance": 0.5, "table": 0.6, "steps": 1.0}
"""Of the seconds that are left, what a part may take."""

STEPS, ROUNDS = 24, 3

NOTHING = "leakbench: there is no CUDA device here, so nothing was measured"


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        title: its heading.
        text: what was found.
        failed: whether something is wrong.
    """

    title: str
    text: str
    failed: bool


def main(target: Path) -> int:
    """Measure on the CUDA device and write the page.

    Returns:
        1 if a test failed, or a part did not come to its end; else 0, also without a device.
    """
    import torch

    if not torch.cuda.is_available():
        print(NOTHING)
        return 0
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    parts = measured(time.monotonic() + LIMIT, target.with_suffix(""), "cuda")
    name = torch.cuda.get_device_name()
    target.write_text(page(f"{name}, PyTorch {torch.__version__}", parts), encoding="utf-8")
    print(f"Wrote {target}.")
    return int(any(part.failed for part in parts))


def measured(end: float, folder: Path, device: str) -> list[Part]:
    """Return all parts, one after the other.

    Args:
        end: when all must be done, in `time.monotonic`'s seconds.
        folder: for the records of the table.
    """
    kinds: dict[str, Callable[[float], Part]] = {
        "conformance": lambda seconds: conformance(seconds, device),
        "table": lambda seconds: table(seconds, folder, device),
        "steps": lambda seconds: steps(seconds, device),
    }
    return [kind(max(1.0, SHARES[name] * (end - time.monotonic()))) for name, kind in kinds.items()]


def page(machine: str, parts: Sequence[Part]) -> str:
    """Return the page as markdown."""
    head = ["# On a GPU", f"Measured by `tox -e gpu` on {machine}."]
    return "\n\n".join([*head, *(f"## {p.title}\n\n{p.text}" for p in parts)]) + "\n"


def ended(command: Sequence[str], seconds: float) -> tuple[int | None, str, float]:
    """Run a command with a limit, and end all of its processes at that.

    Returns:
        Its exit code, None at the limit; its standard output; the seconds it took.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=TESTS.parent
    )
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        return None, out, time.monotonic() - began
    return process.returncode, out, time.monotonic() - began


def conformance(seconds: float, device: str) -> Part:
    """Run the conformance suite of all attacks, defenses and models on the device."""
    files = [str(TESTS / f"test_conformance{more}.py") for more in ("", "_defended")]
    options = ("-q", "-p", "no:cacheprovider", "-k", device, "--tb", "line", "-rf")
    code, out, took = ended([sys.executable, "-m", "pytest", *files, *options], seconds)
    lines = out.strip().splitlines() or ["nothing was printed"]
    failures = [f"- {line}" for line in lines if line.startswith("FAILED")]
    outcome = lines[-1].strip("= ") if code is not None else f"not done after {took:.0f} s"
    return Part("Conformance of all plugins", "\n".join([outcome + ".", "", *failures]), code != 0)


def table(seconds: float, folder: Path, device: str) -> Part:
    """Run a suite that is a short Table 2."""
    run = [sys.executable, "-m", "leakbench", "run", str(SUITE), "--device", device]
    code, out, took = ended([*run, "--out", str(folder), "--redo", "all"], seconds)
    tables = [part for part in out.split("\n\n") if part.startswith("| ")]
    rest = f"`leakbench run {SUITE.relative_to(TESTS.parent)}` took {took:.0f} s"
    if code is None:
        rest += ", and was ended then; what it had measured is in its records"
    return Part("A short Table 2", "\n\n".join([f"{rest}.", *tables[:1]]), code != 0)


def steps(seconds: float, device: str) -> Part:
    """Time one victim's step by leakbench and a plain loop on the device, and leakbench's here."""
    end = time.monotonic() + seconds
    rows = []
    for attack, batch_size, victims in product(("IG", "Proposed"), (1, 8), (1, 4, 32)):
        if time.monotonic() < end:
            rows.append(step_of(attack, batch_size, victims, device))
    text = pd.DataFrame(rows).to_markdown(index=False) if rows else "There was no time left."
    about = (
        f"Milliseconds of one victim's step of small_cnn at 32 px, victims side by side where the "
        f"engine can; the whole time of {STEPS} steps by their number, the median of {ROUNDS} "
        f"rounds after one that is not counted."
    )
    return Part("The engine", f"{about}\n\n{text}", not rows)


def step_of(attack: str, batch_size: int, victims: int, device: str) -> dict[str, object]:
    """Return a row: the milliseconds of each engine on the same victims."""
    from engines import ENGINES, batches, built, work

    given = batches(victims, batch_size, 32)
    todo = {
        where: work(
            attack,
            built("small_cnn", 32).to(where),
            [(images.to(where), labels.to(where)) for images, labels in given],
            STEPS,
            "off",
        )
        for where in (device, "cpu")
    }
    runs = [("leakbench", device), ("plain loop", device), ("leakbench", "cpu")]
    times: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
    for number in range(1 + ROUNDS):
        for engine, where in runs:
            began = time.perf_counter()
            # To the CPU, which waits for whatever the device has still to do.
            ENGINES[engine](todo[where]).images.cpu()
            if number:
                milliseconds = 1e3 * (time.perf_counter() - began)
                times[engine, where].append(milliseconds / (STEPS * victims))
    ours, loop, here = (median(times[run]) for run in runs)
    return {
        "attack": attack,
        "B": batch_size,
        "victims": victims,
        f"leakbench, {device}": f"{ours:.2f}",
        "plain loop ÷ leakbench": f"{loop / ours:.1f}",
        "leakbench, cpu ÷ " + device: f"{here / ours:.1f}",
    }


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(TESTS)]
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/runs/gpu.md")))
