"""Reconstructions of the first victim batch, drawn beside the true images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import DataSet
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import (
    infer,
    standardisation_of,
    victim_batches,
)
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.image_metrics import psnr
from leakbench.metrics.matching import match_individuals
from leakbench.metrics.standardisation import Standardisation
from leakbench.records.measured import Measured
from leakbench.reports.figures.canvas import DPI
from leakbench.reports.rows import leading_values
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import GroundTruth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDIVIDUALS_A_ROW = 8

MIN_TILE, GAP, MARGIN, MIN_WIDTH = 90, 5, 85, 560
"""In dots: an image's least side, the gap between images, the left margin, the least width."""

TITLE, TEXT, MARK = 11, 8, 5.5
"""Points."""


@dataclass(frozen=True)
class Row:
    """An attack's reconstructions of the first individuals of a victim batch.

    Attributes:
        images: in the individuals' order, shape (≤ 8, 3, size, size).
        marks: what is written below each image; empty for none.
    """

    images: Tensor
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class Block:
    """An attack's reconstructions of the first individuals of the first victim batch.

    Attributes:
        title: its heading.
        rows: batch size → its images.
    """

    title: str
    rows: Mapping[int, Row]


def chosen_cells(cells: Sequence[SuiteEntry]) -> list[SuiteEntry]:
    """Return the cells of the first `table2` group in its first setting, at all batch sizes.

    How many individuals, trainings and attack seeds are measured is no matter: the first batch of
    the first ones is drawn.

    Raises:
        UsageError: there is no such group.
    """
    fitting = [entry for entry in cells if entry.layout == "table2"]
    if not fitting:
        raise UsageError(
            'reconstructions are drawn of a group with layout = "table2", and there is none; add '
            "one to the suite, or leave out --only"
        )
    amounts = {"individuals", "trainings", "attack_seeds"}
    free = {"attack", "attack_parameters", "grant", "batch_size", *amounts}

    def setting(entry: SuiteEntry) -> object:
        return entry.group, entry.swept, entry.cell.model_dump(exclude=free)

    chosen: dict[tuple[str, int], SuiteEntry] = {}
    for entry in fitting:
        if setting(entry) == setting(fitting[0]):
            chosen.setdefault((entry.column, entry.cell.batch_size), entry)
    return list(chosen.values())


def refuse_real_individuals(cell: Cell, folder: Path) -> None:
    """Refuse to draw a data set that is not embedded into a folder that may be published.

    Raises:
        UsageError: the folder lies in the checkout, or in any git work tree.
    """
    dataset: type[DataSet] = DATASETS.get(cell.dataset)
    checkout, place = Path(__file__).resolve().parents[3], folder.resolve()
    for parent in (place, *place.parents):
        if dataset.folder is not None and (parent == checkout or (parent / ".git").exists()):
            raise UsageError(
                f"data set {cell.dataset!r} shows real individuals, who are not drawn into "
                f"{folder} inside the work tree {parent}; pass --out with a folder outside of it"
            )


def reconstruct(
    cells: Sequence[SuiteEntry], context: EvaluationContext, on_status: Callable[[str], None]
) -> tuple[Tensor, list[Block]]:
    """Run the attacks among the cells on the first victim batch of each batch size.

    Args:
        on_status: called with a short description of each long step.

    Returns:
        True images of the first individuals, shape (≤ 8, 3, size, size), and a block for each
        attack that reconstructs images.

    Raises:
        UsageError: none does, or there are too few victims.
    """
    standardise = standardisation_of(context)
    rows: dict[str, dict[int, Row]] = {}
    spent: dict[str, list[int]] = {}
    for entry in cells:
        cell = entry.cell
        if entry.resolved.attack.control:
            continue
        on_status(f"{entry.column}, B = {cell.batch_size}")
        together = entry.resolved.individuals_in_update
        truth = victim_batches(context, together, together)[0]
        exchange = Exchange.of(entry.resolved)
        (result,) = infer(entry.resolved.attack, [truth], exchange, context, lambda _: None).results
        if result.images is not None:
            row = _in_order(result, truth, standardise)
            rows.setdefault(entry.column, {})[cell.batch_size] = row
            spent.setdefault(entry.column, []).append(result.steps)
    if not rows:
        raise UsageError(
            "none of the chosen attacks reconstructs images; choose others with --only attack=NAME"
        )
    largest = max(size for of_column in rows.values() for size in of_column)
    true = victim_batches(context, largest, largest)[0].images[:INDIVIDUALS_A_ROW]
    blocks = []
    for column, of_column in rows.items():
        steps = " or ".join(map(str, dict.fromkeys(spent[column])))
        blocks.append(Block(f"{column}, {steps} gradient evaluations per batch", of_column))
    return true, blocks


def _in_order(result: AttackResult, truth: GroundTruth, standardise: Standardisation) -> Row:
    """Return the first images in the order of the individuals they are matched to, with marks.

    A mark is an image's PSNR and, where the attack reconstructs features, their standardised cosine
    with the individual's: the metrics of tables, of one image.
    """
    assert result.images is not None
    images, cosines = result.images.detach().cpu(), None
    if result.features is not None:
        order, cosines = match_individuals(
            standardise(result.features), standardise(truth.features)
        )
        images = images[order]
    first, true = images[:INDIVIDUALS_A_ROW], truth.images[:INDIVIDUALS_A_ROW].detach().cpu()
    marks = [f"{each:.1f} dB" for each in psnr(first.clamp(0, 1), true).tolist()]
    if cosines is not None:
        of_first = cosines[: len(marks)].tolist()
        marks = [f"{mark}, {each:.2f}" for mark, each in zip(marks, of_first, strict=True)]
    return Row(first, marks)


def reconstruction_figure(
    title: str, entry: SuiteEntry, true: Tensor, blocks: Sequence[Block]
) -> Figure:
    """Return the true images and, below, each attack's reconstructions at each batch size.

    An individual has one column. Each pixel of an image is a square of whole dots.

    Args:
        title: of the suite.
        entry: any of the cells drawn, for the settings that they share.
        true: shape (n, 3, size, size).
    """
    sheet = _Sheet(len(true), true.shape[-1])
    sheet.heading(title, _settings(entry))
    for block in (Block("True images", {0: Row(true)}), *blocks):
        sheet.block(block)
    return sheet.figure()


def _settings(entry: SuiteEntry) -> str:
    cell = entry.cell
    dataset, task = leading_values(
        Measured(entry, None), cell.properties[0], ("data set", "main task")
    )
    return (
        f"first victim batch; {dataset}, main task {task}, {cell.model} after {cell.rounds} "
        f"rounds, defense {cell.defense}; below an image its PSNR, and the cosine of its deep "
        f"feature with the individual's"
    )


class _Sheet:
    """A figure that is laid out in dots from the top; its height is known only at the end."""

    def __init__(self, individuals: int, size: int) -> None:
        self._dots = ceil(MIN_TILE / size)
        self._tile = self._dots * size
        self._width = max(MARGIN + individuals * (self._tile + GAP), MIN_WIDTH) + GAP
        self._height = 2 * GAP
        self._texts: list[tuple[float, float, str, dict[str, Any]]] = []
        self._images: list[tuple[int, int, Tensor]] = []

    def heading(self, title: str, settings: str) -> None:
        for line in self._wrapped(title, TITLE):
            self._text(2 * GAP, line, TITLE, fontweight="bold")
        for line in self._wrapped(settings, TEXT):
            self._text(2 * GAP, line, TEXT)

    def block(self, block: Block) -> None:
        self._height += 3 * GAP
        for line in self._wrapped(block.title, TEXT, MARGIN):
            self._text(MARGIN, line, TEXT, fontweight="bold")
        for batch_size, row in block.rows.items():
            if batch_size:
                middle = self._height + self._tile / 2
                label: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": TEXT}
                self._texts.append((MARGIN - 2 * GAP, middle, f"B = {batch_size}", label))
            for i, image in enumerate(row.images):
                self._images.append((MARGIN + i * (self._tile + GAP), self._height, image))
            self._height += self._tile + GAP
            below: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": MARK}
            for i, mark in enumerate(row.marks):
                middle = MARGIN + i * (self._tile + GAP) + self._tile / 2
                self._texts.append((middle, self._height, mark, below))
            self._height += round(1.8 * MARK * DPI / 72) if row.marks else 0

    def figure(self) -> Figure:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        height = self._height + GAP
        figure = Figure(figsize=(self._width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        for x, y, text, style in self._texts:
            figure.text(x, height - y, text, transform=None, parse_math=False, **style)
        for left, top, image in self._images:
            pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
            enlarged = np.kron(pixels.numpy(), np.ones((self._dots, self._dots, 1), np.uint8))
            figure.figimage(enlarged, left, height - top - self._tile)
        return figure

    def _text(self, left: int, text: str, points: int, **style: Any) -> None:
        self._texts.append((left, self._height, text, {"va": "top", "fontsize": points, **style}))
        self._height += round(1.6 * points * DPI / 72)

    def _wrapped(self, text: str, points: int, left: int = 0) -> list[str]:
        """Return lines that fit: a letter is about 0.65 of the font's size wide."""
        return wrap(text, int((self._width - left) / (0.65 * points * DPI / 72)))
