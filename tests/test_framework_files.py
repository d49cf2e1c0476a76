"""Files of NVIDIA FLARE and FedML are read as what these write, and nothing else is unpickled."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from auditing import net
from leakbench import read_fedml, read_nvflare
from leakbench.base.errors import UsageError

Reader = Callable[[Path], dict[str, Tensor]]


def state() -> OrderedDict[str, Tensor]:
    found = OrderedDict(net().state_dict())
    found["norm.num_batches_tracked"] = torch.tensor(7)
    found["half"] = torch.arange(6.0).reshape(2, 3).t().to(torch.bfloat16)  # Not contiguous.
    return found


def assert_same(read: dict[str, Tensor]) -> None:
    expected = state()
    assert list(read) == list(expected)
    for name, value in expected.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value)
        assert read[name].is_contiguous()


def test_a_checkpoint_of_nvflare_has_its_weights_under_model(tmp_path: Path) -> None:
    # As PTModelPersistenceFormatManager.to_persistence_dict of nvflare/app_opt/pt makes it.
    path = tmp_path / "FL_global_model.pt"
    whole = OrderedDict(
        model=state(),
        meta_props={"current_round": 3, "start_round": 0},
        train_conf={"train": {"model": "Net"}},
    )
    torch.save(whole, path)
    assert_same(read_nvflare(path))
    torch.save(state(), path)
    assert_same(read_nvflare(str(path)))


def test_an_object_of_fedml_is_a_pickled_state_dict(tmp_path: Path) -> None:
    # As S3Storage.write_model of fedml/core/distributed/communication/s3 makes it.
    path = tmp_path / "fedml_1_0_1_key"
    path.write_bytes(pickle.dumps(state()))
    assert_same(read_fedml(path))
    path.write_bytes(pickle.dumps(dict(state())))
    assert_same(read_fedml(path))


class Hostile:
    """Writes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def in_a_storage(marker: Path) -> bytes:
    """Return a pickle that hides another in what PyTorch would load as a tensor's storage."""

    class Loading:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (pickle.dumps(Hostile(marker)),)

    return pickle.dumps({"weight": Loading()})


@pytest.mark.parametrize("read", [read_nvflare, read_fedml])
def test_nothing_else_is_unpickled(read: Reader, tmp_path: Path) -> None:
    path, marker = tmp_path / "file", tmp_path / "run"
    torch.save({"model": Hostile(marker)}, path)
    saved = path.read_bytes()
    for content in (saved, pickle.dumps({"weight": Hostile(marker)}), in_a_storage(marker)):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"file cannot be read as a"):
            read(path)
    assert not marker.exists()


@pytest.mark.parametrize("read", [read_nvflare, read_fedml])
def test_other_files_are_refused_in_a_sentence(read: Reader, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(UsageError, match="file cannot be read"):
        read(path)
    path.write_bytes(b"\x80\x04no")
    with pytest.raises(UsageError, match="file cannot be read"):
        read(path)
    save = torch.save if read is read_nvflare else _pickled
    save([1, 2], path)
    with pytest.raises(UsageError, match="holds list and no tensors by name"):
        read(path)
    save({}, path)
    with pytest.raises(UsageError, match="holds dict and no tensors by name"):
        read(path)
    save({"weight": torch.ones(2), "epoch": 3}, path)
    with pytest.raises(UsageError, match=r"'epoch' in .* is int and no tensor"):
        read(path)


def _pickled(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))
