"""`leakbench audit`: an audit whose parts all lie in files."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from leakbench.auditing.audit import FederatedTraining, audit
from leakbench.auditing.labelled_images import (
    LabelledImages,
    check_disjoint_identities,
    check_images,
    read_people,
)
from leakbench.auditing.model_loading import load_model
from leakbench.base.devices import chosen_device
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS, DEFENSES


def audit_from_files(
    model: str,
    weights: Path | None,
    split: str,
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
    **settings: Any,
) -> None:
    """Audit what lies in files; print the findings and where the report is.

    Args:
        captured_under, defenses: as `defense_of_text` takes them.
        settings: further arguments of `audit`.

    Raises:
        UsageError: as `audit`; or a file is not there, or is malformed.
    """
    for name in attacks or ():
        ATTACKS.get(name)
    if weights is None and not model.endswith(".pt2"):
        typer.echo(f"no --weights: those that {model} makes are taken for the clients'", err=True)
    size = settings["image_size"]
    people = None if truth is None else read_people(truth, size, "the truth")
    report = audit(
        load_model(model, weights),
        split,
        updates,
        auxiliary,
        properties,
        truth=people,
        defense=None if captured_under is None else defense_of_text(captured_under),
        attacks=attacks,
        defenses=None if defenses is None else [defense_of_text(text) for text in defenses],
        training=None if training is None else _training(training, people, size, rounds, settings),
        device=chosen_device(device),
        name=model,
        say=lambda message: typer.echo(message, err=True),
        **settings,
    )
    page, data = report.write(out)
    for sentence in report.findings:
        typer.echo(f"- {sentence}")
    typer.echo(f"The report is in {page}, its numbers in {data}.")


def defense_of_text(text: str) -> dict[str, Any]:
    """Return a defense's name and parameters from `NAME` or `NAME:PARAMETER=VALUE,…`.

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
            parameters[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parameters[key] = value
    build(DEFENSES, name, parameters)
    return {"name": name, **parameters}


def _training(
    path: Path,
    truth: LabelledImages | None,
    size: int | None,
    rounds: int,
    settings: dict[str, Any],
) -> FederatedTraining:
    people = read_people(path, size, "the training data")
    people = check_images(people, "the training data")
    if people.labels is None:
        raise UsageError(f"the training data {path} have no labels; give them a column `label`")
    if truth is None or truth.labels is None:
        raise UsageError("utility is measured on the truth, with labels; give it, or no --training")
    check_disjoint_identities(people, truth, "the training data")
    return FederatedTraining(
        images=people.images,
        labels=people.labels,
        test_images=truth.images,
        test_labels=truth.labels,
        rounds=rounds,
        learning_rate=settings["learning_rate"] or 0.1,
        seed=settings["seed"],
    )
