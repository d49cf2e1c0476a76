"""The command that audits a model of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from leakbench.cli.options import Device, DeviceOption


class UpdateKind(StrEnum):
    """What the tensors of a captured update are."""

    GRADIENT = "gradient"
    DIFFERENCE = "difference"
    WEIGHTS = "weights"


class Mode(StrEnum):
    """How clients run the model."""

    EVAL = "eval"
    TRAIN = "train"


def audit(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="FILE.py:NAME|FILE.pt2",
            help="What makes the model, or a program saved by torch.export. A Python file is run.",
        ),
    ],
    split: Annotated[
        str, typer.Option("--split", help="The submodule after which the head begins.")
    ],
    auxiliary: Annotated[
        Path, typer.Option("--auxiliary", metavar="DIR|FILE", help="D_aux; as --truth.")
    ],
    properties: Annotated[list[str], typer.Option("--property", help="To infer; repeatable.")],
    updates: Annotated[
        Path | None,
        typer.Option(
            "--updates",
            metavar="DIR|FILE",
            help="Clients' updates, a safetensors file each; without, clients compute them from "
            "the truth.",
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            metavar="DIR|FILE",
            help="Who was in which update: a folder of images with a CSV file (columns file, "
            "label, identity, update, and one for each property), or a safetensors file.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="State, as safetensors.")
    ] = None,
    kind: Annotated[
        UpdateKind, typer.Option("--kind", help="What the tensors of updates are.")
    ] = UpdateKind.GRADIENT,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Individuals behind an update.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Clients' η, of kinds of weights.")
    ] = None,
    local_steps: Annotated[int, typer.Option("--local-steps", help="Clients' steps.")] = 1,
    local_batch: Annotated[
        int | None, typer.Option("--local-batch", help="Individuals of a step, if not all.")
    ] = None,
    mode: Annotated[Mode, typer.Option("--mode", help="How clients run BatchNorm.")] = Mode.EVAL,
    labels_known: Annotated[
        bool, typer.Option("--labels-known", help="The server knows main-task labels.")
    ] = False,
    captured_under: Annotated[
        str | None,
        typer.Option("--captured-under", metavar="DEFENSE", help="Of the updates; as --defense."),
    ] = None,
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", help="Instead of those that fit; repeatable.")
    ] = None,
    budget: Annotated[int, typer.Option("--budget", min=1, help="Gradients a batch.")] = 400,
    defenses: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            metavar="DEFENSE",
            help="NAME or NAME:PARAMETER=VALUE,… instead of the usual ones; repeatable; `none` "
            "for no other.",
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option("--training", metavar="DIR|FILE", help="To measure what a defense costs."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of that training.")] = 300,
    pixel_mean: Annotated[
        list[float] | None, typer.Option("--pixel-mean", help="All channels', or one each.")
    ] = None,
    pixel_deviation: Annotated[
        list[float] | None, typer.Option("--pixel-deviation", help="All channels', or one each.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="To which images are resized.")
    ] = None,
    device: DeviceOption = Device.AUTO,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder of audit.html and audit.json.")] = Path(
        "audit"
    ),
) -> None:
    """Attack the updates of your own model, and report what a server learns from them."""
    from leakbench.auditing.from_files import audit_from_files

    audit_from_files(
        model,
        weights,
        split,
        updates,
        auxiliary,
        truth,
        properties,
        captured_under,
        attacks or None,
        defenses,
        training,
        rounds,
        device.value,
        out,
        kind=kind.value,
        batch_size=batch_size,
        learning_rate=learning_rate,
        local_steps=local_steps,
        local_batch=local_batch,
        mode=mode.value,
        labels_known=labels_known,
        budget=budget,
        pixel_mean=pixel_mean or (),
        pixel_deviation=pixel_deviation or (),
        image_size=image_size,
        seed=seed,
    )
