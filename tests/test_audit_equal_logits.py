"""An audit says that a model tells nobody apart, since it then finds less than with its weights."""

from __future__ import annotations

import torch

from auditing import Net, audited, gradients, net, people

SHORT = {"budget": 1, "reflections": 1}

SAID = "nearly the same logits for everybody"


def limitations(model: Net) -> str:
    sent = gradients(model, people(4, seed=2), 4)
    report = audited(model, sent, batch_size=4, attacks={"mask_demixing": SHORT})
    return " ".join(report.limitations)


def test_a_model_whose_logits_hardly_differ_is_a_limitation() -> None:
    faint = net()
    with torch.no_grad():
        faint.head[1].weight.mul_(1e-6)
    assert SAID in limitations(faint)


def test_a_model_that_tells_people_apart_is_not_limited() -> None:
    assert SAID not in limitations(net())
