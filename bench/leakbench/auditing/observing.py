"""What an attack sees of the batches of an audit, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from leakbench.auditing.affine_errors import with_certificates_that_hold
from leakbench.auditing.case import Case
from leakbench.auditing.client_batches import Batch, KnownBatch
from leakbench.auditing.client_defense import NO_DEFENSE, build_defense
from leakbench.auditing.threat_model import ThreatModel
from leakbench.base.choices import Compiling
from leakbench.base.errors import UsageError
from leakbench.base.seeds import seed_for
from leakbench.evaluation.defense_cost import distortion
from leakbench.evaluation.exchange import Exchange
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, gradient
from leakbench.threat.attack import Attack, AttackResult, Progress, knowledge_used
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation, observe
from leakbench.threat.validation import check_results


@dataclass(frozen=True)
class Answers:
    """The answers of an attack on some batches.

    Attributes:
        runs: of each run of the attack, one result for each batch, checked.
        distortions: of the update of each batch; 0 where the truth is not known.
        seconds: that one run took.
    """

    runs: list[list[AttackResult]]
    distortions: list[float]
    seconds: float


def granted_knowledge(attack: Attack, threat: ThreatModel, batch: Batch) -> Knowledge:
    """Return what an attack gets to know of batches like this one: what it declares to use.

    Raises:
        UsageError: it requires more than the server of an audit knows.
    """
    grant = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
    if threat.labels_known:
        grant |= Knowledge.LABELS
    if batch.defense != NO_DEFENSE:
        grant |= Knowledge.DEFENSE
    if batch.statistics is not None:
        grant |= Knowledge.STATISTICS
    if attack.control:
        grant |= Knowledge.FEATURES & attack.required_knowledge  # The oracle's, no server's.
    missing = attack.required_knowledge & ~grant
    if missing:
        instead = "choose another attack, or parameters that need less"
        if missing == Knowledge.LABELS:
            instead = f"set labels_known if the server knows them, or {instead}"
        raise UsageError(
            f"attack {attack.name!r} needs to know {' and '.join(missing.names())}, which the "
            f"server of this audit does not; {instead}"
        )
    knowledge = knowledge_used(attack, grant)
    if Knowledge.LABELS in knowledge and not isinstance(batch, KnownBatch):
        raise UsageError(
            f"attack {attack.name!r} needs to know labels of batches whose truth is not given; "
            f"give it, or choose parameters that need less"
        )
    return knowledge


def answer(
    attack: Attack,
    batches: Sequence[Batch],
    knowledge: Knowledge,
    case: Case,
    on_progress: Progress,
    compiling: Compiling,
) -> Answers:
    """Show batches of one size and kind to an attack; return its answers.

    Args:
        on_progress: called with the attack's progress; what it raises ends the attack.

    Raises:
        UsageError: an answer is malformed.
    """
    first = batches[0]
    model = in_mode(case.model, case.threat.mode)
    defense = build_defense(first.defense)
    exchange = Exchange(
        knowledge=knowledge,
        batch_size=first.size,
        mode=case.threat.mode,
        learning_rate=first.learning_rate,
        defense=defense,
        precision="float32",
        seed=case.threat.seed,
        clients_seed=case.threat.seed,
    )
    server = exchange.server(case.server, compiling)
    compute = defense.protect(gradient)
    observations, distortions = [], []
    for number, batch in enumerate(batches):
        # The seed does not depend on whether the truth is known, so that answers do not either.
        seed = exchange.attack_seed(attack, number)
        if not isinstance(batch, KnownBatch):
            update = batch.update if Knowledge.UPDATE in knowledge else None
            known = batch.statistics if Knowledge.STATISTICS in knowledge else None
            observations.append(Observation(batch.size, seed, update, statistics=known))
            distortions.append(0.0)
            continue
        client = Client(
            model=model,
            images=batch.truth.images,
            labels=batch.truth.labels,
            learning_rate=batch.learning_rate,
            generator=exchange.defense_generator(batch.truth, number),
        )
        sent = compute(client) if batch.update is None else batch.update
        observations.append(observe(batch.truth, sent, knowledge, seed, batch.statistics))
        undefended = batch.defense == NO_DEFENSE
        distortions.append(0.0 if undefended else distortion(sent, gradient(client)))
    runs = attack.least_runs if attack.is_random else 1
    started = time.perf_counter()
    results = [
        [
            with_certificates_that_hold(result, model, first.size)
            for result in attack.infer(server, _in_run(observations, number), on_progress)
        ]
        for number in range(runs)
    ]
    seconds = (time.perf_counter() - started) / runs
    for of_run in results:
        check_results(attack.name, of_run, observations, server)
    return Answers(results, distortions, seconds)


def _in_run(observations: Sequence[Observation], number: int) -> list[Observation]:
    """Return what is observed, with the attack's seeds of one of its runs."""
    if not number:
        return list(observations)
    return [replace(each, seed=seed_for("run", each.seed, number)) for each in observations]
