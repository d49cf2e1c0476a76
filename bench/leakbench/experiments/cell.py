"""Cells: frozen descriptions of one measurement each, keyed by their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from leakbench.base.choices import Mode, Precision, PropertyModelKind
from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import digest

PositiveInt = Annotated[int, Field(gt=0)]
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
        clients, client_batch, learning_rate: of the synchronous SGD.
        rounds: training rounds before the attacked one; 0 attacks the untrained model.
        auxiliary_share, victim_share: of all identities, those in D_aux and those who are victims;
            the rest are the clients' training data.
        auxiliary_dataset, auxiliary_dataset_parameters: the data set of which all individuals are
            D_aux; empty for those of `dataset` that `auxiliary_share` sets aside. Clients and
            victims are the same people either way.
        auxiliary_individuals: the most that D_aux holds; None for no limit.
        property_model: f_p, see `PropertyModelKind`.
        seed: of the split, the training and the victims.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    dataset: str
    dataset_parameters: dict[str, Any] = {}
    image_size: PositiveInt = 64
    properties: tuple[str, ...] = Field(min_length=1)
    main_task: str
    model: str = "small_cnn"
    model_parameters: dict[str, Any] = {}
    split: str = "convolutions"
    clients: PositiveInt = 8
    client_batch: PositiveInt = 8
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    rounds: Annotated[int, Field(ge=0)] = 1000
    auxiliary_share: Share = 0.45
    victim_share: Share = 0.15
    auxiliary_dataset: str = ""
    auxiliary_dataset_parameters: dict[str, Any] = {}
    auxiliary_individuals: PositiveInt | None = None
    property_model: PropertyModelKind = "validated"
    seed: int = 0

    @model_validator(mode="after")
    def _leave_some_for_the_clients(self) -> Self:
        if self.auxiliary_share + self.victim_share >= 1:
            raise ValueError(
                "auxiliary_share and victim_share must sum to less than 1, to leave clients some"
            )
        return self

    @model_validator(mode="after")
    def _give_parameters_to_a_data_set(self) -> Self:
        if self.auxiliary_dataset_parameters and not self.auxiliary_dataset:
            raise ValueError(
                "auxiliary_dataset_parameters are given but no auxiliary_dataset; name the data "
                "set that D_aux comes from"
            )
        return self

    def spec(self, field: str) -> PluginSpec:
        """Return the plugin that a field names, with the parameters in `<field>_parameters`."""
        return PluginSpec(getattr(self, field), getattr(self, f"{field}_parameters"))

    @property
    def auxiliary_source(self) -> str:
        """The name of the data set that D_aux comes from."""
        return self.auxiliary_dataset or self.dataset

    def training_key(self, fingerprint: str) -> str:
        """Return the key of the training run: all that shapes the weights but when to stop."""
        shaping = self.model_dump(include=set(Setup.model_fields) - NOT_SHAPING_WEIGHTS)
        return digest("training", TRAINING_VERSION, shaping, fingerprint)[:24]


class Cell(Setup):
    """One measurement: a setup, an attack with its parameters, and the threat model.

    Attributes:
        attack, attack_parameters: a registered attack and all its parameters.
        batch_size: individuals B in a client's victim batch.
        individuals: victims in all, the same ones at every batch size.
        mode: how the client runs the model for its update; see `Mode`.
        grant: what the adversary may know; see `Knowledge`.
        defense, defense_parameters: a registered defense and its parameters.
        precision: in which attacks let the model compute; clients compute in float32.
    """

    attack: str
    attack_parameters: dict[str, Any] = {}
    batch_size: PositiveInt
    individuals: PositiveInt = 256
    mode: Mode = "eval"
    grant: tuple[str, ...] = ("model", "update", "auxiliary", "labels")
    defense: str = "none"
    defense_parameters: dict[str, Any] = {}
    precision: Precision = "float32"

    @property
    def setup(self) -> Setup:
        """The part that cells share."""
        return Setup.model_validate(self.model_dump(include=set(Setup.model_fields)))

    def key(self, attack_version: int) -> str:
        """Return the cell's key, 24 hexadecimal digits of a hash of its canonical JSON."""
        content = self.model_dump(mode="json") | {"grant": sorted(self.grant)}
        for field, value in LATER_FIELDS.items():
            if content[field] == value:
                del content[field]
        versions = [SCHEMA, TRAINING_VERSION, PROPERTY_MODEL_VERSION, attack_version]
        return digest("cell", versions, content)[:24]


LATER_FIELDS: Mapping[str, Any] = {
    "precision": "float32",
    "auxiliary_dataset": "",
    "auxiliary_dataset_parameters": {},
    "auxiliary_individuals": None,
    "property_model": "logistic",
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
}
"""Fields of a setup that the training run's weights do not depend on."""

SCHEMA = 2
"""Version of cells and records; raised when their meaning changes."""

TRAINING_VERSION = 2
"""Raised when training gives other weights for the same setup."""

PROPERTY_MODEL_VERSION = 1
"""Raised when fitting f_p of the same kind gives other numbers for the same D_aux."""
