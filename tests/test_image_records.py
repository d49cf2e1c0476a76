"""Image metrics in records and reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leakbench.base.errors import UsageError
from leakbench.evaluation.measuring import standardisation_of, victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.evaluation.scoring import Run, ScoringSetup, score
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.measured import Measured
from leakbench.records.record import Cost, Metrics, Record
from leakbench.reports.details import details
from leakbench.reports.suite_page import LPIPS_AID, Heading, page
from leakbench.reports.suite_report import SuiteReport
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import GroundTruth, Observation
from leakbench.threat.validation import check_results

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender"]
main_task = "2-class"
model_parameters = { width = 4 }
property_model = "logistic"
rounds = 0
victim_share = 0.2
individuals = 8
batch_size = 4

[attack.prior]

[attack.ig]
parameters = { budget = 2 }

[[group]]
title = "Table 2"
layout = "table2"
"""

pytest_plugins = ["lpips_fixtures"]

pytestmark = pytest.mark.usefixtures("hub")


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


@pytest.fixture(scope="module")
def cell(small_setup: Setup) -> Cell:
    return Cell(**small_setup.model_dump(), attack="oracle", batch_size=4, individuals=20)


@pytest.fixture(scope="module")
def truths(context: EvaluationContext, cell: Cell) -> list[GroundTruth]:
    return victim_batches(context, cell.batch_size, cell.individuals)


def answers(truths: Sequence[GroundTruth], error: float = 0.0) -> list[AttackResult]:
    """The truth as an attack's answer, images off by an error that differs between individuals."""
    size = len(truths[0])
    errors = error * torch.arange(1, size + 1).view(size, 1, 1, 1)
    return [
        AttackResult(
            scores={name: present.float() for name, present in truth.properties.items()},
            features=truth.features,
            # Towards the middle, so that clamping takes nothing off the error.
            images=truth.images + errors * (0.5 - truth.images).sign(),
        )
        for truth in truths
    ]


def scored(
    context: EvaluationContext,
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    weights: Path | None = None,
) -> Metrics:
    """The metrics of one run."""
    run = Run(truths, results, standardisation_of(context))
    return score([run], ScoringSetup.of([context]), weights)


def test_images_that_are_the_true_ones_are_perfect(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    images = scored(context, truths, answers(truths), weights).images
    assert images is not None
    assert images.lpips is not None
    assert images.psnr.value == 100
    assert images.ssim.value == pytest.approx(1)
    assert images.lpips.value == 0
    assert images.recognisable.value == 1


def test_the_record_holds_the_mean_of_the_individuals_own_values(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext
) -> None:
    found = scored(context, truths, answers(truths, 0.04)).images
    assert found is not None
    # Errors of 0.04, 0.08, 0.12 and 0.16: two are below 0.1, which is 20 dB.
    expected = np.mean([-20 * np.log10(0.04 * i) for i in (1, 2, 3, 4)])
    assert found.psnr.value == pytest.approx(expected, rel=1e-4)
    assert found.recognisable.value == 0.5
    assert found.lpips is None
    # The batches are alike, so resampling them changes nothing.
    assert found.psnr.low == pytest.approx(found.psnr.high)


def test_images_are_matched_by_features_never_by_pixels(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    results = answers(truths, 0.01)
    swap = torch.tensor([1, 0, 3, 2])

    def swapped(features: bool) -> list[AttackResult]:
        return [
            replace(
                result,
                images=result.images[swap],  # type: ignore[index]
                features=result.features[swap] if features else result.features,  # type: ignore[index]
                scores={name: s[swap] for name, s in result.scores.items()},
            )
            for result in results
        ]

    straight = scored(context, truths, results, weights)
    assert scored(context, truths, swapped(features=True), weights) == straight
    misled = scored(context, truths, swapped(features=False), weights)
    assert straight.images is not None
    assert misled.images is not None
    assert straight.images.psnr.value is not None
    assert misled.images.psnr.value is not None
    assert misled.images.psnr.value < straight.images.psnr.value - 10


def test_pixels_outside_of_the_range_are_clamped(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    black_and_white = [replace(truth, images=truth.images.round()) for truth in truths]
    beyond = [
        replace(result, images=5 * (truth.images - 0.5))
        for result, truth in zip(answers(truths), black_and_white, strict=True)
    ]
    images = scored(context, black_and_white, beyond, weights).images
    assert images is not None
    assert images.lpips is not None
    assert images.psnr.value == 100
    assert images.lpips.value == 0


def test_an_attack_without_images_has_no_image_metrics(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    without = [replace(result, images=None) for result in answers(truths)]
    assert scored(context, truths, without, weights).images is None


def test_images_need_features_to_be_matched_by(
    truths: list[GroundTruth], context: EvaluationContext
) -> None:
    answer = replace(
        answers(truths)[0],
        scores={name: torch.full((4,), 0.5) for name in truths[0].properties},
        features=None,
    )
    with pytest.raises(UsageError, match=r"attack 'stub' returned images but no features"):
        check_results("stub", [answer], [Observation(batch_size=4, seed=0)], context.server)


def reported(
    truths: list[GroundTruth],
    cell: Cell,
    context: EvaluationContext,
    answer: list[AttackResult],
    file: Path | None,
) -> tuple[dict[str, Any], str]:
    """A record's first row in the report's CSV file, and the report's page."""
    record = Record(
        key="0",
        cell=cell,
        attack_version=1,
        status="done",
        metrics=scored(context, truths, answer, file),
        cost=Cost(seconds=1, steps=1, peak_memory_mib=1),
    )
    assert Record.model_validate_json(record.model_dump_json()) == record
    entry = SuiteEntry(
        ResolvedCell.of(cell), key="0", group="Table 2", layout="table2", column="Stub"
    )
    cells = [Measured(entry, record)]
    return details(cells).iloc[0].to_dict(), page(
        Heading("t", "T", "leakbench run t"), SuiteReport(cells)
    )


IMAGES = ("PSNR, dB", "SSIM", "LPIPS", "≥ 20 dB, %")


def test_the_report_has_the_metrics_of_images(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    row, report = reported(truths, cell, context, answers(truths, 0.1), weights)
    assert round(row["PSNR, dB"], 1) == round(row["PSNR low, dB"], 1) == 13.1
    assert {*IMAGES, "SSIM low", "LPIPS high", "≥ 20 dB low, %"} <= {*row}
    assert "--lpips-weights" not in report


def test_the_report_says_how_to_get_lpips_where_weights_were_missing(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext
) -> None:
    row, report = reported(truths, cell, context, answers(truths), None)
    assert "LPIPS" not in row
    assert row["PSNR, dB"] == 100.0
    assert "--lpips-weights PATH" in report


def test_the_report_leaves_the_columns_out_where_there_are_no_images(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext
) -> None:
    without = [replace(result, images=None) for result in answers(truths)]
    row, report = reported(truths, cell, context, without, None)
    assert not {*IMAGES} & {*row}
    assert "--lpips-weights" not in report


@pytest.mark.slow
def test_weights_named_later_bring_lpips_into_the_records_that_lack_it(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, weights: Path
) -> None:
    (tmp_path / "small.toml").write_text(SUITE)

    def ran(*arguments: str) -> tuple[str, dict[str, Any]]:
        """Return what the run says, and the metrics of images by attack."""
        code, _, said = run("run", "small.toml", "--out", "out", "--workers", "1", *arguments)
        assert code == 0, said
        files = (tmp_path / "out" / "records").glob("*.json")
        records = [json.loads(file.read_text()) for file in files]
        return said, {r["cell"]["attack"]: r["metrics"]["images"] for r in records}

    _, first = ran()
    assert first["prior"] is None
    assert first["ig"]["lpips"] is None
    report = (tmp_path / "out" / "small.md").read_text()
    assert LPIPS_AID in report

    said, again = ran()
    assert "2 of 2 cells have their record" in said
    assert again == first

    said, with_weights = ran("--lpips-weights", str(weights))
    assert "1 of 2 cells have their record" in said
    assert with_weights["ig"].pop("lpips")["value"] > 0
    del first["ig"]["lpips"]
    assert with_weights == first
    assert LPIPS_AID not in (tmp_path / "out" / "small.md").read_text()

    said, _ = ran("--lpips-weights", str(weights))
    assert "2 of 2 cells have their record" in said
