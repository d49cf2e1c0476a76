"""The work of `leakbench figure`: drawing figures from records, or from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from leakbench.base.devices import check_precision, chosen_device, compute_reproducibly
from leakbench.base.errors import UsageError
from leakbench.evaluation.loading import check_available
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import load_suite
from leakbench.metrics.formatting import percent
from leakbench.records.folder import read_records
from leakbench.records.measured import Measured
from leakbench.records.store import Store, no_record, warn_of
from leakbench.reports.figures import ablation, batches, budget, defense, edges, phase, tradeoff
from leakbench.reports.figures.canvas import save
from leakbench.reports.figures.same_settings import attacks_of_others
from leakbench.reports.site.view import slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RecordedFigure:
    """A kind of figure that is drawn from records alone.

    Attributes:
        figures: returns name → figure, None where its records are missing; empty if nothing fits.
        needs: what a suite must have for it.
        example: of what to add to a suite.
        with_others: whether it also draws attacks that other suites measured in the same settings,
            so that the strongest of all is in it.
    """

    figures: Callable[[Sequence[Measured]], Mapping[str, Figure | None]]
    needs: str
    example: str
    with_others: bool = False


RECORDED: Mapping[str, RecordedFigure] = {
    "batches": RecordedFigure(batches.figures, batches.NEEDS, batches.EXAMPLE),
    "budget": RecordedFigure(budget.figures, budget.NEEDS, budget.EXAMPLE),
    "defense": RecordedFigure(defense.figures, defense.NEEDS, defense.EXAMPLE, True),
    "tradeoff": RecordedFigure(tradeoff.figures, tradeoff.NEEDS, tradeoff.EXAMPLE, True),
    "phase": RecordedFigure(phase.figures, phase.NEEDS, phase.EXAMPLE),
    "edges": RecordedFigure(edges.figures, edges.NEEDS, edges.EXAMPLE),
    "ablation": RecordedFigure(ablation.figures, ablation.NEEDS, ablation.EXAMPLE),
}


DEFAULT_FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Style:
    """How figures are written.

    Attributes:
        formats: endings of the files.
        title: whether they have a title.
    """

    formats: Sequence[str] = DEFAULT_FORMATS
    title: bool = True

    def write(self, figure: Figure, stem: Path) -> list[Path]:
        """Write a figure in each format; return the files."""
        if not self.title and figure.get_suptitle():
            figure.suptitle("")
        return save(figure, stem, self.formats)


def draw_recorded(
    kind: str,
    suite_name: str,
    changes: Sequence[str],
    only: Sequence[str],
    group: str | None,
    style: Style,
    out: Path,
) -> list[Path]:
    """Draw one of `RECORDED` from the records that exist; return the files written.

    Args:
        group: part of the titles of the groups that are drawn, which the files' names then have.

    Raises:
        UsageError: there are no records, or the suite has nothing for such a figure.
    """
    name, suite = load_suite(suite_name)
    store = Store(out / "records")
    chosen = expand(name, override(suite, changes), only)
    if group is not None:
        chosen = _of_group(chosen, name, group)
    recorded = RECORDED[kind]
    warn_of(store.unusable(entry.key for entry in chosen))
    cells = [Measured(entry, store.read(entry.key)) for entry in chosen]
    if recorded.with_others and any(m.record for m in cells):
        cells += attacks_of_others(cells, read_records(out).records.values())
    figures = recorded.figures(cells)
    if not figures:
        raise UsageError(
            f"suite {name!r} has no {recorded.needs} to draw, or --only leaves none; add one, with "
            f"{recorded.example}"
        )
    if not any(figures.values()):
        raise no_record(store, name, suite_name)
    written = []
    for suffix, figure in figures.items():
        if figure is not None:
            stem = f"{name}-{suffix}" if group is None else f"{name}-{suffix}-{slug(group)}"
            written += style.write(figure, out / "figures" / stem)
    return written


def _of_group(entries: Sequence[SuiteEntry], suite: str, group: str) -> list[SuiteEntry]:
    """Return the entries of the groups whose titles contain a text, in upper or lower case."""
    found = [entry for entry in entries if group.casefold() in entry.group.casefold()]
    if not found:
        titles = "', '".join(dict.fromkeys(entry.group for entry in entries))
        raise UsageError(
            f"no group of suite {suite!r} has {group!r} in its title; --group takes a part of one "
            f"of '{titles}'"
        )
    return found


def draw_reconstructions(
    suite_name: str,
    changes: Sequence[str],
    only: Sequence[str],
    data_root: Path | None,
    device: str,
    out: Path,
) -> list[Path]:
    """Run the attacks on the first victim batch of each size and draw it; return the file written.

    Raises:
        UsageError: the suite or a setting is invalid, the data are missing, or real individuals
            would be drawn into a work tree.
    """
    from leakbench.reports.reconstructions import (
        chosen_cells,
        reconstruct,
        reconstruction_figure,
        refuse_real_individuals,
    )

    name, suite = load_suite(suite_name)
    cells = chosen_cells(expand(name, override(suite, changes), only))
    refuse_real_individuals(cells[0].cell, out / "figures")
    setup = cells[0].cell.setup
    check_available(setup, data_root)
    where = chosen_device(device)
    check_precision(cells[0].cell.precision, where)
    compute_reproducibly()
    true, blocks = reconstruct(cells, prepare(setup, data_root, where, _say), _say)
    figure = reconstruction_figure(suite.title, cells[0], true, blocks)
    # Every pixel is a square of whole dots, which only PNG keeps.
    return save(figure, out / "figures" / f"{name}-reconstructions", formats=["png"], exact=True)


def draw_features(
    suite_name: str,
    changes: Sequence[str],
    only: Sequence[str],
    data_root: Path | None,
    device: str,
    style: Style,
    out: Path,
) -> list[Path]:
    """Draw deep features of the suite's first setup before and after training; return the files.

    They show points and no images, so that any data set may be drawn into any folder.

    Raises:
        UsageError: the suite or a setting is invalid, or the data are missing.
    """
    from leakbench.reports.figures.features import embedded, feature_figure, rounds_drawn

    name, suite = load_suite(suite_name)
    cell = expand(name, override(suite, changes), only)[0].cell
    rounds = rounds_drawn(cell)
    check_available(cell.setup, data_root)
    where = chosen_device(device)
    compute_reproducibly()
    found = []
    for number in rounds:
        setup = cell.setup.model_copy(update={"rounds": number})
        context = prepare(setup, data_root, where, _say)
        _say(f"embedding the features of round {number}")
        found.append(embedded(context))
        for of_property, estimate in found[-1].oracle.items():
            print(f"round {number}, {of_property}: f_p {percent(estimate)} % balanced accuracy")
    return style.write(feature_figure(cell, found), out / "figures" / f"{name}-features")


def _say(what: str) -> None:
    console = Console(stderr=True)
    console.print(f"{what} …", highlight=False, soft_wrap=True, markup=False)
