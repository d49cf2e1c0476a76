"""The parts of pretrained networks: resampling, chains that are cut, freezing."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from leakbench.federation.backbones.chain import cut, leaves_before, stage_shapes, stages
from leakbench.federation.backbones.freezing import freeze
from leakbench.federation.backbones.input import IMAGENET, WHOLE, Input, resampling
from leakbench.federation.backbones.plain_layers import HardSigmoid, plain
from leakbench.federation.backbones.same_padding import SameConvolutions
from leakbench.federation.backbones.transformer import SelfAttention

UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("to", [(112, 96), (64, 64), (20, 50)])
def test_resizing_is_pytorchs_bilinear_one(to: tuple[int, int]) -> None:
    images = drawn(2, 3, 64, 64)
    expected = functional.interpolate(images, to, mode="bilinear", antialias=True)
    assert torch.allclose(Input(64, to, WHOLE, UNCHANGED)(images), expected, atol=1e-5)


def test_a_box_on_pixels_is_cut_out_before_it_is_resized() -> None:
    images = drawn(1, 3, 64, 64)
    box = (0.25, 0.125, 0.75, 0.875)
    found = Input(64, (96, 64), box, UNCHANGED)(images)
    inner = functional.interpolate(images[:, :, 8:56, 16:48], (96, 64), mode="bilinear")
    # At its edges the box takes the pixels around it into account.
    assert torch.allclose(found[:, :, 2:-2, 2:-2], inner[:, :, 2:-2, 2:-2], atol=1e-5)


def test_a_box_between_pixels_keeps_a_ramp() -> None:
    """Bilinear resampling of a linear function gives its value at each centre."""
    weights = resampling(50, 30, 0.11, 0.87)
    ramp = (torch.arange(50) + 0.5) / 50
    centres = 0.11 + (torch.arange(30) + 0.5) / 30 * (0.87 - 0.11)
    assert torch.allclose(weights @ ramp, centres, atol=2e-3)
    assert torch.allclose(weights.sum(1), torch.ones(30))


def test_the_input_is_mapped_and_traced() -> None:
    entry, images = Input(16, (24, 20), (0.1, 0.2, 0.9, 1.0), IMAGENET), drawn(2, 2, 3, 16, 16)

    def slope(shown: Tensor) -> Tensor:
        found: Tensor = grad(lambda each: vmap(entry)(each).square().sum())(shown)
        return found

    expected = torch.stack([slope(run[None])[0] for run in images])
    assert torch.allclose(make_fx(slope)(images)(images), expected, rtol=1e-4, atol=1e-5)


def test_constants_are_subtracted_and_divided_by() -> None:
    images = drawn(1, 3, 8, 8)
    found = Input(8, (8, 8), WHOLE, IMAGENET)(images)
    assert torch.allclose(found[0, 1], (images[0, 1] - 0.456) / 0.224)
    assert not Input(8, (8, 8), WHOLE, IMAGENET).state_dict()


def a_chain() -> nn.Sequential:
    blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.ReLU()))
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv=nn.Conv2d(3, 4, 3, stride=2), bn=nn.BatchNorm2d(4), blocks=blocks, end=nn.Flatten()
        )
    )


NAMES = ["conv", "bn", "blocks.0", "blocks.1.0", "blocks.1.1", "blocks.1", "blocks", "end"]


def test_members_of_a_sequence_are_stages_in_order() -> None:
    assert [name for name, _ in stages(a_chain())] == NAMES
    assert leaves_before(a_chain(), "blocks.1") == ["conv", "bn", "blocks.0"]
    assert leaves_before(a_chain(), "conv") == []


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_of_a_cut_are_the_chain_and_keep_its_names(name: str) -> None:
    chain = a_chain().eval()
    before, after = cut(chain, name)
    images = drawn(2, 3, 8, 8)
    assert torch.equal(after(before(images)), chain(images))
    tensors = {**before.state_dict(), **after.state_dict()}
    assert list(tensors) == list(chain.state_dict())
    assert before.eval()(images).shape[1:] == stage_shapes(chain, (3, 8, 8))[name]


def test_the_shape_of_an_output_leaves_no_trace() -> None:
    chain = a_chain().train()
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    assert stage_shapes(chain, (3, 8, 8))["end"] == (36,)
    assert chain.training
    assert chain.bn.training
    assert all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())


def test_what_is_frozen_is_a_buffer_under_its_own_name() -> None:
    chain = a_chain().eval()
    chain.bn.running_mean += 0.3  # type: ignore[operator]
    images = drawn(2, 3, 8, 8)
    expected, names = chain(images), set(chain.state_dict())
    for name in ("conv", "bn"):
        freeze(chain, name)
    assert [name for name, _ in chain.named_parameters()] == ["blocks.0.weight", "blocks.0.bias"]
    assert set(chain.state_dict()) == names - {"bn.num_batches_tracked"}
    assert torch.allclose(chain.train()(images), expected, atol=1e-6)


def test_the_hard_sigmoid_is_pytorchs() -> None:
    inputs = torch.linspace(-5, 5, 101)
    assert torch.allclose(HardSigmoid()(inputs), functional.hardsigmoid(inputs))
    changed = plain(nn.Sequential(nn.Hardsigmoid(), nn.ReLU(inplace=True), nn.Dropout(0.5)))
    sigmoid, relu, dropout = changed.children()
    assert isinstance(sigmoid, HardSigmoid)
    assert (relu.inplace, dropout.p) == (False, 0.0)


def test_attention_is_pytorchs() -> None:
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    tokens = drawn(2, 5, 12)
    expected, _ = theirs(tokens, tokens, tokens, need_weights=False)
    found, _ = SelfAttention(theirs)(tokens, tokens, tokens, need_weights=False)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_gives_a_part_of_the_pixels(
    size: tuple[int, int], kernel: int, stride: int
) -> None:
    layers = SameConvolutions(*size).layers("conv", 3, 4, kernel, stride)
    output = nn.Sequential(*layers.values())(drawn(1, 3, *size))
    assert output.shape[2:] == tuple(-(-each // stride) for each in size)


def test_an_odd_padding_is_larger_below_and_on_the_right() -> None:
    padding, _ = SameConvolutions(8, 8).layers("conv", 3, 4, 3, 2).values()
    assert isinstance(padding, nn.ZeroPad2d)
    assert padding.padding == (0, 1, 0, 1)
