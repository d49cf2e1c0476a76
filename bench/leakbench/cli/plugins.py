"""Commands on what there is: plugins, data sets and suites."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from leakbench.cli.options import DataRootOption


class Kind(StrEnum):
    """What can be listed."""

    ATTACKS = "attacks"
    BASELINES = "baselines"
    DATASETS = "datasets"
    DEFENSES = "defenses"
    MODELS = "models"
    SUITES = "suites"


class PluginKind(StrEnum):
    """What can be written and checked."""

    ATTACK = "attack"
    DATASET = "dataset"
    DEFENSE = "defense"
    MODEL = "model"


Pattern = Annotated[str, typer.Argument(metavar="[GLOB]")]


def list_plugins(
    kind: Kind,
    pattern: Pattern = "*",
    data_root: DataRootOption = None,
) -> None:
    """List attacks (baselines included), baselines, data sets, defenses, models or suites."""
    from leakbench.experiments.plugin_catalogue import listing

    typer.echo(listing(kind.value, pattern, data_root))


def list_datasets(pattern: Pattern = "*", data_root: DataRootOption = None) -> None:
    """List data sets: properties, size, terms, and whether each is found; as `list datasets`."""
    list_plugins(Kind.DATASETS, pattern, data_root)


def check_dataset(
    name: str,
    data_root: DataRootOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="dataset.PARAMETER=VALUE", help="Change a parameter, as in `run`."
        ),
    ] = None,
) -> None:
    """Read a data set, decode every image, and say what was found and what is missing."""
    from leakbench.conformance.dataset_check import checked

    typer.echo(checked(name, settings or [], data_root))


def show(name: str) -> None:
    """Show a plugin or suite: reference, parameters with defaults, knowledge needed."""
    from leakbench.experiments.plugin_catalogue import description

    typer.echo(description(name))


def check(
    name: Annotated[str, typer.Argument(help="An attack, data set, defense or model.")],
    kind: Annotated[
        PluginKind | None,
        typer.Option("--kind", help="Which, where plugins of several kinds have the name."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAMETER=VALUE", help="Change a parameter of the plugin."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Run the conformance suite on a plugin, and say in sentences what is wrong with it.

    Exit code 0 where it conforms, 1 where it does not.
    """
    from rich.console import Console

    from leakbench.conformance.suite import check_plugin
    from leakbench.experiments.overrides import parameters_from

    parameters = parameters_from(settings or [])
    with Console(stderr=True).status(f"checking {name}") as status:
        found = check_plugin(name, kind and kind.value, parameters, data_root, status.update)
    typer.echo(found.text())
    if found.findings:
        raise typer.Exit(1)


def new_plugin(
    kind: PluginKind,
    name: str,
    outside: Annotated[
        Path | None,
        typer.Option(
            "--outside", metavar="DIR", help="Write a package of its own, with an entry point."
        ),
    ] = None,
) -> None:
    """Write a small plugin that works and conforms, to be changed into yours."""
    from leakbench.conformance.scaffold.new_plugin import new_plugin as write_plugin

    typer.echo(write_plugin(kind.value, name, outside).text())
