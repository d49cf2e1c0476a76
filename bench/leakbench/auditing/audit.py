"""The audit of a user's own model: what an honest-but-curious server learns from its updates.

`from leakbench import audit` is the documented import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn
from torch.export import ExportedProgram

from leakbench.auditing.attacking import attack_all, default_attacks, with_controls
from leakbench.auditing.case import Case, ThreatModel, case_of, defense_from
from leakbench.auditing.defending import FederatedTraining, Training, default_defenses, defend_all
from leakbench.auditing.labelled_images import (
    LabelledImages,
    check_disjoint_identities,
    check_images,
    check_people,
    check_property,
    check_varies,
    read_people,
)
from leakbench.auditing.model_splitting import PixelScale, own_model
from leakbench.auditing.report import Report, report_of
from leakbench.auditing.updates import Kind, UpdateFormat, read_updates
from leakbench.base.choices import Mode, PropertyModelKind
from leakbench.base.errors import UsageError
from leakbench.base.plugins import sentence

__all__ = ["FederatedTraining", "LabelledImages", "Report", "audit"]

Settings = TypeVar("Settings", bound=BaseModel)

EXAMPLES = 3
"""Images of D_aux that the model is followed with."""


def audit(
    model: nn.Module | ExportedProgram,
    split: str,
    updates: Mapping[str, Mapping[str, Tensor]] | Path | str | Sequence[Path] | None,
    auxiliary: LabelledImages | Path | str,
    properties: Sequence[str],
    *,
    truth: LabelledImages | Path | str | None = None,
    kind: Kind = "gradient",
    batch_size: int | None = None,
    learning_rate: float | None = None,
    local_steps: int = 1,
    local_batch: int | None = None,
    mode: Mode = "eval",
    labels_known: bool = False,
    defense: Mapping[str, Any] | None = None,
    attacks: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    budget: int = 400,
    defenses: Sequence[Mapping[str, Any]] | None = None,
    training: Training | FederatedTraining | None = None,
    pixel_mean: Sequence[float] = (),
    pixel_deviation: Sequence[float] = (),
    image_size: int | None = None,
    property_model: PropertyModelKind = "validated",
    device: str = "cpu",
    seed: int = 0,
    name: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Attack the updates of a federated model of one's own, and report what they give away.

    The server holds the model and D_aux. The truth, where the auditor has it, is seen by scoring
    alone: with it the report says how often each attack is right, beside the controls; without it
    only what a server would believe.

    Args:
        model: in the weights that clients had when they computed the updates; images in [0, 1],
            shape (n, channels, height, width), to logits (n, classes).
        split: the submodule after which the head begins; its output is the deep feature.
        updates: of clients, by name; or a folder of safetensors files, or the files. None lets
            clients compute them from the truth.
        auxiliary: D_aux: people who are in no client's data; or where to read them, see
            `leakbench.auditing.labelled_images.read_people`.
        properties: what is to be inferred of each individual.
        truth: who was in which batch.
        kind: what the updates' tensors are, see `leakbench.auditing.updates.Kind`.
        batch_size, learning_rate, local_steps, local_batch: see `auditing.updates.UpdateFormat`.
        mode, labels_known, defense, property_model, seed: see `auditing.case.ThreatModel`.
        attacks: names, with parameters if it is a mapping; None for those that fit the head.
        budget: gradient evaluations a batch, for attacks that are not given with parameters.
        defenses: under which clients send the batches of the truth again, as `{"name": …,
            parameter: …}`; None for a list at levels that suit the gradients, () for none.
        training: of a model under a defense, to measure what that costs; see `Training`.
        pixel_mean, pixel_deviation: of each channel or one for all, if clients scale pixels.
        image_size: to which images of files are resized.
        device: where to compute, such as `cuda`.
        name: what the report calls the model; its class by default.
        say: told in a few words what is being done.

    An update or property that cannot be audited is left out; the report and `say` say why.

    Raises:
        UsageError: what is given does not fit together; one sentence says what, and the way out.
    """
    sending = _checked(
        UpdateFormat,
        kind=kind,
        batch_size=batch_size,
        learning_rate=learning_rate,
        local_steps=local_steps,
        local_batch=local_batch,
    )
    threat = _checked(
        ThreatModel,
        mode=mode,
        labels_known=labels_known,
        defense=None if defense is None else dict(defense),
        property_model=property_model,
        seed=seed,
    )
    if updates is None and truth is None:
        raise UsageError("there is nothing to audit: give updates, or the truth to compute some of")
    if not properties:
        raise UsageError("say at least one property to infer")
    _check_device(device)
    for table in [*([] if defense is None else [defense]), *(defenses or ())]:
        defense_from(table)
    given = Path(updates) if isinstance(updates, str) else updates
    captured = [] if given is None else read_updates(given, sending)
    if updates is not None and not captured:
        raise UsageError("there is no update to audit; give some, or None and the truth")
    aux = _people(auxiliary, image_size, "D_aux")
    own_truth = None if truth is None else _people(truth, image_size, "the truth")
    say("following the model")
    scale = _scale(pixel_mean, pixel_deviation, aux)
    cut = own_model(model, split, aux.images[:EXAMPLES], scale)
    properties, left_out = _inferable(properties, aux, own_truth)
    aux = check_people(aux, "D_aux", properties, cut.classes)
    if own_truth is not None:
        own_truth = check_people(own_truth, "the truth", properties, cut.classes)
        check_disjoint_identities(aux, own_truth, "D_aux")
        if own_truth.images.shape[1:] != aux.images.shape[1:]:
            raise UsageError(
                f"images of the truth have shape {tuple(own_truth.images.shape[1:])}, those of "
                f"D_aux {tuple(aux.images.shape[1:])}; make them alike"
            )
    say("reading D_aux")
    case = case_of(
        cut.to(device), model, captured, aux, own_truth, properties, sending, threat, device
    )
    case = replace(case, left_out=(*left_out, *case.left_out))
    for why in case.left_out:
        say(f"left out: {why}")
    chosen = _attacks(attacks, case, budget)
    attacked = attack_all(case, chosen, case.batches, say)
    run = [each for each in attacked.values() if not each.attack.control]
    if not run:
        raise UsageError("say at least one attack; controls are run with any, where truth is known")
    if all(each.refused for each in run):
        raise UsageError(next(each.refused for each in run))
    defended = []
    if case.known and (defenses is None or len(defenses)):
        tables = default_defenses(case) if defenses is None else defenses
        kept = {name: p for name, p in chosen.items() if not attacked[name].refused}
        defended = defend_all(case, tables, kept, training, say)
    return report_of(case, attacked, defended, name or type(model).__name__, split)


def _inferable(
    properties: Sequence[str], aux: LabelledImages, truth: LabelledImages | None
) -> tuple[list[str], list[str]]:
    """Return the properties that can be inferred, and why the others cannot.

    Raises:
        UsageError: none can.
    """
    kept, left_out = [], []
    for name in properties:
        try:
            check_property(aux, "D_aux", name)
            check_varies(aux, "D_aux", name)
            if truth is not None:
                check_property(truth, "the truth", name)
            kept.append(name)
        except UsageError as error:
            left_out.append(str(error))
    if not kept:
        raise UsageError(left_out[0])
    return kept, left_out


def _attacks(
    attacks: Sequence[str] | Mapping[str, Mapping[str, Any]] | None, case: Case, budget: int
) -> dict[str, dict[str, Any]]:
    """Return attacks with their parameters, and the controls."""
    if attacks is None:
        return with_controls(default_attacks(case, budget), case)
    if isinstance(attacks, Mapping):
        return with_controls(attacks, case)
    fitting = default_attacks(case, budget)
    return with_controls({name: fitting.get(name, {}) for name in attacks}, case)


def _people(given: LabelledImages | Path | str, size: int | None, what: str) -> LabelledImages:
    people = given if isinstance(given, LabelledImages) else read_people(Path(given), size, what)
    return check_images(people, what)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not available here; give cpu, cuda or mps") from error


def _scale(
    mean: Sequence[float], deviation: Sequence[float], people: LabelledImages
) -> PixelScale | None:
    if not mean and not deviation:
        return None
    channels = people.images.shape[1]
    means, deviations = tuple(mean) or (0.0,), tuple(deviation) or (1.0,)
    for called, given in (("pixel_mean", means), ("pixel_deviation", deviations)):
        if len(given) not in (1, channels):
            raise UsageError(
                f"{called} has {len(given)} numbers, but images have {channels} channels; give one "
                f"for all or one for each"
            )
    if any(number <= 0 for number in deviations):
        raise UsageError("pixel_deviation must be above 0")
    return PixelScale(means, deviations)


def _checked(settings: type[Settings], **values: Any) -> Settings:
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(sentence(error)) from None
