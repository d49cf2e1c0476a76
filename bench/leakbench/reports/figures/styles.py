"""How attacks and controls look: in all figures the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product

from leakbench.base.registry import ATTACKS
from leakbench.records.measured import Measured
from leakbench.reports.figures.canvas import COLOURS, DASHES, GREY, MARKERS, Dashes

Look = tuple[str, str]
"""Colour and marker of a curve."""

BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BROWN, INDIGO, WINE = COLOURS

LOOKS: Mapping[str, Look] = {
    "feature": (BLUE, "s"),
    "mask_demixing": (VERMILION, "o"),
    "ig": (GREEN, "^"),
    "gradinversion": (PINK, "D"),
    "dlg": (ORANGE, "v"),
    "feature_direct": (SKY, "P"),
    "newton_demixing": (BROWN, "X"),
    "convolution_demixing": (VERMILION, "D"),
    "token_demixing": (VERMILION, "s"),
    "feature_lbfgs": (BROWN, "<"),
    "spear": (GREEN, "P"),
    "spear_plus_plus": (INDIGO, "P"),
    "cocktail_party": (PINK, "o"),
    "class_means": (SKY, "^"),
    "row_space": (ORANGE, "s"),
    "idlg": (ORANGE, ">"),
    "ul": (INDIGO, "v"),
    "hcn": (WINE, "s"),
}
"""Attack → its look. Attacks that are often compared differ in colour, all others in the marker."""

FREE: Sequence[Look] = [
    (colour, marker)
    for marker, colour in product(MARKERS, COLOURS)
    if (colour, marker) not in LOOKS.values()
]
"""Looks for attacks from elsewhere, and for further columns of one attack."""


@dataclass(frozen=True)
class Style:
    """How a column is drawn."""

    colour: str
    marker: str
    dashes: Dashes
    control: bool


def looks_of(attacks: Sequence[str]) -> dict[str, Look]:
    """Return each attack's look; those from elsewhere have ones that are used least."""
    looks = {attack: LOOKS[attack] for attack in attacks if attack in LOOKS}
    for attack in attacks:
        looks.setdefault(attack, _least_used(list(looks.values())))
    return looks


def styles_of(cells: Sequence[Measured]) -> dict[str, Style]:
    """Return each column's style, in the columns' order.

    The column of an attack's own title, or else its first, has the attack's look; the next ones
    have colours that the figure uses least.
    """
    attacks = {m.entry.column: m.entry.cell.attack for m in cells}
    first = {attack: column for column, attack in reversed(attacks.items())}
    first |= {a: c for c, a in attacks.items() if c == ATTACKS.get(a).title}
    looks = {first[a]: look for a, look in LOOKS.items() if a in first}
    dashes, styles = cycle(DASHES), {}
    for column, attack in attacks.items():
        if ATTACKS.get(attack).control:
            styles[column] = Style(GREY, "", next(dashes), control=True)
        else:
            colour, marker = looks.setdefault(column, _least_used(list(looks.values())))
            styles[column] = Style(colour, marker, "solid", control=False)
    return styles


def _least_used(taken: Sequence[Look]) -> Look:
    """Return the free look that a figure uses least, a new colour before a new marker."""
    looks, colours = Counter(taken), Counter(colour for colour, _ in taken)
    return min(FREE, key=lambda look: (looks[look], colours[look[0]]))
