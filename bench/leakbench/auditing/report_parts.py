"""The parts of an audit's report, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Metrics


class ReportPart(BaseModel):
    """A part of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Answer(ReportPart):
    """An attack's answer for one individual.

    Attributes:
        probabilities: of each property, in [0, 1]; inferred as present from ½ on.
        right: whether each inference is correct, where the truth is known.
        label: inferred main-task class.
        certified: whether the attack claims to have the individual's feature exactly.
        cosine: between the reconstructed and the true feature, where the truth is known.
        swapped_cosine: the same for the attack's answers for other batches, see
            `leakbench.evaluation.swapped`; None where there are none.
    """

    probabilities: dict[str, float]
    right: dict[str, bool] | None = None
    label: int | None = None
    certified: bool | None = None
    cosine: float | None = None
    swapped_cosine: float | None = None


class Individual(ReportPart):
    """One member of a batch.

    Attributes:
        name: of the individual, or the number of the answer where the truth is not known.
        label, properties: the truth, where it is known.
        answers: by attack.
    """

    name: str
    label: int | None = None
    properties: dict[str, bool] | None = None
    answers: dict[str, Answer]


class AuditedUpdate(ReportPart):
    """One update.

    Attributes:
        size: individuals in it.
        defense: under which it was sent, local steps included, `{"name": …, parameter: …}`.
        captured: whether it was captured, or computed from the truth.
        learning_rate: η of the client.
        mismatch: distance of a captured update from the one that the truth gives; from the nearest
            of several simulations where the client's order of mini-batches or noise is random.
        check: whether a captured update is what the model computes; see `update_check.UpdateCheck`.
        check_reason: why it is not, without the truth, or why it was not checked.
        individuals: of an update whose truth is not known, the answers in the order in which each
            attack gives them: those of two attacks need not be of the same person.
    """

    name: str
    size: int
    defense: dict[str, Any]
    captured: bool
    learning_rate: float
    truth_known: bool
    mismatch: float | None
    check: Literal["agrees", "differs", "not checked", "not captured"]
    check_reason: str = ""
    individuals: list[Individual]


class AttackReport(ReportPart):
    """The results of an attack or control; see `leakbench.auditing.attacking.Attacked`.

    Attributes:
        knows: the kinds of knowledge that it was given.
        certified: features that its first run claims to have exactly; None where it cannot tell.
        false_certificates: of these, those that the truth shows false; None where no truth is
            known.
        baselines: property → name of the control that the advantage is over: the best baseline with
            the attack's knowledge; a property without one has no advantage.
    """

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
    false_certificates: int | None = None
    metrics: Metrics | None
    advantage: dict[str, Estimate]
    baselines: dict[str, str] = {}


def attacks_run(attacks: Sequence[AttackReport]) -> list[AttackReport]:
    """Return the attacks that ran, without controls."""
    return [a for a in attacks if not a.control and not a.refused]


def is_shown(advantage: Estimate, threshold: float = 0.0) -> bool:
    """Whether the whole interval of an advantage is above a threshold."""
    return advantage.low is not None and advantage.low > threshold


def baseline_of(
    attack: AttackReport, name: str, attacks: Sequence[AttackReport]
) -> AttackReport | None:
    """Return the control that an attack's advantage in a property is over."""
    baseline = attack.baselines.get(name)
    return next((each for each in attacks if each.name == baseline), None)


def shows_exact_features(attack: AttackReport, attacks: Sequence[AttackReport]) -> bool:
    """Whether the truth shows that an attack finds deep features exactly, certified or not.

    The interval of the share of exact features is above those of all controls that do not know the
    features: where features have few values, such as rows of yes and no, guesses are exact too.

    Args:
        attacks: with the controls.
    """
    own = _exact(attack)
    if attack.control or own is None or own.low is None:
        return False
    guessing = [_exact(a) for a in attacks if a.control and "features" not in a.knows]
    highest = max((each.high or 0.0 for each in guessing if each is not None), default=0.0)
    return own.low > highest


def _exact(attack: AttackReport) -> Estimate | None:
    return None if attack.metrics is None else attack.metrics.exact


Outcome = Literal["leaks", "no leak", "undecided", "not applied"]
"""Whether attacks still learn something; `undecided` where neither can be shown."""

Reason = Literal[
    "certified features",
    "exact features",
    "advantage",
    "advantage excluded",
    "attack not run",
    "no baseline",
    "constant property",
    "no interval",
    "accurate baseline",
    "wide interval",
    "defense refused",
    "updates differ",
    "truth unknown",
]
"""Why the outcome is what it is; see `Verdict`."""


class Verdict(ReportPart):
    """Whether the attacks learn something from updates, under a defense or without one.

    Attributes:
        reason: `leaks` because of certified features, of exact features that the truth shows, see
            `shows_exact_features`, or of an advantage over the best baseline whose interval is
            above 0. `no leak` because a relevant advantage is excluded.
            `undecided` because an attack was not run, no baseline with an attack's knowledge was, a
            property is the same for everybody, there are too few batches for an interval, the best
            baseline is so accurate that no relevant advantage is possible, or the interval is too
            wide; of the whole audit also because captured updates are not what the model computes,
            or no truth is known.
        certified: exact features that one attack certifies, less those that the truth shows false,
            of the attack that certifies most; of the whole audit, individuals whose feature some
            attack certifies.
        exact: the largest share of exact features that the truth shows, if that is the reason.
        advantage: the one with the highest lower bound, if that is above 0.
        bound: the highest upper bound of any advantage, at least 0; None where it is not known.
        properties: without a baseline, the same for everybody, or known to the best baseline.
        baseline: its balanced accuracy in that property.
        not_run: titles of attacks that were refused.
    """

    outcome: Outcome
    reason: Reason
    certified: int = 0
    exact: Estimate | None = None
    advantage: Estimate | None = None
    bound: float | None = None
    properties: list[str] = []
    baseline: float | None = None
    not_run: list[str] = []


class DefenseReport(ReportPart):
    """The attacks under a defense, and its cost; see `leakbench.auditing.defending.Defended`.

    Attributes:
        distortion: ‖what is sent − gradient‖ / ‖gradient‖.
        utility: main-task accuracy of a model trained under it.
        utility_cost: accuracy of the same training without it, less `utility`.
        utility_not_measured: why there is no utility; empty if there is.
        epsilon, delta: of that training.
        simulated_otherwise: whether the clients are simulated here although their captured updates
            are not what the model computes: then these are not the clients that were captured.
        failed_before: titles of attacks that were not tried under it, since without a defense they
            certify nothing and a relevant advantage of theirs is excluded.
    """

    name: str
    parameters: dict[str, Any]
    refused: str
    individuals: int
    left_out: int
    attacks: list[AttackReport]
    distortion: Estimate | None
    utility: Estimate | None
    utility_cost: Estimate | None
    utility_not_measured: str
    epsilon: float | None
    delta: float | None
    verdict: Verdict
    simulated_otherwise: bool = False
    failed_before: list[str] = []

    @property
    def label(self) -> str:
        """The defense with its parameters: `gaussian (sigma = 0.01)`."""
        if self.name == "none" and self.simulated_otherwise:
            return "none, simulated: not the captured updates"
        return defense_label(self.name, self.parameters)


def defense_label(name: str, parameters: Mapping[str, Any]) -> str:
    """Return a defense with its parameters.

    >>> defense_label("gaussian", {"sigma": 0.01})
    'gaussian (sigma = 0.01)'
    """
    listed = ", ".join(f"{key} = {value}" for key, value in parameters.items())
    return f"{name} ({listed})" if listed else name


class AuxiliaryReport(ReportPart):
    """D_aux: individuals, how many have a main-task label, and the shares of properties."""

    individuals: int
    labelled: int
    properties: dict[str, float]


class ModelReport(ReportPart):
    """The audited model.

    Attributes:
        split: the submodule after which the head begins, or `the input of` the head's first layer
            where it was found.
        features: width of the deep feature.
        classes: of the main task.
        labels: the text of each label's number, see `leakbench.auditing.label_texts.label_texts`;
            empty where labels are classes without names.
        trained: entries of the update.
        tensors: parameters of the model, frozen ones included.
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
    tensors: int | None = None
    accuracy: float | None
    labels: list[str] = []
