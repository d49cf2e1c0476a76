"""What tables say of the shared model's main-task accuracy, beside what it compares with."""

from __future__ import annotations

from leakbench.records.measured import Measured
from leakbench.reports.remarks import (
    EXPLANATIONS,
    MAIN_TASK_BEHIND_CENTRAL,
    MAIN_TASK_BELOW_MAJORITY,
)
from leakbench.reports.suite_report import SuiteReport, main_tables
from leakbench.reports.tables import table_of
from publishing import done
from records import suite_entries


def trained(accuracy: float, central: float | None = None) -> list[Measured]:
    """The records of the suite `quick` in its first group, of models of these accuracies."""
    shared = {"accuracy": accuracy, "most_frequent_class": 0.5, "labelled_auxiliary": 1.0}
    beside = {} if central is None else {"central": central}
    cells = []
    for entry in suite_entries("quick"):
        record = done(entry)
        assert record.metrics is not None
        metrics = record.metrics.model_copy(update={"main_task": shared | beside})
        if entry.group.startswith("Table 2"):
            cells.append(Measured(entry, record.model_copy(update={"metrics": metrics})))
    return cells


def remarks(cells: list[Measured]) -> set[str]:
    return {remark for row in table_of(cells).rows for remark in row.remarks}


def test_a_row_says_where_its_main_task_is_below_the_majority_class() -> None:
    assert MAIN_TASK_BELOW_MAJORITY in remarks(trained(0.49))
    assert MAIN_TASK_BELOW_MAJORITY not in remarks(trained(0.5))


def test_a_row_says_where_clients_stay_behind_the_centrally_trained_model() -> None:
    behind = trained(0.7, central=0.76)
    assert MAIN_TASK_BEHIND_CENTRAL in remarks(behind)
    assert EXPLANATIONS[MAIN_TASK_BEHIND_CENTRAL] in main_tables(behind)
    for alike in (None, 0.6, 0.74):
        assert MAIN_TASK_BEHIND_CENTRAL not in remarks(trained(0.7, alike))


def test_the_settings_say_the_accuracy_of_the_centrally_trained_model_where_there_is_one() -> None:
    beside = "main-task accuracy 70.0 % (centrally trained 76.0 %, most frequent class 50.0 %)"
    assert beside in SuiteReport(trained(0.7, central=0.76)).settings
    assert (
        "main-task accuracy 70.0 % (most frequent class 50.0 %)"
        in SuiteReport(trained(0.7)).settings
    )


def test_the_settings_say_how_clients_train() -> None:
    def said(*changes: str) -> str:
        entry = suite_entries("quick", *changes)[0]
        return SuiteReport([Measured(entry, None)]).settings

    assert "rounds of SGD over 8 clients (batch 8, η = 0.1);" in said()
    averaged = said(
        *("local_epochs=2", "local_batch=4", "momentum=0.9", "weight_decay=0.01"),
        *("schedule=cosine", "augmentation=flip"),
    )
    assert (
        "rounds of FedAvg over 8 clients (batch 8, local epochs 2 in steps of 4, η = 0.1, momentum "
        "0.9, weight decay 0.01, cosine schedule, augmentation flip);"
    ) in averaged
