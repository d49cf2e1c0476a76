"""What `leakbench run` and `leakbench plan` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from rich.console import Console

from leakbench.base.cache import cache_folder
from leakbench.base.devices import chosen_device, default_workers
from leakbench.base.documents import markdown, print_document
from leakbench.base.errors import UsageError
from leakbench.base.leftovers import remove_leftovers
from leakbench.evaluation.loading import AttributesHere, check_available
from leakbench.evaluation.required_weights import WeightsHere
from leakbench.experiments.descriptions import describe
from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import load_suite
from leakbench.federation.backbones.weight_sources import MissingWeightsError, NotDownloadedError
from leakbench.metrics.formatting import counted
from leakbench.records.store import Store, warn_of
from leakbench.sweep.console import first_line
from leakbench.sweep.execution import measure_cells
from leakbench.sweep.outcome import Failure, Outcome
from leakbench.sweep.pending import Pending, select_cells
from leakbench.sweep.plan import plan, plan_document
from leakbench.sweep.rates import Rates
from leakbench.sweep.run_options import RunOptions
from leakbench.sweep.shard import Shard
from leakbench.sweep.suite_tables import print_tables, run_command


def run_suite(
    suite_name: str, changes: Sequence[str], only: Sequence[str], options: RunOptions
) -> int:
    """Measure the cells without a record, write and print the tables; return the exit code.

    0 if all cells have a record, 1 if a cell failed, 2 if cells failed and the user can correct all
    of them, 128 + n if signal n interrupted the run.

    Raises:
        UsageError: the suite, a setting, the data or the weights are invalid or missing, or no
            record can be written any more.
    """
    from leakbench.metrics.lpips_weights import find_lpips_weights

    name, suite = load_suite(suite_name)
    suite = override(suite, changes)
    every = expand(name, suite)
    chosen = expand(name, suite, only) if only else every
    store = Store(options.out / "records")
    console = Console(stderr=True)
    _remove_leftovers(options.out, store.folder, console)
    cells = cells_of_part(chosen, options.shard)
    _check_attributes(cells, options.data_root)
    weights = find_lpips_weights(options.lpips_weights)
    wants_lpips = options.lpips_weights is not None
    with console.status(READING):
        selection = select_cells(cells, store, options.data_root, wants_lpips, options.redo)
    if selection.kept:
        console.print(f"{len(selection.kept)} of {len(cells)} cells have their record")
    pending, left_out = _available(selection.pending, options.data_root)
    without_weights = _without_weights(pending, WeightsHere(options.data_root))
    pending = [each for each in pending if each.entry.key not in without_weights]
    left_out |= without_weights
    if left_out and len(left_out) == len(cells):
        raise UsageError(next(iter(left_out.values())))
    for sentence in dict.fromkeys(left_out.values()):
        _print(console, f"left out: {sentence}")
    outcome = Outcome()
    if pending:
        pending = [_without_bad_record(each, store, console) for each in pending]
        outcome = measure_cells(pending, selection.kept, store, options, weights, console)
    if len(outcome.failures) + outcome.left + len(left_out) < len(cells):
        command = run_command(suite_name, changes)
        print_tables(name, suite.title, chosen, every, options.out, command)
    _print_failures(outcome.failures, options.log, console)
    if outcome.interrupted:
        _print(
            console,
            f"leakbench: interrupted; {outcome.measured} cells were measured, {outcome.left} are "
            f"left; run the same command again to go on",
        )
        return 128 + outcome.interrupted
    if not outcome.failures:
        return 0
    return 2 if all(failure.usage for failure in outcome.failures) else 1


def plan_suite(
    suite_name: str, changes: Sequence[str], only: Sequence[str], options: RunOptions
) -> None:
    """Print what `run_suite` would do with the same arguments, and an estimate of its time.

    Raises:
        UsageError: the suite, a setting, the data or the weights are invalid or missing.
    """
    name, suite = load_suite(suite_name)
    cells = cells_of_part(expand(name, override(suite, changes), only), options.shard)
    _check_attributes(cells, options.data_root)
    store = Store(options.out / "records")
    wants_lpips = options.lpips_weights is not None
    console = Console(stderr=True)
    with console.status(READING):
        selection = select_cells(cells, store, options.data_root, wants_lpips, options.redo)
    warn_of(selection.unusable)
    _without_weights(selection.pending, WeightsHere(options.data_root, "refused"))
    device = chosen_device(options.device)
    # All records of the folder are of use, also those of other suites.
    known = selection.records()
    records = chain(known.values(), store.all(known=known))
    with console.status(READING):
        rates = Rates(records, device, options.log, timing=True)
        found = plan(len(cells), selection.pending, rates, options.data_root, device)
    workers = options.workers or default_workers(device)
    print_document(plan_document(found, workers, device), markdown)


def _check_attributes(cells: Sequence[SuiteEntry], data_root: Path | None) -> None:
    """Refuse misspelt properties and main tasks before any data are loaded.

    Raises:
        UsageError: names the first.
    """
    here = AttributesHere(data_root)
    for entry in cells:
        here.require(entry.cell)


def cells_of_part(chosen: Sequence[SuiteEntry], shard: str | None) -> list[SuiteEntry]:
    """Return the cells of a shard, or all cells, without duplicates.

    Raises:
        UsageError: the text is not a shard.
    """
    unique = list({entry.key: entry for entry in chosen}.values())
    return unique if shard is None else Shard.parse(shard).of(unique)


def _available(
    pending: Sequence[Pending], data_root: Path | None
) -> tuple[list[Pending], dict[str, str]]:
    """Return the cells whose data are available, and key → what the other, optional ones need.

    Raises:
        UsageError: the data of a cell that is not optional are missing.
    """
    available, left_out = [], {}
    for each in pending:
        try:
            check_available(each.entry.cell.setup, data_root)
        except UsageError as error:
            if not each.entry.optional:
                raise
            left_out[each.entry.key] = str(error)
        else:
            available.append(each)
    return available, left_out


def _without_weights(pending: Sequence[Pending], here: WeightsHere) -> dict[str, str]:
    """Return key → why the pretrained weights of an optional cell cannot be had.

    Raises:
        UsageError: those of a cell that is not optional cannot; one sentence names all weights
            that are nowhere.
    """
    left_out, nowhere = {}, []
    for each in pending:
        try:
            here.require(each.entry.cell.setup)
        except NotDownloadedError:
            continue
        except UsageError as error:
            if each.entry.optional:
                left_out[each.entry.key] = str(error)
            elif isinstance(error, MissingWeightsError):
                nowhere.append(error)
            else:
                raise
    if nowhere:
        raise MissingWeightsError.together(nowhere)
    return left_out


def _without_bad_record(pending: Pending, store: Store, console: Console) -> Pending:
    """Quarantine a file that holds no record, or another one than its name says, and say so."""
    if pending.record is not None or pending.stamp is None:
        return pending
    key = pending.entry.key
    why = store.unusable([key]).get(store.path(key).name)
    if (quarantined := store.quarantine(key)) is None:
        # Another run has written a record there, or moved the file, in the meantime.
        return pending
    _print(console, f"left out {store.path(key)}: {why}; it is now {quarantined}")
    return replace(pending, stamp=None)


def _remove_leftovers(out: Path, records: Path, console: Console) -> None:
    """Delete what killed processes have left in the run's folder and in the cache, and say so."""
    removed = [*remove_leftovers(out), *remove_leftovers(records)]
    removed += remove_leftovers(cache_folder(), depth=CACHE_DEPTH)
    if removed:
        _print(console, f"deleted {counted(len(removed), 'file')} that killed runs have left")


READING = "reading records and data sets …"
"""What a terminal shows before the first cell, for data sets that are read for the first time."""

CACHE_DEPTH = 4
"""Levels of folders in the cache."""


def _print_failures(failures: Sequence[Failure], log: Path, console: Console) -> None:
    """Print each message of failed cells once, by its first line."""
    by_message: dict[str, list[Failure]] = {}
    for failure in failures:
        by_message.setdefault(failure.message, []).append(failure)
    for message, several in by_message.items():
        more = f" (and {len(several) - 1} more cells)" if len(several) > 1 else ""
        where = describe(several[0].entry)
        _print(console, f"failed: {where}{more}: {first_line(message)}", style="red")
    if any(not failure.usage and failure.details for failure in failures):
        _print(console, f"Tracebacks are in {log}.")


def _print(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)
