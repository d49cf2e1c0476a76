"""`leakbench check`: what it prints, and its exit codes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
import torch

import faulty_attacks
from leakbench.base.registry import ATTACKS, DEFENSES, MODELS
from leakbench.conformance.check import Outcome
from leakbench.conformance.suite import Report

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["featur"], r"no plugin is called 'featur'; did you mean feature"),
        (["feature", "--kind", "model"], r"unknown model 'feature'; did you mean"),
        (["gaussian", "--set", "sigm=1"], r"defense 'gaussian' has no parameter 'sigm'; it has: s"),
        (["gaussian", "--set", "sigma"], r"--set 'sigma' is not of the form PARAMETER=VALUE"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(run: Run, arguments: list[str], said: str) -> None:
    code, out, err = run("check", *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"leakbench: {said}.*\n", err)


@pytest.mark.slow
def test_kind_chooses_between_plugins_of_one_name(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    MODELS.names()
    monkeypatch.setitem(MODELS._plugins, "none", MODELS.get("lenet"))
    code, _, err = run("check", "none")
    assert code == 2
    assert "is the name of a defense and of a model; say which with --kind" in err
    code, out, _ = run("check", "none", "--kind", "model")
    assert code == 0
    assert "model none conforms" in out
    assert DEFENSES.get("none")


@pytest.mark.slow
def test_a_plugin_that_conforms_is_code_0_and_skipped_checks_are_listed(run: Run) -> None:
    code, out, _ = run("check", "synthetic", "--set", "individuals=200")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == (
        "- not checked, since it is embedded: refuses an empty folder in one sentence"
    )
    assert re.fullmatch(r"data set synthetic conforms: \d+ checks found nothing\.", lines[-1])
    no_gpu = "- not checked on a GPU: there is none here" in lines
    assert no_gpu != torch.cuda.is_available()


@pytest.mark.slow
def test_a_plugin_that_does_not_is_code_1_and_each_fault_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ATTACKS.names()
    monkeypatch.setattr(faulty_attacks.TooManyRows, "name", "rows", raising=False)
    monkeypatch.setitem(ATTACKS._plugins, "rows", faulty_attacks.TooManyRows)
    before = os.environ["LEAKBENCH_CACHE"]
    code, out, err = run("check", "rows")
    assert (code, err) == (1, "")
    assert re.search(
        r"^- attack 'rows' returned scores\['gender'\] of shape \(2,\), expected \(1,\); see "
        r"`AttackResult` \[answers for one individual\]$",
        out,
        re.M,
    )
    last = out.splitlines()[-1]
    assert re.fullmatch(r"attack rows does not conform: \d+ of \d+ checks found something\.", last)
    assert "Traceback" not in out
    assert os.environ["LEAKBENCH_CACHE"] == before


def test_of_a_plugin_that_is_no_dataclass_only_that_is_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ATTACKS.names()
    monkeypatch.setattr(faulty_attacks.NoDataclass, "name", "plain", raising=False)
    monkeypatch.setitem(ATTACKS._plugins, "plain", faulty_attacks.NoDataclass)
    code, out, _ = run("check", "plain")
    assert code == 1
    assert out.count("\n- ") + out.startswith("- ") <= 2
    assert "is no dataclass; put @dataclass(frozen=True, kw_only=True)" in out


def test_a_fault_that_several_checks_find_is_reported_once() -> None:
    outcomes = [Outcome(check, finding="it is wrong; mend it") for check in ("a", "b", "c")]
    text = Report("attack mine", outcomes).text()
    assert text.count("it is wrong") == 1
    assert "- it is wrong; mend it [a (and 2 more checks)]" in text
