"""Commands in copies of the test's own process, which has PyTorch in memory already.

A new Python process imports it for seconds, as every worker of a run does. A copy is a process of
its own too: it may be killed and interrupted, and dies without this one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO

import torch

from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS
from leakbench.cli.main import main
from leakbench.sweep import local

PROCESSES = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
"""How workers are started; a copy of a process that has used a GPU cannot use it."""

GRACE_SECONDS = 0.1
"""Seconds in which a worker may end by itself. A copy holds both ends of its own pipe, and never
sees the other one closed."""


LATE = (
    "torch._dynamo",
    "leakbench.evaluation.measuring",
    "leakbench.evaluation.preparation",
    "leakbench.reports.suite_page",
)
"""Modules that a run imports when it needs them, for seconds."""


def import_before_copying() -> None:
    """Import here what every copy would import for itself."""
    for module in LATE:
        import_module(module)


Command = Sequence[str] | Callable[[], object]


class Forked:
    """A copy of this process that runs a command.

    Args:
        command: a function, or words as for `subprocess`, of which `leakbench` gets those after its
            name.
        environment: all environment variables.
        folder: the working folder; None for this process's.
        own_group: whether signals may be sent to the process and its workers as a group.
    """

    def __init__(
        self,
        command: Command,
        environment: Mapping[str, str],
        folder: Path | None = None,
        own_group: bool = False,
    ) -> None:
        import_before_copying()
        self._command = command
        self._streams = [
            tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            for _ in range(2)
        ]
        self._process = multiprocessing.get_context("fork").Process(
            target=_run, args=(command, dict(environment), folder, own_group, *self._streams)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, None as long as it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self._command), timeout)
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end, and return what it and its workers have printed."""
        self.wait(timeout)
        for stream in self._streams:
            stream.seek(0)
        printed, said = (stream.read() for stream in self._streams)
        return printed, said


def completed(
    command: Command, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy of this process, as `subprocess.run` would in a new one."""
    process = Forked(command, environment, folder)
    printed, said = process.communicate(timeout=300)
    return subprocess.CompletedProcess(str(command), process.wait(0), printed, said)


def _run(
    command: Command,
    environment: dict[str, str],
    folder: Path | None,
    own_group: bool,
    out: IO[str],
    err: IO[str],
) -> None:
    if own_group:
        os.setsid()
    # As in a new process, whatever pytest has set.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    # Of the process, not of Python alone: its workers print to them too.
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    local.PROCESSES, local.GRACE_SECONDS = PROCESSES, GRACE_SECONDS
    _look_for_plugins_in(environment.get("PYTHONPATH", "").split(os.pathsep))
    try:
        if callable(command):
            command()
        else:
            sys.argv = list(command[command.index("leakbench") :])
            main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _look_for_plugins_in(folders: list[str]) -> None:
    """Find packages there, as a process does that is started with these folders."""
    sys.path[:0] = [folder for folder in folders if folder and folder not in sys.path]
    for registry in (ATTACKS, DATASETS, DEFENSES, MODELS):
        vars(registry).pop("_points", None)
        registry._usable.clear()
