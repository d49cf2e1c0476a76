"""The command line. Heavy modules are imported by the commands that need them, not here."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from leakbench.base.errors import UsageError
from leakbench.cli import auditing, plugins, publishing, sweeps

app = typer.Typer(
    name="leakbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Measure what a federated-learning server infers about each individual.\n\n"
        "To begin, type `leakbench run quick`. A suite is a list of cells; a cell is one "
        "measurement of an attack in one setting, and leaves a record."
    ),
)

datasets_app = typer.Typer(no_args_is_help=True, help="List and check data sets.")
app.add_typer(datasets_app, name="datasets")


app.command("list")(plugins.list_plugins)
datasets_app.command("list")(plugins.list_datasets)
datasets_app.command("check")(plugins.check_dataset)
app.command()(plugins.show)
app.command("new")(plugins.new_plugin)
app.command()(plugins.check)
app.command()(sweeps.plan)
app.command()(sweeps.run)
app.command()(sweeps.report)
app.command()(sweeps.merge)
app.command()(sweeps.verify)
app.command()(sweeps.results)
app.command()(publishing.figure)
app.command()(publishing.publish)
app.command()(auditing.audit)


def _print_version(wanted: bool) -> None:
    if wanted:
        # Here, since reading the metadata of packages takes longer than the help does.
        from importlib.metadata import version

        typer.echo(f"leakbench {version('leakbench')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with every error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Declare the options that come before a command; `main` and the callbacks act on them."""


def _one_line_warnings(show: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that prints leakbench's own warnings as one line each."""

    def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.startswith("leakbench."):
            typer.echo(f"warning: {message}", err=True)
        else:
            show(message, category, *where, **more)

    return shown


def main() -> None:
    """Run the command line; errors that the user can correct are one sentence and exit code 2."""
    debug = "--debug" in sys.argv[1:]
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line_warnings(warnings.showwarning)
            app()
    except UsageError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"leakbench: {error}", err=True)
        sys.exit(2)
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        # Of the machine or of an input, not of the program: no file descriptor is left, a name is
        # too long, a link leads to itself, memory is limited.
        sentence = _of_the_machine(error)
        if debug or sentence is None:
            raise
        typer.echo(f"leakbench: {sentence}", err=True)
        sys.exit(2)


def _of_the_machine(error: OSError | MemoryError | RuntimeError | ImportError) -> str | None:
    """Return a sentence for an error that no command has expected; None for an error of its own."""
    if isinstance(error, ImportError):
        # Of the dynamic linker's, where a library does not fit into the address space.
        too_little = "failed to map segment" in str(error)
        return "memory is too little to load PyTorch; raise the limit" if too_little else None
    from leakbench.base.memory import is_out_of_memory

    where = "run again with --debug to see where"
    if is_out_of_memory(error):
        return "memory ran out; lower image_size, batch_size or --workers, or raise the limit"
    if isinstance(error, RecursionError):
        return f"a file or setting is nested too deeply; {where}"
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error or type(error).__name__}; {where}"
    # What Path.resolve raises before Python 3.13.
    return f"{error}; name another path" if str(error).startswith("Symlink loop") else None
