"""Damaged files in the cache are detected, reported, and made again; sound ones are made once."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from forking import Forked
from leakbench.base.cache import (
    DamagedFileWarning,
    cached_array,
    cached_tensors,
    is_cached,
    noting,
    stored_tensors,
    unpack,
)
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Setup
from running import built, events, records, run, warm


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(1000.0), "b": torch.ones(3)}


def images() -> NDArray[np.uint8]:
    return np.arange(10_000, dtype=np.uint8).reshape(10, 1000)


def ask(kind: str) -> bytes:
    """What the cache gives for `things/x`, as bytes."""
    if kind == "npy":
        return cached_array("things/x", images).tobytes()
    return b"".join(t.numpy().tobytes() for t in cached_tensors("things/x", weights).values())


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the first byte": lambda content: flipped(content, 0),
    "a bit of the header": lambda content: flipped(content, 20),
    "a bit of the data": lambda content: flipped(content, len(content) // 2),
    "a bit of the last byte": lambda content: flipped(content, -1),
    "cut to half": lambda content: content[: len(content) // 2],
    "cut in the header": lambda content: content[:9],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"\0",
}
AT_LOADING = ["cut to half", "cut in the header", "empty", "zeros"]
"""Damages that show without a checksum."""


def damage(file: Path, how: Callable[[bytes], bytes]) -> None:
    """Put a damaged file in the place of one; as a new file, which no process has verified."""
    content = how(file.read_bytes())
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_made_again_and_said_once(folder: Path, kind: str, how: str) -> None:
    sound = ask(kind)
    file = folder / "things" / f"x.{kind}"
    damage(file, DAMAGES[how])
    message = f"cache file {file} was damaged and is made again"
    with pytest.warns(DamagedFileWarning) as said, noting() as noted:
        assert ask(kind) == sound
    assert [str(each.message) for each in said] == [message]
    assert noted.built == ["things/x"]
    with noting() as noted:
        assert ask(kind) == sound
    assert noted.built == []


def test_damaged_tensors_are_not_cached(folder: Path) -> None:
    ask("safetensors")
    assert is_cached("things/x")
    damage(folder / "things" / "x.safetensors", DAMAGES["a bit of the data"])
    assert not is_cached("things/x")
    assert stored_tensors("things/x") is None


def test_damaged_tensors_are_replaced_by_those_of_another_machine(folder: Path) -> None:
    sound = ask("safetensors")
    file = folder / "things" / "x.safetensors"
    content = file.read_bytes()
    damage(file, DAMAGES["a bit of the data"])
    unpack({"things/x": content})
    with noting() as noted:
        assert ask("safetensors") == sound
    assert noted.built == []


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_a_file_without_checksum_is_used_and_gets_one(folder: Path, kind: str) -> None:
    """As earlier versions have written them."""
    sound = ask(kind)
    file = folder / "things" / f"x.{kind}"
    beside = folder / "things" / f"x.{kind}.crc32"
    beside.unlink()
    with noting() as noted:
        assert ask(kind) == sound
    assert noted.built == []
    assert beside.is_file()
    damage(file, DAMAGES["a bit of the data"])
    with pytest.warns(DamagedFileWarning):
        assert ask(kind) == sound


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("how", AT_LOADING)
def test_a_file_without_checksum_that_cannot_be_loaded_is_made_again(
    folder: Path, kind: str, how: str
) -> None:
    sound = ask(kind)
    file = folder / "things" / f"x.{kind}"
    (folder / "things" / f"x.{kind}.crc32").unlink()
    damage(file, DAMAGES[how])
    with pytest.warns(DamagedFileWarning, match="was damaged and is made again"):
        assert ask(kind) == sound


def test_a_checksum_without_its_file_is_no_damage(folder: Path) -> None:
    """As after a death between the two, or a file that was deleted by hand."""
    sound = ask("npy")
    (folder / "things" / "x.npy").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask("npy") == sound


def ask_at(start: float, log: Path) -> None:
    """Ask for the file as others do at the same time; print warnings, and log what is built."""

    def build() -> NDArray[np.uint8]:
        with log.open("a") as stream:
            stream.write("built\n")
        time.sleep(0.5)
        return np.arange(10_000, dtype=np.uint8)

    time.sleep(max(0.0, start - time.time()))
    with warnings.catch_warnings(record=True, action="always") as said:
        found = cached_array("things/x", build)
    print(*(each.message for each in said), sep="\n", file=sys.stderr)
    assert (found == np.arange(10_000, dtype=np.uint8)).all()


def test_of_several_processes_one_makes_a_damaged_file_again(tmp_path: Path, folder: Path) -> None:
    cached_array("things/x", lambda: np.arange(10_000, dtype=np.uint8))
    damage(folder / "things" / "x.npy", DAMAGES["a bit of the data"])
    ask = partial(ask_at, time.time() + 0.5, tmp_path / "log")
    three = [Forked(ask, os.environ) for _ in range(3)]
    said = [process.communicate(timeout=120)[1] for process in three]
    assert [process.poll() for process in three] == [0, 0, 0], said
    assert (tmp_path / "log").read_text() == "built\n"
    assert sum("was damaged and is made again" in each for each in said) == 1


def test_a_damaged_model_is_trained_again_from_the_checkpoint_before(
    folder: Path, small_setup: Setup
) -> None:
    setup = small_setup.model_copy(update={"rounds": 2})

    def trained() -> tuple[list[torch.Tensor], list[str]]:
        said: list[str] = []
        model = prepare(setup, None, "cpu", said.append).server.model
        return [t.clone() for t in model.state_dict().values()], said

    sound, _ = trained()
    (file,) = (folder / "models").glob("*/round-000002.safetensors")
    damage(file, DAMAGES["a bit of the data"])
    with pytest.warns(DamagedFileWarning, match="round-000002"):
        again, said = trained()
    assert any("round 0 of 2" in each for each in said)
    assert all(torch.equal(a, b) for a, b in zip(sound, again, strict=True))
    last, said = trained()
    assert all(torch.equal(a, b) for a, b in zip(sound, last, strict=True))
    assert not any(each.startswith("training") for each in said)


def test_a_cached_model_is_loaded_without_copies_of_the_clients_images(
    folder: Path, small_setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(small_setup, None, "cpu", str)

    def refuse(*_: object) -> None:
        raise AssertionError("the clients' images were copied")

    monkeypatch.setattr("leakbench.evaluation.shared_training._client_data", refuse)
    prepare(small_setup, None, "cpu", str)


@pytest.mark.slow
def test_a_flipped_bit_in_every_cached_file_changes_no_record(
    undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    warm(tmp_path, undisturbed)
    files = [*(tmp_path / "cache").rglob("*.safetensors"), *(tmp_path / "cache").rglob("*.npy")]
    assert len(files) > 5
    for file in files:
        damage(file, DAMAGES["a bit of the data"])
    result = run(tmp_path)
    assert result.returncode == 0, result.stderr
    assert records(tmp_path) == records(undisturbed[0])
    told = Counter(
        line for line in result.stderr.splitlines() if "was damaged and is made again" in line
    )
    assert set(told.values()) == {1}
    assert len(told) == len(files)
    assert all(line.startswith("warning: cache file ") for line in told)
    assert "Traceback" not in result.stderr
    assert "Warning:" not in result.stderr
    assert set(built(tmp_path).values()) <= {1, 2}
    assert {each["warning"] for each in events(tmp_path, "Warned")} <= {
        line.removeprefix("warning: ") for line in told
    }
