"""`leakbench audit`: an audit of a model, updates and images in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from leakbench.auditing.audit import audit
from leakbench.auditing.client_defense import build_defense
from leakbench.auditing.conditions import Condition
from leakbench.auditing.image_files import read_labelled_images
from leakbench.auditing.labelled_images import (
    LabelledImages,
    check_disjoint_identities,
    check_images,
)
from leakbench.auditing.model_loading import load_model
from leakbench.auditing.outputs import check_writable
from leakbench.auditing.report import Report
from leakbench.auditing.training import FederatedTraining
from leakbench.base.devices import chosen_device
from leakbench.base.documents import plain, print_document
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import ATTACKS
from leakbench.base.toml import parsed_toml

FAILED_CODE = 1
"""Exit code where a condition of --fail-on holds."""

INTERRUPTED_CODE = 130
"""Exit code after Ctrl-C, as shells have it."""


def audit_from_files(
    model: str,
    weights: Path | None,
    split: str | None,
    updates: Path | None,
    auxiliary: Path,
    truth: Path | None,
    properties: Sequence[str],
    captured_under: str | None,
    attacks: Sequence[str] | None,
    defenses: Sequence[str] | None,
    training: Path | None,
    rounds: int,
    device: str,
    out: Path,
    sarif: Path | None,
    fail_on: Sequence[str],
    **settings: Any,
) -> None:
    """Audit a model, updates and images in files; print the findings and the report's path.

    Args:
        captured_under, defenses: as `parsed_defense` takes them.
        sarif: file for the leaks as SARIF; None for none.
        fail_on: conditions, of which any that holds gives exit code 1.
        settings: further arguments of `audit`.

    Raises:
        UsageError: as `audit`; or a file is missing or malformed.
    """
    check_writable(out, sarif)
    conditions = {text: _checked_condition(text, truth) for text in fail_on}
    for name in attacks or ():
        ATTACKS.get(name)
    if weights is None and not model.endswith(".pt2"):
        typer.echo(f"no --weights: those of {model} as it is created are used", err=True)
    size = settings["image_size"]
    known = None if truth is None else read_labelled_images(truth, size, "the truth")
    report = audit(
        load_model(model, weights),
        split,
        updates,
        auxiliary,
        properties,
        truth=known,
        defense=None if captured_under is None else parsed_defense(captured_under).table(),
        attacks=attacks,
        defenses=None if defenses is None else [parsed_defense(text).table() for text in defenses],
        training=None if training is None else _training(training, known, size, rounds, settings),
        device=chosen_device(device),
        name=model,
        on_status=lambda message: typer.echo(message, err=True),
        **settings,
    )
    page, data = report.write(out)
    if sarif is not None:
        report.write_sarif(sarif, _source_file(model))
    print_document([report.summary], plain)
    typer.echo(f"The report is in {page}, its numbers in {data}.")
    if report.interrupted:
        raise typer.Exit(INTERRUPTED_CODE)
    if _any_holds(conditions, report):
        raise typer.Exit(FAILED_CODE)


def _source_file(model: str) -> str | None:
    """Return the file of `FILE.py:NAME` or `FILE.pt2`; None for `package.module:NAME`."""
    source, _, _ = model.partition(":")
    return source if source.endswith((".py", ".pt2")) else None


def _checked_condition(text: str, truth: Path | None) -> Condition:
    """Return a condition that can hold.

    Raises:
        UsageError: it is not understood, or needs the truth.
    """
    condition = Condition.parse(text)
    if condition.needs_truth and truth is None:
        raise UsageError(
            f"--fail-on {text} can never hold without the truth, which accuracy is measured by; "
            f"give --truth, or --fail-on certified"
        )
    return condition


def _any_holds(conditions: Mapping[str, Condition], report: Report) -> bool:
    """Return whether any condition holds; print what is known of each."""
    judged = {text: condition.judge(report) for text, condition in conditions.items()}
    for text, each in judged.items():
        typer.echo(f"--fail-on {text}: {each.outcome}: {each.reason}", err=True)
    return any(each.outcome == "holds" for each in judged.values())


def parsed_defense(text: str) -> PluginSpec:
    """Return a defense from `NAME` or `NAME:PARAMETER=VALUE,…`.

    Raises:
        UsageError: there is no such defense, or a parameter does not fit.
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"defense {text!r}: {part!r} is not of the form PARAMETER=VALUE")
        try:
            parameters[key] = parsed_toml(f"value = {value}")["value"]
        except ValueError:
            parameters[key] = value
    spec = PluginSpec(name, parameters)
    build_defense(spec)
    return spec


def _training(
    path: Path,
    truth: LabelledImages | None,
    size: int | None,
    rounds: int,
    settings: dict[str, Any],
) -> FederatedTraining:
    data = check_images(read_labelled_images(path, size, "the training data"), "the training data")
    if data.labels is None:
        raise UsageError(f"the training data {path} have no labels; give them a column `label`")
    if truth is None or truth.labels is None:
        raise UsageError("utility is measured on the truth, with labels; give it, or no --training")
    check_disjoint_identities(data, truth, "the training data")
    return FederatedTraining(
        images=data.images,
        labels=data.labels,
        test_images=truth.images,
        test_labels=truth.labels,
        rounds=rounds,
        learning_rate=settings["learning_rate"] or 0.1,
        seed=settings["seed"],
    )
