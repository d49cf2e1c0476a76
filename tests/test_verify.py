"""Records from elsewhere are checked, a sample is measured again, and edits are found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editing import edit, numbers_in, path_of
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import DATASETS, MODELS
from leakbench.conformance.setting import SETUP
from leakbench.experiments.cell import SCHEMA
from leakbench.metrics.estimates import Estimate
from leakbench.records.merge import merge
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.records.verified import (
    NAME,
    Remeasured,
    Rule,
    content_hash,
    entries,
    verified,
    write,
)
from leakbench.verification.compare import chosen, compare
from leakbench.verification.verify import Verification, compared, verify
from measuring import measured

Run = Callable[..., tuple[int, str, str]]

RESULTS = Path(__file__).resolve().parents[1] / "results"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the records of three attacks on 24 individuals, as measured here."""
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "records")
    cells: list[tuple[str, dict[str, object]]] = [
        ("prior", {}),
        ("feature", {"budget": 4}),
        ("mask_demixing", {"budget": 4}),
    ]
    complete = {
        "dataset_parameters": parameters_of(build(DATASETS, "synthetic", SETUP.dataset_parameters)),
        "model_parameters": parameters_of(build(MODELS, SETUP.model, SETUP.model_parameters)),
    }
    setup = SETUP.model_copy(update=complete)
    for attack, parameters in cells:
        store.write(
            measured(setup, None, attack, parameters, batch_size=2, individuals=24, defense="none")
        )
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "theirs"))


def sentences(folder: Path) -> list[str]:
    return verify(folder, None, sample=0, keep=True).faulty


def test_what_was_measured_has_no_faults(made: Path) -> None:
    found = verify(made, None, sample=0)
    assert (found.records, found.faulty, found.code) == (3, [], 0)


def test_every_published_record_has_no_faults() -> None:
    earlier = "has schema version 2, whose numbers have another meaning"
    assert [each for each in sentences(RESULTS / "records") if earlier not in each] == []


OF_GENDER = "metrics/properties/gender"


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


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def changed(record: Record, accuracy: Estimate) -> Record:
    assert record.metrics is not None
    of = record.metrics.properties["gender"].model_copy(update={"accuracy": accuracy})
    metrics = record.metrics.model_copy(
        update={"properties": {**record.metrics.properties, "gender": of}}
    )
    return record.model_copy(update={"metrics": metrics})


@pytest.fixture
def record(made: Path) -> Record:
    read = Store(made / "records").read(path_of(made, "feature").stem)
    assert read is not None
    return read


def test_the_rule_is_equality_where_device_and_versions_are_the_same(record: Record) -> None:
    assert chosen("auto", record, record) == "equal"
    assert chosen("auto", record, record.model_copy(update={"device": "cuda"})) == "interval"
    other = record.model_copy(update={"versions": {**record.versions, "torch": "1.0"}})
    assert chosen("auto", record, other) == "interval"
    assert chosen("equal", record, other) == "equal"


def differences(record: Record, anew: Record, rule: Rule) -> list[str]:
    return compare(record, anew, rule).differences


def test_equality_is_up_to_rounding_and_intervals_allow_for_chance(record: Record) -> None:
    theirs = changed(record, estimate(0.5, 0.4, 0.6))
    assert not differences(theirs, changed(record, estimate(0.5 + 1e-7, 0.4, 0.6)), "equal")
    near = changed(record, estimate(0.55, 0.45, 0.65))
    assert not differences(theirs, near, "interval")
    (said,) = differences(theirs, near, "equal")
    assert said == "properties['gender'].accuracy 0.5 (0.4 to 0.6), again 0.55 (0.45 to 0.65)"
    far = changed(record, estimate(0.99, 0.89, 1.0))
    (said,) = differences(theirs, far, "interval")
    assert said.endswith("(further apart than a repeat is)")


def test_an_interval_of_everything_lets_no_value_through(record: Record) -> None:
    ours = changed(record, estimate(0.5, 0.45, 0.55))
    for low, high in ((0.0, 1.0), (0.45, 1.0), (0.9, 1.0), (0.949, 0.951)):
        forged = changed(record, estimate(0.95, low, high))
        assert len(differences(forged, ours, "interval")) == 1


def test_what_has_no_interval_is_not_counted_as_agreement(record: Record) -> None:
    """An estimate of few batches has a value alone, in the record and again."""
    assert record.metrics is not None
    valued = changed(record, Estimate(value=0.5, low=None, high=None))
    far = changed(record, Estimate(value=0.9, low=None, high=None))
    found = compare(valued, far, "interval")
    assert "properties['gender'].accuracy" in found.untested
    assert not found.differences
    assert compare(valued, far, "equal").differences
    # A forger who leaves out the interval that the cell has is found.
    (said,) = differences(valued, changed(record, estimate(0.5, 0.4, 0.6)), "interval")
    assert said == "properties['gender'].accuracy 0.5, again 0.5 (0.4 to 0.6)"

    bare = without_intervals(record)
    found = compare(bare, bare, "interval")
    assert (found.tested, found.differences, found.agrees) == (set(), [], False)
    entry = compared(bare, bare, "interval")
    assert (entry.outcome, entry.agrees) == ("untestable", False)
    assert "properties['gender'].auc" in entry.untested


def without_intervals(record: Record) -> Record:
    """The record as of a cell with too few batches for any interval."""

    def bare(tree: Any) -> Any:
        if isinstance(tree, dict):
            ends = dict.fromkeys(("low", "high")) if "low" in tree else {}
            return {key: bare(value) for key, value in tree.items()} | ends
        return tree

    return Record.model_validate(bare(record.model_dump(mode="json")))


def test_one_record_that_is_not_testable_is_no_success(made: Path, record: Record) -> None:
    found = Verification(made, seed=1, records=3, asked=1, sample=(record.key,))
    bare = without_intervals(record)
    found.entries[record.key] = compared(bare, bare, "interval")
    assert (found.wrong, found.code) == (False, 3)
    assert f"{record.key}.json is not testable by the rule 'interval'" in found.text()
    assert "1 measured again, 0 of them agree" in found.text()


def test_what_the_data_decide_is_equal_under_either_rule(record: Record) -> None:
    assert record.metrics is not None
    of = record.metrics.properties["gender"].model_copy(update={"prevalence": 0.125})
    metrics = record.metrics.model_copy(
        update={"properties": {**record.metrics.properties, "gender": of}}
    )
    other = record.model_copy(update={"metrics": metrics})
    (said,) = differences(record, other, "interval")
    assert said.startswith("properties['gender'].prevalence")


def entry_of(record: Record, agrees: bool = True) -> Remeasured:
    """An entry as this machine writes it."""
    return foreign_entry(record, agrees).signed(record.key)


def foreign_entry(record: Record, agrees: bool = True) -> Remeasured:
    """An entry as anybody can write it by hand."""
    return Remeasured(
        content=content_hash(record),
        when="2026-01-01T00:00:00+00:00",
        rule="equal",
        agrees=agrees,
        differences=() if agrees else ("accuracy 0.9, again 0.5",),
        device="cpu",
        versions={},
    )


def test_what_this_machine_did_not_write_verifies_nothing(
    folder: Path, record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forged = entry_of(record, agrees=False).model_copy(update={"agrees": True, "differences": ()})
    other = entry_of(record).model_copy(update={"signature": "é" * 64})
    for entry in (foreign_entry(record), forged, other):
        write(folder, {record.key: entry})
        assert verified(folder) == set()
        found = entries(folder)
        assert (dict(found.own), dict(found.foreign)) == ({}, {record.key: entry})
    # Nor does a signature of another record's entry.
    write(folder, {record.key: foreign_entry(record).signed("0" * 24)})
    assert verified(folder) == set()
    write(folder, {record.key: entry_of(record)})
    assert verified(folder) == {record.key}
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "cache of another machine"))
    assert verified(folder) == set()


def test_the_secret_is_the_users_alone(record: Record, cache: Path) -> None:
    entry_of(record)
    secret = cache / "verification.secret"
    assert secret.stat().st_mode & 0o077 == 0
    before = secret.read_bytes()
    entry_of(record)
    assert secret.read_bytes() == before


def test_a_record_that_was_edited_afterwards_is_not_verified(folder: Path, record: Record) -> None:
    assert verified(folder) == set()
    write(folder, {record.key: entry_of(record)})
    assert verified(folder) == {record.key}
    assert verified(folder / "records") == {record.key}
    edit(path_of(folder, "feature"), "cost/seconds", 1.0)
    assert verified(folder) == set()


def test_a_record_that_did_not_agree_or_is_gone_is_not_verified(
    folder: Path, record: Record
) -> None:
    write(folder, {record.key: entry_of(record, agrees=False), "0" * 24: entry_of(record)})
    assert verified(folder) == set()


def test_a_file_that_says_nothing_verifies_nothing(folder: Path) -> None:
    (folder / NAME).write_text("{")
    assert verified(folder) == set()


def test_a_hash_does_not_depend_on_how_a_record_is_written(folder: Path, record: Record) -> None:
    path = path_of(folder, "feature")
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3, sort_keys=True))
    again = Store(folder / "records").read(record.key)
    assert again is not None
    assert content_hash(again) == content_hash(record)


def test_merge_carries_what_this_machine_verified(
    folder: Path, record: Record, tmp_path: Path
) -> None:
    write(folder, {record.key: entry_of(record)})
    done = merge([folder], tmp_path / "out")
    assert (done.taken, done.left_out, done.verified, done.foreign) == (3, {}, 1, 0)
    assert verified(tmp_path / "out") == {record.key}
    assert merge([folder / "records"], tmp_path / "again").verified == 1


def test_merge_drops_what_another_machine_says_it_verified(
    run: Run, folder: Path, record: Record, tmp_path: Path
) -> None:
    write(folder, {record.key: foreign_entry(record)})
    code, printed, said = run("merge", str(folder), "--out", "out")
    assert code == 0
    assert "not merged: 1 entries of verified.json, since this machine did not write them" in said
    assert "are verified" not in printed
    assert not (tmp_path / "out" / NAME).exists()
    # The folder's own file keeps its entries, such as those that come with it.
    write(tmp_path / "out", {record.key: foreign_entry(record)})
    done = merge([folder], tmp_path / "out")
    assert (done.verified, done.foreign) == (0, 0)
    assert set(entries(tmp_path / "out").foreign) == {record.key}


def test_merge_carries_nothing_of_a_record_that_was_edited(
    folder: Path, record: Record, tmp_path: Path
) -> None:
    write(folder, {record.key: entry_of(record)})
    edit(path_of(folder, "feature"), "cost/seconds", 1.0)
    assert merge([folder], tmp_path / "out").verified == 0
    assert not (tmp_path / "out" / NAME).exists()


def test_a_file_that_cannot_be_read_is_set_aside_not_overwritten(
    folder: Path, record: Record
) -> None:
    (folder / NAME).write_text("of a later version")
    write(folder, {record.key: entry_of(record)})
    assert verified(folder) == {record.key}
    assert (folder / "verified.set-aside").read_text() == "of a later version"


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
    assert len(re.findall(r"json agrees: equal up to rounding, since device, versions", out)) == 2
    assert re.search(
        rf"^- {path.name} does not agree, not equal up to rounding, .*: properties\['gender'\]\."
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


def test_what_this_machine_wrote_earlier_is_kept_and_the_rest_only_if_asked_for(
    folder: Path, record: Record
) -> None:
    other = Store(folder / "records").read(path_of(folder, "prior").stem)
    assert other is not None
    content = {record.key: entry_of(record), other.key: foreign_entry(other)}
    write(folder, content)
    assert verify(folder, None, sample=0, keep=True).aside is None
    assert set(entries(folder).foreign) == {other.key}
    aside = verify(folder, None, sample=0).aside
    assert aside is not None
    assert set(json.loads(aside.read_text())["remeasured"]) == set(content)
    assert verified(folder) == {record.key}
    assert not entries(folder).foreign
    assert verify(folder, None, sample=0).aside is None
