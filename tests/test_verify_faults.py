"""Faults of records from elsewhere, such as numbers edited by hand, are found one by one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from editing import edit, numbers_in, path_of
from leakbench.verification.verify import verify
from verification_fixtures import OF_GENDER, RESULTS

pytest_plugins = ["verification_fixtures"]


def sentences(folder: Path) -> list[str]:
    return verify(folder, None, sample=0, keep=True).faulty


def test_what_was_measured_has_no_faults(made: Path) -> None:
    found = verify(made, None, sample=0)
    assert (found.records, found.faulty, found.code) == (3, [], 0)


def test_every_published_record_has_no_faults() -> None:
    assert sentences(RESULTS / "records") == []


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("schema_version", 1, r"has schema version 1, and this leakbench reads 2"),
        ("key", "0" * 24, r"has the key 0{24}, which is not its name"),
        ("cell/batch_size", 4, r"its cell, under version 2 of the attack, has \w{24}: one of them"),
        ("attack_version", 1, r"is of version 1 of attack 'feature', which here has version 2"),
        ("status", "failed", r"failed \(None\); measure the cell again, or leave"),
        ("status", "diverged", r"status 'diverged', and 0% of the batches diverged"),
        ("metrics", None, r"has status 'done' and no metrics"),
        ("cost", None, r"says a cost of nothing"),
        ("cost/seconds", 0.0, r"says a cost of nothing"),
        ("cost/peak_memory_mib", 0.0, r"says a cost of nothing"),
        ("cost/steps", -1.0, r"says a cost of .* seconds, -1 steps"),
        ("cell/attack", "dreams", r"cannot be measured here: unknown attack 'dreams'"),
        ("cell/dataset", "dreams", r"cannot be measured here: unknown data set 'dreams'"),
        ("cell/model", "dreams", r"cannot be measured here: unknown model 'dreams'"),
        ("cell/defense", "dreams", r"cannot be measured here: unknown defense 'dreams'"),
        ("cell/attack_parameters/budget", -4, r"budget: .*greater than 0"),
        (
            "cell/attack_parameters",
            {"budget": 4},
            r"attack 'feature' lacks the parameter labels, reads",
        ),
        ("cell/grant", ["model"], r"needs to know update and labels and auxiliary"),
        ("cell/individuals", 23, r"23 individuals cannot be divided into batches of 2"),
        (
            "knowledge",
            ["update"],
            r"says that the attack knew update, and what it requires .*is",
        ),
        ("versions", {}, r"does not say which version of leakbench, python, torch, numpy"),
        ("device", "abacus", r"was measured on 'abacus', which is none of cpu, cuda, mps"),
        ("fingerprint", None, r"has no fingerprint of the data"),
        ("finished", "yesterday", r"was finished at 'yesterday', which is no time"),
        ("finished", "2999-01-01T00:00:00+00:00", r"which is in the future"),
        (f"{OF_GENDER}/accuracy/value", 1.5, r"outside \[0, 1\]|does not contain"),
        (f"{OF_GENDER}/accuracy/high", 1.5, r"gender'\]\.accuracy = .*cannot be outside \[0, 1\]"),
        (f"{OF_GENDER}/auc/high", 0.0, r"auc = .*, which its interval .* to 0 does not contain"),
        (f"{OF_GENDER}/auc/low", None, r"auc = .* with the interval None to"),
        (f"{OF_GENDER}/prevalence", 0.3, r"gender'\]\.prevalence = 0\.3, which is no share of 24"),
        ("metrics/exact/value", 0.01, r"exact = 0\.01, which"),
        ("metrics/diverged", 0.3, r"diverged = 0\.3, which is no share of 12"),
        ("metrics/label_accuracy", 2.0, r"label_accuracy = 2, which cannot be outside \[0, 1\]"),
        ("metrics/classes", 1, r"classes = 1, which cannot be outside \[2, inf\]"),
        ("metrics/deployed", {"F": 0.5}, r"deployed models without knowledge of outputs"),
        ("cell/properties", ["glasses", "gender"], r"metrics of gender, glasses, not of glasses"),
        ("metrics/speed", 3, r"key"),
    ],
)
def test_a_record_edited_by_hand_is_one_sentence_and_the_rest_goes_on(
    folder: Path, where: str, value: Any, said: str
) -> None:
    path = path_of(folder, "feature")
    if where == "metrics/speed":
        content = json.loads(path.read_text())
        content["metrics"]["speed"] = value
        path.write_text(json.dumps(content))
        said = r"is no record \(unknown key 'metrics\.speed'\)"
    else:
        edit(path, where, value)
    found = sentences(folder)
    assert found
    assert all(sentence.startswith(path.name) for sentence in found)
    assert any(re.search(said, sentence) for sentence in found), found
    assert not any("\n" in sentence for sentence in found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, True])
@pytest.mark.parametrize("part", ["metrics", "cost"])
def test_no_number_makes_the_check_itself_fail(folder: Path, part: str, value: float) -> None:
    """Beside its own sentence a spoilt number must not stop the check of the others."""
    path = path_of(folder, "mask_demixing")
    content = path.read_text()
    for where in numbers_in(json.loads(content)[part]):
        edit(path, f"{part}/{where}", value)
        found = sentences(folder)
        assert value is True or found, where
        path.write_text(content)


def test_what_all_have_has_no_balanced_accuracy(folder: Path) -> None:
    edit(path_of(folder, "feature"), f"{OF_GENDER}/prevalence", 1.0)
    (sentence,) = sentences(folder)
    assert "at prevalence 1, which no numbers of correct decisions give" in sentence


def test_more_false_certificates_than_certificates_are_found(folder: Path) -> None:
    path = path_of(folder, "mask_demixing")
    edit(path, "metrics/certificates/false", 25)
    (sentence,) = sentences(folder)
    assert re.search(r"says 25 false certificates of \d+ in all", sentence)


def test_a_better_balanced_accuracy_does_not_fit_the_accuracy(folder: Path) -> None:
    """All else fits: the value lies in its interval, and the accuracy is a share of 24."""
    path = path_of(folder, "feature")
    of = json.loads(path.read_text())["metrics"]["properties"]["gender"]
    better = {"value": of["balanced_accuracy"]["value"] + 0.01, "low": 0.2, "high": 0.8}
    edit(path, f"{OF_GENDER}/balanced_accuracy", better)
    (sentence,) = sentences(folder)
    assert "which no numbers of correct decisions give" in sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[]", "has schema version None"),
        (b'{"schema_version": 2}', r"is no record \(key 'key' is missing\)"),
    ],
)
def test_a_file_that_is_no_record_is_one_sentence(folder: Path, content: bytes, said: str) -> None:
    (folder / "records" / "broken.json").write_bytes(content)
    (sentence,) = sentences(folder)
    assert re.match(rf"broken\.json .*{said}", sentence)
