"""Attacks ranked by their advantage over the best control with their knowledge, from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.reports.advantage import mean_advantage
from leakbench.reports.columns import seconds_per_batch
from leakbench.reports.compared import Controls
from leakbench.reports.remarks import row_remarks
from leakbench.reports.setting_titles import is_pretrained, setting_titles

PREFERRED_SIZES = (1, 8, 32)
"""The paper's batch sizes, by which attacks are ranked where they are measured."""

SIZES_SHOWN = 3

NOT_OF_THE_SETTING = {
    "attack",
    "attack_parameters",
    "grant",
    "batch_size",
    "individuals",
    "training",
    "trainings",
    "attack_seeds",
    "central",
}
"""Fields in which the cells of one ranking may differ; `central` is only measured beside them."""


@dataclass
class Ranked:
    """What an attack with some knowledge has reached in a setting.

    Attributes:
        column, attack: its column and plugin.
        knowledge: the names of the kinds of knowledge that it had.
        claimed_by: who submitted its records, if they are not yet measured again; else empty.
        cells: by batch size.
        advantages: by batch size, of each cell the mean over properties; a cell of which one
            property has no number or no baseline has none.
    """

    column: str
    attack: str
    knowledge: tuple[str, ...]
    claimed_by: str = ""
    cells: dict[int, list[Measured]] = field(default_factory=dict)
    advantages: dict[int, list[Estimate]] = field(default_factory=dict)
    _means: dict[tuple[int, int], Estimate] = field(default_factory=dict, repr=False, compare=False)

    def advantage(self, size: int) -> Estimate | None:
        """Return the mean over cells of the advantage at a batch size; None where there is none."""
        found = self.advantages.get(size)
        if not found:
            return None
        # Asked for again and again, by rank, on pages and in sentences.
        known = (size, len(found))
        if known not in self._means:
            self._means[known] = mean_advantage(found)
        return self._means[known]

    def is_above(self, size: int) -> bool:
        """Whether the interval of the advantage at a batch size lies above 0."""
        above = self.advantage(size)
        return above is not None and above.low is not None and above.low > 0

    def exact(self, size: int) -> float | None:
        """Return the share of individuals whose feature was found exactly, mean over cells."""
        metrics = [m.record.metrics for m in self.cells.get(size, ()) if m.record]
        shares = [of.exact.value for of in metrics if of is not None and of.exact is not None]
        known = [share for share in shares if share is not None]
        return fmean(known) if known else None

    def seconds(self, size: int) -> float | None:
        """Return the wall time of the attack per individual, mean over cells."""
        times = [
            seconds / m.entry.resolved.individuals_in_update
            for m in self.cells.get(size, ())
            if (seconds := seconds_per_batch(m)) is not None
        ]
        return fmean(times) if times else None

    @property
    def agrees(self) -> bool:
        """Whether all of its cells were measured again and agree."""
        return all(m.again and m.again.agrees for of_size in self.cells.values() for m in of_size)

    def again(self) -> str:
        """Return what came of measuring its cells again."""
        every = [m.again for of_size in self.cells.values() for m in of_size]
        outcomes = [each.outcome for each in every if each is not None]
        if not outcomes:
            return "not yet"
        for outcome, text in (("differs", "differs"), ("agrees", "agrees")):
            if outcome in outcomes:
                return f"{text} ({outcomes.count(outcome)} of {len(every)})"
        return f"not testable ({len(outcomes)} of {len(every)})"


@dataclass(frozen=True)
class ThreatGroup:
    """Attacks with the same knowledge, the best first."""

    knowledge: tuple[str, ...]
    attacks: Sequence[Ranked]


@dataclass(frozen=True)
class Ranking:
    """The ranked attacks of one setting: a data set, a model, and how it was trained.

    Attributes:
        title: data set and model, and what tells it from others of these.
        cell: any of its cells.
        sizes: the batch sizes that are shown.
        groups: by knowledge; those that see updates first.
        remarks: what a reader must know of the setting; see `leakbench.reports.remarks`.
    """

    title: str
    cell: Cell
    sizes: tuple[int, ...]
    groups: Sequence[ThreatGroup]
    remarks: tuple[str, ...]

    @property
    def attacks(self) -> list[Ranked]:
        """All of its attacks."""
        return [each for group in self.groups for each in group.attacks]

    @cached_property
    def hidden_kinds(self) -> frozenset[str]:
        """The kinds of knowledge that need no mark.

        Those are what all attacks have besides the update, which is always marked, and the shared
        model where it comes with the update.
        """
        every = [frozenset(group.knowledge) for group in self.groups]
        common = frozenset.intersection(*every) - {"update"}
        with_update = all(("model" in each) == ("update" in each) for each in every)
        return common | {"model"} if with_update else common

    @cached_property
    def leader(self) -> Ranked:
        """The attack that learns most from updates; where none sees these, from anything.

        Claims that are not measured again do not lead.
        """
        shown = [each for each in self.attacks if not each.claimed_by or each.agrees]
        shown = shown or self.attacks
        sees_updates = [each for each in shown if "update" in each.knowledge]
        return max(sees_updates or shown, key=lambda each: score(each, self.sizes))


def score(attack: Ranked, sizes: Sequence[int]) -> float:
    """Return the number by which attacks are ranked: the mean advantage over batch sizes.

    Where there is none at a size, nothing is shown, which counts as 0.
    """
    found = [attack.advantage(size) for size in sizes]
    return sum(each.value or 0.0 for each in found if each is not None) / max(1, len(sizes))


def rankings(
    cells: Sequence[Measured], claims: Mapping[str, Sequence[Measured]] | None = None
) -> list[Ranking]:
    """Return a ranking for each setting in which an attack has an advantage.

    Cells under a defense, with D_aux of another data set, or of a sweep over an attack's parameter
    are not among them. Settings with a pretrained network come first, then those with most batch
    sizes and attacks.

    Args:
        cells: of suites; each counts once.
        claims: who submitted records that are not measured again → their cells.
    """
    chosen = {m.entry.key: ("", m) for m in cells if _counts(m)}
    for name, of in (claims or {}).items():
        chosen |= {m.entry.key: (name, m) for m in of if _counts(m) and m.entry.key not in chosen}
    settings: dict[str, list[tuple[str, Measured]]] = {}
    for name, m in chosen.values():
        setting = m.entry.cell.model_dump_json(exclude=NOT_OF_THE_SETTING)
        settings.setdefault(setting, []).append((name, m))
    found = [_ranking(of) for of in settings.values()]
    with_numbers = [each for each in found if any(of.advantages for of in each.attacks)]
    ordered = sorted(with_numbers, key=_order)
    titles = setting_titles([each.cell for each in ordered], NOT_OF_THE_SETTING)
    return [replace(each, title=title) for each, title in zip(ordered, titles, strict=True)]


def _counts(measured: Measured) -> bool:
    cell, record = measured.entry.cell, measured.record
    return (
        record is not None
        and record.metrics is not None
        and cell.defense == "none"
        and not cell.auxiliary_dataset
        and not measured.entry.swept
    )


def _ranking(cells: Sequence[tuple[str, Measured]]) -> Ranking:
    """Return the ranking of a setting, without a title.

    Args:
        cells: who claims them, or nothing, with all cells of the setting.
    """
    # What somebody claims of a control must not change the numbers of others.
    controls = {
        claimant: Controls(m.record for by, m in cells if by in ("", claimant) and m.record)
        for claimant in {name for name, _ in cells}
    }
    attacks: dict[tuple[object, ...], Ranked] = {}
    for name, m in cells:
        record, cell = m.record, m.entry.cell
        assert record is not None
        if ATTACKS.get(cell.attack).control:
            continue
        key = (name, m.entry.column, cell.attack, record.knowledge)
        attack = attacks.setdefault(key, Ranked(*key[1:], claimed_by=name))
        attack.cells.setdefault(cell.batch_size, []).append(m)
        compared = controls[name].compare(record).values()
        above = [each.advantage for each in compared if each.advantage is not None]
        if len(above) == len(compared):
            attack.advantages.setdefault(cell.batch_size, []).append(mean_advantage(above))
    sizes = _sizes(list(attacks.values()))
    by_knowledge: dict[tuple[str, ...], list[Ranked]] = {}
    for each in attacks.values():
        by_knowledge.setdefault(each.knowledge, []).append(each)
    groups = [
        ThreatGroup(knowledge, sorted(of, key=lambda each: -score(each, sizes)))
        for knowledge, of in by_knowledge.items()
    ]
    groups.sort(key=lambda group: ("update" not in group.knowledge, len(group.knowledge)))
    own = [m for name, m in cells if not name] or [m for _, m in cells]
    return Ranking("", own[0].entry.cell, sizes, groups, _remarks(own))


def _remarks(cells: Sequence[Measured]) -> tuple[str, ...]:
    bounds = [
        of.balanced_accuracy
        for m in cells
        if ATTACKS.get(m.entry.cell.attack).control == "upper bound"
        for of in (m.record.metrics.properties.values() if m.record and m.record.metrics else ())
    ]
    return row_remarks(cells, bounds, (), lacks_label_baseline=False)


def _sizes(attacks: Sequence[Ranked]) -> tuple[int, ...]:
    """Return the batch sizes to show: the paper's, then others from the smallest."""
    measured = sorted({size for each in attacks for size in each.cells})
    chosen = [size for size in PREFERRED_SIZES if size in measured]
    others = [size for size in measured if size not in chosen]
    return tuple(sorted([*chosen, *others][:SIZES_SHOWN]))


def _order(ranking: Ranking) -> tuple[object, ...]:
    return (not is_pretrained(ranking.cell), -len(ranking.sizes), -len(ranking.attacks))
