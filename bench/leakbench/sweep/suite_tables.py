"""The tables of a suite, written and printed from records."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.overrides import override, value_of
from leakbench.experiments.suite import load_suite
from leakbench.federation.backbones.weight_sources import named
from leakbench.records.folder import read_cells
from leakbench.records.store import Store, no_record, warn_of
from leakbench.reports.suite_page import Heading, figures_of, reading_of, write_report
from leakbench.reports.suite_report import SuiteReport
from leakbench.reports.terminal import print_report


def report_suite(
    suite_name: str,
    changes: Sequence[str],
    only: Sequence[str],
    out: Path,
    trust_verified: bool = False,
) -> None:
    """Write and print a suite's tables from existing records.

    Args:
        trust_verified: whether to show entries of `verified.json` that another machine wrote.

    Raises:
        UsageError: there are none.
    """
    name, suite = load_suite(suite_name)
    suite = override(suite, changes)
    every = expand(name, suite)
    chosen = expand(name, suite, only) if only else every
    store = Store(out / "records")
    if not any(store.read(entry.key) for entry in chosen):
        warn_of(store.unusable(entry.key for entry in chosen))
        raise no_record(store, name, suite_name)
    command = run_command(suite_name, changes)
    print_tables(name, suite.title, chosen, every, out, command, trust_verified)


def print_tables(
    name: str,
    title: str,
    chosen: Sequence[SuiteEntry],
    every: Sequence[SuiteEntry],
    out: Path,
    command: str,
    trust_verified: bool = False,
) -> None:
    """Print the tables of the chosen cells; write the report of the whole suite to files.

    On a terminal a conclusion comes first, tables fit the width, and settings are in the file only;
    elsewhere, Markdown is printed.

    Records that cannot be shown are left out, with a `BadRecordWarning` each.

    Args:
        command: that measures these cells; it is part of the page.
        trust_verified: whether to show entries of `verified.json` that another machine wrote.
    """
    measured, left_out = read_cells(out, every, trust_verified)
    warn_of(left_out)
    heading = Heading(name, title, command, reading_of(out, name), figures_of(out, name))
    report = SuiteReport(measured)
    files = write_report(out, heading, report)
    if chosen is not every:
        by_key = {m.entry.key: m for m in measured}
        report = SuiteReport([replace(by_key[entry.key], entry=entry) for entry in chosen])
    # Not rich's own answer, which environment variables change: what is piped stays Markdown.
    if sys.stdout.isatty():
        print_report(Console(), report.cells)
    else:
        print(report.printed())
    print(f"\nThe report is in {files.page}, all metrics are in {files.metrics}.")


def run_command(suite_name: str, changes: Sequence[str]) -> str:
    """Return the command that measures these cells, without the paths of this machine."""
    options = chain.from_iterable(("--set", _without_path(change)) for change in changes)
    return shlex.join(["leakbench", "run", suite_name, *options])


def _without_path(change: str) -> str:
    """Return a setting `KEY=VALUE` with files of weights replaced by the names of their content."""
    key, _, text = change.partition("=")
    if key.partition(".")[0] != "model":
        return change
    for weights in _weights_in(key.rpartition(".")[2], value_of(text)):
        if Path(weights).expanduser().is_file():
            text = _quoted(weights).sub(named(weights), text)
    return f"{key}={text}"


def _quoted(value: str) -> re.Pattern[str]:
    """Return a pattern of a string of TOML, without its quotes, or of a whole text."""
    return re.compile(rf"(?<=[\"']){re.escape(value)}(?=[\"'])|^{re.escape(value)}$")


def _weights_in(key: str, value: Any) -> Iterator[str]:
    """Yield what is named as weights: the value itself, or a part of a table or a list."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _weights_in(name, part)
    elif isinstance(value, list):
        for part in value:
            yield from _weights_in(key, part)
    elif key == "weights" and isinstance(value, str):
        yield value
