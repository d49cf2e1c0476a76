"""Which attack a row marks as best, and what a row says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Record
from leakbench.reports.advantage import advantage_over
from leakbench.reports.baselines import Baseline, best_baseline
from leakbench.reports.figures import budget, defense, tradeoff
from leakbench.reports.publishing import publish
from leakbench.reports.remarks import (
    EXPLANATIONS,
    KNOWLEDGE_DIFFERS,
    NO_LABEL_BASELINE,
    ORACLE_BELOW_CHANCE,
)
from leakbench.reports.site.chart import charts
from leakbench.reports.site.defended import defended
from leakbench.reports.suite_report import main_tables, reading_aid
from leakbench.reports.tables import (
    FAILED,
    UNMEASURED,
    Role,
    TableValue,
    best_column,
    table_of,
)
from publishing import defended_suite, done, estimate, failed, write_run
from records import suite_entries, table_rows

GIVEN = frozenset({"model", "update", "labels", "auxiliary"})
"""What an attack knows that is given the labels."""

RECOVERING = GIVEN - {"labels"}

ROLES: dict[str, Role] = {
    "a": "attack",
    "b": "attack",
    "labels": "baseline",
    "oracle": "upper bound",
}


def shown(number: Estimate | None, knowledge: frozenset[str] = GIVEN) -> TableValue:
    return TableValue(UNMEASURED.number, compared=number, knowledge=knowledge)


def label_baseline(
    number: Estimate | None, knowledge: frozenset[str] = GIVEN - {"update"}
) -> TableValue:
    return shown(number, knowledge)._replace(tells_labels=True)


GOOD, POOR = shown(estimate(0.8, 0.02)), shown(estimate(0.6, 0.02))
CHANCE = label_baseline(estimate(0.5, 0.02))


def best(roles: dict[str, Role] = ROLES, **values: TableValue) -> str | None:
    usual = {"a": GOOD, "b": POOR, "labels": CHANCE}
    return best_column(usual | values, roles)


def test_the_best_attack_is_one_whose_interval_lies_above_all_others() -> None:
    assert best() == "a"
    assert best(a=shown(estimate(0.8, 0.1)), b=shown(estimate(0.7, 0.1))) is None
    # The second may overlap what the third does not.
    three: dict[str, Role] = ROLES | {"c": "attack"}
    assert best(three, c=shown(estimate(0.7, 0.09))) is None
    assert best(three, c=shown(estimate(0.7, 0.01))) == "a"


def test_controls_are_never_the_best_and_an_attack_below_its_baseline_is_none() -> None:
    assert best(oracle=shown(estimate(0.95, 0.01))) == "a"
    assert best(labels=label_baseline(estimate(0.77, 0.02))) is None


def test_one_attack_alone_is_not_the_best() -> None:
    assert best({"a": "attack", "labels": "baseline"}) is None


@pytest.mark.parametrize(
    "absent",
    [
        UNMEASURED,
        FAILED,
        label_baseline(None),
        label_baseline(Estimate(value=None, low=None, high=None)),
        label_baseline(Estimate(value=0.5, low=None, high=None)),
    ],
)
def test_no_attack_is_the_best_where_its_baseline_or_a_rival_has_no_result(
    absent: TableValue,
) -> None:
    assert best(labels=absent) is None
    without_interval = absent.compared is not None and absent.compared.value == 0.5
    if not without_interval:
        assert best(b=absent) is None


def test_no_attack_is_the_best_without_a_baseline() -> None:
    roles: dict[str, Role] = {"a": "attack", "b": "attack", "oracle": "upper bound"}
    assert best_column({"a": GOOD, "b": POOR, "oracle": GOOD}, roles) is None


def test_a_label_baseline_must_know_the_labels_as_the_attack_does() -> None:
    prior = shown(estimate(0.5, 0.0), frozenset({"auxiliary"}))
    assert best(labels=prior) is None
    recovered = label_baseline(estimate(0.5, 0.02), RECOVERING)
    assert best(labels=recovered) is None
    assert best(a=shown(GOOD.compared, RECOVERING), labels=recovered) == "a"
    # A baseline that is given the labels knows more than an attack that is not.
    assert best(a=shown(GOOD.compared, RECOVERING), labels=CHANCE) is None


def test_blind_alone_is_no_baseline_of_an_attack_that_knows_labels() -> None:
    roles: dict[str, Role] = {"a": "attack", "b": "attack", "blind": "baseline"}
    for knowledge in (GIVEN, RECOVERING):
        blind = shown(estimate(0.5, 0.02), knowledge)
        good, poor = (shown(each.compared, knowledge) for each in (GOOD, POOR))
        row = {"a": good, "b": poor, "blind": blind}
        assert best_column(row, roles) is None
        labels = label_baseline(estimate(0.5, 0.02), knowledge)
        assert best_column(row | {"labels": labels}, roles | {"labels": "baseline"}) == "a"
    # An attack without any labels needs a majority-class baseline only.
    prior = shown(estimate(0.5, 0.0), frozenset({"auxiliary"}))
    seeing = frozenset({"auxiliary", "candidates"})
    alone = {"a": shown(GOOD.compared, seeing), "b": shown(POOR.compared, seeing), "blind": prior}
    assert best_column(alone, roles) == "a"


def test_the_highest_of_the_baselines_that_know_no_more_counts() -> None:
    def of(title: str, value: float | None, *knows: str) -> Baseline:
        number = None if value is None else estimate(value)
        return Baseline(title, frozenset(knows), number, tells_labels=title == "Labels")

    prior, blind = of("Prior", 0.5, "auxiliary"), of("Blind", 0.6, "auxiliary", "labels")
    labels = of("Labels", 0.7, "auxiliary", "labels")
    found = best_baseline([prior, labels, blind], GIVEN)
    assert found is not None and found.title == "Labels"
    more = of("Seeing", 0.9, "auxiliary", "labels", "candidates")
    found = best_baseline([prior, labels, more], GIVEN)
    assert found is not None and found.title == "Labels"
    assert best_baseline([prior, blind, more], GIVEN) is None
    assert best_baseline([prior, blind, of("Labels", None, "labels")], GIVEN) is None
    # One that knows more may fail.
    assert best_baseline([labels, of("Seeing", None, "candidates")], GIVEN) == labels


def test_an_advantage_over_or_of_a_value_without_an_interval_has_none() -> None:
    bare = Estimate(value=0.8, low=None, high=None)
    for attack, baseline in ((bare, estimate(0.6)), (estimate(0.8), bare)):
        found = advantage_over(attack, baseline)
        assert found.value == pytest.approx((attack.value or 0) - (baseline.value or 0))
        assert found.low is found.high is None


Change = Callable[[SuiteEntry], dict[str, Any]]


def quick(knows: Callable[[str], tuple[str, ...]] | None = None) -> list[Measured]:
    """The records of the suite `quick` in its first group, each knowing what its cell grants it."""
    entries = [e for e in suite_entries("quick") if e.group.startswith("Table 2")]
    granted = {e.key: tuple(e.resolved.knowledge.names()) for e in entries}
    return [Measured(e, done(e, knowledge=granted[e.key])) for e in entries]


def changed(cells: Sequence[Measured], attack: str, **metrics: Any) -> list[Measured]:
    """The cells with other metrics of one attack, or of all."""

    def of(measured: Measured) -> Measured:
        record = measured.record
        if record is None or record.metrics is None or attack not in ("", record.cell.attack):
            return measured
        other = record.metrics.model_copy(update=metrics)
        return Measured(measured.entry, record.model_copy(update={"metrics": other}))

    return [of(each) for each in cells]


def with_accuracy(cells: Sequence[Measured], attack: str, number: Estimate) -> list[Measured]:
    def of(record: Record) -> Record:
        assert record.metrics is not None
        properties = {
            name: found.model_copy(update={"balanced_accuracy": number})
            for name, found in record.metrics.properties.items()
        }
        metrics = record.metrics.model_copy(update={"properties": properties})
        return record.model_copy(update={"metrics": metrics})

    return [
        Measured(
            m.entry, of(m.record) if m.record and attack in ("", m.record.cell.attack) else m.record
        )
        for m in cells
    ]


def remarks(cells: Sequence[Measured]) -> set[str]:
    return {remark for row in table_of(cells).rows for remark in row.remarks}


def test_a_row_says_where_its_attacks_have_different_threat_models() -> None:
    assert remarks(quick()) == {KNOWLEDGE_DIFFERS}
    alike = [m for m in quick() if m.entry.cell.attack not in ("mask_demixing", "ul")]
    assert remarks(alike) == set()
    assert table_rows(alike)[0][-1] == "Oracle"
    assert table_rows(quick())[0][-1] == "remarks"
    assert table_rows(quick())[2][-1] == KNOWLEDGE_DIFFERS
    assert EXPLANATIONS[KNOWLEDGE_DIFFERS] in main_tables(quick())


def test_a_row_says_where_it_has_no_label_baseline() -> None:
    def without(*attacks: str) -> list[Measured]:
        alike = [m for m in quick() if m.entry.cell.attack not in ("mask_demixing", "ul")]
        return [m for m in alike if m.entry.cell.attack not in attacks]

    # The best by far beside all controls, and beside all but `labels`.
    strong = with_accuracy(without(), "feature", estimate(0.99, 0.005))
    assert {row.best for row in table_of(strong).rows} == {"Proposed"}
    assert remarks(strong) == set()
    lacking = [m for m in strong if m.entry.cell.attack != "labels"]
    assert {row.best for row in table_of(lacking).rows} == {None}
    assert remarks(lacking) == {NO_LABEL_BASELINE}
    assert EXPLANATIONS[NO_LABEL_BASELINE] in main_tables(lacking)
    assert remarks(without("prior", "blind", "labels")) == {NO_LABEL_BASELINE}


def test_a_row_says_where_its_oracle_is_below_chance() -> None:
    below = with_accuracy(quick(), "oracle", estimate(0.49, 0.2))
    assert ORACLE_BELOW_CHANCE in remarks(below)
    assert ORACLE_BELOW_CHANCE not in remarks(with_accuracy(quick(), "oracle", estimate(0.5, 0.2)))
    assert EXPLANATIONS[ORACLE_BELOW_CHANCE] in main_tables(below)


def test_the_site_has_the_remarks_and_their_explanation(tmp_path: Path) -> None:
    records = [m.record for m in quick() if m.record]
    site = publish(write_run(tmp_path, records), None, [], pixels=False).site
    text = (site.parent / "suite-quick.html").read_text()
    assert f">{KNOWLEDGE_DIFFERS}<" in text
    assert "the attacks of the row have different threat models" in text


OUTPUTS = """
title = "Outputs"

[cell]
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender"]
main_task = "hat"
individuals = 24

[attack.hcn]
grant = ["auxiliary", "outputs"]

[attack.feature]

[attack.ig]

[attack.labels]

[attack.oracle]
grant = ["model", "update", "auxiliary", "labels", "features"]

[[group]]
title = "By batch size"
layout = "table2"
sweep = { batch_size = [1, 3, 4, 24] }
"""


@pytest.fixture
def beside_outputs(tmp_path: Path) -> list[Measured]:
    """Attacks on updates, and one that sees outputs and is best by far."""
    path = tmp_path / "outputs.toml"
    path.write_text(OUTPUTS)
    values = {"hcn": 0.99, "feature": 0.8, "ig": 0.6, "labels": 0.55, "oracle": 0.9}
    return [
        Measured(
            e,
            done(e, values[e.cell.attack], knowledge=tuple(e.resolved.knowledge.names())),
        )
        for e in suite_entries(str(path))
    ]


def test_an_attack_that_sees_outputs_stands_apart_and_does_not_compete(
    beside_outputs: list[Measured],
) -> None:
    table = table_of(beside_outputs)
    assert table.columns == ("Proposed", "IG", "Labels", "Oracle", "HCN")
    assert table_rows(beside_outputs)[0][-1] == "HCN ‖ sees outputs, no gradient"
    assert {row.best for row in table.rows} == {"Proposed"}
    assert remarks(beside_outputs) == set()


def test_a_number_of_few_batches_says_of_how_many(beside_outputs: list[Measured]) -> None:
    proposed = {row[2]: row[3] for row in table_rows(beside_outputs)[2:]}
    assert proposed == {
        "1": "80.0 [77.0, 83.0]",
        "3": "80.0 [77.0, 83.0]",
        "4": "80.0 [77.0, 83.0] (6 batches)",
        "24": "80.0 [77.0, 83.0] (1 batch)",
    }
    assert "fewer than 8 victim batches" in reading_aid(beside_outputs)


BARE = Estimate(value=0.582, low=None, high=None)


def test_a_number_without_an_interval_is_shown_alone(beside_outputs: list[Measured]) -> None:
    bare = with_accuracy(beside_outputs, "", BARE)
    proposed = [row[3] for row in table_rows(bare)[2:]]
    assert proposed == ["58.2", "58.2", "58.2 (6 batches)", "58.2 (1 batch)"]
    assert {row.best for row in table_of(bare).rows} == {None}


def test_figures_and_the_site_draw_a_value_without_an_interval(tmp_path: Path) -> None:
    suite = str(defended_suite(tmp_path))
    cells = [Measured(e, done(e)) for e in suite_entries(suite)]
    bare = with_accuracy(cells, "", BARE)
    for module in (defense, tradeoff):
        found = module.figures(bare)
        assert found and None not in found.values()
        for figure in found.values():
            assert figure is not None
            figure.canvas.draw()
            heights = [y for line in figure.axes[0].lines for y in line.get_ydata()]
            assert any(y == pytest.approx(58.2) or y == 0 for y in heights)
    records = [m.record for m in bare if m.record]
    rows = defended("gaussian", records)
    assert all(row.advantage is not None and row.advantage.low is None for row in rows)
    (mark, *_) = (mark for chart in charts(rows) for mark in chart.marks)
    assert mark.low is mark.high is None
    assert mark.label.endswith("advantage 0.0, utility lost 10.0")


def test_a_curve_over_budgets_breaks_its_band_where_there_is_no_interval(tmp_path: Path) -> None:
    path = tmp_path / "budget.toml"
    path.write_text(
        OUTPUTS.replace('layout = "table2"', 'layout = "budget"').replace(
            "batch_size = [1, 3, 4, 24]", "batch_size = [1], attack.budget = [8, 16]"
        )
    )
    cells = [Measured(e, done(e)) for e in suite_entries(str(path), only=["attack=feature,labels"])]
    (figure,) = budget.figures(with_accuracy(cells, "feature", BARE)).values()
    assert figure is not None
    figure.canvas.draw()
    curves = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert curves["Proposed"] == pytest.approx([58.2, 58.2])


def test_the_site_compares_with_no_baseline_that_failed(tmp_path: Path) -> None:
    cells = suite_entries(str(defended_suite(tmp_path)))
    lost = [
        failed(e, "no memory") if e.cell.attack == "blind" and e.cell.batch_size == 1 else done(e)
        for e in cells
    ]
    rows = defended("gaussian", lost)
    assert {row.advantage is None for row in rows if row.record.cell.batch_size == 1} == {True}
    assert {row.advantage is None for row in rows if row.record.cell.batch_size == 8} == {False}


def test_a_record_whose_estimates_have_no_interval_is_published(tmp_path: Path) -> None:
    cells = [Measured(e, done(e)) for e in suite_entries("quick", only=["attack=feature,labels"])]
    bare = with_accuracy(cells, "", BARE)
    out = write_run(tmp_path, [m.record for m in bare if m.record])
    written = publish(out, None, [], pixels=False)
    assert written.left_out == ()
    assert "| 58.2 " in written.leaderboard.read_text()
