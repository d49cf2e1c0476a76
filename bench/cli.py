"""The command line. Heavy modules are imported by the commands that need them, not here."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import UsageError

app = typer.Typer(
    name="leakbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure what a federated-learning server learns about each individual.",
)

datasets_app = typer.Typer(no_args_is_help=True, help="Look at data sets.")
app.add_typer(datasets_app, name="datasets")


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


class Rule(StrEnum):
    """How a record is compared with its measurement anew."""

    AUTO = "auto"
    EQUAL = "equal"
    INTERVAL = "interval"


class FigureKind(StrEnum):
    """What can be drawn."""

    BUDGET = "budget"
    DEFENSE = "defense"
    TRADEOFF = "tradeoff"
    PHASE = "phase"
    ABLATION = "ablation"
    FEATURES = "features"
    RECONSTRUCTIONS = "reconstructions"


class Device(StrEnum):
    """Where tensors are computed."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Compile(StrEnum):
    """Whether attacks compile their steps."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class UpdateKind(StrEnum):
    """What the tensors of a captured update are."""

    GRADIENT = "gradient"
    DIFFERENCE = "difference"
    WEIGHTS = "weights"


class Mode(StrEnum):
    """How clients run the model."""

    EVAL = "eval"
    TRAIN = "train"


class Executor(StrEnum):
    """Who measures cells."""

    LOCAL = "local"
    RAY = "ray"


class Redo(StrEnum):
    """Which cells that have a record are measured again."""

    NEVER = "never"
    FAILED = "failed"
    STALE = "stale"
    ALL = "all"


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: a cell field (several values, separated by commas, are swept), "
        "attack.PARAMETER (likewise), attack.COLUMN.PARAMETER, attack.COLUMN.preset, "
        "dataset.PARAMETER, model.PARAMETER, defense.PARAMETER.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="FIELD=VALUE[,…]", help="Take only these cells; globs work."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of records and reports.")]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="LEAKBENCH_DATA_ROOT",
        help="Folder in which each data set lies in its official folder.",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes; default one a core or GPU.")
]
LpipsOption = Annotated[
    str | None,
    typer.Option(
        "--lpips-weights",
        metavar="PATH|download",
        envvar="LEAKBENCH_LPIPS",
        help="AlexNet's weights for LPIPS: a .pth or .safetensors file, a folder that holds "
        "one, or `download` (240 MB); default torch hub's cache. Cells whose images have no "
        "LPIPS yet are measured again.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Measure part I of N, from 1/N to N/N: for a cluster's array of jobs. Give each "
        "an --out of its own, or all the same; `leakbench merge` unites them.",
    ),
]
RedoOption = Annotated[
    Redo,
    typer.Option(
        "--redo",
        help="Which cells that have a record are measured again: none; those that failed; also "
        "those whose data set, or the attack's version, moved on; or all.",
    ),
]
Pattern = Annotated[str, typer.Argument(metavar="[GLOB]")]
DEFAULT_OUT = Path("results/runs")


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with every error.")
    ] = False,
) -> None:
    """Take the options of all commands."""


@app.command("list")
def list_plugins(
    kind: Kind,
    pattern: Pattern = "*",
    data_root: DataRootOption = None,
) -> None:
    """List attacks (baselines included), baselines, data sets, defenses, models or suites."""
    from bench.catalogue import listing

    typer.echo(listing(kind.value, pattern, data_root))


@datasets_app.command("list")
def list_datasets(pattern: Pattern = "*", data_root: DataRootOption = None) -> None:
    """List data sets: properties, size, terms, and whether each is found; as `list datasets`."""
    list_plugins(Kind.DATASETS, pattern, data_root)


@datasets_app.command("check")
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
    from bench.dataset_check import checked

    typer.echo(checked(name, settings or [], data_root))


@app.command()
def show(name: str) -> None:
    """Show a plugin or suite: reference, parameters with defaults, knowledge needed."""
    from bench.catalogue import description

    typer.echo(description(name))


@app.command()
def plan(
    suite: Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")],
    data_root: DataRootOption = None,
    device: Annotated[Device, typer.Option("--device")] = Device.AUTO,
    workers: WorkersOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
    lpips_weights: LpipsOption = None,
    shard: ShardOption = None,
    redo: RedoOption = Redo.STALE,
) -> None:
    """Say what `run` would measure with these options, and about how long it would take.

    Data sets are read, and kept decoded for the run, to tell what is in the cache.
    """
    from bench.session import RunOptions, plan_suite

    options = RunOptions(
        data_root=data_root,
        device=device.value,
        workers=workers,
        out=out,
        lpips_weights=lpips_weights,
        shard=shard,
        redo=redo.value,
    )
    typer.echo(plan_suite(suite, settings or [], only or [], options))


@app.command()
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

    from bench.conformance.suite import check_plugin
    from bench.override import parameters_from

    parameters = parameters_from(settings or [])
    with Console(stderr=True).status(f"checking {name}") as status:
        found = check_plugin(name, kind and kind.value, parameters, data_root, status.update)
    typer.echo(found.text())
    if found.findings:
        raise typer.Exit(1)


@app.command("new")
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
    from bench.scaffold.new import new_plugin as write_plugin

    typer.echo(write_plugin(kind.value, name, outside).text())


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")],
    data_root: DataRootOption = None,
    device: Annotated[Device, typer.Option("--device")] = Device.AUTO,
    workers: WorkersOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
    lpips_weights: LpipsOption = None,
    compiling: Annotated[
        Compile,
        typer.Option(
            "--compile",
            help="Compile the steps of attacks; `auto` where it takes less time than it saves. "
            "Needs a C++ compiler, and Triton on a GPU; what is compiled is kept in the cache.",
        ),
    ] = Compile.AUTO,
    shard: ShardOption = None,
    redo: RedoOption = Redo.STALE,
    executor: Annotated[
        Executor,
        typer.Option("--executor", help="Processes of this machine, or tasks of a Ray cluster."),
    ] = Executor.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Of the Ray cluster; default $RAY_ADDRESS, or one of this machine alone.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit", metavar="MINUTES", help="That a cell may take before it fails."
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            "--retries",
            min=0,
            help="How often a cell is tried again whose worker died, or lacked memory or disk.",
        ),
    ] = 2,
) -> None:
    """Measure a suite's cells, those with a record excepted, and print its tables."""
    from bench.session import RunOptions, run_suite

    options = RunOptions(
        data_root=data_root,
        device=device.value,
        workers=workers,
        out=out,
        lpips_weights=lpips_weights,
        compiling=compiling.value,
        shard=shard,
        redo=redo.value,
        executor=executor.value,
        address=address,
        time_limit=time_limit,
        retries=retries,
    )
    try:
        code = run_suite(suite, settings or [], only or [], options)
    except KeyboardInterrupt:
        typer.echo("leakbench: interrupted; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)


@app.command()
def report(
    suite: Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")],
    settings: SetOption = None,
    only: OnlyOption = None,
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Print a suite's tables from the records that exist."""
    from bench.session import report_suite

    report_suite(suite, settings or [], only or [], out)


@app.command()
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders that runs had as --out.")
    ],
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Unite the records of several runs; refuse, and name, those that contradict each other."""
    from bench.merge import merge as unite

    done = unite(folders, out)
    for path in done.unreadable:
        typer.echo(f"left where it is, for it holds no record: {path}", err=True)
    again = f" {done.verified} of them were measured again." if done.verified else ""
    typer.echo(f"{done.taken} records came to {done.had} that {out} had.{again}")


@app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that a run had as --out.")
    ],
    data_root: DataRootOption = None,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="How many records to measure again.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", help="By which they are drawn.")] = 0,
    device: Annotated[
        Device, typer.Option("--device", help="`auto` is the record's own where it is here.")
    ] = Device.AUTO,
    rule: Annotated[
        Rule,
        typer.Option(
            "--rule",
            help="How a record is compared: `equal` up to rounding, or new values inside its "
            "`interval`; `auto` is `equal` where device and versions are the record's.",
        ),
    ] = Rule.AUTO,
    keep: Annotated[
        bool, typer.Option("--keep", help="Believe a verified.json that is there, and add to it.")
    ] = False,
) -> None:
    """Check somebody's records, measure a sample of them again, and write verified.json.

    Exit code 0 where nothing is wrong, 1 where something is.
    """
    from bench.verification.verify import verify as check_records

    found = check_records(folder, data_root, sample, seed, device.value, rule.value, keep)
    typer.echo(found.text())
    if found.wrong:
        raise typer.Exit(1)


@app.command()
def results(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .parquet file.")],
    out: OutOption = DEFAULT_OUT,
) -> None:
    """Write the records of a run as a table of numbers, one row a cell and property.

    In Python, `bench.results.results(folder)` is the same as a pandas DataFrame.
    """
    from bench.results import write_results

    typer.echo(f"{write_results(out, path)} rows are in {path}.")


@app.command()
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
    from bench.publish import publish as write

    done = write(out, site, suites or [], reconstructions)
    for sentence in done.left_out:
        typer.echo(sentence, err=True)
    typer.echo(f"The leaderboard is in {done.leaderboard}, the site in {done.site}.")


@app.command()
def figure(
    kind: FigureKind,
    suite: Annotated[str, typer.Argument(help="A suite's name, or a TOML file.")],
    data_root: DataRootOption = None,
    device: Annotated[Device, typer.Option("--device")] = Device.AUTO,
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
    from bench.figure_session import draw_features, draw_reconstructions, draw_recorded

    changes, chosen = settings or [], only or []
    if kind is FigureKind.RECONSTRUCTIONS:
        written = draw_reconstructions(suite, changes, chosen, data_root, device.value, out)
    elif kind is FigureKind.FEATURES:
        written = draw_features(suite, changes, chosen, data_root, device.value, out)
    else:
        written = draw_recorded(kind.value, suite, changes, chosen, out)
    for path in written:
        typer.echo(f"The figure is in {path}.")


@app.command()
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
    device: Annotated[Device, typer.Option("--device")] = Device.AUTO,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder of audit.html and audit.json.")] = Path(
        "audit"
    ),
) -> None:
    """Attack the updates of your own model, and report what a server learns from them."""
    from bench.auditing.command import audit_from_files

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


def main() -> None:
    """Run the command line; errors that the user can mend are one sentence and exit code 2."""
    debug = "--debug" in sys.argv[1:]
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        _refuse_shadows()
        app()
    except UsageError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"leakbench: {error}", err=True)
        sys.exit(2)


def _refuse_shadows() -> None:
    """Stop where another package has taken the name of one of ours."""
    ours = Path(__file__).resolve().parent.parent
    for name in ("attacks", "baselines", "datasets"):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if found != ours:
            raise UsageError(
                f"the package {name!r} is not leakbench's but {found or 'missing'}; install "
                f"leakbench into an environment of its own, as the README shows"
            )
