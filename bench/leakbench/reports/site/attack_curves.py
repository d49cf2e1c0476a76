"""What the chart of an attack's page draws: what it reaches by batch size, in a few settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import percent
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics
from leakbench.reports.advantage import mean_advantage
from leakbench.reports.ranking import NOT_OF_THE_SETTING, Ranking
from leakbench.reports.ranking_text import result_text
from leakbench.reports.setting_titles import is_pretrained, setting_titles

CURVES = 4
"""Settings that a chart has at most, which is how many marks differ."""


@dataclass(frozen=True)
class Curves:
    """What is drawn.

    Attributes:
        title: of the chart.
        unit: of its vertical axis, with what is measured.
        by_setting: title of a setting → batch size → value, as a share of 1.
        result: what the attack reaches, in a sentence.
    """

    title: str
    unit: str
    by_setting: Mapping[str, Mapping[int, Estimate]]
    result: str


def curves_of(name: str, cells: Sequence[Measured], ranked: Sequence[Ranking]) -> Curves:
    """Return what an attack's chart draws; without curves where nothing was measured.

    That is its advantage where it is ranked, else the share of individuals that it finds exactly.
    Of a control, and of attacks that return no features, it is the balanced accuracy.

    Args:
        cells: of the attack.
        ranked: the rankings of the first page.
    """
    if not ATTACKS.get(name).control:
        if advantages := _ranked(name, ranked):
            result = result_text(name, ranked)
            title = "Advantage over the best control"
            return Curves(title, "advantage, points", advantages, result)
        if shares := _measured(cells, ranked, lambda of: of.exact):
            title, curve = next(iter(shares.items()))
            size = max(curve)
            result = f"On {title}, it finds {percent(curve[size])} % exactly at B = {size}."
            return Curves("Individuals found exactly", "individuals, %", shares, result)
    result = (
        "It is a control: attacks are compared with it."
        if ATTACKS.get(name).control
        else "No ranking compares it with controls that have its knowledge."
    )
    accuracies = _measured(cells, ranked, _accuracy)
    return Curves("Balanced accuracy, mean over properties", "accuracy, %", accuracies, result)


def _ranked(name: str, ranked: Sequence[Ranking]) -> dict[str, dict[int, Estimate]]:
    """Return where an attack is ranked → batch size → its advantage, of the first rankings.

    Of an attack with several kinds of knowledge, that of the first group that has numbers.
    """
    found: dict[str, dict[int, Estimate]] = {}
    for ranking in ranked:
        for each in (of for of in ranking.attacks if of.attack == name and of.advantages):
            sizes = {size: each.advantage(size) for size in sorted(each.advantages)}
            curve = {size: above for size, above in sizes.items() if above is not None}
            found.setdefault(ranking.title, curve)
    return dict(list(found.items())[:CURVES])


def _measured(
    cells: Sequence[Measured],
    ranked: Sequence[Ranking],
    value: Callable[[Metrics], Estimate | None],
) -> dict[str, dict[int, Estimate]]:
    """Return setting → batch size → a value, without defenses.

    Settings that are ranked come first, then those with most batch sizes.
    """
    order = {_setting(ranking.cell): place for place, ranking in enumerate(ranked)}
    without = NOT_OF_THE_SETTING - {"attack_parameters"}
    settings: dict[str, dict[int, list[Estimate]]] = {}
    first: dict[str, Cell] = {}
    for m in cells:
        cell, metrics = m.entry.cell, m.record.metrics if m.record else None
        found = None if metrics is None or cell.defense != "none" else value(metrics)
        if found is None or found.value is None:
            continue
        setting = cell.model_dump_json(exclude=without)
        first.setdefault(setting, cell)
        settings.setdefault(setting, {}).setdefault(cell.batch_size, []).append(found)

    def place(setting: str) -> tuple[int, int, bool]:
        cell = first[setting]
        at = order.get(_setting(cell), len(order))
        return at, -len(settings[setting]), not is_pretrained(cell)

    chosen = sorted(settings, key=place)[:CURVES]
    titles = setting_titles([first[each] for each in chosen], without)
    return {
        title: {size: mean_advantage(of) for size, of in sorted(settings[each].items())}
        for title, each in zip(titles, chosen, strict=True)
    }


def _setting(cell: Cell) -> str:
    return cell.model_dump_json(exclude=NOT_OF_THE_SETTING)


def _accuracy(metrics: Metrics) -> Estimate | None:
    """Return the mean balanced accuracy over properties; None where one has none."""
    values = [of.balanced_accuracy for of in metrics.properties.values()]
    if not values or any(each.value is None for each in values):
        return None
    return mean_advantage(values)
