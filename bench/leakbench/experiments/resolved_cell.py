"""A cell with its attack and its defense, which are built once and handed on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

from leakbench.base.errors import UsageError
from leakbench.base.plugins import SharedPlugins
from leakbench.base.registry import ATTACKS, DEFENSES
from leakbench.experiments.cell import Cell, Setup, consecutive_trainings
from leakbench.federation.defense import Defense
from leakbench.federation.protocol import under_protocol
from leakbench.threat.attack import Attack, check_batch_size, check_grant, knowledge_used
from leakbench.threat.knowledge import Knowledge

_granted = lru_cache(maxsize=256)(Knowledge.parse)
"""Of names: the cells of a suite share theirs."""


@dataclass(frozen=True)
class ResolvedCell:
    """A cell and the plugins that it names.

    Attributes:
        cell: the description.
        attack, defense: built from their names and parameters.
    """

    cell: Cell
    attack: Attack
    defense: Defense

    @classmethod
    def of(cls, cell: Cell, plugins: SharedPlugins | None = None) -> Self:
        """Return a cell with its plugins.

        Args:
            plugins: of other cells, which this one shares; None builds its own.

        Raises:
            UsageError: a plugin is unknown, a parameter does not fit, or the defense takes local
                steps in a setup whose clients take them already.
        """
        shared = SharedPlugins() if plugins is None else plugins
        attack, _ = shared.get(ATTACKS, cell.spec("attack"))
        defense, _ = shared.get(DEFENSES, cell.spec("defense"))
        resolved = cls(cell, attack, defense)
        # A defense that takes local steps itself is refused now, not when the cell is measured.
        under_protocol(resolved.protocol, resolved.defense)
        return resolved

    @cached_property
    def protocol(self) -> Defense | None:
        """The local steps of federated averaging; None in synchronous SGD."""
        spec = self.cell.protocol
        protocol: Defense | None = None if spec is None else spec.build(DEFENSES)
        return protocol

    @cached_property
    def client_computation(self) -> Defense:
        """What a client does for its update: the protocol and the defense; see `under_protocol`."""
        return under_protocol(self.protocol, self.defense)

    @cached_property
    def key(self) -> str:
        """The cell's key, which names its record."""
        return self.cell.key(self.attack.version)

    @cached_property
    def knowledge(self) -> Knowledge:
        """What the attack gets to know; see `knowledge_used`."""
        return knowledge_used(self.attack, _granted(self.cell.grant))

    @property
    def individuals_in_update(self) -> int:
        """How many individuals one update is computed from: B of each client that it aggregates."""
        return self.cell.batch_size * self.defense.clients

    @property
    def updates(self) -> int:
        """How many updates of victims the server sees."""
        return self.cell.individuals // self.individuals_in_update

    @property
    def setups(self) -> list[Setup]:
        """The setup of each training that is attacked; the first alone for what sees no model."""
        return consecutive_trainings(self.cell.setup, self.trainings)

    @property
    def trainings(self) -> int:
        """How many trainings of the shared model are attacked."""
        return self.cell.trainings if Knowledge.MODEL in self.knowledge else 1

    @property
    def runs(self) -> int:
        """How often each training of the shared model is attacked, with a seed of its own."""
        if not self.attack.is_random:
            return 1
        return max(self.cell.attack_seeds, -(-self.attack.least_runs // self.trainings))

    @property
    def work(self) -> float:
        """Expected cost in gradient evaluations of one individual (for time estimates)."""
        return self.work_of_run * self.runs * self.trainings

    @property
    def work_of_run(self) -> float:
        """The same of one of its runs, of which a record has the seconds."""
        return self.cell.individuals * self.attack.work(self.individuals_in_update)

    def check(self) -> None:
        """Refuse a cell that cannot be measured.

        Raises:
            UsageError: the attack requires more knowledge than is granted, or is not defined for
                batches of this size, or the individuals do not make whole batches, or they make
                one batch where it needs candidates of others.
        """
        check_grant(self.attack, _granted(self.cell.grant))
        check_batch_size(self.attack, self.individuals_in_update)
        if self.cell.individuals % self.individuals_in_update:
            raise UsageError(
                f"{self.cell.individuals} individuals cannot be divided into batches of "
                f"{self.individuals_in_update}; set `individuals` to a multiple"
            )
        if (
            Knowledge.CANDIDATES in self.knowledge
            and self.cell.individuals < 2 * self.individuals_in_update
        ):
            raise UsageError(
                f"candidates for a batch of {self.individuals_in_update} need as many victims of "
                f"other batches, and there are {self.cell.individuals} in all; set `individuals` "
                f"to {2 * self.individuals_in_update} at least"
            )
