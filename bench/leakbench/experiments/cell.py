"""Cells: frozen descriptions of one measurement each, keyed by their content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from leakbench.base.canonical import canonical, canonical_object
from leakbench.base.choices import (
    Augmentation,
    LearningRateSchedule,
    Mode,
    Precision,
    PropertyModelKind,
)
from leakbench.base.limits import MOST, MOST_EPOCHS, MOST_PIXELS
from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import digest, seed_for, text_digest

People = Annotated[int, Field(gt=0, le=MOST)]
"""A number of individuals or clients."""
Repeats = Annotated[int, Field(gt=0, le=10**4)]
"""A number of trainings or attack seeds; each is listed when a suite is read."""
Share = Annotated[float, Field(gt=0, lt=1)]


class Setup(BaseModel):
    """What cells share: the data, the main task, the trained model and D_aux.

    Attributes:
        dataset, dataset_parameters: a registered data set and its parameters.
        image_size: height and width in pixels.
        properties: the properties of individuals to infer.
        main_task: an attribute, several joined by `+` (2ⁿ classes), or `identity`; or one of the
            names that a data set gives to tasks of its own, such as `2-class`.
        model, model_parameters: a registered model and its parameters.
        split: where f is split into f_n and f_c.
        clients: whose updates the server averages in each round.
        client_batch: individuals that a client uses in a round, drawn anew; all if it has no more.
        learning_rate: η, of the server, and of clients' local steps.
        momentum, weight_decay: of the server's SGD on the mean update.
        schedule: of the learning rate over `rounds`, see `LearningRateSchedule`.
        augmentation: of the clients' images, see `Augmentation`.
        local_epochs: 0 for synchronous SGD, in which a client sends the gradient of its batch. From
            1 on federated averaging (FedAvg): in each round a client takes SGD steps for so many
            epochs over its batch, and sends the change of weights divided by −η. So does the client
            that is attacked, over its victim batch.
        local_batch: individuals in a local step; None for the whole batch.
        rounds: training rounds before the attacked one; 0 attacks the untrained model.
        auxiliary_share, victim_share: of all identities, those in D_aux and those who are victims;
            the rest are the clients' training data.
        auxiliary_dataset, auxiliary_dataset_parameters: the data set of which all individuals are
            D_aux; empty for those of `dataset` that `auxiliary_share` sets aside. Clients and
            victims are the same people either way.
        auxiliary_individuals: the most that D_aux holds; None for no limit.
        property_model: f_p, see `PropertyModelKind`.
        seed: of the split, the training and the victims.
        training: which training of the shared model, 0, 1, …: each has its own initial weights and
            order of batches, and the same clients, D_aux and victims.
        central: whether the same model is also trained on all clients' data in one place, as the
            only client, for its main-task accuracy beside the shared model's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    dataset: str
    dataset_parameters: dict[str, Any] = Field(default_factory=dict)
    image_size: Annotated[int, Field(gt=0, le=MOST_PIXELS)] = 64
    properties: tuple[str, ...] = Field(min_length=1)
    main_task: str
    model: str = "small_cnn"
    model_parameters: dict[str, Any] = Field(default_factory=dict)
    split: str = "convolutions"
    clients: People = 8
    client_batch: People = 8
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    schedule: LearningRateSchedule = "constant"
    augmentation: Augmentation = "none"
    local_epochs: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] = 0
    local_batch: People | None = None
    rounds: Annotated[int, Field(ge=0, le=MOST)] = 1000
    auxiliary_share: Share = 0.45
    victim_share: Share = 0.15
    auxiliary_dataset: str = ""
    auxiliary_dataset_parameters: dict[str, Any] = Field(default_factory=dict)
    auxiliary_individuals: People | None = None
    property_model: PropertyModelKind = "validated"
    seed: int = 0
    training: Annotated[int, Field(ge=0)] = 0
    central: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        # In one method, since each that pydantic calls takes as long as reading ten fields.
        if self.auxiliary_share + self.victim_share >= 1:
            raise ValueError(
                "auxiliary_share and victim_share must sum to less than 1, to leave clients some"
            )
        if self.auxiliary_dataset_parameters and not self.auxiliary_dataset:
            raise ValueError(
                "auxiliary_dataset_parameters are given but no auxiliary_dataset; name the data "
                "set that D_aux comes from"
            )
        if self.local_batch is not None and not self.local_epochs:
            raise ValueError(
                "local_batch is given but local_epochs is 0, so that clients take no local steps; "
                "set local_epochs, or client_batch for the size of synchronous SGD's batches"
            )
        return self

    def spec(self, field: str) -> PluginSpec:
        """Return the plugin that a field names, with the parameters in `<field>_parameters`."""
        return PluginSpec(getattr(self, field), getattr(self, f"{field}_parameters"))

    @property
    def auxiliary_source(self) -> str:
        """The name of the data set that D_aux comes from."""
        return self.auxiliary_dataset or self.dataset

    @property
    def training_seed(self) -> int:
        """The seed of the initial weights and of the order of batches."""
        return seed_for("training", self.seed, self.training) if self.training else self.seed

    @property
    def protocol(self) -> PluginSpec | None:
        """What a client of federated averaging does in a round; None in synchronous SGD."""
        if not self.local_epochs:
            return None
        return PluginSpec("local_steps", {"epochs": self.local_epochs, "batch": self.local_batch})

    @property
    def images_of_round(self) -> int:
        """How many images clients take a gradient of in a round, unless they have fewer."""
        return self.clients * self.client_batch * max(1, self.local_epochs)

    def training_key(self, fingerprint: str) -> str:
        """Return the key of the training run: all that shapes the weights but when to stop.

        A schedule has the number of rounds in it, so that trainings of other numbers share nothing.
        """
        shaping = self.model_dump(include=set(Setup.model_fields) - NOT_SHAPING_WEIGHTS)
        for field, value in LATER_FIELDS.items():
            if shaping.get(field) == value:
                shaping.pop(field, None)
        if self.schedule != "constant":
            shaping["rounds"] = self.rounds
        return digest("training", TRAINING_VERSION, shaping, fingerprint)[:24]


UTILITY_TRAININGS = 3
"""Pairs of trainings, with and without a defense from common seeds, that measure utility."""


def utility_setups(setup: Setup) -> list[Setup]:
    """Return the setups whose trainings measure the utility cost of a defense."""
    return consecutive_trainings(setup, UTILITY_TRAININGS)


def consecutive_trainings(setup: Setup, count: int) -> list[Setup]:
    """Return the setups of `count` trainings, from a setup's own on."""
    numbers = range(setup.training, setup.training + count)
    return [setup.model_copy(update={"training": number}) for number in numbers]


class Cell(Setup):
    """One measurement: a setup, an attack with its parameters, and the threat model.

    Attributes:
        attack, attack_parameters: a registered attack and all its parameters.
        batch_size: individuals B in a client's victim batch.
        individuals: victims in all, the same ones at every batch size.
        trainings: how many trainings of the shared model are attacked, from `training` on.
        attack_seeds: how often each training is attacked with other random numbers of attack and
            clients. The metrics are means over all these runs; an attack that draws no random
            numbers runs once on each training.
        mode: how the client runs the model for its update; see `Mode`.
        grant: what the adversary may know; see `Knowledge`.
        defense, defense_parameters: a registered defense and its parameters.
        precision: in which attacks let the model compute; clients compute in float32.
    """

    attack: str
    attack_parameters: dict[str, Any] = Field(default_factory=dict)
    batch_size: People
    individuals: People = 256
    trainings: Repeats = 1
    attack_seeds: Repeats = 1
    mode: Mode = "eval"
    grant: tuple[str, ...] = ("model", "update", "auxiliary", "labels")
    defense: str = "none"
    defense_parameters: dict[str, Any] = Field(default_factory=dict)
    precision: Precision = "float32"

    @property
    def setup(self) -> Setup:
        """The part that cells share, of the first training."""
        return Setup.model_validate(self.model_dump(include=set(Setup.model_fields)))

    @property
    def setups(self) -> list[Setup]:
        """The setup of each training, in order."""
        return consecutive_trainings(self.setup, self.trainings)

    def key(self, attack_version: int, schema: int | None = None) -> str:
        """Return the cell's key, 24 hexadecimal digits of a hash of its canonical JSON.

        Args:
            schema: that of an earlier record; today's if None.
        """
        content = self.__dict__ | {"grant": tuple(sorted(self.grant))}
        later = LATER_FIELDS
        cell = canonical_object(
            [
                (field, content[field])
                for field in SORTED_FIELDS
                if field not in later or content[field] != later[field]
            ]
        )
        versions = _versions(schema or SCHEMA, attack_version)
        return text_digest(f'["cell",{versions},{cell}]')[:24]


@lru_cache(maxsize=256)
def _versions(schema: int, attack_version: int) -> str:
    """Return the canonical JSON of the versions in a key."""
    return canonical([*SCHEMAS[schema], attack_version])


SORTED_FIELDS = tuple(sorted(Cell.model_fields))
"""Fields of a cell in the order of canonical JSON."""


LATER_FIELDS: Mapping[str, Any] = {
    "precision": "float32",
    "auxiliary_dataset": "",
    "auxiliary_dataset_parameters": {},
    "auxiliary_individuals": None,
    "property_model": "logistic",
    "training": 0,
    "trainings": 1,
    "attack_seeds": 1,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "augmentation": "none",
    "local_epochs": 0,
    "local_batch": None,
    "central": False,
}
"""Fields that came after records had been published → what held before, which no key contains.

What held before need not be the default now.
"""

NOT_SHAPING_WEIGHTS = {
    "properties",
    "rounds",
    "auxiliary_dataset",
    "auxiliary_dataset_parameters",
    "auxiliary_individuals",
    "property_model",
    "central",
}
"""Fields of a setup that the training run's weights do not depend on."""

SCHEMA = 3
"""Version of cells, scoring and records; raised when the meaning of their numbers changes.

2: features compared as they are; one training and one run of the attack. 3: features standardised
by D_aux; means over runs; individuals of a near-duplicate photo on one side of the split.
"""

TRAINING_VERSION = 2
"""Raised when training gives other weights for the same setup."""

PROPERTY_MODEL_VERSION = 1
"""Raised when fitting f_p of the same kind gives other numbers for the same D_aux."""

SCHEMAS: Mapping[int, tuple[int, int, int]] = {
    2: (2, 2, 1),
    SCHEMA: (SCHEMA, TRAINING_VERSION, PROPERTY_MODEL_VERSION),
}
"""Schema of records that can be read → the versions that are part of their keys."""
