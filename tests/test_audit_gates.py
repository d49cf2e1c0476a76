"""What a program decides by: conditions with exit codes, the schema of audit.json, and SARIF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from leakbench import Report
from leakbench.auditing import from_files
from leakbench.auditing.conditions import Condition
from leakbench.auditing.json_schema import report_schema
from leakbench.auditing.report_parts import Answer
from leakbench.auditing.sarif import sarif_log
from leakbench.base.errors import UsageError
from made_reports import EXCLUDED, SHOWN, WIDE, attack, defense, report, update

Run = Callable[..., tuple[int, str, str]]

SCHEMA = Path(__file__).resolve().parent.parent / "bench/docs/pages/audit.schema.json"

CERTIFIED = Answer(probabilities={"bright": 0.9}, right={"bright": True}, certified=True, cosine=1)

LEAKING = report(
    [attack("exact", certified=1, false_certificates=0), attack("ours", {"bright": SHOWN})],
    [update("client 0", [{"exact": CERTIFIED}])],
    [defense("none", "leaks", "advantage"), defense("noise", "no leak", "advantage excluded")],
)
QUIET = report([attack("ours", {"bright": EXCLUDED})], [update("client 0", [{}])])
UNDECIDED = report([attack("ours", {"bright": WIDE})], [update("client 0", [{}])])
NOT_RUN = report(
    [attack("ours", {"bright": EXCLUDED}), attack("exact", refused="no ReLU")],
    [update("client 0", [{}])],
)
DIFFERENT = report([attack("ours", {"bright": EXCLUDED})], [update("a", [{}], check="differs")])


@pytest.mark.parametrize(
    ("condition", "of", "outcome"),
    [
        ("certified", LEAKING, "holds"),
        ("certified", QUIET, "does not hold"),
        ("certified", NOT_RUN, "undecided"),
        ("certified", DIFFERENT, "undecided"),
        # The interval is from 20 to 40 points.
        ("advantage>0.1", LEAKING, "holds"),
        ("advantage>0.2", LEAKING, "undecided"),
        ("advantage > .4", LEAKING, "does not hold"),
        ("advantage>0.1", QUIET, "does not hold"),
        ("advantage>0.04", QUIET, "undecided"),
        ("advantage>0.1", UNDECIDED, "undecided"),
        ("advantage>0.1", NOT_RUN, "undecided"),
        ("advantage>0.1", DIFFERENT, "undecided"),
        ("undecided", UNDECIDED, "holds"),
        ("undecided", QUIET, "does not hold"),
        ("undecided", LEAKING, "does not hold"),
        ("leaks", LEAKING, "holds"),
        ("leaks", QUIET, "does not hold"),
        ("leaks", UNDECIDED, "undecided"),
    ],
)
def test_a_condition_holds_only_where_it_is_shown(condition: str, of: Report, outcome: str) -> None:
    assert Condition.parse(condition).judge(of).outcome == outcome
    assert of.holds(condition) is (outcome == "holds")


@pytest.mark.parametrize(
    "text", ["", "leak", "advantage", "advantage>", "advantage<0.1", "advantage>x", "certified>1"]
)
def test_a_condition_that_is_not_understood_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood; give leaks, certified, undecided, or"):
        QUIET.holds(text)


def test_a_threshold_in_points_is_refused() -> None:
    with pytest.raises(UsageError, match=r"10 is no share below 1; an advantage of 10 points is 0"):
        Condition.parse("advantage>10")


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch, run: Run) -> Callable[..., tuple[int, str, str]]:
    """The command, whose audit has this report."""
    monkeypatch.setattr(from_files, "load_model", lambda *_: None)
    monkeypatch.setattr(from_files, "read_labelled_images", lambda *_: None)

    def audited(made: Report, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(from_files, "audit", lambda *_, **__: made)
        given = ("--model", "my net.py:Net", "--auxiliary", "aux", "--property", "bright")
        return run("audit", *given, "--device", "cpu", *arguments)

    return audited


@pytest.mark.parametrize(
    ("made", "arguments", "code", "said"),
    [
        (LEAKING, ("certified",), 1, "certified: holds: exact features of 1 individuals are cert"),
        (LEAKING, ("undecided", "advantage>0.1"), 1, "holds: Ours's advantage in bright is +30.0"),
        (QUIET, ("certified", "advantage>0.1"), 0, "does not hold: every advantage is at most 10"),
        (UNDECIDED, ("advantage>0.1",), 0, "undecided: Ours's advantage in bright is +5.0 [-10.0"),
        (UNDECIDED, ("undecided",), 1, "undecided: holds: the verdict is undecided"),
        (LEAKING.model_copy(update={"interrupted": True}), ("certified",), 130, ""),
    ],
)
def test_the_exit_code_says_whether_a_condition_holds(
    audits: Run, made: Report, arguments: tuple[str, ...], code: int, said: str
) -> None:
    given = [part for each in arguments for part in ("--fail-on", each)]
    found, out, err = audits(made, "--truth", "truth", *given)
    assert found == code
    assert said in err
    # The report is written and printed whatever the exit code.
    assert out.startswith("Verdict:") and Path("audit/audit.json").is_file()


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("leak", "condition 'leak' is not understood"),
        ("advantage>0.1", "can never hold without the truth"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused_before_any_work(
    run: Run, condition: str, said: str
) -> None:
    given = ("--model", "missing.py:Net", "--auxiliary", "missing", "--property", "bright")
    code, out, err = run("audit", *given, "--fail-on", condition)
    assert (code, out) == (2, "")
    assert said in err and "missing" not in err


def test_the_published_schema_is_that_of_audit_json(run: Run, tmp_path: Path) -> None:
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert published == report_schema(), (
        "run `leakbench audit --schema > bench/docs/pages/audit.schema.json`"
    )
    code, out, _ = run("audit", "--schema")
    assert (code, json.loads(out)) == (0, published)
    check = jsonschema.Draft202012Validator(published)
    for made in (LEAKING, QUIET, NOT_RUN):
        data = json.loads(made.write(tmp_path)[1].read_text(encoding="utf-8"))
        check.validate(data)
        with pytest.raises(jsonschema.ValidationError):
            check.validate(data | {"verdict": "fine"})


def test_sarif_has_what_the_standard_requires(tmp_path: Path) -> None:
    """The required properties of SARIF 2.1.0, and those that code scanning reads."""
    LEAKING.write_sarif(tmp_path / "found.sarif", "my net.py")
    log = json.loads((tmp_path / "found.sarif").read_text(encoding="utf-8"))
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-schema-2.1.0.json")
    (only,) = log["runs"]
    driver = only["tool"]["driver"]
    assert driver["name"] == "leakbench"
    rules = [rule["id"] for rule in driver["rules"]]
    assert rules == ["certified-features", "exact-features", "property-advantage"]
    leaking = ["certified-features", "property-advantage"]
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    assert [each["ruleId"] for each in only["results"]] == leaking
    for result in only["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["message"]["text"] and result["level"] == "error"
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == "my%20net.py"
        assert location["physicalLocation"]["region"]["startLine"] >= 1
    (invocation,) = only["invocations"]
    assert invocation["executionSuccessful"] is True
    assert invocation["endTimeUtc"] == "2026-11-30T10:00:00Z"
    prints = [each["partialFingerprints"]["leak/v1"] for each in only["results"]]
    assert len(set(prints)) == 2


def test_sarif_without_results_is_not_silent_about_why() -> None:
    for made, warned in ((UNDECIDED, True), (DIFFERENT, True), (QUIET, False)):
        (only,) = sarif_log(made)["runs"]
        notes = only["invocations"][0]["toolExecutionNotifications"]
        assert only["results"] == []
        said = [note["message"]["text"] for note in notes if note["level"] == "warning"]
        assert said == ([made.verdict_sentence] if warned else [])
        assert "These numbers are made up." in [note["message"]["text"] for note in notes]


def test_false_certificates_are_no_result_of_sarif_and_no_individual_is_named() -> None:
    false = CERTIFIED.model_copy(update={"cosine": 0.3})
    attacks = [attack("exact", certified=1, false_certificates=1)]
    made = report(attacks, [update("client 0", [{"exact": false}])])
    assert sarif_log(made)["runs"][0]["results"] == []
    assert "client 0/0" not in json.dumps(sarif_log(LEAKING))


def test_the_command_writes_sarif_that_points_at_the_model(audits: Run) -> None:
    code, _, err = audits(LEAKING, "--sarif", "found/leaks.sarif")
    assert code == 0, err
    log = json.loads(Path("found/leaks.sarif").read_text(encoding="utf-8"))
    (location,) = log["runs"][0]["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "my%20net.py"
