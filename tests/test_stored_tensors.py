"""What victims' clients send waits in a store, not in memory."""

from __future__ import annotations

import pickle
import weakref
from pathlib import Path

import pytest
import torch

from leakbench.base import stored_tensors
from leakbench.base.errors import UsageError
from leakbench.base.stored_tensors import StoredTensors, TensorStore
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import infer, victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defenses.none import NoDefense
from leakbench.threat.knowledge import Knowledge
from spying import Spy


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorStore:
    """A store that moves to its file at once."""
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(stored_tensors, "IN_MEMORY", 1)
    return TensorStore()


TENSORS = {
    "channels last": torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "part of another": torch.randn(4, 6)[:, ::2],
    "repeated": torch.randn(1, 3).expand(4, 3),
    "a number": torch.tensor(2.5),
    "none": torch.empty(0, 3),
    "integers": torch.arange(7),
    "half": torch.randn(5).bfloat16(),
}


def test_stored_tensors_come_back_to_the_last_bit(store: TensorStore) -> None:
    first, second = store.keep(TENSORS), store.keep({"more": torch.ones(3)})
    assert list(first) == list(TENSORS)
    assert torch.equal(second["more"], torch.ones(3))
    for name, tensor in TENSORS.items():
        assert first[name].dtype == tensor.dtype
        assert torch.equal(first[name], tensor)
        # In the same order in memory, in which sums are rounded.
        assert first[name].stride() == tensor.clone().stride()
    with pytest.raises(KeyError):
        first["another"]


def test_who_changes_a_stored_tensor_changes_a_copy(store: TensorStore) -> None:
    kept = store.keep({"w": torch.ones(3)})
    kept["w"].zero_()
    assert torch.equal(kept["w"], torch.ones(3))
    copied = pickle.loads(pickle.dumps(kept))
    assert type(copied) is dict
    assert torch.equal(copied["w"], torch.ones(3))


def test_a_full_disk_is_one_sentence(store: TensorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._file, "flush", full)
    with pytest.raises(UsageError, match=r"cannot write updates to .*No space left on device"):
        store.keep({"w": torch.ones(3)})


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


class Reader(Spy):
    """Sees the updates."""

    required_knowledge = Knowledge.MODEL | Knowledge.UPDATE


def test_of_all_updates_none_is_in_memory_while_the_next_is_computed(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    plain: list[Update] = []
    alive: list[int] = []

    def counted(client: Client) -> Update:
        alive.append(sum(each() is not None for each in made))
        update = gradient(client)
        made.extend(weakref.ref(value) for value in update.values())
        plain.append({name: value.clone() for name, value in update.items()})
        return update

    monkeypatch.setattr("leakbench.evaluation.exchange.gradient", counted)
    truths = victim_batches(context, 2, 12)
    exchange = Exchange(
        knowledge=Reader.required_knowledge,
        batch_size=2,
        mode="eval",
        learning_rate=0.1,
        defense=NoDefense(),
        precision="float32",
        seed=5,
        clients_seed=5,
    )
    spy = Reader()
    infer(spy, truths, exchange, context, lambda share: None)
    # While a client computes its update, the one before is gone.
    assert alive == [0] * 6
    assert not any(each() is not None for each in made)
    for seen, sent in zip(spy.seen, plain, strict=True):
        assert isinstance(seen.update, StoredTensors)
        assert list(seen.update) == list(sent)
        assert all(torch.equal(seen.update[name], value) for name, value in sent.items())
