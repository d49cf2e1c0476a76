"""What tables say of a defense's price, beside what still leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leakbench.metrics.estimates import percent
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics
from leakbench.reports.rows import MISSING

UTILITY, CHANGE, EPSILON = "utility (lost), %", "‖change‖/‖g‖", "ε"


def price(cells: Iterable[Measured]) -> dict[str, str]:
    """Return what a row's defense costs, by heading; its cells differ only in the attack."""
    found = next((m.record.metrics for m in cells if m.record and m.record.metrics), None)
    if found is None:
        return {}
    if found.defense is None:
        return {UTILITY: f"{100 * found.main_task['accuracy']:.1f}", CHANGE: "0"}
    change, utility = found.defense.distortion.value, found.defense.utility.value
    assert utility is not None
    said = {
        UTILITY: f"{100 * utility:.1f} ({percent(found.defense.utility_lost)})",
        CHANGE: MISSING if change is None else f"{change:.3g}",
    }
    if found.defense.epsilon is not None:
        said[EPSILON] = f"{found.defense.epsilon:.3g}"
    return said


def price_columns(prices: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the headings of a table with these rows; ε only where there is one."""
    some = set().union(*prices)
    return [
        heading for heading in (UTILITY, CHANGE, EPSILON) if heading != EPSILON or EPSILON in some
    ]


def price_aid(cells: Sequence[Measured]) -> list[str]:
    """Return what a reader must know of prices; nothing where no table shows any."""
    if not any(m.entry.layout == "defense" for m in cells):
        return []
    said = (
        "**Utility**: main-task accuracy on the victims' images, which no client has, of a model "
        "trained as long as the shared one but under the defense; in parentheses what that loses "
        "against the shared one, which is attacked and was trained without, on the same images, "
        "with its 95 % interval by identity; how much another training would differ is not in it. "
        "**‖change‖/‖g‖**: of what is sent against the gradient, mean of the victims' updates; of "
        "noise the ratio of norms."
    )
    metrics: list[Metrics] = [m.record.metrics for m in cells if m.record and m.record.metrics]
    deltas = {m.defense.delta for m in metrics if m.defense and m.defense.delta is not None}
    if deltas:
        of = " or ".join(f"{delta:.2g}" for delta in sorted(deltas))
        said += (
            f" **ε**: of that training, for one individual of a client, at δ = {of}, as if batches "
            f"were drawn by Poisson sampling."
        )
    return [said]
