"""The embedded default data set: synthetic individuals with known, independent factors.

It needs no download and shows no real person. Attributes are independent of each other and true
for half of the individuals, so that no attack can use a correlation in the population: whatever it
infers about a property comes from the images' features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from leakbench.base.cache import cached_array
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_dataset
from leakbench.data.dataset import DataSet, Individuals
from leakbench.datasets.drawing.birds import BIRDS
from leakbench.datasets.drawing.faces import FACES
from leakbench.datasets.drawing.scene import Factors, Subject
from leakbench.datasets.drawing.vehicles import VEHICLES

DRAWING_VERSION = 1
"""Part of the fingerprint: raise it whenever the images change."""

BLOCK = 64
"""Number of individuals, or identities, sampled by one generator. The images depend on it."""

PIXELS_AT_ONCE = 2**17
"""Number of pixels rendered together: small enough for a core's cache, large enough to amortise the
cost of a call."""

SMALLEST, LARGEST = 16, 512

MOST = 10**7
"""Individuals: their images of 64 px take 120 GB."""

SubjectName = Literal["faces", "vehicles", "birds"]
SUBJECTS: dict[SubjectName, Subject] = {"faces": FACES, "vehicles": VEHICLES, "birds": BIRDS}

MAIN_TASKS: dict[SubjectName, tuple[str, str, str]] = {
    "faces": ("hat", "dark_hair", "looking_left"),
    "vehicles": ("dark_paint", "two_windows", "facing_left"),
    "birds": ("long_tail", "crest", "facing_left"),
}
"""Attributes of the main tasks `2-class` (the first) and `8-class`."""


@register_dataset("synthetic")
@dataclass(frozen=True, kw_only=True)
class Synthetic(DataSet):
    """Synthetic faces, vehicles or birds, with several images of each identity.

    Faces
        have the properties gender (true: male), glasses, smile and young, and the main-task
        attributes hat, dark_hair, looking_left and bright_background.
    Vehicles
        have the property wheel, and dark_paint, two_windows, facing_left and cargo.
    Birds
        have the property beak (true: long, straight or hooked; false: a short cone), and long_tail,
        crest, dark_plumage and facing_left.

    Individual i depends only on the seed, the subject, `images_per_identity` and i: a larger data
    set begins with the smaller one.

    Attributes:
        subject: what the images show.
        individuals: number of images.
        images_per_identity: number of consecutive images of the same person or object. Gender, age,
            geometry and colours belong to the identity; pose, light, background, expression,
            glasses and hat belong to the image.
        seed: not negative.
    """

    subject: SubjectName = "faces"
    individuals: int = 6_000
    images_per_identity: int = 4
    seed: int = 0

    folder: ClassVar[str | None] = None
    source: ClassVar[str] = ""
    properties: ClassVar[tuple[str, ...]] = (
        "gender",
        "glasses",
        "smile",
        "young",
        "wheel",
        "beak",
    )
    size: ClassVar[str] = "any number"
    terms: ClassVar[str] = "none: generated"

    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Render all individuals, or read them from the cache; `data_root` is ignored.

        Raises:
            UsageError: a parameter or the size is out of range.
        """
        self._check(size)
        blocks = [self.factors(block) for block in range(-(-self.individuals // BLOCK))]
        names = self.attribute_names(data_root)
        fingerprint = self.fingerprint(size)
        return Individuals(
            images=cached_array(f"images/synthetic-{fingerprint}", lambda: self._images(size)),
            attributes={
                name: np.concatenate([block.attributes[name] for block in blocks])[
                    : self.individuals
                ]
                for name in names
            },
            identities=np.arange(self.individuals, dtype=np.int64) // self.images_per_identity,
            fingerprint=fingerprint,
        )

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...]:  # noqa: ARG002
        """Return those of the subject."""
        subject = SUBJECTS[self.subject]
        return (*subject.fixed_attributes, *subject.varying_attributes)

    def main_tasks(self) -> Mapping[str, str]:
        """Return two tasks of attributes that are not among the properties."""
        first, second, third = MAIN_TASKS[self.subject]
        return {"2-class": first, "8-class": f"{first}+{second}+{third}"}

    def factors(self, block: int) -> Factors:
        """Return the factors of the individuals from `BLOCK` · block on.

        Attributes and latents have shape (BLOCK,) each, however many individuals were asked for.
        """
        subject = SUBJECTS[self.subject]
        rows = np.arange(block * BLOCK, (block + 1) * BLOCK) // self.images_per_identity
        known = range(rows[0] // BLOCK, rows[-1] // BLOCK + 1)
        fixed_names = (*subject.fixed_attributes, *subject.fixed_latents)
        fixed = np.concatenate([self._uniform("identity", at, len(fixed_names)) for at in known])
        fixed = fixed[rows - known.start * BLOCK]
        varying_names = (*subject.varying_attributes, *subject.varying_latents)
        varying = self._uniform("image", block, len(varying_names))
        columns = dict(zip(fixed_names, fixed.T, strict=True))
        columns |= dict(zip(varying_names, varying.T, strict=True))
        present = (*subject.fixed_attributes, *subject.varying_attributes)
        return Factors(
            {name: columns[name] < 0.5 for name in present},
            {name: np.ascontiguousarray(columns[name]) for name in columns if name not in present},
        )

    def fingerprint(self, size: int) -> str:
        """Return a short hash of everything that the content depends on."""
        content = repr((DRAWING_VERSION, BLOCK, *astuple(self), size))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _images(self, size: int) -> NDArray[np.uint8]:
        images = np.empty((self.individuals, 3, size, size), dtype=np.uint8)
        for block, start in enumerate(range(0, self.individuals, BLOCK)):
            wanted = images[start : start + BLOCK]
            wanted[:] = self._draw(self.factors(block), block, size)[: len(wanted)]
        return images

    def _draw(self, factors: Factors, block: int, size: int) -> NDArray[np.uint8]:
        noise = self._generator("noise", block)
        subject = SUBJECTS[self.subject]
        step = max(1, min(BLOCK, PIXELS_AT_ONCE // size**2))
        return np.concatenate(
            [
                subject.draw(factors[start : start + step], size, noise)
                for start in range(0, BLOCK, step)
            ]
        )

    def _uniform(self, purpose: str, block: int, columns: int) -> NDArray[np.float32]:
        return self._generator(purpose, block).random((BLOCK, columns), dtype=np.float32)

    def _generator(self, purpose: str, block: int) -> np.random.Generator:
        name = int.from_bytes(f"{self.subject} {purpose}".encode())
        return np.random.default_rng([self.seed, name, block])

    def _check(self, size: int) -> None:
        known = get_args(SubjectName)
        if self.subject not in known:
            raise UsageError(
                f"unknown subject {self.subject!r} of data set synthetic; pass {', '.join(known)}"
            )
        for name, smallest in (("individuals", 1), ("images_per_identity", 1), ("seed", 0)):
            if (value := getattr(self, name)) < smallest:
                raise UsageError(
                    f"{name}={value} of data set synthetic is too small; pass {smallest} or more"
                )
        if self.individuals > MOST:
            raise UsageError(
                f"individuals={self.individuals} of data set synthetic is too large; pass {MOST} "
                f"or less"
            )
        if not SMALLEST <= size <= LARGEST:
            raise UsageError(
                f"size {size} is out of range for data set synthetic; "
                f"pass {SMALLEST} to {LARGEST} pixels"
            )
