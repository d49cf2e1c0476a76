"""The command that audits the user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from leakbench.base.choices import Mode
from leakbench.cli.loading import loading
from leakbench.cli.options import DeviceOption

UpdateKind = Literal["gradient", "difference", "weights"]
"""What the tensors of a captured update are."""

LossName = Literal["cross-entropy", "nll", "binary", "squared"]
"""Losses of clients, see `leakbench.auditing.named_loss`."""


def _print_schema(wanted: bool) -> None:
    if wanted:
        import json

        from leakbench.auditing.json_schema import report_schema

        typer.echo(json.dumps(report_schema(), indent=1, ensure_ascii=False))
        raise typer.Exit


def audit(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="FILE.py:NAME|FILE.pt2",
            help="A Python function that makes the model, or a program saved by torch.export. The "
            "Python file is executed.",
        ),
    ],
    auxiliary: Annotated[
        Path,
        typer.Option("--auxiliary", metavar="DIR|FILE", help="D_aux, in the format of --truth."),
    ],
    properties: Annotated[
        list[str], typer.Option("--property", help="A property to infer; repeatable.")
    ],
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="The submodule after which the head begins; without it, the model is split before "
            "its last chain of linear layers.",
        ),
    ] = None,
    updates: Annotated[
        Path | None,
        typer.Option(
            "--updates",
            metavar="DIR|FILE",
            help="Clients' updates, one safetensors file each; without them, updates are computed "
            "from the truth.",
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            metavar="DIR|FILE",
            help="The individuals behind each update: a folder of images with a CSV file (columns "
            "file, label, identity, update, and one per property), or a safetensors file.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="State of the model, as safetensors."),
    ] = None,
    kind: Annotated[
        UpdateKind, typer.Option("--kind", help="What the tensors of the updates are.")
    ] = "gradient",
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size",
            help="Individuals in an update; repeatable, once for each update in their order.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Clients' η; needed for differences and weights."),
    ] = None,
    local_steps: Annotated[
        int, typer.Option("--local-steps", help="Steps that a client takes.")
    ] = 1,
    local_batch: Annotated[
        int | None, typer.Option("--local-batch", help="Individuals in a step, if not all.")
    ] = None,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="λ that clients' SGD adds to the gradient.")
    ] = 0.0,
    loss: Annotated[
        LossName, typer.Option("--loss", help="What clients minimise.")
    ] = "cross-entropy",
    class_weight: Annotated[
        list[float] | None,
        typer.Option(
            "--class-weight",
            help="Weight of each class, or pos_weight of each logit with binary; repeatable.",
        ),
    ] = None,
    label_smoothing: Annotated[
        float, typer.Option("--label-smoothing", help="Of the cross-entropy.")
    ] = 0.0,
    reduction: Annotated[
        Literal["mean", "sum"], typer.Option("--reduction", help="Of the loss over a batch.")
    ] = "mean",
    label_names: Annotated[
        list[str] | None,
        typer.Option(
            "--label-name",
            help="Name of a class, or of a logit where labels are vectors, for the report; "
            "repeatable, in their order.",
        ),
    ] = None,
    logits: Annotated[
        str | None,
        typer.Option(
            "--logits",
            metavar="KEY",
            help="Where the logits are in the model's output, if it returns a dict, tuple or "
            "dataclass.",
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            "--mode", help="How clients run BatchNorm; without it, what the updates show."
        ),
    ] = None,
    labels_known: Annotated[
        bool, typer.Option("--labels-known", help="The server knows main-task labels.")
    ] = False,
    captured_under: Annotated[
        str | None,
        typer.Option(
            "--captured-under",
            metavar="DEFENSE",
            help="Defense that the updates were captured under; as --defense.",
        ),
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="Attack to run instead of all that apply; repeatable."),
    ] = None,
    budget: Annotated[
        int, typer.Option("--budget", min=1, help="Gradient evaluations per victim batch.")
    ] = 400,
    defenses: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            metavar="DEFENSE",
            help="NAME or NAME:PARAMETER=VALUE,… to try instead of the default ones; repeatable; "
            "`none` for no other.",
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            "--training",
            metavar="DIR|FILE",
            help="Training data, to measure the utility cost of defenses.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of that training.")] = 300,
    pixel_mean: Annotated[
        list[float] | None,
        typer.Option("--pixel-mean", help="One value for all channels, or one per channel."),
    ] = None,
    pixel_deviation: Annotated[
        list[float] | None,
        typer.Option("--pixel-deviation", help="One value for all channels, or one per channel."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Size that images are resized to.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Answer within about two minutes; the report says what was left out."
        ),
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", metavar="MINUTES", help="After which attacks end."),
    ] = None,
    hardest: Annotated[
        int,
        typer.Option(
            "--hardest",
            metavar="N",
            min=0,
            help="Report apart the N individuals of the truth on whom the model errs most.",
        ),
    ] = 0,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder of audit.html and audit.json.")] = Path(
        "audit"
    ),
    sarif: Annotated[
        Path | None,
        typer.Option("--sarif", metavar="FILE", help="Write the leaks as SARIF 2.1.0, for CI."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="CONDITION",
            help="Exit with code 1 if it holds: leaks, certified, advantage>0.1 (the interval's "
            "lower end) or undecided; repeatable.",
        ),
    ] = None,
    _: Annotated[
        bool,
        typer.Option(
            "--schema",
            callback=_print_schema,
            is_eager=True,
            help="Print the JSON schema of audit.json and exit.",
        ),
    ] = False,
) -> None:
    """Attack the updates of your own model, and report what a server infers from them."""
    with loading():
        from leakbench.auditing.from_files import audit_from_files
        from leakbench.auditing.named_loss import named_loss

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
        device,
        out,
        sarif,
        fail_on or (),
        kind=kind,
        batch_size=batch_size[0] if batch_size and len(batch_size) == 1 else batch_size or None,
        learning_rate=learning_rate,
        local_steps=local_steps,
        local_batch=local_batch,
        weight_decay=weight_decay,
        loss=named_loss(loss, class_weight or (), label_smoothing, reduction),
        logits=logits,
        label_names=label_names or (),
        quick=quick,
        time_limit=time_limit,
        hardest=hardest,
        mode=mode,
        labels_known=labels_known,
        budget=budget,
        pixel_mean=pixel_mean or (),
        pixel_deviation=pixel_deviation or (),
        image_size=image_size,
        seed=seed,
    )
