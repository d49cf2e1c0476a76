"""Rankings of attacks as the first page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leakbench.base.registry import ATTACKS
from leakbench.metrics.estimates import Estimate
from leakbench.reports.papers import PaperLink, paper_link
from leakbench.reports.ranking import Ranked, Ranking, ThreatGroup, score
from leakbench.reports.ranking_text import (
    advantage_text,
    exact_text,
    headings,
    in_words,
    leader_text,
    legend,
    marks,
    name_of,
    notes,
    seconds_text,
    setting_text,
    shown_rankings,
)
from leakbench.reports.remarks import explained
from leakbench.reports.site.attack_curves import CURVES
from leakbench.reports.site.chart import Chart, by_batch_size
from leakbench.reports.site.view import ValueView, marked_up


@dataclass(frozen=True)
class RankedRow:
    """An attack in a ranking.

    Attributes:
        rank: within its group, from 1.
        name: the attack's, with a link to its page if it has one.
        marks: of its knowledge.
        advantages: by batch size, marked where their interval lies above 0.
        texts: what the columns after them show.
        paper: the link to its paper.
    """

    rank: int
    name: ValueView
    marks: str
    advantages: Sequence[ValueView]
    texts: Sequence[str]
    paper: PaperLink | None


@dataclass(frozen=True)
class RankingView:
    """A ranking of a data set and model.

    Attributes:
        title, leader, setting, legend: as text; see `leakbench.reports.ranking_text`.
        headings: of the columns.
        groups: the words for the attacks' knowledge, and their rows.
        remarks: on the setting and its attacks.
        chart: the advantages by batch size of the attacks that have most; None without any.
        curves: the names of its series.
    """

    title: str
    leader: str
    setting: str
    legend: str
    headings: Sequence[str]
    groups: Sequence[tuple[str, Sequence[RankedRow]]]
    remarks: Sequence[Markup]
    chart: Chart | None
    curves: Sequence[str]


def ranking_views(found: Sequence[Ranking], paths: Mapping[str, str]) -> list[RankingView]:
    """Return rankings as a page shows them, without those that it has no room for.

    Args:
        paths: attack → its page.
    """
    return [_view(each, paths) for each in shown_rankings(found)]


def _curves(ranking: Ranking) -> dict[str, dict[int, Estimate]]:
    """Return attack → batch size → advantage, of the attacks that learn most."""
    chosen = sorted(ranking.attacks, key=lambda each: -score(each, ranking.sizes))[:CURVES]
    # One column may stand in several groups, which differ in what its cells knew.
    found: dict[str, dict[int, Estimate]] = {}
    for each in chosen:
        sizes = {size: each.advantage(size) for size in ranking.sizes}
        curve = {size: above for size, above in sizes.items() if above is not None}
        if curve:
            found.setdefault(name_of(each), curve)
    return found


def _view(ranking: Ranking, paths: Mapping[str, str]) -> RankingView:
    curves = _curves(ranking)
    return RankingView(
        title=ranking.title,
        leader=leader_text(ranking),
        setting=setting_text(ranking),
        legend=legend(ranking),
        headings=headings(ranking),
        groups=[
            (in_words(group.knowledge, ranking), _rows(group, ranking, paths))
            for group in ranking.groups
        ],
        remarks=[
            marked_up(text) for text in (explained(ranking.remarks), *notes([ranking])) if text
        ],
        chart=by_batch_size("Advantage over the best control", curves),
        curves=list(curves),
    )


def _rows(group: ThreatGroup, ranking: Ranking, paths: Mapping[str, str]) -> list[RankedRow]:
    return [
        _row(rank, attack, ranking, paths) for rank, attack in enumerate(group.attacks, start=1)
    ]


def _row(rank: int, attack: Ranked, ranking: Ranking, paths: Mapping[str, str]) -> RankedRow:
    sizes = ranking.sizes
    numbers = [(advantage_text(attack, size), attack.is_above(size)) for size in sizes]
    return RankedRow(
        rank=rank,
        name=ValueView(name_of(attack), href=paths.get(attack.attack, "")),
        marks=marks(attack.knowledge, ranking),
        advantages=[ValueView(n.value, n.detail, best=above) for n, above in numbers],
        texts=[exact_text(attack, sizes), seconds_text(attack, sizes), attack.again()],
        paper=paper_link(ATTACKS.get(attack.attack).reference),
    )
