"""The harness: one cell in, one record out."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.choices import Compiling
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import ATTACKS
from leakbench.base.seeds import generator_for, seed_for
from leakbench.data.images import to_images
from leakbench.evaluation.defense_cost import defense_metrics, distortion
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.evaluation.scoring import score
from leakbench.experiments.cell import Cell
from leakbench.experiments.cell_defense import defense_of, individuals_in_update
from leakbench.experiments.cell_knowledge import knowledge_of
from leakbench.federation.batch_norm import batch_statistics, in_mode
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.shared_model import SharedModel, deep_features
from leakbench.records.record import Cost, Record
from leakbench.threat.attack import (
    Attack,
    AttackResult,
    Progress,
    check_batch_size,
    check_grant,
    part_of,
)
from leakbench.threat.candidates import Candidates, candidates_of
from leakbench.threat.deployment import serve
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import GroundTruth, Observation, observe
from leakbench.threat.server import granted
from leakbench.threat.validation import check_results


def measure(
    cell: Cell,
    context: EvaluationContext,
    progress: Progress,
    lpips_weights: Path | None = None,
    compiling: Compiling = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Record:
    """Run one cell on its prepared setup and return its record.

    Args:
        say: told in a few words what else is being done.
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.

    Raises:
        UsageError: the cell cannot be run as described, or the attack's answer is malformed.
    """
    attack: Attack = build(ATTACKS, cell.attack, cell.attack_parameters)
    check_grant(attack, Knowledge.parse(cell.grant))
    together = individuals_in_update(cell)
    check_batch_size(attack, together)
    truths = victim_batches(context, together, cell.individuals)
    if context.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    answers = infer(attack, truths, cell, context, progress, compiling)
    results = answers.results
    diverged = [result.diverged for result in results]
    return Record(
        key=cell.key(attack.version),
        cell=cell,
        attack_version=attack.version,
        status="diverged" if all(diverged) else "done",
        knowledge=tuple(knowledge_of(attack, cell).names()),
        metrics=score(
            truths,
            results,
            cell,
            context,
            lpips_weights,
            answers.outputs,
            answers.candidates,
            defense_metrics(defense_of(cell), answers.changes, context, say)
            if answers.changes
            else None,
        ),
        cost=Cost(
            seconds=answers.seconds,
            steps=float(np.mean([result.steps for result in results])),
            restarts=float(np.mean([result.restarts for result in results])),
            peak_memory_mib=_peak_memory_mib(context.device),
        ),
        fingerprint=context.fingerprint,
        versions={
            "leakbench": version("leakbench"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "torchmetrics": version("torchmetrics"),
        },
        device=context.device,
    )


@dataclass(frozen=True)
class Answers:
    """What an attack answered.

    Attributes:
        results: one for each victim batch, checked.
        outputs: of the models that it deployed, for each victim batch; None where it deploys none.
        candidates: that it was shown, for each victim batch; None where it was shown none.
        changes: `distortion` of what was sent of each victim batch; none without a defense.
        seconds: that it took, the training of deployed models included.
    """

    results: list[AttackResult]
    outputs: list[dict[str, Tensor]] | None
    candidates: list[Candidates] | None
    changes: list[float]
    seconds: float


def infer(
    attack: Attack,
    truths: Sequence[GroundTruth],
    cell: Cell,
    context: EvaluationContext,
    progress: Progress,
    compiling: Compiling = "auto",
    captured: Sequence[Update] | None = None,
) -> Answers:
    """Show victim batches to an attack; return its answers.

    Args:
        truths: the first of the cell's victim batches, or all of them.
        captured: what was sent of each batch; None to let its client compute it.

    Raises:
        UsageError: an answer, or a model that it deploys, is malformed.
    """
    knowledge = knowledge_of(attack, cell)
    assert context.server.model is not None
    model = in_mode(context.server.model, cell.mode)
    defense = defense_of(cell)
    server = replace(
        granted(context.server, knowledge, cell.mode),
        learning_rate=cell.learning_rate,
        defense=defense if Knowledge.DEFENSE in knowledge else None,
        compiling=compiling,
        precision=cell.precision,
    )
    deploying = time.perf_counter()
    outputs = None
    if Knowledge.OUTPUTS in knowledge:
        images = [truth.images for truth in truths]
        outputs = serve(attack, server, images, part_of(progress, 0, 2))
        progress = part_of(progress, 1, 2)
    deployed = time.perf_counter()
    candidates = None
    if Knowledge.CANDIDATES in knowledge:
        candidates = [
            candidates_of(
                truths, number, generator_for("candidates", cell.seed, cell.batch_size, number)
            )
            for number in range(len(truths))
        ]
    compute = defense.protect(gradient)
    observations, changes = [], []
    for number, truth in enumerate(truths):
        client = Client(
            model=model,
            images=truth.images,
            labels=truth.labels,
            learning_rate=cell.learning_rate,
            generator=generator_for("defense", cell.seed, cell.batch_size, number),
        )
        sent = compute(client) if captured is None else captured[number]
        if cell.defense != "none":
            changes.append(distortion(sent, gradient(client)))
        of_batch = outputs[number] if outputs else None
        shown = candidates[number].images if candidates else None
        observations.append(
            _observation(truth, number, model, sent, knowledge, cell, of_batch, shown)
        )
    started = time.perf_counter()
    results = attack.infer(server, observations, progress)
    seconds = time.perf_counter() - started + deployed - deploying
    check_results(attack.name, results, observations, server)
    return Answers(results, outputs, candidates, changes, seconds)


def victim_batches(
    context: EvaluationContext, batch_size: int, individuals: int
) -> list[GroundTruth]:
    """Draw the victims, the same ones at every batch size, in batches.

    Raises:
        UsageError: there are fewer victims.
    """
    victims = context.split.victims
    if batch_size > len(victims) or individuals > len(victims):
        raise UsageError(
            f"batch size {batch_size} and {individuals} individuals are asked for, but "
            f"{context.setup.dataset} has {len(victims)} victims; lower them or raise "
            f"`victim_share`"
        )
    draw = generator_for("victims", context.setup.seed)
    shuffled = victims[torch.randperm(len(victims), generator=draw).numpy()]
    # As many different people as there are: only then a second image of somebody.
    rows = shuffled[_occurrence(context.individuals.identities[shuffled]).argsort(kind="stable")]
    rows = rows[:individuals]
    server = context.server
    assert server.model is not None
    device = next(server.model.parameters()).device
    images = to_images(context.individuals.images[rows], device)
    labels = torch.from_numpy(context.split.labels[rows]).to(device)
    features = deep_features(server.model, images)
    identities = torch.from_numpy(np.array(context.individuals.identities[rows]))
    present = {
        name: torch.from_numpy(context.individuals.attribute(name)[rows])
        for name in context.setup.properties
    }
    return [
        GroundTruth(
            images=images[i : i + batch_size],
            labels=labels[i : i + batch_size],
            features=features[i : i + batch_size],
            properties={name: values[i : i + batch_size] for name, values in present.items()},
            identities=identities[i : i + batch_size],
        )
        for i in range(0, individuals, batch_size)
    ]


def _occurrence(identities: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each identity has stood before in the list, shape (n,).

    >>> _occurrence(np.array([7, 3, 7, 7, 3]))
    array([0, 0, 1, 2, 1])
    """
    before: Counter[int] = Counter()
    ranks = []
    for identity in identities.tolist():
        ranks.append(before[identity])
        before[identity] += 1
    return np.array(ranks)


def _observation(
    truth: GroundTruth,
    number: int,
    model: SharedModel,
    sent: Mapping[str, Tensor],
    knowledge: Knowledge,
    cell: Cell,
    outputs: Mapping[str, Tensor] | None,
    candidates: Tensor | None,
) -> Observation:
    """Return what the adversary sees of batch `number`, on a model as clients run it.

    Args:
        sent: the update, as the defense let it pass.
    """
    seed = seed_for("attack", cell.attack, cell.batch_size, cell.seed, number)
    wanted = Knowledge.STATISTICS in knowledge
    statistics = batch_statistics(model, truth.images) if wanted else None
    return observe(truth, sent, knowledge, seed, statistics, outputs, candidates)


def _peak_memory_mib(device: str) -> float:
    """Return the most memory held: on CUDA by this cell, elsewhere by the process until now."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
