"""The harness: one cell in, one record out."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.choices import Compiling
from leakbench.base.devices import processor_of
from leakbench.base.errors import UsageError
from leakbench.base.seeds import generator_for, tensor_digest
from leakbench.data.images import to_images
from leakbench.evaluation.defense_cost import defense_metrics
from leakbench.evaluation.exchange import Exchange, Sent, sent_by_clients
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.evaluation.scoring import Run, ScoringSetup, score
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.batch_norm import batch_statistics, in_mode
from leakbench.federation.shared_model import deep_features
from leakbench.metrics.standardisation import Standardisation
from leakbench.records.record import Cost, Environment, Record
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
from leakbench.threat.observation import GroundTruth, observe
from leakbench.threat.validation import check_results


def measure(
    resolved: ResolvedCell,
    contexts: Iterable[EvaluationContext],
    progress: Progress,
    lpips_weights: Path | None = None,
    compiling: Compiling = "auto",
    on_status: Callable[[str], None] = lambda _: None,
) -> Record:
    """Measure one cell in the contexts of its setups and return its record.

    Args:
        contexts: of `resolved.setups`, one for each training, asked for one after the other.
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.
        on_status: called with a short description of each long step.

    Raises:
        UsageError: the cell cannot be run as described, or the attack's answer is malformed.
    """
    cell, attack = resolved.cell, resolved.attack
    check_grant(attack, Knowledge.parse(cell.grant))
    check_batch_size(attack, resolved.individuals_in_update)
    measured: list[Measurement] = []
    known: list[EvaluationContext] = []
    for number, context in enumerate(contexts):
        known.append(context)
        if not number and context.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        measured += _measurements(
            resolved, context, part_of(progress, number, len(resolved.setups)), compiling
        )
    results = [result for each in measured for result in each.run.results]
    distortions = np.array([each.distortions for each in measured])
    trainings = np.array([each.run.training for each in measured])
    first = known[0]
    return Record(
        key=resolved.key,
        cell=cell,
        attack_version=attack.version,
        status="diverged" if all(result.diverged for result in results) else "done",
        knowledge=tuple(resolved.knowledge.names()),
        metrics=score(
            [each.run for each in measured],
            ScoringSetup.of(known),
            lpips_weights,
            defense_metrics(resolved, distortions, trainings, first, on_status)
            if distortions.size
            else None,
        ),
        cost=Cost(
            seconds=sum(each.seconds for each in measured) / len(measured),
            steps=float(np.mean([result.steps for result in results])),
            restarts=float(np.mean([result.restarts for result in results])),
            peak_memory_mib=_peak_memory_mib(first.device),
        ),
        fingerprint=first.fingerprint,
        versions={"leakbench": version("leakbench"), "python": platform.python_version()}
        | {name: version(name) for name in LIBRARIES},
        environment=Environment(
            compiled=_compiled(results),
            threads=torch.get_num_threads(),
            processor=processor_of(first.device),
        ),
        device=first.device,
    )


LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "torchmetrics")
"""Libraries whose versions may change a number."""


@dataclass(frozen=True)
class Measurement:
    """A run of an attack on all victim batches, and what it cost.

    Attributes:
        run: to be scored.
        distortions: of the update of each victim batch; none without a defense.
        seconds: that the attack took.
    """

    run: Run
    distortions: list[float]
    seconds: float


def _measurements(
    resolved: ResolvedCell, context: EvaluationContext, progress: Progress, compiling: Compiling
) -> Iterator[Measurement]:
    """Yield the runs of a cell on one training of the shared model."""
    cell = resolved.cell
    truths = victim_batches(context, resolved.individuals_in_update, cell.individuals)
    standardise = standardisation_of(context)
    sent: Sent | None = None
    for number in range(resolved.runs):
        exchange = Exchange.of(resolved, context.setup.training, number)
        # Once for all runs, of which a control may have dozens.
        sent = sent or sent_by_clients(truths, exchange, context)
        answers = infer(
            resolved.attack,
            truths,
            exchange,
            context,
            part_of(progress, number, resolved.runs),
            compiling,
            sent,
        )
        run = Run(
            truths=truths,
            results=answers.results,
            standardise=standardise,
            training=context.setup.training,
            outputs=answers.outputs,
            candidates=answers.candidates,
        )
        yield Measurement(run, answers.changes, answers.seconds)


def standardisation_of(context: EvaluationContext) -> Standardisation:
    """Return the standardisation by the features that D_aux has under a context's model."""
    assert context.server.feature_space is not None
    return Standardisation.of(context.server.feature_space.features)


def _compiled(results: Iterable[AttackResult]) -> bool | None:
    """Return whether any of an attack's steps ran compiled; None where there are none."""
    known = [result.compiled for result in results if result.compiled is not None]
    return any(known) if known else None


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
    exchange: Exchange,
    context: EvaluationContext,
    progress: Progress,
    compiling: Compiling = "auto",
    sent: Sent | None = None,
) -> Answers:
    """Show victim batches to an attack; return its answers.

    Args:
        truths: the first of the cell's victim batches, or all of them.
        sent: what their clients send; None to compute it.

    Raises:
        UsageError: an answer, or a model that it deploys, is malformed.
    """
    assert context.server.model is not None
    model = in_mode(context.server.model, exchange.mode)
    server = exchange.server(context.server, compiling)
    outputs, candidates, deploying = None, None, 0.0
    if Knowledge.OUTPUTS in exchange.knowledge:
        started = time.perf_counter()
        images = [truth.images for truth in truths]
        outputs = serve(attack, server, images, part_of(progress, 0, 2))
        progress = part_of(progress, 1, 2)
        deploying = time.perf_counter() - started
    if Knowledge.CANDIDATES in exchange.knowledge:
        # The same in all runs of a cell, which are scored together.
        seed = ("candidates", context.setup.seed, exchange.batch_size)
        candidates = candidates_of(
            truths, generator_for(*seed, [truth.digest() for truth in truths])
        )
    sent = sent or sent_by_clients(truths, exchange, context)
    observations = []
    for number, truth in enumerate(truths):
        wanted = Knowledge.STATISTICS in exchange.knowledge
        observations.append(
            observe(
                truth,
                sent.updates[number],
                exchange.knowledge,
                exchange.attack_seed(attack, number),
                batch_statistics(model, truth.images) if wanted else None,
                outputs[number] if outputs else None,
                candidates[number].images if candidates else None,
            )
        )
    started = time.perf_counter()
    results = attack.infer(server, observations, progress)
    seconds = time.perf_counter() - started + deploying
    check_results(attack.name, results, observations, server)
    return Answers(results, outputs, candidates, sent.changes, seconds)


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
    # All identities once, before any identity a second time.
    rows = shuffled[_occurrence(context.individuals.people[shuffled]).argsort(kind="stable")]
    rows = rows[:individuals]
    server = context.server
    assert server.model is not None
    device = next(server.model.parameters()).device
    images = to_images(context.individuals.images[rows], device)
    labels = torch.from_numpy(context.split.labels[rows]).to(device)
    features = deep_features(server.model, images)
    identities = torch.from_numpy(np.array(context.individuals.people[rows]))
    present = {
        name: torch.from_numpy(context.individuals.attribute(name)[rows])
        for name in context.setup.properties
    }
    training_data = context.individuals.images[context.split.clients[0]]
    secret = tensor_digest(torch.from_numpy(np.array(training_data)))
    return [
        GroundTruth(
            images=images[i : i + batch_size],
            labels=labels[i : i + batch_size],
            features=features[i : i + batch_size],
            properties={name: values[i : i + batch_size] for name, values in present.items()},
            identities=identities[i : i + batch_size],
            secret=secret,
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


def _peak_memory_mib(device: str) -> float:
    """Return the most memory held: on CUDA by this cell, elsewhere by the process until now."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
