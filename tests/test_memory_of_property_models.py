"""Training f_p on wide features, as of maps, holds few copies of them."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from leakbench.threat.property_models import validated
from leakbench.threat.property_models.validated import fit_validated

ROWS, WIDTH = 60, 500


class CopiesCounted(TorchDispatchMode):
    """Counts the tensors of a size, made within this context, that are alive at once."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._made: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, Tensor) and result.numel() == self._size:
            alive = {id(each()) for each in self._made if each() is not None}
            if id(result) not in alive:
                self._made.append(weakref.ref(result))
            self.most = max(self.most, sum(each() is not None for each in self._made))
        return result


def test_one_copy_of_the_features_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validated, "EPOCHS", 1)
    draw = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(ROWS, WIDTH, generator=draw) + 1
    mirrored = features + 0.1 * torch.randn(ROWS, WIDTH, generator=draw)
    given = features.clone(), mirrored.clone()
    properties = {"bright": features[:, 0] > 1}
    with CopiesCounted(2 * ROWS * WIDTH) as copies:
        fitted = fit_validated(features, mirrored, properties, np.arange(ROWS), seed=0)
    assert copies.most == 1
    assert torch.equal(features, given[0])
    assert torch.equal(mirrored, given[1])
    assert torch.equal(fitted.low, torch.minimum(features.amin(0), mirrored.amin(0)))
    assert torch.equal(fitted.high, torch.maximum(features.amax(0), mirrored.amax(0)))
