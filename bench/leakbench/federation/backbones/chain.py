"""A network as a chain of named stages, which can be cut after any of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakbench.federation.shared_model import watched


def stages(chain: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """Yield every stage's name and module in the order in which they compute.

    The members of a plain `nn.Sequential` are stages themselves, and come before it. What other
    modules are made of, such as a block with a shortcut, is no stage.
    """
    for name, module in chain.named_children():
        if type(module) is nn.Sequential:
            yield from ((f"{name}.{inner}", each) for inner, each in stages(module))
        yield name, module


def averaged(**maps: nn.Module) -> nn.Sequential:
    """Return the chain of some stages and the average of their last maps, deep features (n, d)."""
    return nn.Sequential(OrderedDict(**maps, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


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


def stage_shapes(chain: nn.Sequential, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every stage's output for one individual, without computing it.

    Args:
        shape: of one individual's input.
    """
    training = chain.training
    tensors = {**dict(chain.named_parameters()), **dict(chain.named_buffers())}
    on_meta = {name: torch.empty_like(value, device="meta") for name, value in tensors.items()}
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes[name] = tuple(output.shape[1:])

    chain.eval()
    with watched(dict(stages(chain)), keep), torch.no_grad():
        functional_call(chain, on_meta, (torch.empty(1, *shape, device="meta"),))
    chain.train(training)
    return shapes
