"""Deep features of individuals before and after training, in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from leakbench.base.errors import UsageError
from leakbench.base.seeds import seed_for
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.experiments.cell import Cell
from leakbench.experiments.descriptions import dataset_name
from leakbench.metrics.classification import balanced_accuracy
from leakbench.metrics.estimates import Bootstrap, Estimate, groups_of
from leakbench.metrics.formatting import percent
from leakbench.metrics.scored import BinaryScores
from leakbench.reports.figures.canvas import COLOURS, LABEL, TITLE, blank_figure, legend_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDIVIDUALS = 1_000
"""At most, as in Fig. 2 of Yang et al. 2022."""

PERPLEXITY = 30


@dataclass(frozen=True)
class Embedded:
    """Victims' deep features in one round.

    Attributes:
        rounds: of training before it.
        positions: t-SNE of the features, shape (n, 2).
        properties: property → presence, shape (n,) each.
        oracle: property → balanced accuracy of f_p on these features.
    """

    rounds: int
    positions: NDArray[np.float32]
    properties: Mapping[str, NDArray[np.bool_]]
    oracle: Mapping[str, Estimate]


def rounds_drawn(cell: Cell) -> tuple[int, int]:
    """Return the first and the last round.

    Raises:
        UsageError: they are the same.
    """
    if cell.rounds == 0:
        raise UsageError(
            "features are drawn before and after training, and the suite trains for 0 rounds; "
            "pass --set rounds=1000"
        )
    return 0, cell.rounds


def embedded(context: EvaluationContext) -> Embedded:
    """Return the features of victims, on which neither f_p nor the shared model was trained.

    Raises:
        UsageError: there are too few of them.
    """
    count = min(INDIVIDUALS, len(context.split.victims))
    if count <= PERPLEXITY:
        raise UsageError(
            f"t-SNE needs more than {PERPLEXITY} victims, and there are {count}; raise "
            f"`victim_share`"
        )
    (truth,) = victim_batches(context, count, count)
    assert context.server.feature_space is not None
    scores = context.server.feature_space.property_model(truth.features)
    seed = context.setup.seed
    tsne = TSNE(perplexity=PERPLEXITY, random_state=seed_for("t-SNE", seed) % 2**32)
    present = {name: of.numpy() for name, of in truth.properties.items()}

    groupings = [np.arange(count), groups_of(truth.identities.numpy())]
    bootstrap = Bootstrap(groupings, seed_for("bootstrap", seed) % 2**32)

    def oracle(name: str) -> Estimate:
        of_property = scores[name].cpu().double().numpy()[None]
        return BinaryScores(of_property, present[name], bootstrap).estimate(balanced_accuracy)

    return Embedded(
        rounds=context.setup.rounds,
        positions=tsne.fit_transform(truth.features.cpu().numpy()),
        properties=present,
        oracle={name: oracle(name) for name in present},
    )


def feature_figure(cell: Cell, rounds: Sequence[Embedded]) -> Figure:
    """Return a row of panels per round, a panel per property, and a point per individual."""
    names = list(rounds[0].properties)
    width = max(2.3 * len(names) + 0.4, 5.0)
    figure = blank_figure(width, 2.4 * len(rounds) + 1.3)
    axes = figure.subplots(len(rounds), len(names), squeeze=False)
    for row, of_round in zip(axes, rounds, strict=True):
        row[0].set_ylabel(f"round {of_round.rounds}", fontsize=LABEL)
        for ax, name in zip(row, names, strict=True):
            present = of_round.properties[name]
            ax.set_xticks([])
            ax.set_yticks([])
            title = f"{name}: {percent(of_round.oracle[name])}"
            ax.set_title(title, fontsize=LABEL - 1, parse_math=False)
            for has, colour, marker, label in (
                (False, COLOURS[0], "o", "without the property"),
                (True, COLOURS[1], "^", "with it"),
            ):
                of = of_round.positions[present == has]
                ax.scatter(
                    *of.T, s=7, c=colour, marker=marker, alpha=0.65, linewidths=0, label=label
                )
    count = len(rounds[0].positions)
    below = (
        f"{dataset_name(cell)}, {cell.model}, main task {cell.main_task}; above each panel: "
        "balanced accuracy of f_p on these features, %"
    )
    title = f"t-SNE of {count} victims' deep features\n{fill(below, int(12 * width))}"
    figure.suptitle(title, fontsize=TITLE, parse_math=False)
    legend_below(figure, ["without the property", "with it"], width)
    return figure
