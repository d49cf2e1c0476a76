"""Each rule of the conformance suite finds a plugin that breaks it, and nothing in a sound one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

import faulty_attacks
import faulty_datasets
import faulty_defenses
import faulty_models
from faulty_declarations import faulty_declarations
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.attacks import ATTACK_CHECKS
from leakbench.conformance.check import Check, Trial, outcome_of
from leakbench.conformance.datasets import DATASET_CHECKS, DatasetTrial
from leakbench.conformance.defended import checks_of_attackers, checks_under_defenses
from leakbench.conformance.defenses import DEFENSE_CHECKS, DefenseTrial
from leakbench.conformance.models import MODEL_CHECKS, ModelTrial

NAME = "on_trial"

Case = tuple[str, type, str]
"""A check's name, a plugin that breaks the rule, and what the finding says."""

OF_ATTACKS: list[Case] = [
    *faulty_declarations(faulty_attacks.Sound),
    ("is a frozen dataclass", faulty_attacks.CanBeChanged, "can be changed; write @dataclass"),
    ("documents every parameter", faulty_attacks.NoDocstring, "has no docstring; say what"),
    (
        "has parameters that a record can hold",
        faulty_attacks.NotANumber,
        "parameters that are not JSON",
    ),
    ("has a title and a reference", faulty_attacks.NoReference, "has no 'reference'; write"),
    ("has a version that counts", faulty_attacks.NoVersion, "has version '1.2'; let it be 1"),
    (
        "has presets that can be built",
        faulty_attacks.WrongPreset,
        "preset 'paper' that cannot be: .*has no parameter 'speed'",
    ),
    (
        "declares what a server can know",
        faulty_attacks.NoKnowledge,
        "declares required_knowledge = 'update'",
    ),
    ("declares what a server can know", faulty_attacks.Clairvoyant, "true features, which no serv"),
    ("declares its kind", faulty_attacks.OldControl, "control = True; let it be"),
    ("says what it costs", faulty_attacks.Priceless, "its work is nan at B = 1; return"),
    ("answers for one individual", faulty_attacks.TooManyRows, r"of shape \(2,\), expected \(1,\)"),
    ("answers for each of a batch", faulty_attacks.NaNOfBatches, "returned NaN or infinity in sco"),
    ("answers with plain tensors", faulty_attacks.WithGraph, "still requires its gradient; return"),
    ("answers with plain tensors", faulty_attacks.Elsewhere, "tensor on meta, where the server"),
    (
        "declares whether it is random",
        faulty_attacks.SaysItIsNotRandom,
        "declares `is_random = False` and answers otherwise under another seed",
    ),
    ("tells its progress", faulty_attacks.Silent, "tells its progress as nothing; call"),
    ("tells its progress", faulty_attacks.Backwards, r"progress as 0\.5, 0\.25, 1; call"),
    ("answers the same twice", faulty_attacks.Moody, "differently the second time .*draw from"),
    ("draws from the seed it is given", faulty_attacks.Global, "from a global random generator"),
    ("leaves global generators alone", faulty_attacks.Global, "state of torch's global generator"),
    ("leaves global generators alone", faulty_attacks.Seeding, "state of torch's global generator"),
    (
        "leaves global generators alone",
        faulty_attacks.SeedingNumpy,
        r"state of numpy\.random's glo",
    ),
    ("leaves global generators alone", faulty_attacks.SeedingRandom, "state of random's global"),
    ("answers each batch as if it were alone", faulty_attacks.Crowded, "shown another beside it"),
    ("leaves what it is given as it was", faulty_attacks.Spoiling, r"changes what it is given"),
    ("leaves what it is given as it was", faulty_attacks.Popping, r"changes what it is given"),
    ("leaves what it is given as it was", faulty_attacks.Training, r"changes what it is given"),
    ("uses only what it declares", faulty_attacks.Curious, "makes use of what it does not declare"),
    (
        "uses only what it declares",
        faulty_attacks.Ungranted,
        r"raised TypeError.*faulty_attacks\.py, line \d+; what `\w+` does not name is None",
    ),
    (
        "answers to an update that says nothing",
        faulty_attacks.Fragile,
        "raises ZeroDivisionError for an update that is all zero; return",
    ),
    (
        "answers to an update that says nothing",
        faulty_attacks.Poisoned,
        "for an update that is all NaN, .*returned NaN",
    ),
    ("can be measured", faulty_attacks.Endless, "read back as another; let its parameters"),
]

OF_DEFENSES: list[Case] = [
    *faulty_declarations(faulty_defenses.Sound),
    ("has a reference and a stage", faulty_defenses.NoStage, "has stage 7; name one of"),
    ("has a reference and a stage", faulty_defenses.NoReference, "has no 'reference'"),
    ("sends the same for the same generator", faulty_defenses.Global, "draw from `client.generato"),
    ("leaves global generators alone", faulty_defenses.Seeding, "torch's global generator"),
    ("sends something for every parameter", faulty_defenses.LeavingOut, "in place of extractor"),
    ("sends something for every parameter", faulty_defenses.Flat, "of shape .*keep both"),
    ("sends something for every parameter", faulty_defenses.Double, r"torch\.float64.*keep both"),
    ("sends something for every parameter", faulty_defenses.Elsewhere, "from meta, and the client"),
    ("sends something for every parameter", faulty_defenses.WithGraph, "with its graph"),
    ("sends something for every parameter", faulty_defenses.Overflowing, "sends NaN or infinity"),
    ("leaves the client as it was", faulty_defenses.Spoiling, "changes the model's weights"),
    ("leaves the client as it was", faulty_defenses.Blurring, "changes the images"),
    ("leaves the client as it was", faulty_defenses.Watching, "changes the model's hooks"),
    ("lets a model be trained", faulty_defenses.Crowded, "one client by itself is 3; return"),
    ("lets a model be trained", faulty_defenses.Exploding, "trains a model to NaN"),
    ("has reliabilities from 0 to 1", faulty_defenses.Overtrusting, "that is no factor for it"),
    ("has reliabilities from 0 to 1", faulty_defenses.Misshapen, "that is no factor for it"),
    ("has surrogates that do not mix runs", faulty_defenses.Mixing, "`surrogate` that mixes runs"),
    (
        "has surrogates that can be differentiated",
        faulty_defenses.Steep,
        "`surrogate_of_individuals` without finite gradients",
    ),
    ("protects victims of a trained model", faulty_defenses.AfraidOfSize, "sends NaN or infinity"),
]

OF_MODELS: list[Case] = [
    *faulty_declarations(faulty_models.Sound),
    ("has a reference and splits", faulty_models.NoSplits, r"has splits \(\); name at least one"),
    (
        "is made of an extractor and a classifier",
        faulty_models.Unflattened,
        r"features of shape \(3, 2, 32, 32\).*nn\.Flatten",
    ),
    (
        "is made of an extractor and a classifier",
        faulty_models.OneTooMany,
        r"logits of shape \(3, 9\)",
    ),
    ("ends with a linear layer", faulty_models.Softmaxed, "ends with Softmax; end the classifier"),
    ("ends with a linear layer", faulty_models.Unbiased, "ends with Linear; .*with bias"),
    ("starts from the seed", faulty_models.Seeding, "the same weights from every seed"),
    ("starts from the seed", faulty_models.Moody, "other weights from the same seed"),
    ("sees each image by itself", faulty_models.Crowded, "answers an image differently beside"),
    ("can be differentiated twice", faulty_models.Stepwise, "derivative is zero or not finite"),
    ("can be differentiated twice", faulty_models.InPlace, "cannot be differentiated twice"),
    ("follows its device", faulty_models.Left, "stays behind when it is moved .*as a buffer"),
    ("can be stored", faulty_models.Tied, "cannot be stored .*share their memory"),
    ("refuses what does not fit", faulty_models.Obliging, "accepts a split that it does not have"),
]

OF_DATASETS: list[Case] = [
    *faulty_declarations(faulty_datasets.Sound),
    ("describes itself", faulty_datasets.NoTerms, "does not state its terms; write"),
    ("describes itself", faulty_datasets.NoSource, "has folder 'noise' and source ''"),
    ("has images of the size asked for", faulty_datasets.Fixed, "where 64 px were asked for"),
    ("has images of the size asked for", faulty_datasets.Floating, "float64 where 32 px"),
    (
        "has attributes of every individual",
        faulty_datasets.Numbers,
        "'bright' of shape .*int64; return",
    ),
    ("has attributes of every individual", faulty_datasets.Nobody, r"identities of shape \(30,\)"),
    ("has a property that can be asked about", faulty_datasets.AllAlike, "no property of bright"),
    (
        "has main tasks of its attributes",
        faulty_datasets.NoTask,
        "an attribute 'right' that it lacks",
    ),
    (
        "names the attributes that it loads",
        faulty_datasets.Misnaming,
        "the first difference being left; return from `attribute_names`",
    ),
    ("can be divided", faulty_datasets.Few, r"clients need at least as many|leave none for"),
    ("loads the same twice", faulty_datasets.Dated, "other fingerprint when it is loaded again"),
    ("loads the same twice", faulty_datasets.Global, "other images when it is loaded again"),
    ("has a fingerprint", faulty_datasets.NoFingerprint, "has fingerprint ''; return"),
    ("leaves global generators alone", faulty_datasets.Seeding, r"numpy\.random's global"),
    (
        "refuses an empty folder in one sentence",
        faulty_datasets.Crashing,
        "raises FileNotFoundError where its folder is empty",
    ),
    (
        "refuses an empty folder in one sentence",
        faulty_datasets.Inventing,
        "loads an empty folder; raise",
    ),
]


@dataclass(frozen=True)
class Kind:
    """A kind of plugin with its rules, plugins that break them, and plugins that keep them all."""

    registry: Registry
    trial: type[Trial]
    checks: Sequence[Check]
    broken: Sequence[Case]
    sound: Sequence[type]


KINDS = {
    "attack": Kind(ATTACKS, AttackTrial, ATTACK_CHECKS, OF_ATTACKS, [faulty_attacks.Sound]),
    "defense": Kind(DEFENSES, DefenseTrial, DEFENSE_CHECKS, OF_DEFENSES, [faulty_defenses.Sound]),
    "model": Kind(MODELS, ModelTrial, MODEL_CHECKS, OF_MODELS, [faulty_models.Sound]),
    "data set": Kind(
        DATASETS,
        DatasetTrial,
        DATASET_CHECKS,
        OF_DATASETS,
        [faulty_datasets.Sound, faulty_datasets.OfFiles],
    ),
}

Register = Callable[[str, type], Trial]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Register a plugin of a kind for one test, and return a trial of it."""

    def registered(kind: str, plugin: type) -> Trial:
        registry = KINDS[kind].registry
        registry.names()
        monkeypatch.setattr(plugin, "name", NAME, raising=False)
        monkeypatch.setitem(registry._plugins, NAME, plugin)
        return KINDS[kind].trial(name=NAME)  # type: ignore[call-arg]

    return registered


def finding(checks: Sequence[Check], name: str, trial: Trial) -> str:
    return outcome_of(next(check for check in checks if check.name == name), trial).finding


def assert_said(sentence: str, said: str) -> None:
    assert re.search(said, sentence), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("kind", "check", "plugin", "said"),
    [
        pytest.param(kind, check, plugin, said, id=f"{kind} {check}: {plugin.__name__}")
        for kind, about in KINDS.items()
        for check, plugin, said in about.broken
    ],
)
def test_a_plugin_that_breaks_a_rule_is_found(
    register: Register, kind: str, check: str, plugin: type, said: str
) -> None:
    assert_said(finding(KINDS[kind].checks, check, register(kind, plugin)), said)


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_has_a_plugin_that_breaks_it(kind: str) -> None:
    broken = {check for check, _, _ in KINDS[kind].broken}
    assert broken == {check.name for check in KINDS[kind].checks}


@pytest.mark.parametrize(
    ("kind", "plugin"), [(kind, plugin) for kind, about in KINDS.items() for plugin in about.sound]
)
def test_nothing_is_found_in_a_sound_plugin(register: Register, kind: str, plugin: type) -> None:
    trial = register(kind, plugin)
    found = [outcome_of(check, trial).finding for check in KINDS[kind].checks]
    assert not any(found), found


def test_an_attack_that_fails_under_a_defense_is_found(register: Register) -> None:
    trial = register("attack", faulty_attacks.AfraidOfZeros)
    assert isinstance(trial, AttackTrial)
    checks = checks_under_defenses(trial)
    assert not finding(checks, "under none, static", trial)
    assert_said(finding(checks, "under sparsify, static", trial), r"raised AssertionError \(.*line")


def test_a_defense_that_makes_an_attack_fail_is_found(register: Register) -> None:
    trial = register("defense", faulty_defenses.Silencing)
    assert isinstance(trial, DefenseTrial)
    checks = checks_of_attackers(trial)
    assert not finding(checks, "attacked by prior, static", trial)
    assert_said(
        finding(checks, "attacked by ul, adaptive", trial),
        f"under defense '{NAME}', knowing it: attack 'ul' cannot read an update",
    )
