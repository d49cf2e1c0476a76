"""`leakbench datasets list` and `leakbench datasets check`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from damage import noise
from leakbench.base.registry import DATASETS
from leakbench.conformance.dataset_check import near_duplicate_lines
from leakbench.data.dataset import DataSet
from leakbench.data.near_duplicates import with_near_duplicates
from leakbench.datasets.synthetic import Synthetic

Run = Callable[..., tuple[int, str, str]]

DATE = "20170109150557335.jpg.chip.jpg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a UTKFace of three faces, one of them not labelled."""
    folder = tmp_path / "data" / "utkface" / "UTKFace"
    folder.mkdir(parents=True)
    for seed, name in enumerate((f"20_0_0_{DATE}", f"60_0_1_{DATE}", f"30_1_{DATE}")):
        noise(seed, height=200, width=200).save(folder / name, format="png")
    return tmp_path / "data"


def test_list_tells_properties_size_terms_and_whether_each_is_found(run: Run, root: Path) -> None:
    code, out, _ = run("datasets", "list", "--data-root", str(root))
    assert code == 0
    rows = {row[0]: row for row in (re.split(" {2,}", line) for line in out.splitlines()[2:])}
    assert set(rows) == {"apascal", "celeba", "cub", "lad", "lfw", "synthetic", "utkface"}
    assert rows["utkface"][1:] == [
        "gender young",
        "23,708 faces",
        "utkface",
        "yes",
        "non-commercial research",
    ]
    assert rows["celeba"][4] == "no"
    assert rows["synthetic"][3:5] == ["(embedded)", "yes"]


def test_list_does_not_say_found_where_nobody_looked(run: Run) -> None:
    _, out, _ = run("datasets", "list", "celeba")
    assert "no --data-root" in out.splitlines()[-1]


@pytest.mark.parametrize("arguments", [(), ("c*",), ("--data-root", ".")])
def test_both_listings_are_one(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("datasets", "list", *arguments) == run("list", "datasets", *arguments)


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_states_its_size_and_terms(name: str) -> None:
    dataset = DATASETS.get(name)
    assert dataset.size != DataSet.size
    assert dataset.terms != DataSet.terms
    assert (dataset.folder is None) == (not dataset.source)


def test_check_tells_what_was_found_and_what_is_missing(run: Run, root: Path) -> None:
    code, out, _ = run("datasets", "check", "utkface", "--data-root", str(root))
    assert code == 0
    for fact in (
        r"data set utkface: usable for young",
        r"individuals +2 \(whole: 23,708 faces\)",
        r"identities +2, one image each",
        r"left out +1 name lacks age, gender or race",
        r"gender +2 +0 +one value only",
        r"young +1 +1 +50\.0 %",
        r"2-class +white +2 occur, the most frequent 50\.0 %",
        rf"folder +{re.escape(str(root))}/utkface",
    ):
        assert re.search(fact, out), fact


def test_check_lists_photos_under_two_identities(run: Run, root: Path) -> None:
    arguments = ("datasets", "check", "utkface", "--data-root", str(root))
    _, before, _ = run(*arguments)
    assert re.search(r"same photo +no two images\n", before)
    folder = root / "utkface" / "UTKFace"
    copied = Image.open(folder / f"60_0_1_{DATE}").point(lambda value: int(0.9 * value))
    copied.save(folder / f"61_0_1_{DATE}", format="png")
    code, out, _ = run(*arguments)
    assert code == 0
    line = (
        rf"same photo +row 1 \(60_0_1_{DATE}\) of identity 1 and row 2 \(61_0_1_{DATE}\) "
        rf"of identity 2\n"
    )
    assert re.search(line, out)
    assert out.count("same photo") == 1


def test_check_counts_photos_that_one_identity_has_twice_and_lists_few_pairs() -> None:
    people = Synthetic(individuals=200, images_per_identity=2).load(None, 32)
    images = np.array(people.images)
    images[1] = images[0]
    images[101:140] = images[100]
    found = with_near_duplicates(replace(people, images=images, fingerprint="copied"))
    lines = near_duplicate_lines(found)
    assert lines[0] == "row 100 of identity 50 and row 102 of identity 51"
    assert len(lines) == 22
    assert re.fullmatch(r"and \d+ more pairs across identities", lines[20])
    assert lines[21] == "21 pairs within an identity"


def test_check_takes_parameters_as_run_does(run: Run, root: Path) -> None:
    arguments = ("datasets", "check", "utkface", "--data-root", str(root))
    code, out, _ = run(*arguments, "--set", "dataset.young_below=70")
    assert code == 2
    code, out, _ = run(*arguments, "--set", "dataset.young_below=30")
    assert code == 0
    assert re.search(r"dataset\.young_below +30", out)


def test_check_names_properties_that_the_parameters_leave_unlabelled(run: Run) -> None:
    settings = ("--set", "dataset.subject=birds", "--set", "dataset.individuals=40")
    code, out, _ = run("datasets", "check", "synthetic", *settings)
    assert code == 0
    assert "usable for beak" in out
    assert re.search(r"gender +missing: not labelled", out)


def test_check_decodes_every_image(run: Run, root: Path) -> None:
    path = root / "utkface" / "UTKFace" / f"60_0_1_{DATE}"
    path.write_bytes(path.read_bytes()[:1000])
    code, out, err = run("datasets", "check", "utkface", "--data-root", str(root))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"leakbench: image .*60_0_1_.* cannot be decoded .*\n", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["utkface"], r"data set 'utkface' needs real data: no --data-root given; put the aligned"),
        (["celeba", "--data-root", "data"], r"data/celeba not found; put the aligned images"),
        (["utkfaces"], r"unknown data set 'utkfaces'; did you mean utkface"),
        (["synthetic", "--set", "seed=1"], r"'seed=1' is not of the form dataset\.PARAMETER=VALUE"),
        (["synthetic", "--set", "dataset.sed=1"], r"has no parameter 'sed'; it has: subject"),
        (["synthetic", "--set", "dataset.seed=x"], r"data set 'synthetic': seed: .*\(got 'x'\)"),
        (
            ["utkface", "--data-root", "data", "--set", "dataset.young_below=70"],
            r"not usable: no property of gender, young is both present and absent among its 2",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_code_2(
    run: Run, root: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("datasets", "check", *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{message}.*\n", err)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("apascal", ()),
        ("cub", ("--set", "dataset.labels=class")),
        ("lfw", ()),
        ("lfw", ("--set", "dataset.labels=columbia")),
        ("utkface", ()),
    ],
)
def test_real_data_sets_are_usable(
    run: Run, data_root: Path, name: str, settings: tuple[str, ...]
) -> None:
    folder = DATASETS.get(name).folder
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder}/ in {data_root}")
    code, out, _ = run("datasets", "check", name, "--data-root", str(data_root), *settings)
    assert code == 0
    properties = DATASETS.get(name).properties
    assert f"data set {name}: usable for {', '.join(properties)}\n" in out
    shares = [float(share) for share in re.findall(r"([0-9.]+) %$", out, re.M)]
    assert np.all(np.array(shares) < 100)
