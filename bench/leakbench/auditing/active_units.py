"""Whether individuals differ in the units that they activate: demixing tells them apart so."""

from __future__ import annotations

from leakbench.attacks.linear_layers.head import head_of
from leakbench.auditing.case import Case
from leakbench.base.errors import UsageError

RARELY = 0.02
"""Share of individuals below which a unit counts as inactive for everybody."""

FEW = 0.25
"""Share of a layer's units below which individuals hardly differ."""


def varying_units(case: Case) -> tuple[int, int] | None:
    """Return how many units of the last hidden layer are active for some of D_aux only, and of all.

    None where the head has no hidden rectifiers.
    """
    space = case.server.feature_space
    assert space is not None
    try:
        head = head_of(case.model, "mask_demixing")
    except UsageError:
        return None
    if not head.has_kinks:
        return None
    hidden = len(head.layers) - 2
    inputs = head.inputs_after(space.features.to(head.first.weight), hidden)
    active = (head.layers[hidden].forward(inputs) > 0).double().mean(0)
    return int(((active > RARELY) & (active < 1 - RARELY)).sum()), len(active)


def on_active_units(case: Case) -> list[str]:
    """Return that demixing can hardly work here, if so, as a sentence."""
    counted = varying_units(case)
    if counted is None or counted[0] >= FEW * counted[1]:
        return []
    return [
        f"Individuals hardly differ in the units that they activate: in the last hidden layer "
        f"{counted[0]} of {counted[1]} units are active for some people of D_aux and not for "
        f"others, as right after the default initialisation. Mask demixing tells people apart by "
        f"these units; that it finds few says nothing about later rounds, when the model is "
        f"trained. Audit those too."
    ]
