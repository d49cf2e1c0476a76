"""A network as a chain of named stages, which can be cut after any of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call


def stages(chain: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """Yield every stage's name and module in the order in which they compute.

    The members of a plain `nn.Sequential` are stages themselves, and come before it. What other
    modules are made of, such as a block with a shortcut, is no stage.
    """
    for name, module in chain.named_children():
        if type(module) is nn.Sequential:
            yield from ((f"{name}.{inner}", each) for inner, each in stages(module))
        yield name, module


def cut(chain: nn.Sequential, stage: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the chain up to a stage, and what follows it; modules keep their names in both."""
    first, _, inner = stage.partition(".")
    children = list(chain.named_children())
    at = [name for name, _ in children].index(first)
    before, after = OrderedDict(children[:at]), OrderedDict(children[at + 1 :])
    module = children[at][1]
    if inner:
        assert isinstance(module, nn.Sequential)
        module, rest = cut(module, inner)
        if len(rest):
            after[first] = rest
            after.move_to_end(first, last=False)
    before[first] = module
    return nn.Sequential(before), nn.Sequential(after)


def leaves_before(chain: nn.Sequential, stage: str) -> list[str]:
    """Return the names of the innermost stages that compute before a stage."""
    before: list[str] = []
    for name, module in stages(chain):
        if name == stage or name.startswith(f"{stage}."):
            return before
        if type(module) is not nn.Sequential:
            before.append(name)
    raise ValueError(f"no stage {stage!r}")


def output_shape(chain: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the chain's output for one individual, without computing it.

    Args:
        shape: of one individual's input.
    """
    training = chain.training
    tensors = {**dict(chain.named_parameters()), **dict(chain.named_buffers())}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in tensors.items()}
    with torch.no_grad():
        output: Tensor = functional_call(
            chain.eval(), shapes, (torch.empty(1, *shape, device="meta"),)
        )
    chain.train(training)
    return tuple(output.shape[1:])
