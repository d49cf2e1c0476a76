"""Checks of attacks and controls."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from pydantic import ValidationError
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.conformance.attack_trial import AttackTrial, contents, difference, same
from leakbench.conformance.check import FindingError, NotCheckedError, checks
from leakbench.conformance.declarations import DECLARATIONS, refuse_empty
from leakbench.conformance.global_state import fingerprints, refuse_moved, seeded
from leakbench.evaluation.measuring import measure
from leakbench.experiments.cell import Cell
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.record import Record
from leakbench.threat.attack import AttackResult
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.validation import check_results


def has_a_title_and_a_reference(trial: AttackTrial) -> None:
    """A table needs a heading, and its reader the publication."""
    refuse_empty(trial, "title", "reference")


def has_a_version_that_counts(trial: AttackTrial) -> None:
    """The version is part of a cell's key."""
    version = trial.plugin.version
    if type(version) is not int or version < 1:
        raise FindingError(
            f"{trial} has version {version!r}; let it be 1, and raise it whenever its numbers may "
            f"change"
        )


def has_presets_that_can_be_built(trial: AttackTrial) -> None:
    """`--set attack.NAME.preset=…` takes any of them."""
    for preset, parameters in trial.plugin.presets.items():
        try:
            build(trial.registry, trial.name, parameters)
        except UsageError as error:
            raise FindingError(f"{trial} has a preset {preset!r} that cannot be: {error}") from None


def declares_what_a_server_can_know(trial: AttackTrial) -> None:
    """`required_knowledge` and `optional_knowledge` are `Knowledge`; features are for controls."""
    for attribute in ("required_knowledge", "optional_knowledge"):
        knowledge = getattr(trial.attack, attribute)
        if not isinstance(knowledge, Knowledge):
            raise FindingError(
                f"{trial} declares {attribute} = {knowledge!r}; let it be kinds of `Knowledge`, "
                f"joined by |"
            )
        if Knowledge.FEATURES in knowledge and not trial.plugin.control:
            raise FindingError(
                f"{trial} asks for the victims' true features, which no server has; do without "
                f'`Knowledge.FEATURES`, or say `control = "upper bound"`'
            )


def declares_its_kind(trial: AttackTrial) -> None:
    """Tables compare attacks with baselines, and do not compare controls."""
    if trial.plugin.control not in (None, "baseline", "upper bound"):
        raise FindingError(
            f'{trial} declares control = {trial.plugin.control!r}; let it be "baseline" or '
            f'"upper bound", or leave it out for an attack'
        )


def says_what_it_costs(trial: AttackTrial) -> None:
    """Time is estimated from `work`."""
    for batch_size in (1, trial.batch_size):
        work = trial.attack.work(batch_size)
        if not math.isfinite(work) or work < 0:
            raise FindingError(
                f"{trial} says that its work is {work} at B = {batch_size}; return the expected "
                f"gradient evaluations per individual"
            )


def answers_for_one_individual(trial: AttackTrial) -> None:
    """At B = 1 the answer is well formed."""
    _check_answers(trial, 1)


def answers_for_each_of_a_batch(trial: AttackTrial) -> None:
    """At larger B the answer is well formed: its rows, shapes and ranges; no NaN."""
    if trial.batch_size == 1:
        raise NotCheckedError(f"it is defined up to B = {trial.plugin.largest_batch}")
    _check_answers(trial, trial.batch_size)


def _check_answers(trial: AttackTrial, batch_size: int) -> None:
    server, observations = trial.shown(batch_size)
    check_results(trial.name, trial.infer(server, observations), observations, server)


def answers_with_plain_tensors(trial: AttackTrial) -> None:
    """Its tensors need no gradient, and lie where the server's do or on the CPU."""
    for answer in trial.answers():
        for tensor in contents_that_are_tensors(answer):
            if tensor.device.type not in {"cpu", torch.device(trial.device).type}:
                raise FindingError(
                    f"{trial} answers with a tensor on {tensor.device}, where the server has none; "
                    f"leave it where the model is"
                )
            if tensor.requires_grad:
                raise FindingError(
                    f"{trial} answers with a tensor that still requires its gradient; return it "
                    f"`.detach()`ed, or compute it under `torch.no_grad()`"
                )


def contents_that_are_tensors(answer: AttackResult) -> list[Tensor]:
    """Return an answer's tensors themselves."""
    told = (answer.certified, answer.claimed, answer.membership)
    alone = (answer.features, answer.images, answer.labels, *told)
    return [each for each in (*answer.scores.values(), *alone) if isinstance(each, Tensor)]


def tells_its_progress(trial: AttackTrial) -> None:
    """Shares of the work that is done never fall, and end at 1."""
    shares: list[float] = []
    server, observations = trial.shown(trial.batch_size)
    trial.attack.infer(server, observations, shares.append)
    if not shares or abs(shares[-1] - 1) > 1e-6 or shares != sorted(shares):
        reported = ", ".join(f"{share:g}" for share in shares[:5]) or "nothing"
        raise FindingError(
            f"{trial} tells its progress as {reported}{', …' if len(shares) > 5 else ''}; call "
            f"`progress` with shares that never fall and end with 1"
        )


def answers_the_same_twice(trial: AttackTrial) -> None:
    """The same observations, the same answer: the seed is in the observation."""
    with seeded(1):
        first = trial.answers()
    with seeded(1):
        again = trial.answers()
    _refuse_different(
        trial,
        first,
        again,
        "answers the same question differently the second time",
        "draw from `torch.Generator().manual_seed(observation.seed)`, and from nothing else",
    )


def draws_from_the_seed_it_is_given(trial: AttackTrial) -> None:
    """The answer does not depend on the global generators."""
    with seeded(1):
        first = trial.answers()
    with seeded(2):
        again = trial.answers()
    _refuse_different(
        trial,
        first,
        again,
        "draws from a global random generator",
        "give every drawing function `torch.Generator().manual_seed(observation.seed)`",
    )


def declares_whether_it_is_random(trial: AttackTrial) -> None:
    """An attack that says that it draws no random numbers answers alike whatever the seed."""
    if trial.attack.is_random:
        return
    server, observations = trial.shown(trial.batch_size)
    reseeded = [replace(observation, seed=observation.seed + 1) for observation in observations]
    _refuse_different(
        trial,
        trial.infer(server, observations),
        trial.infer(server, reseeded),
        "declares `is_random = False` and answers otherwise under another seed",
        "leave the declaration out",
    )


def leaves_global_generators_alone(trial: AttackTrial) -> None:
    """Random numbers elsewhere do not depend on which attacks ran before."""
    before = fingerprints()
    trial.answers()
    refuse_moved(trial, before, "`torch.Generator().manual_seed(observation.seed)`")


def answers_each_batch_as_if_it_were_alone(trial: AttackTrial) -> None:
    """Several victims at once get the answers that they get one by one."""
    server, observations = trial.shown(trial.batch_size)
    together = trial.infer(server, observations)
    for number, observation in enumerate(observations):
        alone = trial.infer(server, [observation])
        # Several victims at once are summed in another order; every step multiplies the rounding.
        _refuse_different(
            trial,
            together[number : number + 1],
            alone,
            "answers for a victim batch otherwise when it is shown another beside it",
            "let an answer depend on its own observation and the server alone",
            rtol=1e-3,
            atol=1e-4,
        )


def leaves_what_it_is_given_as_it_was(trial: AttackTrial) -> None:
    """Model, D_aux and observations are read only."""
    server, observations = trial.shown(trial.batch_size)
    before = contents([server, observations])
    trial.infer(server, observations)
    if not same(before, contents([server, observations])):
        raise FindingError(
            f"{trial} changes what it is given (the model, D_aux or an observation); work on a "
            f"`.clone()`, or on a `copy.deepcopy` of the model"
        )


def uses_only_what_it_declares(trial: AttackTrial) -> None:
    """More knowledge than `required_knowledge` changes nothing."""
    needed = trial.infer(*trial.shown(trial.batch_size))
    generous = trial.infer(*trial.shown(trial.batch_size, everything=True))
    _refuse_different(
        trial,
        needed,
        generous,
        "makes use of what it does not declare",
        f"declare it in `required_knowledge`, which now says "
        f"{', '.join(trial.attack.required_knowledge.names())}",
    )


def answers_to_an_update_that_says_nothing(trial: AttackTrial) -> None:
    """Clients may send zeros or overflowed numbers, which is no error of the cell."""
    server, observations = trial.shown(trial.batch_size)
    if Knowledge.UPDATE not in trial.attack.required_knowledge:
        raise NotCheckedError("it sees no update")
    for value, what in ((0.0, "zero"), (math.nan, "NaN")):
        spoilt = [_with_update_of(observation, value) for observation in observations]
        try:
            answers = trial.infer(server, spoilt)
        except UsageError:
            # To refuse NaN in one sentence is an answer too; zeros are an ordinary update.
            if math.isnan(value):
                continue
            raise
        except Exception as error:
            raise FindingError(
                f"{trial} raises {type(error).__name__} for an update that is all {what}; return "
                f"`linear_layers.auxiliary_fallback.auxiliary_result(…)`, which says `diverged`"
            ) from error
        try:
            check_results(trial.name, answers, spoilt, server)
        except UsageError as error:
            raise FindingError(f"for an update that is all {what}, {error}") from None


def _with_update_of(observation: Observation, value: float) -> Observation:
    assert observation.update is not None
    update = {name: torch.full_like(each, value) for name, each in observation.update.items()}
    return replace(observation, update=update)


def can_be_measured(trial: AttackTrial) -> None:
    """The harness makes a record of it that can be read again."""
    context = trial.context
    cell = Cell.model_validate(
        context.setup.model_dump()
        | {
            "attack": trial.name,
            "attack_parameters": parameters_of(trial.attack),
            "batch_size": trial.batch_size,
            "individuals": 2 * trial.batch_size,
            "grant": trial.attack.required_knowledge.names(),
        }
    )
    record = measure(ResolvedCell.of(cell), [context], lambda _: None, compiling="off")
    text = record.model_dump_json()
    try:
        again = Record.model_validate_json(text).model_dump_json()
    except ValidationError:
        again = ""
    if again != text:
        raise FindingError(
            f"{trial} makes a record that is read back as another; let its parameters be JSON and "
            f"its `loss`, `steps` and `restarts` finite numbers"
        )


def _refuse_different(
    trial: AttackTrial,
    one: list[AttackResult],
    other: list[AttackResult],
    what: str,
    way_out: str,
    rtol: float = 1.3e-6,
    atol: float = 1e-5,
) -> None:
    """Refuse two lists of answers that differ by more than rounding.

    Raises:
        FindingError: says what the attack does, in which field it shows, and the way out.
    """
    where: str | None = "their number" if len(one) != len(other) else None
    for left, right in zip(one, other, strict=False):
        where = where or difference(left, right, rtol, atol)
    if where:
        raise FindingError(f"{trial} {what} ({where} differs); {way_out}")


ATTACK_CHECKS = (
    *DECLARATIONS,
    *checks(
        has_a_title_and_a_reference,
        has_a_version_that_counts,
        has_presets_that_can_be_built,
        declares_what_a_server_can_know,
        declares_its_kind,
        says_what_it_costs,
        answers_for_one_individual,
        answers_for_each_of_a_batch,
        answers_with_plain_tensors,
        tells_its_progress,
        answers_the_same_twice,
        draws_from_the_seed_it_is_given,
        declares_whether_it_is_random,
        leaves_global_generators_alone,
        answers_each_batch_as_if_it_were_alone,
        leaves_what_it_is_given_as_it_was,
        uses_only_what_it_declares,
        answers_to_an_update_that_says_nothing,
        can_be_measured,
    ),
)
