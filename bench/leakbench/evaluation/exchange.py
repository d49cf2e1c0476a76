"""What passes between clients and server in the attacked round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from leakbench.base.choices import Compiling, Mode, Precision
from leakbench.base.seeds import seed_for
from leakbench.base.stored_tensors import TensorStore
from leakbench.evaluation.defense_cost import distortion
from leakbench.evaluation.preparation import EvaluationContext
from leakbench.evaluation.shared_training import learning_rate_of
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, gradient
from leakbench.federation.defense import Defense
from leakbench.threat.attack import Attack
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import GroundTruth
from leakbench.threat.server import Server, granted


@dataclass(frozen=True)
class Exchange:
    """What passes between the clients and the server, and what the adversary may use of it.

    Attributes:
        knowledge: what the attack gets to know.
        batch_size: individuals B in a client's batch.
        mode: how clients run the model for their update.
        learning_rate: η in the attacked round, which the server sets.
        defense: what clients do for their updates, the protocol included.
        protocol: the local steps of federated averaging, known to every server; None for none.
        precision: in which attacks let the model compute; clients compute in float32.
        seed: of the attack's randomness, with the batch's number.
        clients_seed: of the clients' randomness, likewise. It is the same in all runs on one
            training: several draws of noise on one update would let an attack average it out.
    """

    knowledge: Knowledge
    batch_size: int
    mode: Mode
    learning_rate: float
    defense: Defense
    precision: Precision
    seed: int
    clients_seed: int
    protocol: Defense | None = None

    @classmethod
    def of(cls, resolved: ResolvedCell, training: int = 0, number: int = 0) -> Self:
        """Return the exchange that a cell describes, in one of its runs.

        Args:
            training: of the shared model.
            number: of the run on this training.
        """
        cell = resolved.cell
        first = (training, number) == (0, 0)
        return cls(
            knowledge=resolved.knowledge,
            batch_size=cell.batch_size,
            mode=cell.mode,
            learning_rate=learning_rate_of(cell).at(cell.rounds),
            defense=resolved.client_computation,
            protocol=resolved.protocol,
            precision=cell.precision,
            seed=cell.seed if first else seed_for("run", cell.seed, training, number),
            clients_seed=seed_for("clients", cell.seed, training) if training else cell.seed,
        )

    @property
    def is_defended(self) -> bool:
        """Whether clients do more for their updates than the protocol says."""
        return self.defense.name != "none" and self.defense is not self.protocol

    def attack_seed(self, attack: Attack, number: int) -> int:
        """Return the seed of an attack on batch `number`."""
        return seed_for("attack", attack.name, self.batch_size, self.seed, number)

    def defense_generator(self, truth: GroundTruth, number: int) -> torch.Generator:
        """Return what the client of batch `number` draws from, and no attack can."""
        return truth.generator("defense", self.clients_seed, self.batch_size, number)

    def server(self, server: Server, compiling: Compiling) -> Server:
        """Return the server with what it is granted, and how it computes."""
        whole = replace(
            server,
            mode=self.mode,
            learning_rate=self.learning_rate,
            defense=self.defense,
            protocol=self.protocol,
            compiling=compiling,
            precision=self.precision,
        )
        return granted(whole, self.knowledge)


@dataclass(frozen=True)
class Sent:
    """What clients send, the same in all runs on one training.

    Attributes:
        updates: one for each victim batch, stored; empty where neither the attack sees them nor a
            defense changes them, since a gradient of a deep network takes longer than a control.
        changes: `distortion` of each; none without a defense.
    """

    updates: list[Mapping[str, Tensor]]
    changes: list[float]


def sent_by_clients(
    truths: Sequence[GroundTruth], exchange: Exchange, context: EvaluationContext
) -> Sent:
    """Return what the clients of victim batches send.

    Raises:
        WriteError: updates are large, and the disk is full.
    """
    assert context.server.model is not None
    model = in_mode(context.server.model, exchange.mode)
    compute = exchange.defense.protect(gradient)
    undefended = exchange.protocol.protect(gradient) if exchange.protocol else gradient
    sees_update = Knowledge.UPDATE in exchange.knowledge
    store = TensorStore()
    updates: list[Mapping[str, Tensor]] = []
    changes: list[float] = []
    for number, truth in enumerate(truths):
        client = Client(
            model=model,
            images=truth.images,
            labels=truth.labels,
            learning_rate=exchange.learning_rate,
            generator=exchange.defense_generator(truth, number),
        )
        update = compute(client) if sees_update or exchange.is_defended else {}
        updates.append(store.keep(update))
        if exchange.is_defended:
            again = replace(client, generator=exchange.defense_generator(truth, number))
            changes.append(distortion(update, undefended(again)))
        # Alive beside the next batch's activations, it would keep the heap from shrinking.
        del update
    return Sent(updates, changes)
