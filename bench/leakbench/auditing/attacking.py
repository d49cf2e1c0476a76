"""Attacks and controls on the batches of an audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from leakbench.attacks.convolutional_ends.rules import CONVOLUTION
from leakbench.attacks.demixable_ends.registry import demixable_ends
from leakbench.attacks.feature_direct import DirectFeatureReconstruction
from leakbench.attacks.linear_layers.with_fallback import WithFallback
from leakbench.attacks.token_ends.rules import TOKEN
from leakbench.auditing.advantage import advantages
from leakbench.auditing.case import Case
from leakbench.auditing.client_batches import Batch, KnownBatch
from leakbench.auditing.client_defense import NO_DEFENSE
from leakbench.auditing.clock import Clock
from leakbench.auditing.observing import answer, granted_knowledge
from leakbench.auditing.part_errors import INTERRUPTED, error_text
from leakbench.base.choices import Compiling
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import ATTACKS
from leakbench.base.seeds import digest
from leakbench.evaluation.scoring import Run, score
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_attacks import CERTIFIED
from leakbench.records.record import Metrics
from leakbench.reports.baselines import Baseline, best_baseline, tells_labels
from leakbench.threat.attack import Attack, AttackResult, Progress, check_batch_size
from leakbench.threat.batch_labels import LabelSource
from leakbench.threat.knowledge import Knowledge


@dataclass(frozen=True)
class Attacked:
    """The answers of an attack, and how good they are.

    Attributes:
        attack: with its parameters.
        knowledge: that it was given.
        runs: of each run, one result for each batch; None for controls on batches whose truth is
            not known. No run where the attack was refused.
        refused: why it could not run; empty if it could.
        seconds: that it took.
        metrics: over the batches whose truth is known; None where there is none.
        false_certificates: of the first run, those that the truth shows false; None where no truth
            is known, or the attack cannot tell.
        advantage: property → balanced accuracy above that of the best baseline.
        baselines: property → that baseline's name; none where a fair one was refused.
        distortions: of the update of each batch; empty without a defense.
    """

    attack: Attack
    knowledge: Knowledge
    runs: tuple[tuple[AttackResult | None, ...], ...] = ()
    refused: str = ""
    seconds: float = 0.0
    metrics: Metrics | None = None
    false_certificates: int | None = None
    advantage: Mapping[str, Estimate] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    distortions: tuple[float, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether it was not run, or not to its end, because of Ctrl-C."""
        return self.refused == INTERRUPTED

    @property
    def results(self) -> tuple[AttackResult | None, ...]:
        """The results of the first run, one for each batch; empty if the attack was refused."""
        return self.runs[0] if self.runs else ()

    @property
    def certified(self) -> int | None:
        """The features that the first run claims to have exactly; None where it cannot tell."""
        claims = [each.certified for each in self.results if each is not None]
        told = [each for each in claims if each is not None]
        return sum(int(each.sum()) for each in told) if told else None


def default_attacks(case: Case, budget: int) -> list[PluginSpec]:
    """Return attacks of which at least one fits any head; those that do not fit are refused.

    Where the model ends as one of the exact attacks before the head needs it, that one is first.
    """
    names = ["mask_demixing", "newton_demixing", "feature_lbfgs"]
    if not reconstructs_images(case):
        names.insert(2, FEATURES_ALONE)
        budget = max(budget, DirectFeatureReconstruction.runs)
    names = [*attacks_of_ends(case), *names]
    given = {"budget": budget, "labels": labels_of_attacks(case)}
    return [with_fallback(PluginSpec(name, given), case) for name in names]


def attacks_of_ends(case: Case) -> list[str]:
    """Return the exact attacks before the head for which the model has an end."""
    auxiliary = case.server.auxiliary
    assert auxiliary is not None
    if not case.model.loss.is_plain:
        return []
    ends = demixable_ends(case.model, auxiliary.images[:2])
    return [name for kind, name in BEFORE_THE_HEAD.items() if kind in ends]


BEFORE_THE_HEAD = {CONVOLUTION: "convolution_demixing", TOKEN: "token_demixing"}
"""Kind of demixable end before the head → its attack."""

FEATURES_ALONE = "feature_direct"
"""The attack that reconstructs features where no images can be."""


def with_fallback(spec: PluginSpec, case: Case) -> PluginSpec:
    """Return an exact attack with a fallback that fits, where images cannot be reconstructed."""
    if reconstructs_images(case) or "fallback" in spec.parameters:
        return spec
    if not issubclass(ATTACKS.get(spec.name), WithFallback):
        return spec
    usual = {"fallback": FEATURES_ALONE, "labels": labels_of_attacks(case)}
    return PluginSpec(spec.name, {**usual, **spec.parameters})


def reconstructs_images(case: Case) -> bool:
    """Whether attacks that reconstruct images can be run."""
    return case.kind == "images" and case.model.loss.is_plain


def labels_of_attacks(case: Case) -> str:
    """Return where attacks have labels from: the server, the output layer, or the matching."""
    if case.threat.labels_known:
        return "known"
    return "counts" if case.model.has_output_bias else "joint"


def with_controls(attacks: Iterable[PluginSpec], case: Case) -> list[PluginSpec]:
    """Return the attacks after the controls, where a truth is known to score them by."""
    controls = []
    if case.known_batches:
        labels = _labels_of_baselines(case)
        controls = [
            PluginSpec("prior"),
            PluginSpec("blind", {"labels": labels}),
            PluginSpec("labels", {"labels": labels}),
            PluginSpec("oracle"),
        ]
    # A control that the user gives parameters takes the place of the usual one.
    return list({spec.name: spec for spec in (*controls, *attacks)}.values())


def _labels_of_baselines(case: Case) -> LabelSource:
    """Return what a fair baseline knows of the labels: what the server knows, or can recover."""
    if case.threat.labels_known:
        return "known"
    return "counts" if case.model.has_output_bias else "ignored"


def attack_all(
    case: Case,
    attacks: Sequence[PluginSpec],
    batches: Sequence[Batch],
    clock: Clock,
    compiling: Compiling = "auto",
) -> dict[str, Attacked]:
    """Run attacks and controls on batches; one that cannot run is refused, the others continue.

    After Ctrl-C the rest is refused as interrupted, and what is finished is kept; so are attacks
    for which the clock has no time left.
    """
    done: dict[str, Attacked] = {}
    built: dict[str, Attack] = {spec.name: spec.build(ATTACKS) for spec in attacks}
    refused = ""
    for name, attack in built.items():
        try:
            if not refused:
                check = _ignore_progress
                if not attack.control:
                    clock.begin(name)
                    check = clock.check
                done[name] = _attacked(case, attack, batches, check, compiling)
                continue
        except Exception as error:  # Whatever ends an attack must not end the others.
            why = error_text(error)
        except KeyboardInterrupt:
            refused = why = INTERRUPTED
        else:
            why = refused
        clock.end(finished=False)
        done[name] = Attacked(attack, attack.required_knowledge, refused=why)
    clock.end()
    return {
        name: each if each.refused or each.attack.control else _beside(each, done, batches, case)
        for name, each in done.items()
    }


def _beside(
    attacked: Attacked, every: Mapping[str, Attacked], batches: Sequence[Batch], case: Case
) -> Attacked:
    """Return an attack's answers with its advantage over the best baseline in each property."""
    if attacked.metrics is None:
        return attacked
    chosen = {
        name: best
        for name in attacked.metrics.properties
        if (best := _best_baseline(name, attacked.knowledge, every, case)) is not None
    }
    own = runs_of_known(attacked, batches, case)
    of_baselines = {
        name: runs_of_known(every[best], batches, case) for name, best in chosen.items()
    }
    found = advantages(own, of_baselines, case.threat.seed)
    undefined = Estimate(value=None, low=None, high=None)
    advantage = {name: found.get(name, undefined) for name in attacked.metrics.properties}
    return replace(attacked, advantage=advantage, baselines=chosen)


def _best_baseline(
    name: str, knowledge: Knowledge, every: Mapping[str, Attacked], case: Case
) -> str | None:
    """Return the baseline to compare an attack with: see `leakbench.reports.baselines`.

    An attack that does not use the labels, although the server knows them, is compared with
    baselines that do: they can only understate what it learns. Where no labels can be recovered
    from an update, one that sees it is compared with baselines without labels.
    """
    baselines = [
        Baseline(
            title=control,
            knowledge=frozenset(each.knowledge.names()),
            estimate=_accuracy(each, name),
            tells_labels=tells_labels(control),
        )
        for control, each in every.items()
        if each.attack.control == "baseline"
    ]
    if _labels_of_baselines(case) == "ignored":
        knowledge &= ~Knowledge.UPDATE
    best = best_baseline(baselines, knowledge.names()) or best_baseline(
        baselines, (knowledge | Knowledge.LABELS).names()
    )
    return best.title if best else None


def _accuracy(attacked: Attacked, name: str) -> Estimate | None:
    found = attacked.metrics.properties.get(name) if attacked.metrics else None
    return found.balanced_accuracy if found else None


def _ignore_progress(_share: float) -> None:
    """Let a control take its time."""


def _attacked(
    case: Case,
    attack: Attack,
    batches: Sequence[Batch],
    on_progress: Progress,
    compiling: Compiling,
) -> Attacked:
    """Run one attack on batches of all sizes and kinds, and score those whose truth is known.

    Raises:
        UsageError: it cannot run on one of them.
    """
    runs: dict[int, list[AttackResult | None]] = {0: [None] * len(batches)}
    seconds, distortions, knowledge = 0.0, [0.0] * len(batches), attack.required_knowledge
    for rows in _alike(batches):
        some = [batches[row] for row in rows]
        if attack.control and not isinstance(some[0], KnownBatch):
            continue  # Controls exist to be scored.
        knowledge = granted_knowledge(attack, case.threat, some[0])
        check_batch_size(attack, some[0].size)
        answers = answer(attack, some, knowledge, case, on_progress, compiling)
        for number, of_run in enumerate(answers.runs):
            results = runs.setdefault(number, [None] * len(batches))
            for row, result in zip(rows, of_run, strict=True):
                results[row] = result
        for row, distortion in zip(rows, answers.distortions, strict=True):
            distortions[row] = distortion
        seconds += answers.seconds
    attacked = Attacked(
        attack=attack,
        knowledge=knowledge,
        runs=tuple(map(tuple, runs.values())),
        seconds=seconds,
        distortions=tuple(distortions) if any(b.defense != NO_DEFENSE for b in batches) else (),
    )
    scored = runs_of_known(attacked, batches, case)
    if not scored:
        return attacked
    return replace(
        attacked,
        metrics=score(scored, case.scoring),
        false_certificates=_false_certificates(scored[0]),
    )


def _false_certificates(run: Run) -> int | None:
    certified, cosines = run.matched.certified, run.matched.cosines
    if certified is None or cosines is None:
        return None
    return int((cosines[certified] < CERTIFIED).sum())


def _alike(batches: Sequence[Batch]) -> list[list[int]]:
    """Return the rows of batches that an attack sees together: of one size and kind."""
    groups: dict[str, list[int]] = {}
    for row, batch in enumerate(batches):
        known, captured = isinstance(batch, KnownBatch), batch.update is not None
        key = digest(batch.size, known, captured, batch.defense.table(), batch.learning_rate)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def runs_of_known(attacked: Attacked, batches: Sequence[Batch], case: Case) -> list[Run]:
    """Return an attack's runs on the batches whose truth is known; none if there are none."""
    found = []
    for results in attacked.runs:
        pairs = [
            (batch.truth, result)
            for batch, result in zip(batches, results, strict=True)
            if isinstance(batch, KnownBatch) and result is not None
        ]
        if pairs:
            truths, answers = zip(*pairs, strict=True)
            found.append(Run(truths, answers, case.standardise))
    return found
