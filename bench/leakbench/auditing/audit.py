"""The audit of a user's own model: what an honest-but-curious server infers from its updates.

`from leakbench import audit` is the documented import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import nn
from torch.export import ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakbench.auditing.attacking import (
    Attacked,
    attack_all,
    default_attacks,
    with_controls,
    with_fallback,
)
from leakbench.auditing.case import Case, case_of
from leakbench.auditing.checked_arguments import (
    batch_sizes,
    check_arguments,
    paths_or_tensors,
)
from leakbench.auditing.client_batches import Clients
from leakbench.auditing.client_defense import checked_defense
from leakbench.auditing.client_loss import Criterion
from leakbench.auditing.clock import Clock, expected_seconds
from leakbench.auditing.default_defenses import USUAL_DEFENSES, default_defenses
from leakbench.auditing.defending import (
    Defended,
    as_sent,
    defend_all,
    sends_alike,
)
from leakbench.auditing.fitted_model import EXAMPLES, PixelNumbers, fit_together
from leakbench.auditing.fitting_attacks import fitting_attacks
from leakbench.auditing.hardest import check_hardest
from leakbench.auditing.image_files import read_labelled_images
from leakbench.auditing.label_texts import label_texts
from leakbench.auditing.labelled_images import LabelledImages
from leakbench.auditing.matching_images import checked_images, inferable
from leakbench.auditing.mode_detection import in_clients_mode
from leakbench.auditing.model_splitting import check_in_mode, split_model
from leakbench.auditing.quick import (
    PROPERTY_MODEL,
    SECONDS,
    UPDATES,
    fewer_individuals,
    quick_attacks,
)
from leakbench.auditing.report import Report
from leakbench.auditing.reporting import report_of
from leakbench.auditing.threat_model import ThreatModel
from leakbench.auditing.training import FederatedTraining, Training
from leakbench.auditing.updates import ReadUpdates, Tensors, UpdateFormat, UpdateKind, read_updates
from leakbench.base.choices import Mode, PropertyModelKind
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec, sentence

Settings = TypeVar("Settings", bound=BaseModel)


def audit(
    model: nn.Module | ExportedProgram,
    split: str | None = None,
    updates: Mapping[Any, Tensors] | Path | str | Sequence[Path] | None = None,
    auxiliary: LabelledImages | Path | str | None = None,
    properties: Sequence[str] = (),
    *,
    truth: LabelledImages | Path | str | None = None,
    kind: UpdateKind = "gradient",
    batch_size: int | Sequence[int] | None = None,
    learning_rate: float | None = None,
    local_steps: int = 1,
    local_batch: int | None = None,
    mode: Mode | None = None,
    labels_known: bool = False,
    loss: Criterion = None,
    defense: Mapping[str, Any] | None = None,
    attacks: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    budget: int = 400,
    defenses: Sequence[Mapping[str, Any] | str] | None = None,
    training: Training | FederatedTraining | None = None,
    pixel_mean: Sequence[float] = (),
    pixel_deviation: Sequence[float] = (),
    image_size: int | None = None,
    property_model: PropertyModelKind = "validated",
    device: str = "cpu",
    seed: int = 0,
    logits: str | int | None = None,
    weight_decay: float = 0.0,
    label_names: Sequence[str] = (),
    quick: bool = False,
    time_limit: float | None = None,
    hardest: int = 0,
    name: str = "",
    on_status: Callable[[str], None] = lambda _: None,
) -> Report:
    """Attack the updates of a federated model of one's own, and report what they reveal.

    The server holds the model and D_aux. The truth, where the auditor has it, is used for scoring
    alone: with it the report says how accurate each attack is, beside the controls; without it,
    what a server would believe.

    Args:
        model: in the weights that clients had when they computed the updates; images in [0, 1],
            shape (n, channels, height, width), rows (n, d) or token ids (n, t) to logits
            (n, classes).
        split: the submodule after which the head begins; its output is the deep feature. None
            splits before the last chain of linear layers, which the report names.
        updates: of clients, by name: tensors or NumPy arrays by parameter name, or a list in the
            model's order, such as those of Flower's NumPyClient; or a folder of safetensors files,
            or the files. None computes them from the truth.
        auxiliary: D_aux, images, rows or texts of people who are in no client's data; or the folder
            or file to read them from, see `leakbench.auditing.image_files.read_labelled_images`.
        properties: to infer of each individual.
        truth: the individuals of each batch.
        kind: what the updates' tensors are, see `leakbench.auditing.updates.UpdateKind`.
        batch_size: individuals in each client's batch, or a list of one number for each update in
            their order; None where the truth says it.
        learning_rate, local_steps, local_batch: see `auditing.updates.UpdateFormat`.
        mode: in which clients run BatchNorm; None reads it off the updates, and assumes `eval`
            where they do not show it.
        loss: of clients: `nn.CrossEntropyLoss`, `nn.BCEWithLogitsLoss` or `nn.MSELoss` with its
            weights, label smoothing and reduction, or a function of outputs and targets that
            computes the same; None for the mean cross-entropy. It gets classes, or the rows of
            `labels` where these are vectors, see `auditing.client_targets`.
        labels_known, defense, property_model, seed: see `auditing.threat_model.ThreatModel`.
        attacks: names, or names with parameters; None for those that fit the head.
        budget: gradient evaluations per batch, for attacks without given parameters.
        defenses: under which clients send the batches of the truth again, by name or as `{"name":
            …, parameter: …}`; None for a list at levels that suit the gradients, () for none.
        training: of a model under a defense, to measure its utility cost; see `Training`.
        pixel_mean, pixel_deviation: with which clients scale pixels; for each channel, or one for
            all.
        image_size: to which images of files are resized.
        device: for computations, such as `cuda`.
        logits: which part of the model's output they are, where it returns a dict, tuple or
            dataclass: a key, field or place. None for `logits`, or the only tensor (n, classes).
        weight_decay: λ of clients' SGD, whose updates hold λ times the weights as well.
        label_names: of the classes, or of the logits where labels are vectors; for the report.
        quick: whether to answer within about two minutes; see `leakbench.auditing.quick` for what
            is left out.
        time_limit: minutes after which attacks end; the report says what was not run.
        hardest: individuals of the truth on whom the model errs most: so many are reported apart,
            as hard cases; see `leakbench.auditing.hardest`.
        name: of the model in the report; its class by default.
        on_status: called with a short description of each step, and the time that is left.

    An update, attack, defense or property that cannot be audited is left out; the report and
    `on_status` say why. After Ctrl-C the report has what was finished.

    Raises:
        UsageError: the arguments do not fit together, the model cannot be followed, or no attack
            can be run; its message says what to correct.
        KeyboardInterrupt: on Ctrl-C before any attack was finished.
    """
    check_arguments(
        model=model,
        split=split,
        updates=updates,
        auxiliary=auxiliary,
        properties=properties,
        truth=truth,
        loss=loss,
        defense=defense,
        attacks=attacks,
        budget=budget,
        defenses=defenses,
        training=training,
        pixel_mean=pixel_mean,
        pixel_deviation=pixel_deviation,
        image_size=image_size,
        logits=logits,
        label_names=label_names,
        time_limit=time_limit,
        hardest=hardest,
        name=name,
    )
    size = batch_sizes(batch_size)
    sizes = _sizes(size)
    update_format = _checked(
        UpdateFormat,
        kind=kind,
        batch_size=size if isinstance(size, int) else None,
        learning_rate=learning_rate,
        local_steps=local_steps,
        local_batch=local_batch,
        weight_decay=weight_decay,
    )
    clock = Clock(on_status, _seconds(quick, time_limit))
    threat = _checked(
        ThreatModel,
        mode=mode or "eval",
        labels_known=labels_known,
        defense=None if defense is None else dict(defense),
        property_model=PROPERTY_MODEL if quick else property_model,
        seed=seed,
    )
    assert auxiliary is not None
    _check_device(device)
    if defense is not None:
        checked_defense(defense)
    chosen_defenses = None if defenses is None else [checked_defense(table) for table in defenses]
    given = paths_or_tensors(updates)
    read = ReadUpdates() if given is None else read_updates(given, update_format, sizes)
    if updates is not None and not read.captured:
        raise UsageError("there is no update to audit; give some, or None and the truth")
    aux = _images(auxiliary, image_size, "D_aux")
    known = None if truth is None else _images(truth, image_size, "the truth")
    fitted = fit_together(
        model,
        aux,
        known,
        training,
        PixelNumbers(pixel_mean, pixel_deviation),
        None if logits is None else str(logits),
        loss,
        read.captured,
    )
    model, targets, scale = fitted.model, fitted.targets, fitted.scale
    examples = fitted.auxiliary.images[:EXAMPLES]
    on_status("tracing the model")
    own = split_model(model, split, examples, scale, targets)
    labels = label_texts(own.loss, own.classes, label_names)
    if split is None:
        on_status(f"the head begins at {own.split}")
    aux = fewer_individuals(fitted.auxiliary, seed) if quick else fitted.auxiliary
    properties, left_out = inferable(properties, aux, fitted.truth)
    aux, known = checked_images(aux, fitted.truth, properties, own.classes)
    clients = Clients(own, model, threat, "cpu")
    clients, mode_note = in_clients_mode(
        clients, mode, read.captured, known, update_format, examples
    )
    check_in_mode(own, model, examples, scale, clients.threat.mode, targets)
    on_status("computing the deep features of D_aux")
    clients = replace(clients, model=own.to(device), device=device)
    case = case_of(clients, read, aux, known, update_format, sizes, UPDATES if quick else None)
    notes = tuple(filter(None, (*fitted.notes, mode_note)))
    case = replace(case, left_out=(*left_out, *case.left_out), notes=notes, quick=quick)
    for why in case.left_out:
        on_status(f"left out: {why}")
    check_hardest(hardest, case)
    wanted, unfit = _attacks(attacks, case, budget)
    case = replace(case, notes=(*case.notes, *unfit))
    chosen = with_controls(wanted, case)
    if quick and chosen_defenses is None:
        chosen_defenses = []
    clock.expect(expected_seconds(case, chosen), _times(case, chosen_defenses))
    # The other kernels of attention cannot be differentiated twice.
    with sdpa_kernel(SDPBackend.MATH):
        attacked = attack_all(case, chosen, case.batches, clock)
        _check_any_ran(attacked)
        defended = _defended(case, chosen, attacked, chosen_defenses, fitted.training, clock)
    title = name or type(model).__name__
    return report_of(case, attacked, defended, title, own.split, labels, hardest)


def _sizes(batch_size: int | list[int] | None) -> list[int]:
    """Return the batch size of each update; empty where they do not differ."""
    sizes = batch_size if isinstance(batch_size, list) else []
    for size in sizes:
        _checked(UpdateFormat, batch_size=size)
    return sizes


def _seconds(quick: bool, time_limit: float | None) -> float | None:
    """Return the seconds after which attacks end; None for no limit."""
    if time_limit is None:
        return SECONDS if quick else None
    if not 0 < time_limit < float("inf"):
        raise UsageError(f"time_limit must be minutes above 0, not {time_limit:g}")
    return 60 * time_limit


def _times(case: Case, defenses: Sequence[PluginSpec] | None) -> int:
    """Return how often attacks run: on the updates, under each defense, and without one.

    The last only where the clients that are simulated without a defense send something else.
    """
    if not case.known_batches or (defenses is not None and not defenses):
        return 1
    without = 0 if sends_alike(case) else 1
    return 1 + without + (USUAL_DEFENSES if defenses is None else len(defenses))


def _check_any_ran(attacked: Mapping[str, Attacked]) -> None:
    """Refuse an audit of which no attack ran.

    Raises:
        UsageError: there was none, or none could be run.
        KeyboardInterrupt: Ctrl-C came before one was finished.
    """
    run = [each for each in attacked.values() if not each.attack.control]
    if not run:
        raise UsageError(
            "give at least one attack; the controls are run beside it where the truth is known"
        )
    if all(each.refused for each in run):
        if any(each.interrupted for each in run):
            raise KeyboardInterrupt
        raise UsageError(
            next(f"attack {each.attack.name!r} cannot be run: {each.refused}" for each in run)
            if len(run) == 1
            else "no attack can be run: "
            + "; ".join(f"{each.attack.name}: {each.refused}" for each in run)
        )


def _defended(
    case: Case,
    chosen: Sequence[PluginSpec],
    attacked: Mapping[str, Attacked],
    defenses: Sequence[PluginSpec] | None,
    training: Training | FederatedTraining | None,
    clock: Clock,
) -> list[Defended]:
    """Return the attacks that can be run, under defenses; none after an interruption."""
    none_chosen = defenses is not None and not defenses
    if not case.known_batches or none_chosen or any(a.interrupted for a in attacked.values()):
        return []
    tried = default_defenses(case) if defenses is None else defenses
    # Without a baseline that was refused an attack would seem to be above all of them.
    kept = [
        spec
        for spec in chosen
        if attacked[spec.name].attack.control or not attacked[spec.name].refused
    ]
    undefended = as_sent(case, {spec.name: attacked[spec.name] for spec in kept})
    return defend_all(case, tried, kept, training, clock, undefended)


def _attacks(
    attacks: Sequence[str] | Mapping[str, Mapping[str, Any]] | None, case: Case, budget: int
) -> tuple[list[PluginSpec], list[str]]:
    """Return attacks with their parameters, and why usual ones are left out."""
    if isinstance(attacks, Mapping):
        given = [PluginSpec(name, parameters) for name, parameters in attacks.items()]
        return [with_fallback(spec, case) for spec in given], []
    usual = quick_attacks(case) if case.quick else default_attacks(case, budget)
    if attacks is None:
        return fitting_attacks(usual, case)
    by_name = {spec.name: spec for spec in usual}
    return [by_name.get(name, with_fallback(PluginSpec(name), case)) for name in attacks], []


def _images(given: LabelledImages | Path | str, size: int | None, role: str) -> LabelledImages:
    if isinstance(given, LabelledImages):
        return given
    return read_labelled_images(Path(given), size, role)


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UsageError(f"device {name!r} is not available here; give cpu, cuda or mps") from error


def _checked(settings: type[Settings], **values: Any) -> Settings:
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(sentence(error)) from None
