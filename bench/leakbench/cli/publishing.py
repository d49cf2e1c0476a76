"""Commands that show records to others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from leakbench.cli.options import (
    DEFAULT_OUT,
    DataRootOption,
    Device,
    DeviceOption,
    OnlyOption,
    OutOption,
    SetOption,
    SuiteArgument,
)


class FigureKind(StrEnum):
    """What can be drawn."""

    BUDGET = "budget"
    DEFENSE = "defense"
    TRADEOFF = "tradeoff"
    PHASE = "phase"
    ABLATION = "ablation"
    FEATURES = "features"
    RECONSTRUCTIONS = "reconstructions"


def publish(
    out: OutOption = DEFAULT_OUT,
    site: Annotated[
        Path | None,
        typer.Option("--site", help="Folder of the site; by default `site` in that of --out."),
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="A suite, by name or TOML file, that the leaderboard has besides Tables 1 to 3.",
        ),
    ] = None,
    reconstructions: Annotated[
        bool,
        typer.Option(
            "--reconstructions",
            help="Publish figures of reconstructions too: only where none shows a real individual.",
        ),
    ] = False,
) -> None:
    """Write a leaderboard, as Markdown and as a static site, from records alone."""
    from leakbench.reports.publishing import publish as write

    done = write(out, site, suites or [], reconstructions)
    for sentence in done.left_out:
        typer.echo(sentence, err=True)
    typer.echo(f"The leaderboard is in {done.leaderboard}, the site in {done.site}.")


def figure(
    kind: FigureKind,
    suite: SuiteArgument,
    data_root: DataRootOption = None,
    device: DeviceOption = Device.AUTO,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Draw a figure: the first five from records, the others by running what they show.

    budget: accuracy against budget. defense: accuracy, and utility, against a defense's level.
    tradeoff: leakage against utility of all defenses. phase: share of individuals found exactly,
    over batch size and hidden units. ablation: accuracy against λ. features: t-SNE of deep features
    before and after training. reconstructions: what attacks make of the first victim batch.
    """
    from leakbench.reports.drawing import draw_features, draw_reconstructions, draw_recorded

    changes, chosen = settings or [], only or []
    if kind is FigureKind.RECONSTRUCTIONS:
        written = draw_reconstructions(suite, changes, chosen, data_root, device.value, out)
    elif kind is FigureKind.FEATURES:
        written = draw_features(suite, changes, chosen, data_root, device.value, out)
    else:
        written = draw_recorded(kind.value, suite, changes, chosen, out)
    for path in written:
        typer.echo(f"The figure is in {path}.")
