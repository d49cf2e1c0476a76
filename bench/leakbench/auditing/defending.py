"""Attacks on the batches of an audit under further defenses, and what the defenses cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from leakbench.auditing.attack_reports import attack_report
from leakbench.auditing.attacking import Attacked, attack_all
from leakbench.auditing.case import Case
from leakbench.auditing.client_batches import KnownBatch
from leakbench.auditing.client_defense import NO_DEFENSE, build_defense, combined_defense
from leakbench.auditing.clock import Clock
from leakbench.auditing.part_errors import INTERRUPTED, error_text
from leakbench.auditing.training import FederatedTraining, Training
from leakbench.auditing.utility import Utility, utility_measure
from leakbench.auditing.verdicts import verdict_on
from leakbench.base.choices import Compiling
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import digest, seed_for
from leakbench.federation.defense import Defense
from leakbench.metrics import estimates as metrics
from leakbench.metrics.estimates import Estimate
from leakbench.threat.observation import GroundTruth

NOTHING_LEFT = "every attack already fails without it"
"""Why a defense was not tried."""


@dataclass(frozen=True)
class Defended:
    """The attacks under a defense, and its utility cost.

    Attributes:
        spec: its name and parameters.
        refused: why it could not be applied; empty if it could.
        attacked: the attacks, which know the defense, on the defended updates.
        individuals, left_out: how many are in those updates, and how many are in none.
        distortion: ‖what is sent − gradient‖ / ‖gradient‖.
        utility: the accuracy of a model trained under it.
        failed_before: titles of attacks that were not tried under it; see `failing`.
    """

    spec: PluginSpec
    refused: str = ""
    attacked: Mapping[str, Attacked] = field(default_factory=dict)
    individuals: int = 0
    left_out: int = 0
    distortion: Estimate | None = None
    utility: Utility = field(default_factory=Utility)
    failed_before: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came before it was finished."""
        return INTERRUPTED in (self.refused, self.utility.not_measured)


def as_sent(case: Case, attacked: Mapping[str, Attacked]) -> Defended | None:
    """Return the attacks on the updates as they were sent, as the result without a further defense.

    None where clients have to be simulated instead, because a captured update is not known to be
    what the model computes.

    Args:
        attacked: on all batches; those whose truth is not known are left out of the result.
    """
    if not sends_alike(case):
        return None
    known = [row for row, batch in enumerate(case.batches) if isinstance(batch, KnownBatch)]
    found = {name: _on_batches(each, known) for name, each in attacked.items()}
    return _result(NO_DEFENSE, found, sum(case.batches[row].size for row in known))


def sends_alike(case: Case) -> bool:
    """Whether simulated clients without a further defense send what was sent, up to rounding."""
    return all(
        check is None or check.outcome == "agrees"
        for batch, check in zip(case.batches, case.checks, strict=True)
        if isinstance(batch, KnownBatch)
    )


def _on_batches(attacked: Attacked, rows: Sequence[int]) -> Attacked:
    """Return an attack's answers for some batches; its metrics, of known batches, stay."""
    return replace(
        attacked,
        runs=tuple(tuple(results[row] for row in rows) for results in attacked.runs),
        distortions=tuple(attacked.distortions[row] for row in rows if attacked.distortions),
    )


def defend_all(
    case: Case,
    defenses: Sequence[PluginSpec],
    attacks: Sequence[PluginSpec],
    training: Training | FederatedTraining | None,
    clock: Clock,
    undefended: Defended | None = None,
    compiling: Compiling = "auto",
) -> list[Defended]:
    """Let clients send the batches whose truth is known under each defense; attack what is sent.

    Each defense is applied on top of the clients' own, such as local steps. The first result is
    without a further defense; attacks that fail there are not tried under defenses. A defense that
    cannot be applied is refused, the others continue; after Ctrl-C the rest is refused as
    interrupted.

    Args:
        undefended: the result without a further defense, see `as_sent`; None to run it.
    """
    specs = [NO_DEFENSE, *(spec for spec in defenses if spec != NO_DEFENSE)]
    done: list[Defended] = []
    try:
        utility = utility_measure(case, training, clock.on_status)
        for spec in specs:
            parameters = ", ".join(f"{key} {value}" for key, value in spec.parameters.items())
            clock.on_status(f"defending with {spec.name}{f' ({parameters})' if parameters else ''}")
            failed = failing(done[0].attacked) if done else {}
            tried = [each for each in attacks if each.name not in failed]
            try:
                if spec == NO_DEFENSE and undefended is not None:
                    found = undefended
                else:
                    found = _defended(case, spec, tried, clock, compiling)
                done.append(replace(found, failed_before=tuple(failed.values())))
            except Exception as error:  # Whatever ends one defense must not end the others.
                done.append(Defended(spec, refused=error_text(error)))
            else:
                done[-1] = replace(done[-1], utility=Utility(not_measured=INTERRUPTED))
                done[-1] = replace(done[-1], utility=utility(spec))
    except KeyboardInterrupt:
        clock.on_status("interrupted: what is finished is kept")
    return done + [Defended(spec, refused=INTERRUPTED) for spec in specs[len(done) :]]


def failing(attacked: Mapping[str, Attacked]) -> dict[str, str]:
    """Return the attacks that fail without a defense, as name → title.

    They certify nothing, and an advantage that is relevant is excluded in each property. An attack
    of which that is undecided is tried under defenses: left out, it would seem to be stopped.
    """
    reports = [attack_report(each) for each in attacked.values()]
    controls = [each for each in reports if each.control]
    return {
        each.name: each.title
        for each in reports
        if not each.control
        and not each.refused
        and verdict_on([*controls, each]).outcome == "no leak"
    }


def _defended(
    case: Case,
    spec: PluginSpec,
    attacks: Sequence[PluginSpec],
    clock: Clock,
    compiling: Compiling,
) -> Defended:
    """Return the attacks under a defense.

    Raises:
        UsageError: the defense cannot be applied, or no attack can be run.
        KeyboardInterrupt: an attack was interrupted.
    """
    clients = _checked(case, spec).clients
    batches, left_out = _aggregated(case.known_batches, spec, clients)
    if not batches:
        raise UsageError(
            f"defense {spec.name!r} needs {clients} batches of one size whose truth is known, and "
            f"there are fewer"
        )
    attacked = attack_all(case, attacks, batches, clock, compiling)
    if any(each.interrupted for each in attacked.values()):
        raise KeyboardInterrupt
    ran = [each for each in attacked.values() if not each.attack.control]
    if not ran:
        raise UsageError(NOTHING_LEFT)
    if all(each.refused for each in ran):
        raise UsageError(f"no attack could be run: {'; '.join(each.refused for each in ran)}")
    return replace(_result(spec, attacked, sum(b.size for b in batches)), left_out=left_out)


def _result(spec: PluginSpec, attacked: Mapping[str, Attacked], individuals: int) -> Defended:
    distortions = next((each.distortions for each in attacked.values() if each.distortions), ())
    return Defended(
        spec=spec,
        attacked=attacked,
        individuals=individuals,
        distortion=_mean_distortion(distortions) if distortions else None,
    )


def _checked(case: Case, spec: PluginSpec) -> Defense:
    """Return the defense, which can be applied on top of each client's own.

    Raises:
        UsageError: it cannot be applied, or does not have these parameters.
    """
    defense = build_defense(spec)
    for batch in case.known_batches:
        build_defense(combined_defense(batch.defense, spec))
    return defense


def _mean_distortion(distortions: Sequence[float]) -> Estimate:
    each_batch = [np.arange(len(distortions))]
    return metrics.estimate_mean(np.array(distortions), each_batch, seed_for("bootstrap") % 2**32)


def _aggregated(
    batches: Sequence[KnownBatch], spec: PluginSpec, clients: int
) -> tuple[list[KnownBatch], int]:
    """Return the batches behind one update each, and how many individuals are in none."""
    by_kind: dict[str, list[KnownBatch]] = {}
    for batch in batches:
        kind = digest(batch.size, batch.defense.table(), batch.learning_rate)
        by_kind.setdefault(kind, []).append(batch)
    together: list[KnownBatch] = []
    left = 0
    for alike in by_kind.values():
        whole = len(alike) - len(alike) % clients
        left += sum(batch.size for batch in alike[whole:])
        starts = range(0, whole, clients)
        together += [_joined(alike[start : start + clients], spec) for start in starts]
    return together, left


def _joined(batches: Sequence[KnownBatch], spec: PluginSpec) -> KnownBatch:
    truths = [batch.truth for batch in batches]
    truth = GroundTruth(
        images=torch.cat([truth.images for truth in truths]),
        labels=torch.cat([truth.labels for truth in truths]),
        features=torch.cat([truth.features for truth in truths]),
        properties={
            name: torch.cat([truth.properties[name] for truth in truths])
            for name in truths[0].properties
        },
        identities=torch.cat([truth.identities for truth in truths]),
    )
    return KnownBatch(
        name=" + ".join(batch.name for batch in batches),
        size=len(truth),
        update=None,
        defense=combined_defense(batches[0].defense, spec),
        learning_rate=batches[0].learning_rate,
        truth=truth,
        individuals=tuple(name for batch in batches for name in batch.individuals),
    )
