"""What is written down of one measured cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from leakbench.experiments.cell import LATER_FIELDS, SCHEMA, Cell
from leakbench.metrics.estimates import Estimate


def _named(name: str, in_files: str) -> Any:
    """Return a field that record files hold under another name."""
    return Field(validation_alias=AliasChoices(in_files, name), serialization_alias=in_files)


class RecordPart(BaseModel):
    """A part of a record, written under the names that record files have always had."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


class PropertyMetrics(RecordPart):
    """How well one property was inferred; see `leakbench.metrics.estimates`."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    auc: Estimate
    count_error: Estimate
    prevalence: float
    in_main_task: bool


class ImageMetrics(RecordPart):
    """How near reconstructed images are to the true ones, matched by feature; means over images.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, each image's at most 100.
        ssim: structural similarity.
        lpips: learned perceptual distance; None where AlexNet's weights were not at hand.
        recognisable: share of individuals whose image has a PSNR of at least 20 dB.
    """

    psnr: Estimate
    ssim: Estimate
    lpips: Estimate | None
    recognisable: Estimate


class Certificates(RecordPart):
    """What an attack claims to have found exactly.

    Attributes:
        share: of individuals.
        false: how many of those have a cosine below 0.9999 with the true feature.
    """

    share: float
    false: int


class Membership(RecordPart):
    """How well the attack tells who of the candidates is in a batch; half of them are.

    Attributes:
        auc: over the candidates of all batches.
        true_positive_rate: TPR @ 1 % FPR: the share of members that are recognised where at most 1
            % of the others are taken for members; `found` in record files.
    """

    auc: Estimate
    true_positive_rate: Estimate = _named("true_positive_rate", "found")


class DefenseMetrics(RecordPart):
    """What the clients' defense changes, and what it costs.

    Attributes:
        distortion: ‖what is sent − the gradient‖ / ‖the gradient‖ of victims' updates; of noise the
            ratio of norms; `relative_error` in record files.
        utility: main-task accuracy on the victims' images of a model trained as long as the shared
            one, but under the defense; its interval is by identity, of that one training.
        utility_lost: by how much it is below the shared model's, on the same images.
        epsilon, delta: of the differential privacy of that training, if it has any and its
            accountant was at hand.
    """

    distortion: Estimate = _named("distortion", "relative_error")
    utility: Estimate
    utility_lost: Estimate
    epsilon: float | None = None
    delta: float | None = None


class Metrics(RecordPart):
    """What a cell measured.

    Attributes:
        properties: by property.
        feature_cosine: between reconstructed and true features, matched; None without features.
        exact: share of individuals whose feature has cosine ≥ 0.99.
        certificates: what the attack claims to be exact; None where it cannot tell.
        membership: of candidates; None where the attack is shown none.
        images: of reconstructed images; None where the attack gives none.
        label_accuracy: share of the batch's labels that the attack believed in, as a multiset.
        diverged: share of batches on which the attack reports failure.
        main_task: the shared model's accuracy on the victims' images, none of which it has seen.
        defense: what the defense changes and costs; None without one.
        deployed: main-task accuracy on the same images of each model that the attack deployed.
    """

    properties: dict[str, PropertyMetrics]
    feature_cosine: Estimate | None
    exact: Estimate | None
    certificates: Certificates | None = None
    membership: Membership | None = None
    images: ImageMetrics | None = None
    label_accuracy: float | None
    diverged: float
    main_task: dict[str, float]
    deployed: dict[str, float] | None = None
    defense: DefenseMetrics | None = None
    classes: int


class Cost(RecordPart):
    """What a cell took.

    Attributes:
        seconds: wall time of the attack.
        steps: gradient evaluations a batch.
        restarts: runs started afresh a batch, since they had diverged.
        peak_memory_mib: of the process, or on CUDA of the cell.
    """

    seconds: float
    steps: float
    restarts: float | None = None
    peak_memory_mib: float


class Record(RecordPart):
    """A measured cell, or one that failed and will be tried again."""

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
    device: str = "cpu"
    finished: str = ""

    @field_validator("cell", mode="before")
    @classmethod
    def _as_measured(cls, cell: Any) -> Any:
        """Give fields that came after the record what held then, not today's default."""
        return {**LATER_FIELDS, **cell} if isinstance(cell, Mapping) else cell
