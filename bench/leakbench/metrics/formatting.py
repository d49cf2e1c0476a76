"""Numbers as they are printed, with the value apart from the interval that follows it."""

from __future__ import annotations

from typing import NamedTuple

from leakbench.metrics.estimates import Estimate

MISSING = "–"
"""Printed where there is no value."""

UNDEFINED = "undefined"
"""Printed for an estimate that is not defined, such as an AUC where a class is absent."""


class FormattedNumber(NamedTuple):
    """A number as it is printed.

    Attributes:
        value: the number alone.
        detail: what follows it, such as its interval; empty if nothing does.

    >>> str(FormattedNumber("72.8", "[68.2, 77.4]"))
    '72.8 [68.2, 77.4]'
    """

    value: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.detail}" if self.detail else self.value


def formatted(value: Estimate | float | None, form: str, scale: float = 1.0) -> FormattedNumber:
    """Return a number, or an estimate with its interval if it has one, in a format such as `.1f`.

    Args:
        scale: by which the number is multiplied, 100 for percent.

    >>> formatted(Estimate(value=0.5, low=0.25, high=0.75), ".0f", 100)
    FormattedNumber(value='50', detail='[25, 75]')
    >>> formatted(Estimate(value=0.5, low=None, high=None), ".0f", 100)
    FormattedNumber(value='50', detail='')
    >>> formatted(0.125, ".3g").value, formatted(None, ".3g").value
    ('0.125', '–')
    """
    if value is None:
        return FormattedNumber(MISSING)
    if not isinstance(value, Estimate):
        return FormattedNumber(f"{scale * value:{form}}")
    if value.value is None:
        return FormattedNumber(UNDEFINED)
    if value.low is None or value.high is None:
        return FormattedNumber(f"{scale * value.value:{form}}")
    interval = f"[{scale * value.low:{form}}, {scale * value.high:{form}}]"
    return FormattedNumber(f"{scale * value.value:{form}}", interval)


def percent(estimate: Estimate) -> str:
    """Return a share with its interval, in percent with one digit."""
    return str(formatted(estimate, ".1f", 100))


def counted(number: int, one: str, more: str = "") -> str:
    """Return a number with its noun.

    >>> counted(1, "cell"), counted(2, "cell")
    ('1 cell', '2 cells')
    """
    return f"{number} {one if number == 1 else more or one + 's'}"
