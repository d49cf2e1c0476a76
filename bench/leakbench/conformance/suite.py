"""Run every check of a plugin's kind on it, and report its faults: `leakbench check`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from leakbench.base.errors import UsageError
from leakbench.base.plugins import parameter_names
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.attacks import ATTACK_CHECKS
from leakbench.conformance.check import Check, Outcome, Trial, outcome_of
from leakbench.conformance.datasets import DATASET_CHECKS, DatasetTrial
from leakbench.conformance.declarations import DECLARATIONS
from leakbench.conformance.defended import checks_of_attackers, checks_under_defenses
from leakbench.conformance.defenses import DEFENSE_CHECKS, DefenseTrial
from leakbench.conformance.models import MODEL_CHECKS, ModelTrial
from leakbench.conformance.setting import devices

REGISTRIES: dict[str, Registry] = {
    "attack": ATTACKS,
    "dataset": DATASETS,
    "defense": DEFENSES,
    "model": MODELS,
}


@dataclass(frozen=True)
class Report:
    """The results of all checks of a plugin.

    Attributes:
        subject: the kind and name of what was checked.
        outcomes: of each check, once for each device.
        refused: why it cannot be used at all; empty if it can.
    """

    subject: str
    outcomes: Sequence[Outcome]
    refused: str = ""

    @property
    def findings(self) -> dict[str, list[str]]:
        """Each fault, one sentence → the checks that found it; none if the plugin is refused."""
        found: dict[str, list[str]] = {self.refused: []} if self.refused else {}
        for outcome in self.outcomes:
            if outcome.finding:
                found.setdefault(outcome.finding, []).append(outcome.check)
        return found

    def text(self) -> str:
        """Return the report as it is printed."""
        if self.refused:
            return f"- {self.refused}\n{self.subject} cannot be used."
        lines = []
        for sentence, names in self.findings.items():
            more = f" (and {len(names) - 1} more checks)" if len(names) > 1 else ""
            lines.append(f"- {sentence} [{names[0]}{more}]")
        unchecked: dict[str, list[str]] = {}
        for outcome in self.outcomes:
            if outcome.unchecked:
                unchecked.setdefault(outcome.unchecked, []).append(outcome.check)
        for why, names in unchecked.items():
            lines.append(f"- not checked, since {why}: {', '.join(names)}")
        if "cuda" not in devices():
            lines.append("- not checked on a GPU: there is none here")
        ran = [outcome for outcome in self.outcomes if not outcome.unchecked]
        failed = sum(bool(outcome.finding) for outcome in ran)
        verdict = (
            f"does not conform: {failed} of {len(ran)} checks found something"
            if failed
            else f"conforms: {len(ran)} checks found nothing"
        )
        return "\n".join([*lines, f"{self.subject} {verdict}."])


def check_plugin(
    name: str,
    kind: str | None,
    parameters: Mapping[str, Any],
    data_root: Path | None,
    on_check: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run the conformance suite on a plugin, with an empty cache folder.

    Args:
        kind: one of `REGISTRIES`; needed where plugins of several kinds have the name.
        parameters: of the plugin, over those of its example.
        data_root: folder of the data sets.
        on_check: called with the name of each check before it runs.

    Raises:
        UsageError: there is no such plugin, or several, or it has no such parameter.
    """
    kind = kind or _kind_of(name)
    registry = REGISTRIES[kind]
    subject = f"{registry.kind} {name}"
    refused = _refused(registry, name)
    if refused:
        return Report(subject, (), refused)
    _refuse_unknown(registry, name, parameters)
    with _empty_cache():
        outcomes = []
        for device in devices() if kind != "dataset" else ["cpu"]:
            trial, every = _trial(kind, name, parameters, device, data_root)
            for check in every:
                on_check(f"{check} ({device})")
                outcomes.append(outcome_of(check, trial))
                if check is DECLARATIONS[0] and outcomes[-1].finding:
                    # Without parameters it cannot be built: no other check can find more.
                    return Report(subject, outcomes)
    return Report(subject, outcomes)


def _trial(
    kind: str, name: str, given: Mapping[str, Any], device: str, data_root: Path | None
) -> tuple[Trial, Sequence[Check]]:
    """Return a trial of the plugin and the checks of its kind."""
    if kind == "attack":
        attack = AttackTrial(name, device=device, parameters=given)
        return attack, (*ATTACK_CHECKS, *checks_under_defenses(attack))
    if kind == "defense":
        defense = DefenseTrial(name, device=device, parameters=given)
        return defense, (*DEFENSE_CHECKS, *checks_of_attackers(defense))
    if kind == "model":
        return ModelTrial(name, device=device, parameters=given), MODEL_CHECKS
    return DatasetTrial(name, data_root=data_root, parameters=given), DATASET_CHECKS


def _refuse_unknown(registry: Registry, name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the plugin does not have: a mistake of the user, not of the plugin.

    Raises:
        UsageError: names the first.
    """
    plugin = registry.get(name)
    known = parameter_names(plugin, parameters) if is_dataclass(plugin) else []
    for parameter in parameters:
        if parameter not in known:
            raise UsageError(
                f"{registry.kind} {name!r} has no parameter {parameter!r}; it has: "
                f"{', '.join(known) or 'none'}"
            )


def _kind_of(name: str) -> str:
    """Return the kind of the plugin called `name`, usable or not.

    Raises:
        UsageError: there is none, or several.
    """
    kinds = [kind for kind, registry in REGISTRIES.items() if _is_claimed(registry, name)]
    if len(kinds) > 1:
        raise UsageError(
            f"{name!r} is the name of {' and of '.join(f'a {kind}' for kind in kinds)}; say which "
            f"with --kind"
        )
    if not kinds:
        known = sorted({each for registry in REGISTRIES.values() for each in registry.names()})
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known
        broken = dict.fromkeys(
            each for registry in REGISTRIES.values() for each in registry.broken.values()
        )
        raise UsageError(
            f"no plugin is called {name!r}; did you mean {', '.join(near)}?"
            + "".join(f" ({each})" for each in broken)
        )
    return kinds[0]


def _is_claimed(registry: Registry, name: str) -> bool:
    return name in registry.names() or _broken_module(registry, name) is not None


def _broken_module(registry: Registry, name: str) -> str | None:
    """Return why our own module of this name cannot be imported, if it cannot."""
    registry.names()
    found = (why for module, why in registry.broken.items() if module.endswith(f".{name}"))
    return next(found, None)


def _refused(registry: Registry, name: str) -> str:
    """Return why a plugin cannot be used, which is a finding; empty if it can.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in registry.names():
        if broken := _broken_module(registry, name):
            return broken
        registry.get(name)
    try:
        registry.get(name)
    except UsageError as error:
        return str(error)
    return ""


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Use an empty cache folder, without what an earlier version of the plugin left."""
    before = os.environ.get("LEAKBENCH_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LEAKBENCH_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["LEAKBENCH_CACHE"]
            else:
                os.environ["LEAKBENCH_CACHE"] = before
