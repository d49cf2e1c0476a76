"""The charts of an audit's page: what is drawn, where, and which defense is marked."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest

from leakbench.auditing.html_page import SHAPES, html_page
from leakbench.auditing.report_charts import (
    EDGE,
    WIDTH,
    attack_charts,
    leakage_charts,
    numbered_defenses,
    utility_charts,
)
from leakbench.auditing.report_parts import AttackReport, DefenseReport
from leakbench.metrics.estimates import Estimate
from leakbench.reports.figures.canvas import MARKERS
from leakbench.reports.figures.styles import LOOKS
from made_reports import EXCLUDED, NO_INTERVAL, SHOWN, WIDE, answer, attack, defense, report, update

ATTACKS = [
    attack("mask_demixing", {"bright": SHOWN, "glasses": NO_INTERVAL}),
    attack("newton_demixing", {"bright": WIDE, "glasses": EXCLUDED}),
    attack("ig", {"bright": SHOWN, "glasses": SHOWN}, refused="it does not fit"),
]
PRIOR = attack("prior")


def cost(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01)


def under(
    name: str, outcome: str, advantage: Estimate, utility_cost: Estimate | None
) -> DefenseReport:
    """A defense under which mask demixing has this advantage, and another attack less."""
    attacks: list[AttackReport] = [
        PRIOR,
        attack("newton_demixing", {"bright": Estimate(value=-0.2, low=-0.3, high=-0.1)}),
        attack("mask_demixing", {"bright": advantage}),
    ]
    reason = "advantage" if outcome == "leaks" else "advantage excluded"
    return defense(name, outcome, reason, attacks=attacks, utility_cost=utility_cost)


DEFENSES = [
    under("none", "leaks", SHOWN, cost(0.0)),
    under("weak", "leaks", SHOWN, cost(0.0)),
    under("cheap", "no leak", EXCLUDED, cost(0.1)),
    under("dear", "no leak", EXCLUDED, cost(0.3)),
]


def test_each_attack_that_ran_is_a_row_with_its_own_look() -> None:
    bright, glasses = attack_charts([PRIOR, *ATTACKS])
    assert [chart.name for chart in (bright, glasses)] == ["bright", "glasses"]
    assert [row.label for row in bright.rows] == ["Mask_demixing", "Newton_demixing"]
    assert [row.look for row in bright.rows] == [LOOKS["mask_demixing"], LOOKS["newton_demixing"]]
    shown, wide = bright.rows
    # 0.3 is 30 points right of 0; the interval of what is undecided holds 0.
    assert shown.low is not None and bright.zero < shown.low < shown.x
    assert wide.low is not None and wide.high is not None and wide.low < bright.zero < wide.high
    assert shown.x - bright.zero == pytest.approx(6 * (wide.x - bright.zero), abs=1)
    assert "over Prior" in shown.about and shown.value == "+30.0 [+20.0, +40.0]"
    assert glasses.rows[0].low is None
    assert all(EDGE <= tick.at <= WIDTH - EDGE for tick in bright.ticks)
    assert attack_charts([PRIOR]) == []


def test_the_strongest_attack_is_drawn_against_the_utility_cost() -> None:
    made = report(ATTACKS, [update("a", [{}])], DEFENSES)
    (chart,) = utility_charts(made.defenses, made.findings_as_data)
    none, weak, cheap, dear = chart.marks
    assert none.mark.x == weak.mark.x < cheap.mark.x < dear.mark.x
    assert none.mark.y < cheap.mark.y == chart.zero == dear.mark.y
    assert all(each.mark.look == LOOKS["mask_demixing"] for each in chart.marks)
    assert cheap.left is not None and cheap.right is not None and cheap.left < cheap.right
    assert [each.recommended for each in chart.marks] == [False, False, True, False]


def test_numbers_are_on_no_other_number() -> None:
    crowd = [under(f"noise{i}", "leaks", SHOWN, cost(0.001 * (i % 3))) for i in range(12)]
    made = report(ATTACKS, [update("a", [{}])], crowd)
    (chart,) = utility_charts(made.defenses, made.findings_as_data)
    places = [(each.number_x, each.number_y) for each in chart.marks]
    for (a, b), (c, d) in combinations(places, 2):
        assert abs(a - c) > 3.5 or abs(b - d) > 10


def test_none_is_recommended_where_costs_are_not_told_apart_or_not_known() -> None:
    alike = [*DEFENSES[:3], under("dear", "no leak", EXCLUDED, cost(0.105))]
    made = report(ATTACKS, [update("a", [{}])], alike)
    numbered = numbered_defenses(made.defenses, made.findings_as_data)
    assert not any(each.recommended for each in numbered)
    assert "None is recommended" in html_page(made)
    unknown = [each.model_copy(update={"utility_cost": None}) for each in DEFENSES]
    made = report(ATTACKS, [update("a", [{}])], unknown)
    assert utility_charts(made.defenses, made.findings_as_data) == []
    (chart,) = leakage_charts(made.defenses)
    assert [row.label for row in chart.rows] == ["none", "weak", "cheap", "dear"]
    page = html_page(made)
    assert "give training data" in page and "recommended defense" not in page


def test_the_page_has_charts_as_text_in_svg_and_one_mark_of_the_recommended() -> None:
    page = html_page(report(ATTACKS, [update("a", [{}])], DEFENSES))
    drawn = [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    texts = [text.text or "" for each in drawn for text in each.iter("text")]
    assert {"Mask_demixing", "Newton_demixing", "+30.0 [+20.0, +40.0]", "3"} <= set(texts)
    rings = [c for each in drawn for c in each.iter("circle") if c.get("class") == "ring"]
    assert len(rings) == 1 and page.count("<b>recommended</b>") == 1
    assert set(SHAPES) == set(MARKERS)


def test_without_the_truth_there_is_no_chart() -> None:
    unknown = [attack("ours", metrics=None)]
    page = html_page(report(unknown, [update("a", [{"ours": answer()}], known=False)]))
    assert "<svg" not in page and "What each attack learns" not in page
