"""Commands about plugins, data sets and suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from leakbench.cli.loading import loading
from leakbench.cli.options import DataRootOption

Kind = Literal["attacks", "baselines", "datasets", "defenses", "models", "suites"]
"""What can be listed."""

PluginKind = Literal["attack", "dataset", "defense", "model"]
"""What can be written and checked."""

Pattern = Annotated[str, typer.Argument(metavar="[GLOB]")]


def list_plugins(
    kind: Annotated[Kind | None, typer.Argument(help="What to describe; else all names.")] = None,
    pattern: Pattern = "*",
    data_root: DataRootOption = None,
) -> None:
    """List attacks (baselines included), baselines, data sets, defenses, models or suites."""
    with loading():
        from leakbench.base.documents import plain, print_document
        from leakbench.experiments.plugin_catalogue import listing, overview

        found = listing(kind, pattern, data_root) if kind else overview()
    print_document(found, plain)


def list_datasets(pattern: Pattern = "*", data_root: DataRootOption = None) -> None:
    """List data sets: properties, size, terms, and whether each is found; like `list datasets`."""
    list_plugins("datasets", pattern, data_root)


def check_dataset(
    name: str,
    data_root: DataRootOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="dataset.PARAMETER=VALUE", help="Change a parameter, as for `run`."
        ),
    ] = None,
) -> None:
    """Read a data set, decode every image, and report what was found and what is missing."""
    with loading():
        from leakbench.conformance.dataset_check import checked

    typer.echo(checked(name, settings or [], data_root))


def show(name: str) -> None:
    """Show a plugin or suite: reference, parameters with defaults, knowledge needed."""
    with loading():
        from leakbench.base.documents import plain, print_document
        from leakbench.experiments.plugin_catalogue import description

        found = description(name)
    print_document(found, plain)


def check(
    name: Annotated[str, typer.Argument(help="Name of an attack, data set, defense or model.")],
    kind: Annotated[
        PluginKind | None,
        typer.Option("--kind", help="Kind of plugin, if several kinds have this name."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAMETER=VALUE", help="Change a parameter of the plugin."),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Run the conformance suite on a plugin and report each rule that it breaks.

    Exit code 0 if it conforms, 1 if it does not.
    """
    with loading():
        from rich.console import Console

        from leakbench.conformance.suite import check_plugin
        from leakbench.experiments.overrides import parameters_from

    parameters = parameters_from(settings or [])
    with Console(stderr=True).status(f"checking {name}") as status:
        found = check_plugin(name, kind, parameters, data_root, status.update)
    typer.echo(found.text())
    if found.findings:
        raise typer.Exit(1)


def new_plugin(
    kind: PluginKind,
    name: str,
    outside: Annotated[
        Path | None,
        typer.Option(
            "--outside", metavar="DIR", help="Write a separate package with an entry point."
        ),
    ] = None,
) -> None:
    """Write a small working plugin that conforms, as a start for your own."""
    with loading():
        from leakbench.conformance.scaffold.new_plugin import new_plugin as write_plugin

    typer.echo(write_plugin(kind, name, outside).text())
