"""The record of one measured cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from leakbench.experiments.cell import LATER_FIELDS, SCHEMA, SCHEMAS, Cell
from leakbench.metrics.estimates import Estimate


def _named(name: str, in_files: str) -> Any:
    """Return a field that record files hold under another name."""
    return Field(validation_alias=AliasChoices(in_files, name), serialization_alias=in_files)


class RecordPart(BaseModel):
    """A part of a record, written under the names that record files have always had.

    Attributes:
        later: fields that earlier records do not have; they are written only where they have a
            value, so that an earlier record that is read and written stays as it was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_absent_fields(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        for field in self.later:
            if getattr(self, field) is None:
                content.pop(field, None)
        return content


class PropertyMetrics(RecordPart):
    """How well one property was inferred; see `leakbench.metrics.of_properties`."""

    later = frozenset({"brier_score", "swapped_balanced_accuracy"})

    accuracy: Estimate
    balanced_accuracy: Estimate
    auc: Estimate
    swapped_balanced_accuracy: Estimate | None = None
    brier_score: Estimate | None = None
    count_error: Estimate
    prevalence: float
    in_main_task: bool


class ImageMetrics(RecordPart):
    """Similarity of reconstructed images to the true ones, matched by feature; means over images.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, each image's at most 100.
        ssim: structural similarity.
        lpips: learned perceptual distance; None where AlexNet's weights were not available.
        recognisable: share of individuals whose image has a PSNR of at least 20 dB.
    """

    psnr: Estimate
    ssim: Estimate
    lpips: Estimate | None
    recognisable: Estimate


class Certificates(RecordPart):
    """Features that an attack claims to have reconstructed exactly.

    Attributes:
        share: of individuals.
        false: how many of those have a cosine below 0.9999 with the true feature, in all runs.
    """

    share: float
    false: int


class Claimed(RecordPart):
    """Features that an attack takes for exact, certified or not.

    Attributes:
        share: of individuals.
        right: share of these that have a cosine ≥ 0.99 with the true feature; None without any.
    """

    share: float
    right: float | None


class Membership(RecordPart):
    """How well the attack separates members of a batch from the other half of the candidates.

    Attributes:
        auc: over the candidates of all batches.
        true_positive_rate: TPR @ 1 % FPR; `found` in record files.
    """

    auc: Estimate
    true_positive_rate: Estimate = _named("true_positive_rate", "found")


class DefenseMetrics(RecordPart):
    """Distortion and utility cost of the clients' defense.

    Attributes:
        distortion: ‖update − gradient‖ / ‖gradient‖, mean of the victims' updates;
            `relative_error` in record files.
        utility: main-task accuracy on the victims' images of a model trained as long as the shared
            one, but under the defense; its interval is by identity, of that one training.
        utility_lost: by how much it is below the shared model's, on the same images.
        epsilon, delta: of the differential privacy of that training, if it has any and its
            accountant was available.
    """

    distortion: Estimate = _named("distortion", "relative_error")
    utility: Estimate
    utility_lost: Estimate
    epsilon: float | None = None
    delta: float | None = None


class Metrics(RecordPart):
    """The metrics of a cell; the catalogue, `leakbench.metrics.catalogue`, declares each.

    Attributes:
        properties: by property.
        feature_cosine: between reconstructed and true features, matched; None without features.
            Of features as they are in records of schema 2, of standardised ones since.
        swapped_cosine: between the attack's features of other individuals and the true ones.
        exact: share of individuals whose feature has cosine ≥ 0.99.
        certificates: what the attack claims to be exact; None where it makes no such claims.
        claimed: what it takes for exact, certified or not; None where it does not tell.
        membership: of candidates; None where the attack is shown none.
        images: of reconstructed images; None where the attack reconstructs none.
        label_accuracy: share of the batch's labels that the attack inferred, as a multiset.
        diverged: share of batches on which the attack reports failure.
        main_task: the shared model's accuracy on the victims' images, on none of which it was
            trained, and what it compares with.
        defense: its distortion and utility cost; None without one.
        deployed: main-task accuracy on the same images of each model that the attack deployed.
        runs: of the attack, over which metrics are means; None for one.
    """

    later = frozenset({"swapped_cosine", "claimed", "runs"})

    properties: dict[str, PropertyMetrics]
    feature_cosine: Estimate | None
    swapped_cosine: Estimate | None = None
    exact: Estimate | None
    certificates: Certificates | None = None
    claimed: Claimed | None = None
    membership: Membership | None = None
    images: ImageMetrics | None = None
    label_accuracy: float | None
    diverged: float
    main_task: dict[str, float]
    deployed: dict[str, float] | None = None
    defense: DefenseMetrics | None = None
    classes: int
    runs: int | None = None


class Cost(RecordPart):
    """Time and memory that a cell took.

    Attributes:
        seconds: wall time of the attack.
        steps: gradient evaluations per batch.
        restarts: runs per batch that were started again after they had diverged.
        peak_memory_mib: of the process, or on CUDA of the cell.
    """

    seconds: float
    steps: float
    restarts: float | None = None
    peak_memory_mib: float


class Environment(RecordPart):
    """What a number depends on besides cell, data and versions.

    Attributes:
        compiled: whether the attack's steps ran compiled, which rounds differently; None where an
            attack has no steps that can be compiled.
        threads: that computed an operation, whose sums they round differently.
        processor: and the instructions used on it, see `leakbench.base.devices.processor_of`; None
            in earlier records.
    """

    later = frozenset({"processor"})

    compiled: bool | None
    threads: int
    processor: str | None = None


class Record(RecordPart):
    """A measured cell, or one that failed and will be tried again.

    Attributes:
        schema_version: of the cell, the scoring and this file; see `leakbench.experiments.cell`.
    """

    later = frozenset({"environment"})

    schema_version: int = SCHEMA
    key: str
    cell: Cell
    attack_version: int
    status: Literal["done", "failed", "diverged"]
    error: str | None = None
    knowledge: tuple[str, ...] = ()
    metrics: Metrics | None = None
    cost: Cost | None = None
    fingerprint: str | None = None
    versions: dict[str, str] = {}
    environment: Environment | None = None
    device: str = "cpu"
    finished: str = ""

    @field_validator("schema_version")
    @classmethod
    def _is_readable(cls, schema: int) -> int:
        if schema not in SCHEMAS:
            raise ValueError(f"schema version {schema} is none of {', '.join(map(str, SCHEMAS))}")
        return schema

    @field_validator("cell", mode="before")
    @classmethod
    def _as_measured(cls, cell: Any) -> Any:
        """Give fields that came after the record what held then, not today's default."""
        return {**LATER_FIELDS, **cell} if isinstance(cell, Mapping) else cell
