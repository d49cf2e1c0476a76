"""Updates in sixteen bits: what is rounded, and that nothing overflows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leakbench.federation.client import Client
from leakbench.federation.defenses.low_precision import LowPrecision
from leakbench.federation.shared_model import SharedModel


def _sent(defense: LowPrecision, value: Tensor) -> Tensor:
    model = SharedModel(torch.nn.Identity(), torch.nn.Linear(1, 1))
    nobody = Client(model, torch.zeros(1, 1), torch.zeros(1), 0.1, torch.Generator())
    return defense.protect(lambda _: {"weight": value})(nobody)["weight"]


@pytest.mark.parametrize(("name", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_entries_are_rounded_to_the_nearest(name: str, error: float) -> None:
    value = torch.linspace(-2, 2, 1001)
    sent = _sent(LowPrecision(format=name), value)  # type: ignore[arg-type]
    assert sent.dtype == value.dtype
    off = (sent - value).abs()
    assert 0 < off.max() <= 2 * error
    assert (off <= error * value.abs() + 1e-7).all()


def test_entries_beyond_the_format_are_its_largest_number() -> None:
    sent = _sent(LowPrecision(format="float16"), torch.tensor([1e6, -1e6, 1.0]))
    assert sent.tolist() == [65504.0, -65504.0, 1.0]


def test_what_is_not_finite_stays_so() -> None:
    sent = _sent(LowPrecision(format="bfloat16"), torch.tensor([torch.nan, 1.0]))
    assert sent.isnan().tolist() == [True, False]
