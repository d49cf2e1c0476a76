"""Captured updates: how they are converted, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from auditing import Net, audited, gradient, gradients, in_batches, net, people, stepped
from leakbench.auditing.client_batches import rows_by_update
from leakbench.auditing.model_splitting import split_model
from leakbench.auditing.updates import CapturedUpdate, UpdateFormat, as_gradient, read_updates
from leakbench.base.errors import UsageError

Tensors = dict[str, Tensor]


def sent(tensors: Any, model: Net | None = None, **update_format: Any) -> dict[str, Tensor]:
    """An update as the harness has it, by the user's names."""
    whole = model or net()
    shared = split_model(whole, "features", people(3).images)
    captured = CapturedUpdate("mine", tensors, UpdateFormat(**update_format))
    update = as_gradient(captured, shared, whole)
    return {shared.names[name]: value for name, value in update.items()}


@pytest.mark.parametrize("kind", ["gradient", "difference", "weights"])
def test_all_kinds_of_one_step_are_the_same_gradient(kind: str) -> None:
    model = net()
    expected = gradient(model, people(4), range(4))
    after = stepped(model, 1, 0.1).state_dict()
    before = model.state_dict()
    tensors = {
        "gradient": expected,
        "difference": {name: after[name] - before[name] for name in before},
        "weights": after,
    }[kind]
    for name, value in sent(tensors, kind=kind, learning_rate=0.1).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "wrapper", ["_module.", "module.", "_orig_mod.", "_orig_mod.module.", "_module.module."]
)
def test_what_a_wrapper_puts_before_names_is_left_out(wrapper: str) -> None:
    expected = gradient(net(), people(4), range(4))
    found = sent({f"{wrapper}{name}": value for name, value in expected.items()})
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_arrays_are_taken_by_name_and_in_the_models_order() -> None:
    """As a NumPyClient of Flower's sends them: the state in its order, running statistics too."""
    torch.manual_seed(0)
    model = Net()
    model.features.insert(1, torch.nn.BatchNorm2d(8))
    expected = gradient(model, people(4), range(4))
    arrays = {name: value.numpy() for name, value in expected.items()}
    state = [value.numpy() for value in model.state_dict().values()]
    for tensors in (arrays, list(arrays.values())):
        found = sent(tensors, model)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    unmoved = sent(state, model, kind="weights", learning_rate=1.0)
    assert not any(value.any() for value in unmoved.values())
    with pytest.raises(UsageError, match="'mine' is a list of 2, but the model has 11 tensors in"):
        sent(state[:2], model)


def test_numbers_are_names_of_updates() -> None:
    model = net()
    updates = dict(enumerate(gradients(model, people(8), 4).values()))
    truth = replace(people(8), updates=[0, 0, 0, 0, 1, 1, 1, 1])
    report = audited(model, updates, truth=truth)
    assert [update.name for update in report.updates] == ["0", "1"]
    assert all(update.truth_known for update in report.updates)


def test_one_of_the_names_of_a_tied_weight_is_enough() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.head[1]

    torch.manual_seed(0)
    model = Tied()
    expected = gradient(model, people(4), range(4))
    renamed = {name.replace("head.1.", "again."): value for name, value in expected.items()}
    found = sent(renamed, model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_running_statistics_beside_weights_are_no_strangers() -> None:
    torch.manual_seed(0)
    model = Net()
    model.features.insert(1, torch.nn.BatchNorm2d(8))
    found = sent(dict(model.state_dict()), model, kind="weights", learning_rate=1.0)
    assert all(not value.any() for value in found.values())


def spoilt(change: Callable[[Tensors], Any]) -> Tensors:
    tensors = gradient(net(), people(4), range(4))
    change(tensors)
    return tensors


def _nan(tensors: Tensors) -> None:
    tensors["head.3.weight"][1, 2] = torch.nan


def _infinite(tensors: Tensors) -> None:
    tensors["head.1.bias"][0] = torch.inf


WRONG = [
    (
        lambda t: t.update({"head.1.weight": torch.zeros(64, 100)}),
        r"its tensor 'head.1.weight' has shape \(64, 100\), the model's \(64, 128\)$",
    ),
    (lambda t: t.pop("head.3.bias"), "update 'mine' lacks tensor 'head.3.bias', which the model"),
    (
        lambda t: t.update({"head.2.weight": torch.zeros(3)}),
        r"holds tensor 'head.2.weight', which the model does not have \(it has 'head.[13].weight'",
    ),
    (_nan, "tensor 'head.3.weight' of update 'mine' holds NaN or infinity"),
    (_infinite, "tensor 'head.1.bias' of update 'mine' holds NaN or infinity"),
    (dict.clear, "lacks 'features.0.weight', 'features.0.bias', 'head.1.weight' and 3 more"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_an_update_that_does_not_fit_is_refused_by_its_tensor(
    change: Callable[[Tensors], Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        sent(spoilt(change))


@pytest.mark.parametrize("kind", ["difference", "weights"])
def test_a_change_of_weights_needs_the_learning_rate(kind: str) -> None:
    with pytest.raises(UsageError, match=f"is of kind {kind}, .* give learning_rate"):
        sent(gradient(net(), people(4), range(4)), kind=kind)


def test_the_batch_size_must_be_known() -> None:
    model = net()
    with pytest.raises(UsageError, match="batch size of update 'client 0' is not known; give"):
        audited(model, gradients(model, people(4), 4))
    with pytest.raises(UsageError, match="batch size is not known: no update was captured"):
        audited(model, None, truth=people(4))
    with pytest.raises(UsageError, match="has batch_size 3, but the truth assigns 4"):
        audited(
            model,
            gradients(model, people(4), 4),
            truth=in_batches(people(4), 4),
            batch_size=3,
        )


def test_updates_may_have_batch_sizes_of_their_own(tmp_path: Path) -> None:
    model, of = net(), people(8)
    sent = {"a": gradient(model, of, range(3)), "b": gradient(model, of, range(3, 8))}
    for name, tensors in sent.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    for updates in (sent, tmp_path):
        read = read_updates(updates, UpdateFormat(), [3, 5]).captured
        assert [each.update_format.batch_size for each in read] == [3, 5]
    report = audited(model, sent, batch_size=[3, 5])
    assert [update.size for update in report.updates] == [3, 5]
    assert report.attacks[-1].certified == 8
    truth = replace(of, updates=["a"] * 4 + ["b"] * 4)
    with pytest.raises(UsageError, match="'a' has batch_size 3, but the truth assigns 4"):
        audited(model, sent, batch_size=[3, 5], truth=truth)
    with pytest.raises(UsageError, match="batch_size has 3 numbers, but there are 2 updates; giv"):
        audited(model, sent, batch_size=[3, 5, 1])
    with pytest.raises(UsageError, match="batch_size: "):
        audited(model, sent, batch_size=[3, 0])
    with pytest.raises(UsageError, match="sizes add up to 7, but the truth has 8 individuals"):
        audited(model, None, batch_size=[3, 4], truth=of)
    rows = rows_by_update([], of, UpdateFormat(), [3, 5])
    assert {name: len(each) for name, each in rows.items()} == {"batch 1": 3, "batch 2": 5}


def test_local_steps_must_be_whole_passes() -> None:
    model = net()
    with pytest.raises(UsageError, match="3 steps of 2 individuals are no whole number of passes"):
        audited(
            model,
            gradients(model, people(4), 4),
            batch_size=4,
            kind="difference",
            learning_rate=0.1,
            local_steps=3,
            local_batch=2,
        )


def test_local_steps_need_the_learning_rate() -> None:
    model = net()
    with pytest.raises(UsageError, match=r"is of 2 local steps, .* give learning_rate"):
        audited(model, gradients(model, people(4), 4), batch_size=4, local_steps=2)


def test_a_header_says_what_is_true_of_one_update(tmp_path: Path) -> None:
    tensors = gradient(net(), people(4), range(4))
    save_file(tensors, tmp_path / "a.safetensors", {"batch_size": "4", "kind": "difference"})
    save_file(tensors, tmp_path / "b.safetensors", {"of": "whatever"})
    first, second = read_updates(tmp_path, UpdateFormat(batch_size=2)).captured
    assert (first.name, first.update_format.batch_size, first.update_format.kind) == (
        "a",
        4,
        "difference",
    )
    assert (second.name, second.update_format) == ("b", UpdateFormat(batch_size=2))
    save_file(tensors, tmp_path / "a.safetensors", {"batch_size": "many"})
    with pytest.raises(UsageError, match=r"the header of update .*a.safetensors: batch_size: "):
        read_updates(tmp_path / "a.safetensors", UpdateFormat())


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    tensors = gradients(net(), people(8), 4)
    for name in ("client 0", "client 1"):
        save_file(tensors[name], tmp_path / f"{name}.safetensors")
    (tmp_path / "client 2.safetensors").write_bytes(b"no update")
    # The truth may name it.
    truth = in_batches(people(12), 4)
    report = audited(net(), tmp_path, truth=truth)
    assert [update.name for update in report.updates] == ["client 0", "client 1"]
    assert any("client 2.safetensors is not a safeten" in each for each in report.limitations)


def test_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    tensors = gradient(net(), people(4), range(4))
    for number in (10, 2, 1):
        save_file(tensors, tmp_path / f"client-{number}.safetensors")
    read = read_updates(tmp_path, UpdateFormat())
    assert [each.name for each in read.captured] == ["client-1", "client-2", "client-10"]


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"updates .*nowhere not found"):
        read_updates(tmp_path / "nowhere", UpdateFormat())
    with pytest.raises(UsageError, match=r"it holds no \*.safetensors file"):
        read_updates(tmp_path, UpdateFormat())
    (tmp_path / "a.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UsageError, match=r"a.safetensors is not a safetensors file"):
        read_updates(tmp_path, UpdateFormat())


@pytest.mark.parametrize(
    ("cast", "kind"),
    [
        (lambda value: value > 0, "bool"),
        (lambda value: (100 * value).to(torch.int8), "int8"),
        (lambda value: value.to(torch.int64), "int64"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda value: value.to_sparse(), "sparse float32"),
        (lambda value: value.tolist(), "list"),
    ],
)
def test_what_is_no_dense_floating_point_tensor_is_refused(
    cast: Callable[[Tensor], Any], kind: str
) -> None:
    tensors = gradient(net(), people(4), range(4))
    name = next(iter(tensors))
    with pytest.raises(UsageError, match=rf"{name}' of update 'mine' is of type {kind}; "):
        sent({**tensors, name: cast(tensors[name])})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_cast(dtype: torch.dtype) -> None:
    expected = gradient(net(), people(4), range(4))
    found = sent({name: value.to(dtype) for name, value in expected.items()})
    for name, value in found.items():
        assert torch.equal(value, expected[name].to(dtype).float())
