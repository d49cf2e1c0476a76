"""Scoring: an attack's answers against the ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from leakbench.base.seeds import seed_for
from leakbench.data.split import task_attributes
from leakbench.evaluation.matched import Matched, in_order
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.evaluation.swapped import swapped_answers
from leakbench.metrics.catalogue import CELL_METRICS, PROPERTY_METRICS
from leakbench.metrics.estimates import Bootstrap, Groups, batches_of, groups_of
from leakbench.metrics.image_metrics import lpips, lpips_network, psnr, ssim
from leakbench.metrics.scored import BinaryScores, ScoredCell, ScoredProperty
from leakbench.metrics.spec import MetricSpec, Value
from leakbench.metrics.standardisation import Standardisation
from leakbench.records.record import DefenseMetrics, Metrics
from leakbench.threat.attack import AttackResult
from leakbench.threat.candidates import Candidates
from leakbench.threat.observation import GroundTruth


@dataclass(frozen=True)
class ScoringSetup:
    """What scoring has to know besides ground truth and answers.

    Attributes:
        properties: to score.
        implied: those among them that the main task's label implies by definition.
        classes: number K of main-task classes.
        main_task: the shared model's accuracy and what it compares with, see `EvaluationContext`;
            mean over trainings.
        seed: of the bootstrap.
    """

    properties: tuple[str, ...]
    implied: frozenset[str]
    classes: int
    main_task: Mapping[str, float]
    seed: int

    @classmethod
    def of(cls, contexts: Sequence[EvaluationContext]) -> Self:
        """Return the setup of cells that attack one or several trainings."""
        first = contexts[0]
        return cls(
            properties=first.setup.properties,
            implied=_implied_properties(first),
            classes=first.split.classes,
            main_task={
                name: float(np.mean([context.main_task[name] for context in contexts]))
                for name in first.main_task
            },
            seed=first.setup.seed,
        )


@dataclass(frozen=True)
class Run:
    """One run of an attack on all victim batches: on one training, with one seed.

    The runs of a cell have the same victims in the same order.

    Attributes:
        truths: of each batch.
        results: of each batch.
        standardise: by D_aux's features under this training.
        training: of the shared model.
        outputs: of the models that the attack deployed, for each batch; None where it deploys none.
        candidates: that it was shown, for each batch, the same in all runs; None if none.
    """

    truths: Sequence[GroundTruth]
    results: Sequence[AttackResult]
    standardise: Standardisation
    training: int = 0
    outputs: Sequence[Mapping[str, torch.Tensor]] | None = None
    candidates: Sequence[Candidates] | None = None

    @cached_property
    def matched(self) -> Matched:
        """The answers in the order of the individuals to whom they are matched."""
        return Matched.of(self.truths, self.results, self.standardise)


def score(
    runs: Sequence[Run],
    setup: ScoringSetup,
    lpips_weights: Path | None = None,
    defense: DefenseMetrics | None = None,
) -> Metrics:
    """Return the metrics of answers, with individuals matched by feature where there are features.

    Args:
        runs: at least one; each training has equally many.
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.
        defense: what the clients' defense changes and costs, if they have one.
    """
    scored = _scored(runs, setup, lpips_weights)
    properties = {
        name: {
            spec.fields[-1]: spec.bounded(spec.of_property(of))
            for spec in PROPERTY_METRICS
            if spec.of_property is not None
        }
        for name, of in scored.properties.items()
    }
    of_cell = _nested(
        (spec, spec.bounded(spec.of_cell(scored)))
        for spec in CELL_METRICS
        if spec.of_cell is not None
    )
    return Metrics.model_validate(
        {
            **of_cell,
            "properties": properties,
            "main_task": dict(setup.main_task),
            "deployed": _deployed_accuracy(runs),
            "defense": defense,
            "classes": setup.classes,
            "runs": len(runs) if len(runs) > 1 else None,
        }
    )


def _nested(values: Iterable[tuple[MetricSpec, Value]]) -> dict[str, Any]:
    """Return values nested as in a record; a part whose values are all None is None itself."""
    nested: dict[str, Any] = {}
    for spec, value in values:
        *parts, last = spec.fields
        inside = nested
        for part in parts:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return {name: None if _is_blank(part) else part for name, part in nested.items()}


def _is_blank(part: Any) -> bool:
    return isinstance(part, dict) and all(value is None for value in part.values())


def _scored(runs: Sequence[Run], setup: ScoringSetup, lpips_weights: Path | None) -> ScoredCell:
    truths = runs[0].truths
    groupings = groupings_of(truths)
    trainings = np.array([run.training for run in runs])
    seed = seed_for("bootstrap", setup.seed) % 2**32
    # Each is drawn once, for all metrics and properties.
    individuals = Bootstrap(groupings, seed, trainings)
    by_batch = Bootstrap([np.arange(len(truths))], seed, trainings)
    swaps = swapped_answers([run.matched for run in runs], truths, setup.seed)

    def scores_of(name: str) -> ScoredProperty:
        present = torch.cat([truth.properties[name] for truth in truths]).numpy()
        return ScoredProperty(
            scores=np.stack([run.matched.scores[name] for run in runs]),
            present=present,
            bootstrap=individuals,
            batches=groupings[0],
            by_batch=by_batch,
            in_main_task=name in setup.implied,
            swapped=BinaryScores(swaps.scores[name], present, individuals, repeats=swaps.swaps)
            if swaps
            else None,
        )

    return ScoredCell(
        properties={name: scores_of(name) for name in setup.properties},
        individuals=individuals,
        cosines=_stacked([run.matched.cosines for run in runs]),
        swapped_cosines=swaps.cosines if swaps else None,
        certified=_stacked([run.matched.certified for run in runs]),
        claimed=_stacked([run.matched.claimed for run in runs]),
        membership=_membership(runs, seed, trainings),
        images=_image_values(runs, lpips_weights),
        label_shares=_stacked([_label_shares(run.truths, run.results) for run in runs]),
        diverged=np.array([[result.diverged for result in run.results] for run in runs]),
    )


def _stacked(of_runs: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return the arrays of all runs as one; None where a run has none."""
    known = [each for each in of_runs if each is not None]
    return np.stack(known) if len(known) == len(of_runs) else None


def groupings_of(truths: Sequence[GroundTruth]) -> list[Groups]:
    """Return the groups within which individuals are not independent: batches, and identities.

    Identities only where one appears several times. Batches may be of different sizes.
    """
    batches = batches_of(len(truths), [len(truth) for truth in truths])
    identities = groups_of(torch.cat([truth.identities for truth in truths]).numpy())
    is_unique = len(np.unique(identities)) == len(identities)
    return [batches] if is_unique else [batches, identities]


def _membership(runs: Sequence[Run], seed: int, trainings: Groups) -> BinaryScores | None:
    """Return the candidates' scores with the ground truth; None where a batch has none."""
    candidates = runs[0].candidates
    of_runs = [[result.membership for result in run.results] for run in runs]
    if candidates is None or any(each is None for of_run in of_runs for each in of_run):
        return None
    batches = batches_of(len(candidates), len(candidates[0].members))
    identities = groups_of(torch.cat([each.identities for each in candidates]).numpy())
    return BinaryScores(
        scores=np.stack([in_order(of_run) for of_run in of_runs]),
        present=torch.cat([each.members for each in candidates]).numpy(),
        bootstrap=Bootstrap([batches, identities], seed, trainings),
    )


def _image_values(runs: Sequence[Run], lpips_weights: Path | None) -> dict[str, np.ndarray] | None:
    """Return each image metric's values, matched by feature; None where a batch has no images.

    Always on the CPU, so that a record does not depend on the device that scores it.
    """
    if any(result.images is None for run in runs for result in run.results):
        return None
    network = None if lpips_weights is None else lpips_network(lpips_weights)
    of_runs: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": [], "lpips": []}
    for run in runs:
        found: dict[str, list[torch.Tensor]] = {name: [] for name in of_runs}
        for truth, result, order in zip(run.truths, run.results, run.matched.orders, strict=True):
            assert result.images is not None
            # Attacks without projection leave the pixel range; an image file would not.
            images = result.images.detach().cpu().float()[order].clamp(0, 1)
            true = truth.images.cpu()
            found["psnr"].append(psnr(images, true))
            found["ssim"].append(ssim(images, true))
            if network is not None:
                found["lpips"].append(lpips(images, true, network))
        for name, values in found.items():
            of_runs[name] += [in_order(values)] if values else []
    return {name: np.stack(values) for name, values in of_runs.items() if values}


def _implied_properties(context: EvaluationContext) -> frozenset[str]:
    """Return the properties that the main task's label implies by definition."""
    individuals = context.individuals
    task = [individuals.attribute(name) for name in task_attributes(context.setup.main_task)]
    return frozenset(
        name
        for name in context.setup.properties
        if any(np.array_equal(individuals.attribute(name), attribute) for attribute in task)
    )


def _deployed_accuracy(runs: Sequence[Run]) -> dict[str, float] | None:
    """Return each deployed model's accuracy on the main task, mean over runs; None without."""
    of_runs: dict[str, list[float]] = {}
    for run in runs:
        if run.outputs is None:
            return None
        labels = torch.cat([truth.labels for truth in run.truths])
        for name in run.outputs[0]:
            answers = torch.cat([of[name] for of in run.outputs]).argmax(1)
            of_runs.setdefault(name, []).append((answers == labels).double().mean().item())
    return {name: float(np.mean(values)) for name, values in of_runs.items()}


def _label_shares(
    truths: Sequence[GroundTruth], results: Sequence[AttackResult]
) -> np.ndarray | None:
    """Return the share of each batch's labels that the attack inferred, as a multiset."""
    shares = []
    for truth, result in zip(truths, results, strict=True):
        if result.labels is None:
            return None
        size = max(int(truth.labels.max()), int(result.labels.max())) + 1
        true = torch.bincount(truth.labels.cpu(), minlength=size)
        inferred = torch.bincount(result.labels.cpu(), minlength=size)
        shares.append(torch.minimum(true, inferred).sum().item() / len(truth))
    return np.array(shares)
