"""Where pretrained weights come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from leakbench.base.errors import UsageError

Weights = str
"""Type of a model's parameter `weights`."""


def tensors_of(weights: str, model: str) -> Mapping[str, Tensor]:
    """Return the tensors that a model's parameter `weights` names, by the names in their file.

    Raises:
        UsageError: there are none.
    """
    if weights == "none":
        return {}
    raise UsageError(f"model {model!r} has no weights {weights!r}; use none")


def load_strictly(
    network: nn.Module, tensors: Mapping[str, Tensor], model: str, ignore: Collection[str] = ()
) -> None:
    """Load tensors into a network's parameters and buffers; every one must have its counterpart.

    Args:
        tensors: by their names in the network.
        model: the name of the registered model.
        ignore: names, or the first parts of names before a dot, that need no counterpart.

    Raises:
        UsageError: a tensor is missing, surplus or of another shape.
    """
    given = {n: t for n, t in tensors.items() if n.partition(".")[0] not in ignore}
    try:
        network.load_state_dict(given)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"the weights of model {model} do not fit it: {reason}") from None
