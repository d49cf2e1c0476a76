"""Which defense would have stopped what the attacks found, and at what cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from leakbench.auditing.attacking import FEWEST, Attacked, Attacks, attack_all, without_intervals
from leakbench.auditing.case import Batch, Case, defense_from, on_top
from leakbench.auditing.model_splitting import OwnModel
from leakbench.base.choices import Compiling
from leakbench.base.errors import UsageError
from leakbench.base.seeds import digest, generator_for, seed_for
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import main_task_hits
from leakbench.federation.training import ClientData, train
from leakbench.metrics import estimates as metrics
from leakbench.metrics.estimates import Estimate
from leakbench.threat.observation import GroundTruth

Table = Mapping[str, Any]
"""A defense's name and parameters."""


class Training(Protocol):
    """Trains the user's model from scratch under a defense.

    Returns whether the trained model gives each of some held-out images its class, the same images
    in the same order whatever the defense; None asks for no defense.
    """

    def __call__(self, defense: Defense | None) -> Sequence[bool]:
        """Train, and test."""
        ...


@dataclass(frozen=True, kw_only=True)
class FederatedTraining:
    """Synchronous SGD over clients, from the model's weights drawn anew.

    Attributes:
        images: of the clients, in [0, 1], shape (n, channels, height, width).
        labels: classes, shape (n,).
        test_images, test_labels: held out.
        rounds, clients, client_batch, learning_rate: of the training.
        seed: of weights, batches and what the defense draws.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    rounds: int = 300
    clients: int = 8
    client_batch: int = 8
    learning_rate: float = 0.1
    seed: int = 0

    def of(self, model: OwnModel) -> Training:
        """Return the training of a model of this architecture.

        Raises:
            UsageError: weights cannot be drawn anew, or a client would have none.
        """
        if len(self.images) < self.clients:
            raise UsageError(
                f"{len(self.images)} training images are too few for {self.clients} clients"
            )
        if bool(((self.labels < 0) | (self.labels >= model.classes)).any()):
            raise UsageError(
                f"the training data have labels that are no class of the model's {model.classes}"
            )
        start = _drawn_anew(model, self.seed)
        device = next(model.parameters()).device

        def trained(defense: Defense | None) -> Sequence[bool]:
            fresh = copy.deepcopy(start).to(device)
            compute = gradient if defense is None else defense.protect(gradient)
            train(
                fresh,
                self._shares(),
                range(self.rounds),
                self.learning_rate,
                self.client_batch,
                self.seed,
                compute,
            )
            hits = main_task_hits(
                fresh.eval(), self.test_images.to(device), self.test_labels.to(device)
            )
            return [bool(hit) for hit in hits.tolist()]

        return trained

    @property
    def smallest(self) -> int:
        """Individuals of the client that has the fewest."""
        return len(self.images) // self.clients

    def _shares(self) -> list[ClientData]:
        order = torch.randperm(
            len(self.images), generator=generator_for("training clients", self.seed)
        )
        pixels = (self.images * 255).round().to(torch.uint8)
        return [
            ClientData(pixels[rows].cpu().numpy(), self.labels[rows].cpu().numpy())
            for rows in order.tensor_split(self.clients)
        ]


def _drawn_anew(model: OwnModel, seed: int) -> OwnModel:
    """Return a copy whose trained weights are drawn anew; frozen ones stay.

    Raises:
        UsageError: a layer does not say how its weights are drawn.
    """
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", seed))
        for name, module in fresh.named_modules():
            if not list(module.parameters(recurse=False)):
                continue
            reset = getattr(module, "reset_parameters", None)
            frozen = isinstance(getattr(module, "weight", None), Tensor) and not isinstance(
                module.weight, nn.Parameter
            )
            if reset is None or frozen:
                raise UsageError(
                    f"the weights of {name!r} cannot be drawn anew (no `reset_parameters`, or "
                    f"partly frozen), so that no training can start; give `training` a function"
                )
            reset()
    return fresh


@dataclass(frozen=True)
class Defended:
    """What a defense would have changed.

    Attributes:
        table: its name and parameters.
        refused: why it could not be applied; empty if it could.
        attacked: what each attack, which knows the defense, made of the defended updates.
        individuals, left_out: how many stand behind those, and how many fit in no update.
        change: ‖what is sent − gradient‖ / ‖gradient‖.
        utility, lost: accuracy of a model trained under it, and what that is below the undefended;
            None where no training was given.
        untrained: why utility was not measured.
        epsilon, delta: of that training, where it has any and the accountant is at hand.
    """

    table: Table
    refused: str = ""
    attacked: Mapping[str, Attacked] = field(default_factory=dict)
    individuals: int = 0
    left_out: int = 0
    change: Estimate | None = None
    utility: Estimate | None = None
    lost: Estimate | None = None
    untrained: str = ""
    epsilon: float | None = None
    delta: float | None = None


NONE: Table = {"name": "none"}


def default_defenses(case: Case) -> list[dict[str, Any]]:
    """Return defenses at levels that suit the gradients of the batches whose truth is known.

    Noise is as strong as the gradient and ten times as strong; clipping is at the median norm of
    an individual's gradient.
    """
    batches = case.known
    gradients = [_gradient(case, batch.truth) for batch in batches if batch.truth is not None]
    entries = sum(value.numel() for value in gradients[0].values())
    norm = float(np.median([_norm(update) for update in gradients]))
    sigma = _round(norm / entries**0.5)
    alone = [_one(batch.truth, 0) for batch in batches[:16] if batch.truth is not None]
    clip = _round(float(np.median([_norm(_gradient(case, truth)) for truth in alone])))
    defenses: list[dict[str, Any]] = [
        {"name": "gaussian", "sigma": sigma},
        {"name": "gaussian", "sigma": _round(10 * sigma)},
        {"name": "dp_sgd", "clip": clip, "noise": 0.1},
        {"name": "dp_sgd", "clip": clip, "noise": 1.0},
        {"name": "sparsify", "fraction": 0.1},
        {"name": "sparsify", "fraction": 0.01},
        {"name": "quantise", "bits": 1},
        {"name": "soteria", "fraction": 0.5},
        {"name": "local_steps", "epochs": 4},
    ]
    if len(batches) >= 2 * AGGREGATED:
        defenses.append({"name": "secure_aggregation", "of": AGGREGATED})
    return defenses


AGGREGATED = 4
"""Clients whose updates are aggregated by default."""


def _one(truth: GroundTruth, row: int) -> GroundTruth:
    return GroundTruth(
        images=truth.images[row : row + 1],
        labels=truth.labels[row : row + 1],
        features=truth.features[row : row + 1],
        properties={name: p[row : row + 1] for name, p in truth.properties.items()},
        identities=truth.identities[row : row + 1],
    )


def _gradient(case: Case, truth: GroundTruth) -> Update:
    model = in_mode(case.model, case.threat.mode)
    return gradient(Client(model, truth.images, truth.labels, 0.1, generator_for("level")))


def _norm(update: Update) -> float:
    return float(torch.cat([value.flatten() for value in update.values()]).norm())


def _round(number: float) -> float:
    """Return a number with two digits, as a person would choose it.

    >>> _round(0.01234)
    0.012
    """
    return float(f"{number:.1e}") if number else 1.0


def defend_all(
    case: Case,
    defenses: Sequence[Table],
    attacks: Attacks,
    training: Training | FederatedTraining | None,
    say: Callable[[str], None],
    compiling: Compiling = "auto",
) -> list[Defended]:
    """Let clients send the batches whose truth is known under each defense; attack what is sent.

    Each comes on top of what clients do already, such as local steps. That alone comes first. A
    defense that cannot be applied says why, and the others go on.
    """
    undefended: Sequence[bool] | None = None
    run, why = _training(case, training)
    if run is not None:
        say("training without a further defense")
        try:
            undefended = run(_trained_under(case, NONE, training))
        except Exception as error:
            why = _untrained("without a defense", error)
    done = []
    for table in [NONE, *(table for table in defenses if dict(table) != NONE)]:
        words = ", ".join(f"{key} {value}" for key, value in table.items() if key != "name")
        say(f"defending with {table['name']}{f' ({words})' if words else ''}")
        try:
            defense = _composed(case, table)
            defended = _defended(case, table, defense, attacks, say, compiling)
        except UsageError as error:
            done.append(Defended(table, refused=str(error)))
            continue
        if run is None or undefended is None:
            done.append(replace(defended, untrained=why))
            continue
        say(f"training under {table['name']}")
        try:
            under = _trained_under(case, table, training)
            hits = undefended if dict(table) == NONE else run(under)
            done.append(_priced(defended, under, hits, undefended, training, case))
        except Exception as error:
            done.append(replace(defended, untrained=_untrained(f"under {table['name']}", error)))
    return done


def _composed(case: Case, table: Table) -> Defense:
    """Return the defense on top of each client's own, which must be possible for all.

    Raises:
        UsageError: it cannot be, or has no such parameters.
    """
    defense = defense_from(table)
    for batch in case.known:
        defense_from(on_top(batch.defense, table))
    return defense


def _trained_under(
    case: Case, table: Table, training: Training | FederatedTraining | None
) -> Defense | None:
    """Return the defense of a training: a function of the user's knows what its clients do.

    Raises:
        UsageError: clients do not all do the same.
    """
    if isinstance(training, FederatedTraining):
        own = case.known[0].defense
        if any(batch.defense != own for batch in case.known):
            raise UsageError("clients do not all compute their updates alike")
        table = on_top(own, table)
    return None if dict(table) == NONE else defense_from(table).client_part()


def _untrained(where: str, error: Exception) -> str:
    said = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
    return f"utility was not measured, for the training {where} failed: {said}"


def _training(
    case: Case, training: Training | FederatedTraining | None
) -> tuple[Training | None, str]:
    if training is None:
        return None, "utility was not measured: no training data, and no function that trains"
    if not isinstance(training, FederatedTraining):
        return training, ""
    try:
        return training.of(case.model), ""
    except UsageError as error:
        return None, f"utility was not measured: {error}"


def _defended(
    case: Case,
    table: Table,
    defense: Defense,
    attacks: Attacks,
    say: Callable[[str], None],
    compiling: Compiling,
) -> Defended:
    batches, left_out = _sent_together(case.known, table, defense.clients)
    if not batches:
        raise UsageError(
            f"defense {table['name']!r} needs {defense.clients} batches of one size whose truth is "
            f"known, and there are fewer"
        )
    attacked = attack_all(case, attacks, batches, say, compiling)
    ran = [each for each in attacked.values() if not each.attack.control]
    if all(each.refused for each in ran):
        raise UsageError(f"no attack could be run: {'; '.join(each.refused for each in ran)}")
    changes = next((each.changes for each in attacked.values() if each.changes), ())
    return Defended(
        table=table,
        attacked=attacked,
        individuals=sum(batch.size for batch in batches),
        left_out=left_out,
        change=_mean_change(changes) if changes else None,
    )


def _mean_change(changes: Sequence[float]) -> Estimate:
    mean = metrics.estimate_mean(
        np.array(changes), [np.arange(len(changes))], seed_for("bootstrap") % 2**32
    )
    return mean if len(changes) >= FEWEST else without_intervals(mean)


def _sent_together(batches: Sequence[Batch], table: Table, clients: int) -> tuple[list[Batch], int]:
    """Return the batches behind one update each, and how many individuals are in none."""
    by_kind: dict[str, list[Batch]] = {}
    for batch in batches:
        kind = digest(batch.size, dict(batch.defense), batch.learning_rate)
        by_kind.setdefault(kind, []).append(batch)
    together: list[Batch] = []
    left = 0
    for alike in by_kind.values():
        whole = len(alike) - len(alike) % clients
        left += sum(batch.size for batch in alike[whole:])
        starts = range(0, whole, clients)
        together += [_joined(alike[start : start + clients], table) for start in starts]
    return together, left


def _joined(batches: Sequence[Batch], table: Table) -> Batch:
    truths = [batch.truth for batch in batches if batch.truth is not None]
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
    return Batch(
        name=" + ".join(batch.name for batch in batches),
        size=len(truth),
        update=None,
        defense=on_top(batches[0].defense, table),
        learning_rate=batches[0].learning_rate,
        truth=truth,
        people=tuple(name for batch in batches for name in batch.people),
    )


def _priced(
    defended: Defended,
    defense: Defense | None,
    hits: Sequence[bool],
    undefended: Sequence[bool],
    training: Training | FederatedTraining | None,
    case: Case,
) -> Defended:
    """Return what was found with the accuracy of a model trained under the defense.

    Raises:
        UsageError: the training function answers for other images than without a defense, or for
            none, or otherwise than by yes or no.
    """
    if len(hits) != len(undefended):
        raise UsageError(
            f"the training function tests {len(undefended)} images without a defense and "
            f"{len(hits)} under {defended.table['name']!r}; test the same ones"
        )
    if not hits or not all(hit in (False, True) for hit in hits):
        raise UsageError("it must give True or False for each of some images")
    seed = seed_for("bootstrap", case.threat.seed) % 2**32
    own, without = (np.array(each, dtype=np.float64) for each in (hits, undefended))
    each_image = [np.arange(len(own))]
    epsilon = delta = None
    if isinstance(training, FederatedTraining) and defense is not None:
        sampled = min(1.0, training.client_batch / training.smallest)
        delta = 1 / training.smallest
        epsilon = defense.epsilon(sampled, training.rounds, delta)
    return replace(
        defended,
        utility=metrics.estimate_mean(own, each_image, seed),
        lost=metrics.estimate_mean(without - own, each_image, seed),
        epsilon=epsilon,
        delta=None if epsilon is None else delta,
    )
