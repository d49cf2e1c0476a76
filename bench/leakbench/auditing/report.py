"""What an audit found, as data: the JSON file, and all that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from leakbench.auditing.attacking import Attacked
from leakbench.auditing.case import Batch, Case
from leakbench.auditing.defending import Defended
from leakbench.base.files import replacing
from leakbench.base.plugins import parameters_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.matching import match_individuals
from leakbench.records.record import Metrics
from leakbench.threat.attack import AttackResult


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Answer(_Frozen):
    """What an attack says of one individual.

    Attributes:
        probabilities: of each property, in [0, 1]; present from ½ on.
        right: whether that is true, where it is known.
        label: main-task class that the attack believes in.
        certified: whether the attack claims to have the individual's feature exactly.
        cosine: between the reconstructed and the true feature, where it is known.
    """

    probabilities: dict[str, float]
    right: dict[str, bool] | None = None
    label: int | None = None
    certified: bool | None = None
    cosine: float | None = None


class Individual(_Frozen):
    """One member of a batch.

    Attributes:
        name: of whoever it is, or the number of the answer where the truth is not known.
        label, properties: the truth, where it is known.
        answers: by attack.
    """

    name: str
    label: int | None = None
    properties: dict[str, bool] | None = None
    answers: dict[str, Answer]


class AuditedUpdate(_Frozen):
    """One update.

    Attributes:
        size: individuals in it.
        defense: under which it was sent, its local steps included.
        captured: whether it was captured; else a client computed it here.
        learning_rate: η that clients are taken to have.
        mismatch: how far a captured update is from what the truth gives.
        individuals: of an update whose truth is not known, the attacks' answers in the order in
            which each attack gives them: those of two attacks need not be of the same person.
    """

    name: str
    size: int
    defense: dict[str, Any]
    captured: bool
    learning_rate: float
    truth_known: bool
    mismatch: float | None
    individuals: list[Individual]


class AttackReport(_Frozen):
    """What an attack or control earned; see `leakbench.auditing.attacking.Attacked`."""

    name: str
    title: str
    reference: str
    note: str
    control: bool
    knows: list[str]
    parameters: dict[str, Any]
    refused: str
    seconds: float
    certified: int | None
    metrics: Metrics | None
    lead: dict[str, Estimate]


class DefenseReport(_Frozen):
    """What still leaks under a defense, and its cost; see `auditing.defending.Defended`."""

    name: str
    parameters: dict[str, Any]
    refused: str
    individuals: int
    left_out: int
    attacks: list[AttackReport]
    change: Estimate | None
    utility: Estimate | None
    lost: Estimate | None
    untrained: str
    epsilon: float | None
    delta: float | None
    verdict: str


class AuxiliaryReport(_Frozen):
    """What D_aux is: individuals, how many have a main-task label, and shares of properties."""

    individuals: int
    labelled: int
    properties: dict[str, float]


class ModelReport(_Frozen):
    """The audited model.

    Attributes:
        split: after which submodule it was cut.
        features: width of the deep feature.
        classes: of the main task.
        trained: entries of the update.
        head, extractor: the user's names of the parameters on either side.
        accuracy: main-task accuracy on the individuals of the truth.
    """

    name: str
    split: str
    features: int
    classes: int
    trained: int
    extractor: list[str]
    head: list[str]
    accuracy: float | None


class Report(_Frozen):
    """What an audit found.

    Attributes:
        findings: in sentences.
        limitations: what limits them, in sentences.
        threat: what the server knows and how clients compute.
        defenses: on the batches whose truth is known, the undefended update first.
    """

    leakbench: str
    finished: str
    model: ModelReport
    threat: dict[str, Any]
    auxiliary: AuxiliaryReport
    findings: list[str]
    limitations: list[str]
    attacks: list[AttackReport]
    updates: list[AuditedUpdate]
    defenses: list[DefenseReport]

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write `audit.html` and `audit.json` into a folder; return their paths.

        Raises:
            UsageError: the folder cannot be written to.
        """
        from leakbench.auditing.html_page import page

        paths = Path(folder) / "audit.html", Path(folder) / "audit.json"
        for path, text in zip(paths, (page(self), self.model_dump_json(indent=1)), strict=True):
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return paths


def report_of(
    case: Case,
    attacked: Mapping[str, Attacked],
    defended: Sequence[Defended],
    name: str,
    split: str,
) -> Report:
    """Put what was found into a report."""
    from leakbench.auditing.findings import findings, limitations

    updates = [_update(batch, number, attacked) for number, batch in enumerate(case.batches)]
    attacks = [_attack(key, each) for key, each in attacked.items()]
    defenses = [_defense(each) for each in defended]
    auxiliary = case.context.server.auxiliary
    assert auxiliary is not None
    return Report(
        leakbench=version("leakbench"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model=_model(case, name, split),
        threat=case.threat.model_dump(),
        auxiliary=AuxiliaryReport(
            individuals=len(auxiliary.labels),
            labelled=int((auxiliary.labels >= 0).sum()),
            properties={n: float(p.float().mean()) for n, p in auxiliary.properties.items()},
        ),
        findings=findings(updates, attacks, defenses),
        limitations=limitations(case, updates, attacks, defenses),
        attacks=attacks,
        updates=updates,
        defenses=defenses,
    )


def _model(case: Case, name: str, split: str) -> ModelReport:
    model, space = case.model, case.context.server.feature_space
    assert space is not None
    return ModelReport(
        name=name,
        split=split,
        features=space.features.shape[1],
        classes=model.classes,
        trained=sum(model.get_parameter(ours).numel() for ours in model.names),
        extractor=[t for ours, t in model.names.items() if ours.startswith("extractor.")],
        head=[t for ours, t in model.names.items() if ours.startswith("classifier.")],
        accuracy=case.context.main_task.get("accuracy"),
    )


def _attack(name: str, attacked: Attacked) -> AttackReport:
    attack = attacked.attack
    answered = [result for result in attacked.results if result is not None]
    claims = [each.certified for each in answered if each.certified is not None]
    return AttackReport(
        name=name,
        title=attack.title,
        reference=attack.reference,
        note=attack.note,
        control=attack.control,
        knows=attacked.knowledge.names(),
        parameters=parameters_of(attack),
        refused=attacked.refused,
        seconds=attacked.seconds,
        certified=sum(int(each.sum()) for each in claims) if claims else None,
        metrics=attacked.metrics,
        lead=dict(attacked.lead),
    )


def _defense(defended: Defended) -> DefenseReport:
    from leakbench.auditing.findings import verdict

    attacks = [_attack(name, each) for name, each in defended.attacked.items()]
    return DefenseReport(
        name=str(defended.table["name"]),
        parameters={key: value for key, value in defended.table.items() if key != "name"},
        refused=defended.refused,
        individuals=defended.individuals,
        left_out=defended.left_out,
        attacks=attacks,
        change=defended.change,
        utility=defended.utility,
        lost=defended.lost,
        untrained=defended.untrained,
        epsilon=defended.epsilon,
        delta=defended.delta,
        verdict="not applied" if defended.refused else verdict(attacks),
    )


def _update(batch: Batch, number: int, attacked: Mapping[str, Attacked]) -> AuditedUpdate:
    """Return an update with what every attack says of its individuals; controls say nothing."""
    answers = {
        name: _answers(batch, result)
        for name, each in attacked.items()
        if not each.attack.control and each.results and (result := each.results[number]) is not None
    }
    return AuditedUpdate(
        name=batch.name,
        size=batch.size,
        defense=dict(batch.defense),
        captured=batch.update is not None,
        learning_rate=batch.learning_rate,
        truth_known=batch.truth is not None,
        mismatch=batch.mismatch,
        individuals=[
            _individual(batch, row, {name: of[row] for name, of in answers.items()})
            for row in range(batch.size)
        ],
    )


def _individual(batch: Batch, row: int, answers: dict[str, Answer]) -> Individual:
    if batch.truth is None:
        return Individual(name=f"individual {row + 1}", answers=answers)
    return Individual(
        name=batch.people[row],
        label=int(batch.truth.labels[row]),
        properties={name: bool(p[row]) for name, p in batch.truth.properties.items()},
        answers=answers,
    )


def _answers(batch: Batch, result: AttackResult) -> list[Answer]:
    """Return an attack's answers, in the truth's order where it is known."""
    order, cosines = list(range(batch.size)), None
    if batch.truth is not None and result.features is not None:
        rows, found = match_individuals(result.features, batch.truth.features)
        order, cosines = rows.tolist(), found.tolist()
    answers = []
    for place, row in enumerate(order):
        said = {name: float(score[row]) for name, score in result.scores.items()}
        right = None
        if batch.truth is not None:
            true = batch.truth.properties
            right = {name: (p >= 0.5) == bool(true[name][place]) for name, p in said.items()}
        # Without features, labels are the batch's and nobody's in particular.
        told = result.labels is not None and result.features is not None
        answers.append(
            Answer(
                probabilities=said,
                right=right,
                label=int(result.labels[row]) if told and result.labels is not None else None,
                certified=None if result.certified is None else bool(result.certified[row]),
                cosine=None if cosines is None else cosines[place],
            )
        )
    return answers
