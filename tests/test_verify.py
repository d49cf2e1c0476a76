"""`leakbench verify` measures a sample of records again, and finds what does not come again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from editing import edit, path_of
from leakbench.experiments.cell import SCHEMA
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.records.verified import NAME, entries, verified, write
from verification_fixtures import OF_GENDER, RESULTS, foreign_entry

pytest_plugins = ["verification_fixtures"]

Run = Callable[..., tuple[int, str, str]]


def test_bad_input_is_one_sentence_and_code_2(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, err = run("verify", str(tmp_path / "nowhere"))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"leakbench: .*nowhere holds no records; name the folder .*\n", err)
    assert run("verify", str(folder), "--sample", "-1")[0] == 2
    assert run("verify", str(folder), "--rule", "kind")[0] == 2


def test_faults_are_sentences_and_code_1(run: Run, folder: Path) -> None:
    edit(path_of(folder, "feature"), "cost/seconds", 0.0)
    code, out, _ = run("verify", str(folder), "--sample", "0")
    assert code == 1
    assert re.search(
        r"^- \w{24}\.json \(feature on synthetic, B = 2\) says a cost of not", out, re.M
    )
    assert out.endswith("3 records, 1 faults; 0 measured again, 0 of them agree.\n")


def of_celeba() -> list[Path]:
    """The published records of CelebA that can be measured again where it is."""
    found = []
    for path in sorted((RESULTS / "records").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] == SCHEMA and content["cell"]["dataset"] == "celeba":
            found.append(path)
    return found


def test_a_record_whose_data_are_not_there_is_not_measured_again(run: Run, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    shutil.copy(of_celeba()[0], tmp_path / "records")
    code, out, _ = run("verify", str(tmp_path), "--sample", "1")
    assert code == 3
    assert "1 records of the sample cannot be measured again here: data set 'celeba'" in out
    assert "Nothing was measured again: this does not show that the numbers reproduce." in out


def test_the_sample_is_drawn_at_random_and_can_be_repeated(run: Run, tmp_path: Path) -> None:
    """None of them can be measured here, which takes no time."""
    (tmp_path / "records").mkdir()
    for theirs in of_celeba()[:40]:
        shutil.copy(theirs, tmp_path / "records")

    def sample(*arguments: str) -> tuple[str, list[str]]:
        code, out, err = run("verify", str(tmp_path), "--sample", "5", *arguments)
        assert code == 3
        (line,) = (line for line in out.splitlines() if line.startswith("- sample of 5"))
        # Before measuring begins, which may take hours.
        assert line in err
        return re.findall(r"--seed (\d+)", line)[0], re.findall(r"\w{24}", line)

    seed, keys = sample()
    assert len(set(keys)) == 5
    assert sample("--seed", seed) == (seed, keys)
    others = [sample() for _ in range(3)]
    assert len({seed, *(other for other, _ in others)}) == 4
    assert any(other != keys for _, other in others)


def test_another_fingerprint_of_embedded_data_is_a_fault(run: Run, folder: Path) -> None:
    path = path_of(folder, "feature")
    edit(path, "fingerprint", "0" * 16)
    for other in (folder / "records").glob("*.json"):
        if other != path:
            other.unlink()
    code, out, _ = run("verify", str(folder), "--sample", "1")
    assert code == 1
    assert re.search(rf"{path.name} \(.*\) has the fingerprint 0{{16}} of data, and leakbench", out)
    assert "1 records, 1 faults; 0 measured again" in out


def test_what_fails_here_is_no_success(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(records: list[Record], *_: object) -> dict[str, str]:
        return {record.key: "no memory" for record in records}

    monkeypatch.setattr("leakbench.verification.verify.remeasure", failing)
    code, out, _ = run("verify", str(folder), "--sample", "2")
    assert code == 3
    assert "2 records of the sample cannot be measured again here: no memory" in out


def test_an_interrupt_is_no_outcome(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("leakbench.verification.verify.remeasure", interrupted)
    code, _, err = run("verify", str(folder), "--sample", "1")
    assert code == 130
    assert "leakbench: interrupted" in err


FORGERIES: dict[str, Callable[[dict[str, float]], dict[str, float]]] = {
    "value shifted": lambda of: {name: each + 0.3 for name, each in of.items()},
    "shifted, interval of everything": lambda of: {"value": of["value"] + 0.3, "low": 0, "high": 1},
    "interval shrunk": lambda of: {
        "value": of["value"],
        "low": of["value"] - (of["value"] - of["low"]) / 12,
        "high": of["value"] + (of["high"] - of["value"]) / 12,
    },
    "a point": lambda of: dict.fromkeys(("value", "low", "high"), of["value"]),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_verify_finds_a_forged_record_by_the_interval(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The forger's numbers are each possible; the honest ones come again."""
    path = path_of(folder, "feature")
    of = {"value": 0.55, "low": 0.49, "high": 0.61}
    edit(path, f"{OF_GENDER}/auc", of)
    honest = {each.key: each for each in Store(folder / "records").all()}
    edit(path, f"{OF_GENDER}/auc", FORGERIES[kind](of))

    def again(
        records: list[Record], root: None, device: str, watcher: object, hand: Callable[..., None]
    ) -> dict[str, str]:
        for record in records:
            hand(honest[record.key])
        return {}

    monkeypatch.setattr("leakbench.verification.verify.remeasure", again)
    code, out, _ = run("verify", str(folder), "--sample", "3", "--rule", "interval")
    assert code == 1, out
    assert re.search(rf"^- {path.name} does not agree, .*: properties\['gender'\]\.auc", out, re.M)
    # Chance alone allows a third record of 24 individuals far too much.
    assert "3 measured again, 1 of them agree" in out
    outcomes = {key: entry.outcome for key, entry in entries(folder).own.items()}
    assert outcomes == {
        path.stem: "differs",
        path_of(folder, "prior").stem: "agrees",
        path_of(folder, "mask_demixing").stem: "untestable",
    }


@pytest.mark.slow
def test_a_sample_is_measured_again_and_a_number_that_cannot_be_had_is_found(
    run: Run, folder: Path
) -> None:
    """The edited number is possible by itself: only measuring again finds it."""
    of_others = Store(folder / "records").read(path_of(folder, "feature").stem)
    assert of_others is not None
    write(folder, {of_others.key: foreign_entry(of_others)})
    path = path_of(folder, "prior")
    of = json.loads(path.read_text())["metrics"]["properties"]["gender"]
    better = {"value": 0.625, "low": 0.5, "high": 0.75}
    assert of["count_error"]["value"] != better["value"]
    edit(path, f"{OF_GENDER}/count_error", better)
    code, out, _ = run("verify", str(folder), "--sample", "3", "--seed", "1", "--device", "cpu")
    assert code == 1
    assert len(re.findall(r"json agrees: equal up to rounding", out)) == 2
    assert re.search(
        rf"^- {path.name} does not agree, not equal up to rounding: properties\['gender'\]\."
        r"count_error 0\.625 \(0\.5 to 0\.75\), again .*; processors of another make",
        out,
        re.M,
    )
    assert "3 records, 0 faults; 3 measured again, 2 of them agree." in out
    assert re.search(rf"the earlier {re.escape(NAME)} was moved to .*set-aside", out)
    assert verified(folder) == {p.stem for p in (folder / "records").glob("*.json")} - {path.stem}
    said = json.loads((folder / NAME).read_text())["remeasured"][path.stem]
    assert said["agrees"] is False
    assert said["differences"][0].startswith("properties['gender'].count_error")
