"""Attacks that already fail without a defense are not tried under one, and the report says so."""

from __future__ import annotations

from typing import Any

import pytest

from leakbench.attacks.mask_demixing import MaskDemixing
from leakbench.attacks.newton_demixing import NewtonDemixing
from leakbench.auditing import defending, limitations
from leakbench.auditing.attacking import Attacked
from leakbench.auditing.clock import Clock
from leakbench.auditing.defending import NOTHING_LEFT, Defended, defend_all, failing
from leakbench.auditing.html_page import html_page
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.baselines.prior import Prior
from leakbench.metrics.estimates import Estimate
from leakbench.threat.knowledge import Knowledge
from made_reports import EXCLUDED, SHOWN, WIDE, attack, defense, metrics, report, update


def attacked(**advantages: Estimate) -> dict[str, Attacked]:
    """Two attacks beside a control, with these advantages."""
    attacks = {"mask_demixing": MaskDemixing(), "newton_demixing": NewtonDemixing()}
    prior = Attacked(Prior(), Knowledge.AUXILIARY, metrics=metrics(bright=0.5))
    return {"prior": prior} | {
        name: Attacked(
            attacks[name],
            Knowledge.UPDATE,
            metrics=metrics(bright=0.5),
            advantage={"bright": advantage},
            baselines={"bright": "prior"},
        )
        for name, advantage in advantages.items()
    }


@pytest.mark.parametrize(
    ("advantage", "fails"),
    [(EXCLUDED, True), (WIDE, False), (SHOWN, False)],
)
def test_an_attack_fails_only_where_a_relevant_advantage_is_excluded(
    advantage: Estimate, fails: bool
) -> None:
    found = failing(attacked(mask_demixing=advantage, newton_demixing=SHOWN))
    assert found == ({"mask_demixing": MaskDemixing.title} if fails else {})


def defended(
    monkeypatch: pytest.MonkeyPatch, **advantages: Estimate
) -> tuple[list[Defended], list[list[str]]]:
    """What `defend_all` returns for one defense, and the attacks that it tries each time."""
    tried: list[list[str]] = []

    def attacks_of(_: Any, spec: PluginSpec, attacks: list[PluginSpec], *__: Any) -> Defended:
        tried.append([each.name for each in attacks])
        if not set(advantages) & set(tried[-1]):
            raise UsageError(NOTHING_LEFT)
        return Defended(spec, attacked=attacked(**advantages))

    monkeypatch.setattr(defending, "_defended", attacks_of)
    monkeypatch.setattr(defending, "utility_measure", lambda *_: lambda _: defending.Utility())
    case: Any = None
    attacks = [PluginSpec(name) for name in ("prior", *advantages)]
    return defend_all(case, [PluginSpec("gaussian")], attacks, None, Clock(lambda _: None)), tried


def test_only_attacks_that_do_not_fail_are_tried_under_defenses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, tried = defended(monkeypatch, mask_demixing=SHOWN, newton_demixing=EXCLUDED)
    assert tried == [["prior", "mask_demixing", "newton_demixing"], ["prior", "mask_demixing"]]
    assert [each.failed_before for each in found] == [(), (NewtonDemixing.title,)]


def test_where_every_attack_fails_no_defense_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found, tried = defended(monkeypatch, mask_demixing=EXCLUDED, newton_demixing=EXCLUDED)
    assert tried[1] == ["prior"]
    assert [each.refused for each in found] == ["", "every attack already fails without it"]


def test_the_page_says_what_was_not_tried() -> None:
    defenses = [
        defense("none", "leaks", "advantage"),
        defense("noise", "no leak", "advantage excluded", failed_before=["Newton demixing"]),
    ]
    made = report([attack("ours", {"bright": SHOWN})], [update("a", [{}])], defenses)
    assert "Newton demixing: not tried, fails without a defense" in html_page(made)
    case: Any = None
    (said,) = limitations._on_defenses(case, defenses)
    assert said.startswith("Newton demixing was not tried under defenses: without one it certifies")
