"""An accelerator that is pretended: its tensors compute on the CPU, and refuse to meet the CPU's.

On a machine without a GPU it finds what a GPU would refuse: operations between tensors of two
devices, `numpy()` of a tensor that was not moved to the CPU, and a generator of another device.
Values are real, so that the control flow of whatever runs on it is as anywhere else. PyTorch's
device `meta`, whose tensors have no values, lends its name: it is known to autograd and to
`torch.func`, and needs no hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"

aten = torch.ops.aten

MOVING = {aten._to_copy, aten.copy_, aten.copy}
"""Operations between devices."""

INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index}
"""Operations whose indices may be the CPU's."""

FILLING = {aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_}
"""Operations whose value may be one number of the CPU's, as of those that work by element."""


class PretendedTensor(Tensor):
    """A tensor of the pretended device; `held` are its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendedTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        """False: it has values."""
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives, on the device of its arguments, or on that which is named.

    Raises:
        NotImplementedError: PyTorch differentiates forwards, by its `prims`, which ends the process
            where the tensors are wrapped.
    """
    if func.namespace == "prims":
        raise NotImplementedError(f"{func}: no forward-mode differentiation on a pretended device")
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    refuse_mixed(func, args, given)
    device = kwargs.get("device")
    on_device = (
        any(isinstance(each, PretendedTensor) for each in given)
        if device is None
        else torch.device(device).type == DEVICE
    )
    for each in tree_leaves((args, kwargs)):
        if isinstance(each, torch.Generator) and on_device:
            raise RuntimeError(f"{func}: Expected a generator of the device, found one of the CPU")
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    found = func(*tree_map(values, args), **tree_map(values, kwargs))
    own = {id(values(each)): each for each in given}

    def placed(each: Any) -> Any:
        if id(each) in own:
            return own[id(each)]
        return PretendedTensor(each) if on_device and isinstance(each, Tensor) else each

    return tree_map(placed, found)


def values(each: Any) -> Any:
    return each.held if isinstance(each, PretendedTensor) else each


def refuse_mixed(func: Any, args: Any, given: list[Tensor]) -> None:
    """Raise what PyTorch raises where tensors are on two devices.

    Raises:
        RuntimeError: there are tensors of both, and the operation does not move any.
    """
    packet = func.overloadpacket
    ours = [each for each in given if isinstance(each, PretendedTensor)]
    others = [each for each in given if not isinstance(each, PretendedTensor)]
    if packet in MOVING or not ours:
        return
    if torch.Tag.pointwise in func.tags or packet in FILLING | INDEXING:
        others = [each for each in others if each.ndim]
    if packet in INDEXING and isinstance(args[0], PretendedTensor):
        indices = {id(each) for each in args[1]}
        others = [each for each in others if id(each) not in indices]
    if others:
        raise RuntimeError(
            f"{func}: Expected all tensors to be on the same device, but found some on the "
            f"pretended one and some on the CPU"
        )


class _Operations(TorchDispatchMode):
    """Operations that name the device, whose arguments are not on it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Tensors and indices of Python's numbers, to which PyTorch gives no values on `meta`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            return func(args[0], _index(args[1]), *args[2:])
        if func is Tensor.new_tensor:
            like, *data = args
            device = kwargs.get("device", like.device)
            given = {"dtype": like.dtype, **kwargs, "device": None}
            return torch.tensor(*data, **given).to(device)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs["device"]
            return func(*args, **{**kwargs, "device": None}).to(device)
        return func(*args, **kwargs)


def _index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_index(each) for each in index)
    if not isinstance(index, list | np.ndarray):
        return index
    return torch.as_tensor(index, dtype=None if len(index) else torch.long)


@contextmanager
def pretended_device() -> Iterator[str]:
    """Within it, tensors can be on the device whose name it gives.

    Of an accelerator that is not CUDA leakbench asks the memory as of Apple's.
    """
    with (
        patch("torch.mps.recommended_max_memory", lambda: 2**30),
        patch("torch.mps.current_allocated_memory", lambda: 0),
        _Literals(),
        _Operations(),
    ):
        yield DEVICE
