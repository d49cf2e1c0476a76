"""The plan of a run, the cells that it selects, and its estimated time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leakbench.base.choices import Redo
from leakbench.base.documents import as_text, markdown
from leakbench.evaluation.loading import data_fingerprint
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import ImageMetrics, Record
from leakbench.records.store import Store
from leakbench.sweep.events import SharedDone
from leakbench.sweep.gradient_timing import seconds_of_gradient
from leakbench.sweep.log import RunLog
from leakbench.sweep.pending import select_cells
from leakbench.sweep.plan import Plan, plan, plan_document
from leakbench.sweep.rates import Rates
from leakbench.sweep.steps import Prepare, steps_of
from records import measured, suite_entries, version_of


@pytest.fixture(scope="module")
def quick() -> list[SuiteEntry]:
    return list({cell.key: cell for cell in suite_entries("quick")}.values())


@pytest.mark.parametrize(
    ("redo", "chosen"),
    [("never", {0}), ("failed", {0, 1}), ("stale", {0, 1, 2}), ("all", {0, 1, 2, 3})],
)
def test_redo(tmp_path: Path, quick: list[SuiteEntry], redo: Redo, chosen: set[int]) -> None:
    """Of four cells one has no record, one failed, the data of one are not what they were."""
    store = Store(tmp_path)
    current = data_fingerprint(quick[3].cell.setup, None)
    failed = Record(
        key=quick[1].key, cell=quick[1].cell, attack_version=version_of(quick[1]), status="failed"
    )
    store.write(failed)
    store.write(measured(quick[2]).model_copy(update={"fingerprint": "of old"}))
    store.write(measured(quick[3]).model_copy(update={"fingerprint": current}))
    found = select_cells(quick[:4], store, None, False, redo)
    assert {quick.index(each.entry) for each in found.pending} == chosen
    assert len(found.kept) == 4 - len(chosen)


@pytest.mark.parametrize(
    ("redo", "wants_lpips", "again"),
    [("stale", True, True), ("stale", False, False), ("failed", True, False)],
)
def test_images_without_lpips_are_stale_only_once_weights_are_named(
    tmp_path: Path, quick: list[SuiteEntry], redo: Redo, wants_lpips: bool, again: bool
) -> None:
    store, record = Store(tmp_path), measured(quick[0])
    assert record.metrics is not None
    half = Estimate(value=0.5, low=0.4, high=0.6)
    without = ImageMetrics(psnr=half, ssim=half, lpips=None, recognisable=half)
    metrics = record.metrics.model_copy(update={"images": without})
    data = data_fingerprint(quick[0].cell.setup, None)
    store.write(record.model_copy(update={"metrics": metrics, "fingerprint": data}))
    assert bool(select_cells(quick[:1], store, None, wants_lpips, redo).pending) == again


def test_another_version_of_an_attack_is_another_cell(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    store = Store(tmp_path)
    store.write(measured(quick[0]))
    later = replace(quick[0], key=quick[0].cell.key(2))
    (pending,) = select_cells([later], store, None, False, "never").pending
    assert pending.reason == "new"


def test_seconds_are_learnt_from_the_most_alike(quick: list[SuiteEntry]) -> None:
    attacks = [cell for cell in quick if cell.cell.attack == "feature"]
    alike, bigger = attacks[0], next(c for c in attacks if c.cell.batch_size == 8)
    steps = {step.name: step for step in steps_of(quick)}
    rates = Rates([measured(alike)], "cpu")
    assert rates.learnt_from == 1
    assert rates.seconds(steps[alike.key]) == pytest.approx(10.0)
    expected = 10.0 * bigger.resolved.work / alike.resolved.work
    assert rates.seconds(steps[bigger.key]) == pytest.approx(expected)
    assert Rates([measured(alike)], "cuda").learnt_from == 0


def test_a_cell_of_several_runs_takes_the_seconds_of_one_times_their_number() -> None:
    at_8 = ["attack=feature", "batch_size=8"]
    once = next(iter(suite_entries("quick", only=at_8)))
    often = next(iter(suite_entries("quick", "attack_seeds=2", "trainings=3", only=at_8)))
    steps = {step.name: step for step in steps_of([once, often])}
    for seconds_of_one in (measured(once), measured(often)):
        rates = Rates([seconds_of_one], "cpu")
        assert rates.seconds(steps[once.key]) == pytest.approx(10.0)
        assert rates.seconds(steps[often.key]) == pytest.approx(6 * 10.0)


def test_trainings_are_learnt_from_the_log(tmp_path: Path, quick: list[SuiteEntry]) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    built = ("models/a/round-000300",)
    log.on_event(SharedDone("a model", "1", 30.0, 100.0, built, "small_cnn"))
    log.on_event(SharedDone("a deep model", "1", 900.0, 100.0, built, "resnet50"))
    log.on_event(SharedDone("another, from the cache", "1", 0.1, 100.0, (), "small_cnn"))
    prepare = next(step for step in steps_of(quick) if isinstance(step.task, Prepare))
    rates = Rates([], "cpu", tmp_path / "log.jsonl")
    assert rates.seconds(prepare) == pytest.approx(0.3 * prepare.work)


def test_a_model_that_was_never_trained_is_timed(quick: list[SuiteEntry]) -> None:
    """What a small network's steps took says nothing of a deep one's."""
    only = ["attack=feature", "batch_size=8"]
    (entry,) = suite_entries("quick", "model=mobilefacenet", only=only)
    rates = Rates([measured(quick[0])], "cpu", timing=True)
    prepare = next(step for step in steps_of([entry]) if isinstance(step.task, Prepare))
    assert rates.seconds(prepare) == pytest.approx(
        seconds_of_gradient(entry.cell.setup) * entry.cell.rounds * entry.cell.setup.images_of_round
    )


def test_a_plan_counts_cells_and_what_they_share(tmp_path: Path, quick: list[SuiteEntry]) -> None:
    store = Store(tmp_path)
    store.write(measured(quick[0]))
    store.write(
        Record(
            key=quick[1].key,
            cell=quick[1].cell,
            attack_version=version_of(quick[1]),
            status="failed",
        )
    )
    found = select_cells(quick, store, None, False, "failed")
    text = said(plan(len(quick), found.pending, Rates(store.all(), "cpu"), None, "cpu"))
    assert (
        f"{len(quick)} cells: 1 have their record, 1 failed, {len(quick) - 2} have no record"
        in (text)
    )
    assert "with 2 workers on cpu, learnt from 1 record" in text
    assert text.count("small_cnn for ") == len({c.cell.setup.model_dump_json() for c in quick})
    nothing = said(plan(1, [], Rates([], "cpu"), None, "cpu"))
    assert nothing == "1 cell: 1 have their record. There is nothing to measure."


def said(found: Plan) -> str:
    """The plan as it is piped into a file."""
    return as_text(plan_document(found, 2, "cpu"), markdown)
