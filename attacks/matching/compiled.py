"""Compiling of the engine's steps: one traced function instead of hundreds of calls.

A step, its double differentiation included, is traced to one graph for its shapes and compiled by
TorchInductor. The weights are inputs of the graph, so that its code, which PyTorch keeps in the
folder that $TORCHINDUCTOR_CACHE_DIR names, serves every model of the same shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from leakbench.attacks.matching.runs import each_tensor
from leakbench.attacks.matching.second_derivatives import twice_differentiable
from leakbench.base.choices import Compiling
from leakbench.base.memory import is_out_of_memory
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.attack import NotCompiled

Step = TypeVar("Step", bound=Callable[..., Any])


def compiled(step: Step, *example: Any) -> Step | None:
    """Return a pure function compiled for the shapes of an example, or None, with a warning.

    Args:
        step: takes and returns trees of tensors, no `None` among them, and does the same whatever
            the tensors hold.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    # A trace takes arguments that are one tensor for one argument, also when they differ later.
    example = each_tensor(example, Tensor.clone)
    try:
        graph = make_fx(step)(*example)
        faster: Any = torch.compile(graph, fullgraph=True, dynamic=False)
        with torch.no_grad():
            faster(*example)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"the steps of an attack could not be compiled and run uncompiled ({reason[0]})",
            NotCompiled,
            stacklevel=2,
        )
        return None
    return faster  # type: ignore[no-any-return]


def worth_compiling(
    compiling: Compiling, model: SharedModel, images: Tensor, evaluations: int
) -> bool:
    """Weigh the time that compiling takes against the evaluations ahead.

    By counting, not by the clock: the way that a cell is computed must not depend on what else the
    machine does.

    Args:
        images: the dummies of one run, shape (B, 3, size, size).
        evaluations: of one run's update, all victims together.
    """
    if compiling != "auto":
        return compiling == "on"
    if images.device.type not in FLOPS:
        return False
    seconds = operations(model, images) * evaluations / FLOPS[images.device.type]
    return seconds * SAVED > COMPILE_SECONDS


def operations(model: SharedModel, images: Tensor) -> int:
    """Return the operations of one evaluation of a run, the gradient of its distance included.

    Products in convolutions and linear layers: forward, backward, weights, and back through all.

    Args:
        images: the dummies of one run, shape (B, 3, size, size).
    """
    # Imports Triton, which every command would wait for.
    from torch.utils.flop_counter import FlopCounterMode

    # Fused kernels for attention would not be counted.
    counting = FlopCounterMode(display=False)
    with twice_differentiable(mapped=False), counting as counter, torch.no_grad():
        model(images)
    return PASSES * int(counter.get_total_flops())


PASSES = 7
"""Forward passes that one evaluation costs."""

FLOPS = {"cpu": 5e10, "cuda": 1e12}
"""Operations a second of an uncompiled step: of one core measured, of a GPU with small batches
supposed, since it waits for calls."""

SAVED = 0.25
"""Share of a step's time that compiling saves at least."""

COMPILE_SECONDS = 40
"""What compiling takes at most."""
