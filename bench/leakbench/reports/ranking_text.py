"""A ranking of attacks as words, numbers and marks, which Markdown and the site share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from leakbench.base.markdown import harmless, markdown_table, one_line
from leakbench.base.registry import ATTACKS
from leakbench.experiments.descriptions import training_text
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import MISSING, FormattedNumber, counted, formatted
from leakbench.reports.baselines import is_above
from leakbench.reports.papers import paper_link
from leakbench.reports.ranking import Ranked, Ranking
from leakbench.reports.remarks import explained

MARKS: Mapping[str, tuple[str, str]] = {
    "update": ("U", "sees the update"),
    "outputs": ("O", "sees outputs of models that the server deployed"),
    "labels": ("L", "is given the batch's labels"),
    "statistics": ("S", "is given the batch's BatchNorm statistics"),
    "defense": ("D", "knows the defense"),
    "candidates": ("C", "is shown candidates, half of whom are in the batch"),
    "features": ("F", "is given the true features"),
    "model": ("M", "knows the shared model"),
    "auxiliary": ("A", "has D_aux, labelled images of others"),
}
"""Kind of knowledge → its mark, and what the mark means."""

READING = (
    "**Advantage**: balanced accuracy minus that of the best control with the attack's knowledge "
    "(prior, blind, labels), in percentage points, mean over properties, [95 % interval]. At 0 the "
    "attack says no more than a control that never sees what the attack sees. Where a setting has "
    "several cells of an attack, which differ in their individuals, repeats or budget, their mean "
    "is shown with their number.",
    "**Rank**: by the mean of the advantages shown, where a batch size without one counts as 0; "
    "among attacks with the same knowledge only, since more knowledge alone may explain more.",
    "**Exact**: % of individuals whose deep feature is recovered (cosine ≥ 0.99), by batch size. "
    "**Seconds**: wall time per individual by batch size, on the machine that measured. "
    "**Measured again**: what `leakbench verify` found when it measured some of the cells again.",
    "No defense; D_aux from the victims' data set. Other cells are on their suites' pages.",
)
"""Paragraphs on how to read a ranking."""


def marks(knowledge: Sequence[str], ranking: Ranking) -> str:
    """Return the marks of some knowledge, such as `U L`."""
    hidden = ranking.hidden_kinds
    return " ".join(MARKS[kind][0] for kind in MARKS if kind in knowledge and kind not in hidden)


def in_words(knowledge: Sequence[str], ranking: Ranking) -> str:
    """Return what the marks of some knowledge say."""
    hidden = ranking.hidden_kinds
    found = [MARKS[kind][1] for kind in MARKS if kind in knowledge and kind not in hidden]
    return "; ".join(found) or "sees neither updates nor outputs"


def legend(ranking: Ranking) -> str:
    """Return what the numbers and marks of a ranking mean, and what all of its attacks have."""
    hidden = ranking.hidden_kinds
    held = {kind for group in ranking.groups for kind in group.knowledge}
    shown = [f"{mark}: {text}" for kind, (mark, text) in MARKS.items() if kind in held - hidden]
    common = [
        text
        for kind, (_, text) in MARKS.items()
        if kind in hidden and all(kind in group.knowledge for group in ranking.groups)
    ]
    shared = [f"Each attack {' and '.join(common)}"] if common else []
    if "model" in hidden & held and MARKS["model"][1] not in common:
        shared.append("those that see updates know the shared model")
    return ". ".join(filter(None, (NUMBERS, "; ".join(shown), "; ".join(shared)))) + "."


NUMBERS = (
    "B: advantage over the best control with the attack's knowledge, in percentage points; bold "
    "where its interval lies above 0"
)


def advantage_text(attack: Ranked, size: int) -> FormattedNumber:
    """Return an advantage in points, with its interval and, if there are several, its cells."""
    above = attack.advantage(size)
    if above is None:
        return FormattedNumber(MISSING)
    number = points(above)
    cells = len(attack.advantages[size])
    several = f"({counted(cells, 'cell')})" if cells > 1 else ""
    return FormattedNumber(number.value, " ".join(filter(None, (number.detail, several))))


def points(above: Estimate) -> FormattedNumber:
    """Return an advantage in percentage points."""
    return formatted(above, ".1f", 100)


def exact_text(attack: Ranked, sizes: Iterable[int]) -> str:
    """Return the share of individuals found exactly by batch size, in percent."""
    return _by_size(attack.exact, sizes, lambda share: f"{100 * share:.3g}")


def seconds_text(attack: Ranked, sizes: Iterable[int]) -> str:
    """Return seconds per individual by batch size."""
    return _by_size(attack.seconds, sizes, lambda seconds: f"{seconds:.2g}")


def _by_size(
    value: Callable[[int], float | None], sizes: Iterable[int], text: Callable[[float], str]
) -> str:
    found = [value(size) for size in sizes]
    if all(each is None for each in found):
        return MISSING
    return " / ".join(MISSING if each is None else text(each) for each in found)


def name_of(attack: Ranked) -> str:
    """Return an attack's column, and who claims its numbers."""
    if not attack.claimed_by:
        return attack.column
    verb = "by" if attack.agrees else "claimed by"
    return f"{attack.column} ({verb} {attack.claimed_by})"


def headings(ranking: Ranking) -> list[str]:
    """Return the headings of a ranking's table."""
    sizes = [f"B = {size}" for size in ranking.sizes]
    return ["rank", "attack", "knows", *sizes, "exact, %", "seconds", "measured again", "paper"]


def leader_text(ranking: Ranking) -> str:
    """Return in a sentence which attack learns most from updates, at its largest batch size."""
    leader = ranking.leader
    shown = [size for size in ranking.sizes if leader.advantages.get(size)]
    if not shown:
        return "No attack is measured together with all controls that have its knowledge."
    certain = [size for size in shown if leader.is_above(size)]
    if not certain:
        return (
            f"No attack is certainly above the controls that have its knowledge; the first is "
            f"{name_of(leader)}."
        )
    source = "see updates" if "update" in leader.knowledge else "see outputs"
    size = certain[-1]
    rivals = [name_of(each) for each in ranking.attacks if _is_near(each, leader, size)]
    near = f"; not certainly above {' and '.join(rivals)}" if rivals else ""
    return f"{name_of(leader)} leads the attacks that {source}: {_above_text(leader, size)}{near}."


def _is_near(attack: Ranked, leader: Ranked, size: int) -> bool:
    """Whether an attack that sees what the leader sees has an interval that reaches its own."""
    sees = "update" in attack.knowledge or "update" not in leader.knowledge
    above, first = attack.advantage(size), leader.advantage(size)
    if attack is leader or not sees or above is None or first is None:
        return False
    return not is_above(first, above)


def _above_text(attack: Ranked, size: int) -> str:
    above, share = attack.advantage(size), attack.exact(size)
    assert above is not None
    found = "" if share is None else f", with {100 * share:.3g} % of individuals found exactly"
    return f"an advantage of {points(above)} points over the best control at B = {size}{found}"


def result_text(attack: str, found: Sequence[Ranking]) -> str:
    """Return in a sentence what an attack reaches in the first ranking that has it."""
    for ranking in found:
        for each in ranking.attacks:
            sizes = [size for size in ranking.sizes if each.advantages.get(size)]
            if each.attack == attack and sizes:
                return f"On {ranking.title}, it has {_above_text(each, sizes[-1])}."
    return "No ranking compares it with controls that have its knowledge."


def setting_text(ranking: Ranking) -> str:
    """Return the setting that a ranking's cells share."""
    cell = ranking.cell
    return (
        f"{cell.image_size} px; main task {cell.main_task}; properties "
        f"{', '.join(cell.properties)}; {training_text(cell)}; clients in {cell.mode} mode"
    )


def notes(found: Iterable[Ranking]) -> list[str]:
    """Return the notes of ranked attacks, each once with their columns."""
    noted: dict[str, list[str]] = {}
    for each in (attack for ranking in found for attack in ranking.attacks):
        if note := ATTACKS.get(each.attack).note:
            named = noted.setdefault(note, [])
            named += [each.column] * (each.column not in named)
    return [f"**{', '.join(named)}**: {note}." for note, named in noted.items()]


def ranking_section(found: Sequence[Ranking]) -> str:
    """Return rankings as Markdown, with how to read them between the first and the others."""
    shown = shown_rankings(found)
    first, *others = map(ranking_markdown, shown)
    reading = [harmless(one_line(text)) for text in (*READING, *notes(shown))]
    more = ["## Ranking, other data sets and models", *others] if others else []
    return "\n\n".join(filter(None, ["## Ranking", first, *reading, *more, left_out(found)]))


RANKINGS = 100
"""Rankings of a page; more are too many to choose from."""


def shown_rankings(found: Sequence[Ranking]) -> Sequence[Ranking]:
    """Return the rankings that a page has room for."""
    return found[:RANKINGS]


def left_out(found: Sequence[Ranking]) -> str:
    """Return a sentence on the rankings that a page leaves out; empty where it has all."""
    more = len(found) - RANKINGS
    if more <= 0:
        return ""
    return (
        f"**{counted(more, 'more ranking')} left out**, since a page has at most {RANKINGS}: those "
        f"with pretrained networks, most batch sizes and most attacks come first. `leakbench "
        f"results` writes the cells of all settings as one table."
    )


def ranking_markdown(ranking: Ranking, level: int = 3) -> str:
    """Return a ranking as Markdown, in which only links to papers are links."""
    rows = []
    for group in ranking.groups:
        words = f"**{harmless(in_words(group.knowledge, ranking))}**"
        rows.append(["", words, *[""] * (len(headings(ranking)) - 2)])
        rows += [_row(number, each, ranking) for number, each in enumerate(group.attacks, start=1)]
    texts = (one_line(f"{leader_text(ranking)} {setting_text(ranking)}."),)
    below = (legend(ranking), explained(ranking.remarks))
    return "\n\n".join(
        part
        for part in (
            harmless(f"{'#' * level} {one_line(ranking.title)}"),
            *map(harmless, texts),
            markdown_table(rows, headings(ranking), padded=False),
            *(harmless(one_line(text)) for text in below),
        )
        if part
    )


def _row(rank: int, attack: Ranked, ranking: Ranking) -> list[str]:
    texts = [
        str(rank),
        name_of(attack),
        marks(attack.knowledge, ranking),
        *(_bold_if_certain(attack, size) for size in ranking.sizes),
        exact_text(attack, ranking.sizes),
        seconds_text(attack, ranking.sizes),
        attack.again(),
    ]
    link = paper_link(ATTACKS.get(attack.attack).reference)
    return [*map(harmless, texts), MISSING if link is None else f"[{link.label}]({link.url})"]


def _bold_if_certain(attack: Ranked, size: int) -> str:
    text = advantage_text(attack, size)
    return str(text._replace(value=f"**{text.value}**") if attack.is_above(size) else text)
