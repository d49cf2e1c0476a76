"""Main-task labels as text: classes by their names, sets of labels as sets."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.base.errors import UsageError
from leakbench.federation.loss import Loss


def label_texts(loss: Loss, classes: int, names: Sequence[str]) -> list[str]:
    """Return the text of each label number; empty where labels are classes without names.

    Args:
        loss: whose list of targets says what a label's number stands for.
        classes: how many labels there are.
        names: of the classes, or of the logits where labels are vectors; empty if not known.

    Raises:
        UsageError: there is another number of names, or two are the same.

    >>> sets = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
    >>> label_texts(Loss(link="sigmoid", table=sets), 4, ["beak", "wheels"])
    ['{}', '{wheels}', '{beak}', '{beak, wheels}']
    >>> label_texts(Loss(), 2, ["bird", "car"])
    ['bird', 'car']
    """
    are_classes = not loss.table or loss.one_logit or _is_one_hot(loss.table)
    expected = classes if are_classes else len(loss.table[0])
    if names and len(names) != expected:
        raise UsageError(
            f"label_names has {len(names)} names, but the model has {expected} "
            f"{'classes' if are_classes else 'logits'}; give one for each, in their order"
        )
    if len(set(names)) < len(names):
        raise UsageError("label_names has the same name twice; give each label one of its own")
    if are_classes:
        return list(names)
    places = list(names) or [str(place) for place in range(expected)]
    return [_text(row, places, named=bool(names)) for row in loss.table]


def shown_label(label: int, texts: Sequence[str]) -> str:
    """Return a label's number as it is shown.

    >>> shown_label(3, []), shown_label(1, ["bird", "car"]), shown_label(1, ["{}", "{beak}"])
    ('class 3', 'class car', 'labels {beak}')
    """
    if not texts:
        return f"class {label}"
    kind = {"{": "labels", "(": "label"}.get(texts[label][:1], "class")
    return f"{kind} {texts[label]}"


def _is_one_hot(table: Sequence[Sequence[float]]) -> bool:
    return all(
        entry == (place == row)
        for row, entries in enumerate(table)
        for place, entry in enumerate(entries)
    ) and len(table) == len(table[0])


def _text(row: Sequence[float], places: Sequence[str], named: bool) -> str:
    if all(entry in (0, 1) for entry in row):
        return f"{{{', '.join(place for place, entry in zip(places, row, strict=True) if entry)}}}"
    numbers = [f"{entry:g}" for entry in row]
    if named:
        numbers = [f"{place} {number}" for place, number in zip(places, numbers, strict=True)]
    return f"({', '.join(numbers)})"
