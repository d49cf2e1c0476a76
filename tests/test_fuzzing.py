"""Files with mistakes are refused in one sentence, or read as what they say; nothing else happens.

Of every file that was tried it is counted whether it was refused, or accepted and found to be read
rightly; anything else, such as an exception of another kind, fails. `-s` prints the counts, which
the documentation has under "What we test".
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, seed, settings

from damage import noise
from leakbench.auditing.image_files import read_labelled_images
from leakbench.auditing.updates import UpdateFormat, read_updates
from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import DataSet
from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import load_suite
from leakbench.records.checks import faults, read_strictly
from leakbench.records.record import Record
from leakbench.records.store import Store
from mutations import Mistake, mistakes, with_mistakes
from publishing import done
from records import suite_entries
from suite_files import SMALL
from test_apascal import official as apascal  # noqa: F401
from test_celeba import official as celeba  # noqa: F401
from test_cub import official as cub  # noqa: F401
from test_lad import official as lad  # noqa: F401
from test_lfw import official as lfw  # noqa: F401

Read = Callable[[Path], bool]
"""Reads a file; returns False if it is refused, and raises AssertionError if it is misread."""

EXAMPLES, OF_A_DATA_SET = 400, 80
"""Files with mistakes of each kind, and of the label files of each data set."""


def tried(
    kind: str,
    files: list[Path],
    read: Read,
    examples: int,
    around: Path,
) -> None:
    """Read files with mistakes, each restored afterwards; nothing around them may change.

    Args:
        around: a folder, in which nothing but these files may be written.
    """
    whole = {file: file.read_bytes() for file in files}
    before = listing(around)
    counts: Counter[bool] = Counter()
    assert all(map(read, files)), "without a mistake it is accepted"

    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(mistakes)
    def with_each(made: list[Mistake]) -> None:
        file = files[int(made[0].place * 7919) % len(files)]
        file.write_bytes(with_mistakes(whole[file], made))
        try:
            accepted = read(file)
        except UsageError as error:
            assert "\n" not in str(error).strip()
            accepted = False
        finally:
            file.write_bytes(whole[file])
        counts[accepted] += 1
        assert listing(around) == before

    with_each()
    print(f"\n| {kind} | {counts.total()} | {counts[False]} | {counts[True]} | 0 |")


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_records(tmp_path: Path) -> None:
    """A record that is read has the numbers of its file, and the cell that its name says."""
    store = Store(tmp_path / "records")
    record = done(suite_entries("quick")[0])
    store.write(record)
    store.write(done(suite_entries("quick")[1]))

    def read(file: Path) -> bool:
        with contextlib.suppress(UsageError):
            list(faults(read_strictly(file), file.stem))
        found = store.examine(file.stem)
        if not isinstance(found, Record):
            return False
        assert found.cell == record.cell
        assert_same_numbers(found.model_dump(mode="json"), json.loads(file.read_bytes()))
        return True

    tried("records", [store.path(record.key)], read, EXAMPLES, tmp_path)


def assert_same_numbers(read: Any, written: Any) -> None:
    """Whether numbers are those that a file holds; fields that it lacks have their defaults."""
    if isinstance(read, Mapping):
        for key in read.keys() & written.keys():
            assert_same_numbers(read[key], written[key])
    elif isinstance(read, list):
        for ours, theirs in zip(read, written, strict=True):
            assert_same_numbers(ours, theirs)
    elif isinstance(read, int | float):
        assert float(written) == read or (math.isnan(read) and math.isnan(float(written)))


def test_suites(tmp_path: Path) -> None:
    """The cells of a suite that is read are valid, and the same every time."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)

    def read(file: Path) -> bool:
        entries = expand(*load_suite(str(file)))
        assert [each.key for each in entries] == [e.key for e in expand(*load_suite(str(file)))]
        for each in entries:
            assert Cell.model_validate_json(each.cell.model_dump_json()) == each.cell
        return True

    tried("suites", [path], read, EXAMPLES, tmp_path)


@pytest.mark.parametrize("name", ["celeba", "lfw", "cub", "apascal", "lad"])
def test_label_files(name: str, request: pytest.FixtureRequest) -> None:
    """Individuals that are read are whole: each has an image, an identity and all attributes."""
    root: Path = request.getfixturevalue(name)
    dataset: DataSet = DATASETS.get(name)()
    folder = root / str(dataset.folder)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".csv")]

    def read(_: Path) -> bool:
        people = dataset.load(root, 16)
        assert people.images.shape == (len(people), 3, 16, 16)
        for present in people.attributes.values():
            assert (present.dtype, present.shape) == (np.bool_, (len(people),))
        return True

    tried(f"label files of {name}", files, read, OF_A_DATA_SET, root)


def test_updates(tmp_path: Path) -> None:
    """An update that is read has the bytes of its file as its numbers."""
    path = tmp_path / "client-1.safetensors"
    tensors = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}
    path.write_bytes(save(tensors, {"kind": "gradient", "batch_size": "4"}))

    def read(file: Path) -> bool:
        content = file.read_bytes()
        found = read_updates(tmp_path, UpdateFormat())
        if not found.captured:
            raise UsageError(found.unread[file.stem])
        for update in found.captured:
            for tensor in update.tensors.values():
                assert tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() in content
        return True

    tried("updates", [path], read, EXAMPLES, tmp_path)


def test_people_files(tmp_path: Path) -> None:
    """People that are read have a label, a property and an identity each."""
    folder = tmp_path / "people"
    folder.mkdir()
    rows = ["file,label,identity,update,gender"]
    for number in range(4):
        noise(number, 16, 16).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number % 2},{number},client-1,{number // 2}")
    path = folder / "people.csv"
    path.write_text("\n".join([*rows, ""]))

    def read(_: Path) -> bool:
        people = read_labelled_images(folder, 16, "the truth")
        count = len(people.images)
        assert people.images.shape[1:] == (3, 16, 16)
        for column in (people.labels, people.identities, *people.properties.values()):
            assert column is None or len(column) == count
        return True

    tried("people files", [path], read, EXAMPLES, tmp_path)
