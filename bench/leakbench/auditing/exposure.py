"""Who is exposed: the individuals of whom an attack reads something, most exposed first."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import chain

from leakbench.auditing.report_parts import (
    Answer,
    AttackReport,
    AuditedUpdate,
    Individual,
    ReportPart,
    attacks_run,
    is_shown,
    shows_exact_features,
)
from leakbench.metrics.of_attacks import CERTIFIED, EXACT


class ReadProperty(ReportPart):
    """What an attack reads of one individual.

    Attributes:
        subject: the property.
        attack: the attack's title.
        probability: P(yes), the property model's probability that the individual has it; inferred
            as present from ½ on.
        right: whether that is correct, where the truth is known.
    """

    subject: str
    attack: str
    probability: float
    right: bool | None

    @property
    def confidence(self) -> float:
        """The probability of the answer that is given, in [½, 1]."""
        return max(self.probability, 1 - self.probability)


class ExposedIndividual(ReportPart):
    """An individual of whom an attack reads something.

    Attributes:
        update, name: as in the report's updates.
        certified_by: titles of attacks that certify the exact deep feature, without certificates
            that the truth shows false.
        exact_by: of an individual that none certifies, titles of attacks that find the exact deep
            feature, as the truth shows.
        read: of an individual with an exact feature, what the first of these attacks infers from
            it; else what attacks infer whose advantage in that property is shown.
    """

    update: str
    name: str
    certified_by: list[str]
    exact_by: list[str]
    read: list[ReadProperty]


def exposed_individuals(
    updates: Sequence[AuditedUpdate], attacks: Sequence[AttackReport]
) -> list[ExposedIndividual]:
    """Return the individuals of whom an attack reads something, most exposed first.

    An individual counts as exposed where an attack certifies the exact feature, or finds it, as the
    truth shows, see `shows_exact_features`; or where an attack whose advantage over the best
    baseline is shown infers a property, and not wrong as far as the truth is known. First come
    those with a certified feature, then those with an exact one, then those of whom more properties
    are read, then those of whom the attack is surer.

    Args:
        attacks: with the controls, on these updates.
    """
    ran = attacks_run(attacks)
    exact = {a.name for a in ran if shows_exact_features(a, attacks)}
    found = chain.from_iterable(_of_update(update, ran, exact) for update in updates)
    return sorted(found, key=_rank)


def is_certified(answer: Answer | None, update: AuditedUpdate) -> bool:
    """Whether an attack certifies the feature, and nothing shows that the certificate is false.

    Without the truth, certificates of an update that is not what the model computes do not count:
    the attack assumed something wrong.
    """
    if answer is None or not answer.certified:
        return False
    if answer.cosine is not None:
        return answer.cosine >= CERTIFIED
    return update.check != "differs"


def _rank(individual: ExposedIndividual) -> tuple[bool, bool, int, float]:
    read = [each for each in individual.read if each.right is not False]
    surest = sum(each.confidence for each in read) / max(len(read), 1)
    return (not individual.certified_by, not individual.exact_by, -len(read), -surest)


def _of_update(
    update: AuditedUpdate, ran: Sequence[AttackReport], exact: Set[str]
) -> list[ExposedIndividual]:
    attacks = ran if update.truth_known else _one_order(update, ran)
    found = (_exposed(individual, update, attacks, exact) for individual in update.individuals)
    return [each for each in found if each is not None]


def _one_order(update: AuditedUpdate, ran: Sequence[AttackReport]) -> list[AttackReport]:
    """Return the attack that certifies most, or else has the largest shown advantage, alone.

    Where the truth is not known, the rows of two attacks need not be about the same person.
    """

    def learned(attack: AttackReport) -> tuple[int, float]:
        rows = (individual.answers.get(attack.name) for individual in update.individuals)
        largest = max((lead for _, lead in _shown(attack)), default=0.0)
        return sum(is_certified(answer, update) for answer in rows), largest

    return [max(ran, key=learned)] if ran else []


def _shown(attack: AttackReport) -> list[tuple[str, float]]:
    """Return the properties in which an attack's advantage is above 0, with that advantage."""
    return [
        (name, advantage.value or 0.0)
        for name, advantage in attack.advantage.items()
        if is_shown(advantage)
    ]


def _exposed(
    individual: Individual,
    update: AuditedUpdate,
    attacks: Sequence[AttackReport],
    exact: Set[str],
) -> ExposedIndividual | None:
    certifying = [a for a in attacks if is_certified(individual.answers.get(a.name), update)]
    finding = [] if certifying else _finding(individual, attacks, exact)
    if certifying or finding:
        first = (certifying or finding)[0]
        answer = individual.answers[first.name]
        read = [_read(name, answer, first) for name in answer.probabilities]
    else:
        read = _by_advantage(individual, attacks)
        if all(each.right is False for each in read):
            return None
    return ExposedIndividual(
        update=update.name,
        name=individual.name,
        certified_by=[a.title for a in certifying],
        exact_by=[a.title for a in finding],
        read=read,
    )


def _finding(
    individual: Individual, attacks: Sequence[AttackReport], exact: Set[str]
) -> list[AttackReport]:
    """Return the attacks among `exact` that find an individual's feature exactly."""
    answers = [(a, individual.answers.get(a.name)) for a in attacks if a.name in exact]
    return [a for a, answer in answers if answer and (answer.cosine or 0.0) >= EXACT]


def _by_advantage(individual: Individual, attacks: Sequence[AttackReport]) -> list[ReadProperty]:
    """Return each property as the attack with the largest shown advantage infers it."""
    best: dict[str, tuple[float, AttackReport]] = {}
    for attack in attacks:
        for name, advantage in _shown(attack):
            if attack.name in individual.answers and advantage > best.get(name, (0.0, attack))[0]:
                best[name] = (advantage, attack)
    return [
        _read(name, individual.answers[attack.name], attack) for name, (_, attack) in best.items()
    ]


def _read(name: str, answer: Answer, attack: AttackReport) -> ReadProperty:
    return ReadProperty(
        subject=name,
        attack=attack.title,
        probability=answer.probabilities[name],
        right=None if answer.right is None else answer.right[name],
    )
