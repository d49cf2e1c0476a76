"""Every metric of records is in the catalogue, and one that was added later harms no old record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leakbench.metrics.catalogue import METRICS, spec_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_attacks import LPIPS, MEMBERSHIP_TPR
from leakbench.metrics.of_properties import BALANCED_ACCURACY, BRIER_SCORE
from leakbench.metrics.spec import leaves
from leakbench.records.data_frame import results
from leakbench.records.folder import read_records
from leakbench.records.measured import Measured
from leakbench.records.merge import merge
from leakbench.records.possible_values import impossible_values
from leakbench.records.record import (
    Certificates,
    Claimed,
    DefenseMetrics,
    ImageMetrics,
    Membership,
    Metrics,
    PropertyMetrics,
    Record,
)
from leakbench.records.store import Store
from leakbench.records.verified import content_hash
from leakbench.reports.details import details
from leakbench.reports.publishing import publish
from leakbench.verification.compare import compare
from publishing import done, write_run
from records import all_alike, suite_entries

RESULTS = Path(__file__).resolve().parents[1] / "results"

HALF = Estimate(value=0.5, low=0.4, high=0.6)


def whole_metrics() -> Metrics:
    """Metrics in which nothing is None."""
    return Metrics(
        properties={
            "gender": all_alike(HALF).model_copy(
                update={"brier_score": HALF, "swapped_balanced_accuracy": HALF}
            )
        },
        feature_cosine=HALF,
        swapped_cosine=HALF,
        exact=HALF,
        certificates=Certificates(share=0.5, false=0),
        claimed=Claimed(share=0.5, right=1.0),
        membership=Membership(auc=HALF, true_positive_rate=HALF),
        images=ImageMetrics(psnr=HALF, ssim=HALF, lpips=HALF, recognisable=HALF),
        label_accuracy=0.5,
        diverged=0.0,
        main_task={
            "accuracy": 0.5,
            "central": 0.5,
            "most_frequent_class": 0.5,
            "labelled_auxiliary": 1.0,
        },
        deployed={"F": 0.5},
        defense=DefenseMetrics(
            distortion=HALF, utility=HALF, utility_lost=HALF, epsilon=1.0, delta=0.1
        ),
        classes=2,
        runs=6,
    )


def test_every_metric_of_a_record_is_declared_and_every_declared_one_can_be_recorded() -> None:
    found = [spec_of(leaf.path) for leaf in leaves(whole_metrics())]
    assert None not in found
    assert {spec.name for spec in found if spec} == {spec.name for spec in METRICS}
    names = [spec.name for spec in METRICS]
    assert len(names) == len(set(names))


def test_a_metric_is_read_and_printed_by_its_declaration() -> None:
    metrics = whole_metrics()
    assert str(BALANCED_ACCURACY.text(metrics, "gender")) == "50.0 [40.0, 60.0]"
    assert BALANCED_ACCURACY.text(metrics, "gender").detail == "[40.0, 60.0]"
    assert str(BRIER_SCORE.text(metrics, "gender")) == "0.500 [0.400, 0.600]"
    assert MEMBERSHIP_TPR.heading == "membership TPR @ 1% FPR, %"
    without = metrics.model_copy(update={"images": None})
    assert str(LPIPS.text(without)) == "–"
    assert str(LPIPS.text(None)) == "–"


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_the_later_fields_of_records_are_the_metrics_that_were_added_later(spec) -> None:
    if spec.is_per_property:
        assert (spec.fields[-1] in PropertyMetrics.later) == (spec.optional == "later")


@pytest.fixture
def old() -> Record:
    return done(suite_entries("quick", only=["attack=feature"])[0])


@pytest.fixture
def new(old: Record) -> Record:
    assert old.metrics is not None
    score = Estimate(value=0.2, low=0.1, high=0.3)
    properties = {
        name: of.model_copy(update={"brier_score": score})
        for name, of in old.metrics.properties.items()
    }
    metrics = old.metrics.model_copy(update={"properties": properties})
    return old.model_copy(update={"metrics": metrics})


def test_an_earlier_record_is_written_as_it_was(tmp_path: Path) -> None:
    """Without the metric that it does not have, and without the processor."""
    path = min((RESULTS / "records").glob("*.json"))
    before = json.loads(path.read_text())
    for of in before["metrics"]["properties"].values():
        del of["brier_score"]
    before["environment"].pop("processor", None)
    for folder in ("earlier", "now"):
        (tmp_path / folder).mkdir()
    (tmp_path / "earlier" / path.name).write_text(json.dumps(before))
    record = Store(tmp_path / "earlier").read(path.stem)
    assert record is not None
    Store(tmp_path / "now").write(record)
    assert json.loads((tmp_path / "now" / path.name).read_text()) == before


def test_a_later_metric_is_written_read_and_part_of_the_hash(
    tmp_path: Path, old: Record, new: Record
) -> None:
    Store(tmp_path).write(new)
    read = Store(tmp_path).read(new.key)
    assert read is not None and read.metrics == new.metrics
    assert content_hash(new) != content_hash(old)


def test_verification_misses_a_later_metric_except_in_an_earlier_record(
    old: Record, new: Record
) -> None:
    earlier = old.model_copy(update={"schema_version": 2})
    assert not compare(earlier, new, "equal").differences
    for rule in ("equal", "interval"):
        for one, other in ((old, new), (new, old)):
            found = compare(one, other, rule).differences
            assert "properties['gender'].brier_score is in one of the two only" in found
    assert old.metrics is not None
    (name, *_) = old.metrics.properties
    other = new.model_copy(deep=True)
    assert other.metrics is not None
    moved = Estimate(value=0.25, low=0.1, high=0.3)
    of = other.metrics.properties[name].model_copy(update={"brier_score": moved})
    properties = {**other.metrics.properties, name: of}
    metrics = other.metrics.model_copy(update={"properties": properties})
    other = other.model_copy(update={"metrics": metrics})
    (said,) = compare(new, other, "equal").differences
    assert said.startswith(f"properties['{name}'].brier_score 0.2 (0.1 to 0.3), again 0.25")
    assert not compare(new, other, "interval").differences


def test_records_that_differ_in_a_later_metric_alone_are_merged(
    tmp_path: Path, old: Record, new: Record
) -> None:
    for name, record in (("old", old), ("new", new)):
        write_run(tmp_path / name, [record])
    merge([tmp_path / "old", tmp_path / "new"], tmp_path / "out")
    kept = Store(tmp_path / "out" / "records").read(old.key)
    assert kept is not None and kept.metrics == old.metrics


def test_the_range_of_a_later_metric_is_checked(tmp_path: Path, new: Record) -> None:
    assert new.metrics is not None
    (name, *_) = new.metrics.properties
    beyond = Estimate(value=1.2, low=1.1, high=1.3)
    of = new.metrics.properties[name].model_copy(update={"brier_score": beyond})
    properties = {**new.metrics.properties, name: of}
    wrong = new.model_copy(
        update={"metrics": new.metrics.model_copy(update={"properties": properties})}
    )
    said = [each for each in impossible_values(wrong) if "brier" in each]
    assert said == [
        f"properties['{name}'].brier_score = 1.2 (1.1 to 1.3), which cannot be outside [0, 1]"
    ]
    cell = suite_entries("quick", only=["attack=blind"])[0]
    folder = read_records(write_run(tmp_path, [wrong, done(cell)]))
    assert folder.left_out == {f"{wrong.key}.json": "brier_score cannot be 1.2 [1.1, 1.3]"}


def test_tables_site_and_data_frame_show_a_later_metric_where_a_record_has_it(
    tmp_path: Path, old: Record, new: Record
) -> None:
    entry = suite_entries("quick", only=["attack=feature"])[0]
    assert "Brier score" not in details([Measured(entry, old)])
    frame = details([Measured(entry, new)])
    ends = frame[["Brier score", "Brier score low", "Brier score high"]]
    assert set(ends.itertuples(index=False, name=None)) == {(0.2, 0.1, 0.3)}
    for name, record in (("old", old), ("new", new)):
        out = write_run(tmp_path / name, [record])
        frame = results(out)
        values = (frame.brier_score, frame.brier_score_low, frame.brier_score_high)
        if name == "new":
            assert [float(of.iloc[0]) for of in values] == [0.2, 0.1, 0.3]
        else:
            assert all(of.isna().all() for of in values)
        site = publish(out, None, [], False).site.parent
        page = (site / "attack-feature.html").read_text()
        # As a column, or beside the table where all its rows have the same.
        assert ("Brier score" in page) == (name == "new")
        assert "mean squared error of the scores" in (site / "metrics.html").read_text()


def test_the_frame_has_the_same_columns_whatever_was_measured(tmp_path: Path, old: Record) -> None:
    assert old.metrics is not None
    bare = old.metrics.model_copy(update={"exact": None, "feature_cosine": None})
    columns = [
        list(results(write_run(tmp_path / name, [record])))
        for name, record in (("a", old), ("b", old.model_copy(update={"metrics": bare})))
    ]
    assert columns[0] == columns[1]
    assert {"exact", "exact_low", "psnr", "epsilon", "membership_found"} <= set(columns[0])
    assert not np.isin(["epsilon_low", "deployed"], columns[0]).any()


@pytest.mark.parametrize("central", [True, False])
def test_a_central_accuracy_is_in_the_records_of_the_cells_that_ask_for_it(central: bool) -> None:
    asking = suite_entries("quick", f"central={str(central).lower()}", only=["attack=feature"])
    record = done(asking[0])
    assert record.metrics is not None
    other = record.metrics.main_task | ({} if central else {"central": 0.7})
    wrong = record.model_copy(
        update={"metrics": record.metrics.model_copy(update={"main_task": other})}
    )
    found = [each for each in impossible_values(wrong) if "central" in each]
    assert found == [f"central = {central}, and {'no ' * central}centrally trained model"]
