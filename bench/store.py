"""Records: one JSON file a cell, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from bench.cache import replacing, set_aside
from bench.cells import LATER_FIELDS, SCHEMA, Cell
from bench.metrics import Estimate


class PropertyMetrics(BaseModel):
    """How well one property was inferred; see `bench.metrics`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: Estimate
    balanced_accuracy: Estimate
    auc: Estimate
    count_error: Estimate
    prevalence: float
    in_main_task: bool


class ImageMetrics(BaseModel):
    """How near reconstructed images are to the true ones, matched by feature; means over images.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, each image's at most 100.
        ssim: structural similarity.
        lpips: learned perceptual distance; None where AlexNet's weights were not at hand.
        recognisable: share of individuals whose image has a PSNR of at least 20 dB.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    psnr: Estimate
    ssim: Estimate
    lpips: Estimate | None
    recognisable: Estimate


class Certificates(BaseModel):
    """What an attack claims to have found exactly.

    Attributes:
        share: of individuals.
        false: how many of those have a cosine below 0.9999 with the true feature.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float
    false: int


class Membership(BaseModel):
    """How well the attack tells who of the candidates is in a batch; half of them are.

    Attributes:
        auc: over the candidates of all batches.
        found: share of members found where 1 % of the others are taken for members, at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    auc: Estimate
    found: Estimate


class DefenseMetrics(BaseModel):
    """What the clients' defense changes, and what it costs.

    Attributes:
        relative_error: ‖what is sent − the gradient‖ / ‖the gradient‖ of victims' updates; of noise
            the ratio of norms.
        utility: main-task accuracy on the victims' images of a model trained as long as the shared
            one, but under the defense; its interval is by identity, of that one training.
        utility_lost: by how much it is below the shared model's, on the same images.
        epsilon, delta: of the differential privacy of that training, if it has any and its
            accountant was at hand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    relative_error: Estimate
    utility: Estimate
    utility_lost: Estimate
    epsilon: float | None = None
    delta: float | None = None


class Metrics(BaseModel):
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

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class Cost(BaseModel):
    """What a cell took.

    Attributes:
        seconds: wall time of the attack.
        steps: gradient evaluations a batch.
        restarts: runs started afresh a batch, since they had diverged.
        peak_memory_mib: of the process, or on CUDA of the cell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float
    steps: float
    restarts: float | None = None
    peak_memory_mib: float


class Record(BaseModel):
    """A measured cell, or one that failed and will be tried again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


Stamp = tuple[int, int, int]
"""Of a record's file: number, time and size."""


class Store:
    """The records of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Return the file of the record with this key."""
        return self.folder / f"{key}.json"

    def read(self, key: str) -> Record | None:
        """Return the record with this key; None if there is none that can be read."""
        try:
            return Record.model_validate_json(self.path(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def all(self) -> Iterator[Record]:
        """Yield every record that can be read, by key."""
        for name in sorted(path.name for path in self.folder.glob("*.json")):
            if (record := self.read(name.removesuffix(".json"))) is not None:
                yield record

    def stamp(self, key: str) -> Stamp | None:
        """Return what tells a file from one that takes its place; None if there is none."""
        try:
            status = self.path(key).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def set_aside(self, key: str) -> Path | None:
        """Move a file that holds no record out of the way; return where to, None if there is none.

        Nothing is lost: what is in it may be of use to somebody, or of a later version.
        """
        path = self.path(key)
        if not path.exists() or self.read(key) is not None:
            return None
        return set_aside(path, ".unreadable")

    def write(self, record: Record, finished: str | None = None) -> None:
        """Write a record in place of any other with its key.

        Args:
            finished: when it was measured; now, if not told.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stamped = record.model_copy(update={"finished": finished or now})
        text = json.dumps(stamped.model_dump(mode="json"), indent=1, ensure_ascii=False)
        with replacing(self.path(record.key)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
