"""Commands that publish records."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from leakbench.base.errors import UsageError
from leakbench.base.long_lived import collecting_seldom
from leakbench.cli.loading import loading
from leakbench.cli.options import (
    DEFAULT_OUT,
    DataRootOption,
    DeviceOption,
    OnlyOption,
    OutOption,
    SetOption,
    SuiteArgument,
    TrustVerifiedOption,
)

FigureKind = Literal[
    "batches",
    "budget",
    "defense",
    "tradeoff",
    "phase",
    "edges",
    "ablation",
    "features",
    "reconstructions",
]


class FigureFormat(StrEnum):
    """Endings of a figure's files."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


def publish(
    out: OutOption = DEFAULT_OUT,
    site: Annotated[
        Path | None,
        typer.Option(
            "--site", help="Folder of the site; by default `site` in the folder of --out."
        ),
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="A suite (name or TOML file) to show in addition to Tables 1 to 3.",
        ),
    ] = None,
    reconstructions: Annotated[
        bool,
        typer.Option(
            "--reconstructions",
            help="Publish figures of reconstructions too, if none shows a real individual.",
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting that the suites of --suite were run with, as `run` takes it.",
        ),
    ] = None,
    submissions: Annotated[
        list[Path] | None,
        typer.Option(
            "--submission",
            metavar="DIR",
            help="A folder of others' records with submission.json, to be ranked as claimed.",
        ),
    ] = None,
    trust_verified: TrustVerifiedOption = False,
) -> None:
    """Write a leaderboard from records, as Markdown and as a static site.

    Exit code 1 if no suite lays out the records, so that there is no table.
    """
    with loading():
        from leakbench.reports.publishing import publish as write

    with collecting_seldom():
        done = write(
            out,
            site,
            suites or [],
            reconstructions,
            trust_verified,
            changes=settings or [],
            submissions=submissions or [],
        )
    for sentence in done.left_out:
        typer.echo(sentence, err=True)
    typer.echo(f"The leaderboard is in {done.leaderboard}, the site in {done.site}.")
    if not done.tables:
        typer.echo(
            f"leakbench: it has no table, since no suite that comes with leakbench lays out the "
            f"records in {out / 'records'}; pass --suite FILE.toml (or a suite's name), "
            f"and the --set that the suite was run with",
            err=True,
        )
        raise typer.Exit(1)


def figure(
    kind: FigureKind,
    suite: SuiteArgument,
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    settings: SetOption = None,
    only: OnlyOption = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="TEXT",
            help="Draw the groups with this text in their title, from records.",
        ),
    ] = None,
    formats: Annotated[
        list[FigureFormat] | None,
        typer.Option("--format", help="Of the files, repeatable; by default PNG and SVG."),
    ] = None,
    title: Annotated[
        bool, typer.Option(help="Whether the figure says above it what it shows.")
    ] = True,
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Draw a figure: the first seven from records, the last two by running the attacks.

    batches: accuracy against batch size, of the first group with records.

    budget: accuracy against budget.

    defense: accuracy and utility against a defense's level (the paper's Fig. 5).

    tradeoff: leakage against utility of all defenses.

    phase: share of individuals found exactly, over batch size and hidden units.

    edges: the same, and seconds, by network and batch size.

    ablation: accuracy against λ (Fig. 6).

    features: t-SNE of deep features before and after training (Fig. 2).

    reconstructions: images that attacks reconstruct from the first victim batch, with the PSNR and
    feature cosine of each (Fig. 4).
    """
    with loading():
        from leakbench.reports.drawing import (
            DEFAULT_FORMATS,
            Style,
            draw_features,
            draw_reconstructions,
            draw_recorded,
        )

    changes, chosen = settings or [], only or []
    style = Style([each.value for each in formats] if formats else DEFAULT_FORMATS, title)
    if group is not None and kind in ("features", "reconstructions"):
        raise UsageError(f"{kind} is not drawn by groups; select cells with --only, not --group")
    if kind == "reconstructions" and (formats or not title):
        raise UsageError(
            "reconstructions are drawn as PNG with their title; leave --format and --no-title"
        )
    if kind == "reconstructions":
        written = draw_reconstructions(suite, changes, chosen, data_root, device, out)
    elif kind == "features":
        written = draw_features(suite, changes, chosen, data_root, device, style, out)
    else:
        written = draw_recorded(kind, suite, changes, chosen, group, style, out)
    for path in written:
        typer.echo(f"The figure is in {path}.")
