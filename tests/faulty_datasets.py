"""A sound data set, and for each rule of the conformance suite one that breaks it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from leakbench.base.errors import UsageError
from leakbench.data.dataset import DataSet, Individuals


@dataclass(frozen=True, kw_only=True)
class Sound(DataSet):
    """Noise, bright or dark.

    Attributes:
        individuals: how many.
    """

    folder = None
    source = ""
    properties = ("bright",)
    size = "as many as asked for"
    terms = "free"

    individuals: int = 60

    def load(self, data_root, size):
        random = np.random.default_rng(0)
        bright = random.random(self.individuals) < 0.5
        low = np.where(bright, 100, 0)[:, None, None, None]
        noise = random.integers(0, 100, (self.individuals, 3, size, size))
        return Individuals(
            images=(low + noise).astype(np.uint8),
            attributes={"bright": bright, "left": random.random(self.individuals) < 0.5},
            identities=np.arange(self.individuals),
            fingerprint=f"noise {self.individuals}",
        )

    def main_tasks(self):
        return {"2-class": "left"}


@dataclass(frozen=True, kw_only=True)
class NoTerms(Sound):
    """Does not say on what terms."""

    terms = DataSet.terms


@dataclass(frozen=True, kw_only=True)
class NoSource(Sound):
    """Does not say where to get it."""

    folder = "noise"


@dataclass(frozen=True, kw_only=True)
class Misnaming(Sound):
    """Names another attribute than it loads."""

    def attribute_names(self, data_root):
        return ("bright", "right")


@dataclass(frozen=True, kw_only=True)
class Fixed(Sound):
    """Has images of one size."""

    def load(self, data_root, size):
        return super().load(data_root, 32)


@dataclass(frozen=True, kw_only=True)
class Floating(Sound):
    """Has images in [0, 1]."""

    def load(self, data_root, size):
        found = super().load(data_root, size)
        return replace(found, images=found.images / 255)


@dataclass(frozen=True, kw_only=True)
class Numbers(Sound):
    """Has attributes of ±1."""

    def load(self, data_root, size):
        found = super().load(data_root, size)
        return replace(found, attributes={"bright": np.where(found.attributes["bright"], 1, -1)})


@dataclass(frozen=True, kw_only=True)
class Nobody(Sound):
    """Has identities of half of them."""

    def load(self, data_root, size):
        found = super().load(data_root, size)
        return replace(found, identities=found.identities[::2])


@dataclass(frozen=True, kw_only=True)
class AllAlike(Sound):
    """Has nobody without the property."""

    def load(self, data_root, size):
        found = super().load(data_root, size)
        everybody = np.ones(self.individuals, dtype=bool)
        return replace(found, attributes={**found.attributes, "bright": everybody})


@dataclass(frozen=True, kw_only=True)
class NoTask(Sound):
    """Has a main task of what it has not."""

    def main_tasks(self):
        return {"2-class": "right"}


@dataclass(frozen=True, kw_only=True)
class Few(Sound):
    """Has too few people to divide."""

    individuals: int = 2


@dataclass(frozen=True, kw_only=True)
class Dated(Sound):
    """Has a fingerprint of the moment."""

    def load(self, data_root, size):
        return replace(super().load(data_root, size), fingerprint=str(time.perf_counter_ns()))


@dataclass(frozen=True, kw_only=True)
class Global(Sound):
    """Draws from NumPy's global generator."""

    def load(self, data_root, size):
        found = super().load(data_root, size)
        return replace(found, images=np.random.randint(0, 255, found.images.shape, dtype=np.uint8))


@dataclass(frozen=True, kw_only=True)
class NoFingerprint(Sound):
    """Has none."""

    def load(self, data_root, size):
        return replace(super().load(data_root, size), fingerprint="")


@dataclass(frozen=True, kw_only=True)
class Seeding(Sound):
    """Seeds NumPy's global generator."""

    def load(self, data_root, size):
        np.random.seed(0)
        return super().load(data_root, size)


@dataclass(frozen=True, kw_only=True)
class OfFiles(Sound):
    """Lies in files, and says so if one lacks."""

    folder = "noise"
    source = "the noise"

    def load(self, data_root, size):
        if not (data_root / "noise" / "labels.txt").is_file():
            raise UsageError(f"{data_root}/noise/labels.txt not found; get the noise again")
        return super().load(data_root, size)


@dataclass(frozen=True, kw_only=True)
class Crashing(OfFiles):
    """Opens what is not there."""

    def load(self, data_root, size):
        (data_root / "noise" / "labels.txt").read_text()
        return super().load(data_root, size)


@dataclass(frozen=True, kw_only=True)
class Inventing(OfFiles):
    """Goes on without its files."""

    def load(self, data_root, size):
        return Sound.load(self, data_root, size)
