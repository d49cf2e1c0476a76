"""Shared by all subjects: factors, pose, background, light and noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leakbench.datasets.drawing.shapes import Array, Colour, Number, Pose, ramp, tint, waves

POSE = ("shift_x", "shift_y", "angle", "scale")
BACKGROUND = (
    *("back_tone", "back_hue", "back_colour", "back_ramp", "back_angle"),
    *("wave_size", "wave_across", "wave_down", "wave_phase"),
    *("weave_size", "weave_across", "weave_down", "weave_phase"),
)
LIGHT = ("light_angle", "light_strength", "gain", "contrast", "cast_hue", "cast", "noise")
SCENE = (*POSE, *BACKGROUND, *LIGHT)
"""Names of the latents that `pose`, `background` and `add_light_and_noise` use."""


@dataclass(frozen=True)
class Factors:
    """All generative factors of n images, except pixel noise.

    Attributes:
        attributes: name → presence, shape (n,) each.
        latents: name → nuisance factor, uniform in [0, 1) and independent, shape (n,) each.
    """

    attributes: Mapping[str, NDArray[np.bool_]]
    latents: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.attributes.values())))

    def __getitem__(self, rows: slice) -> Factors:
        return Factors(
            {name: values[rows] for name, values in self.attributes.items()},
            {name: values[rows] for name, values in self.latents.items()},
        )

    def between(self, latent: str, low: Number, high: Number) -> Array:
        """Return a latent scaled to [low, high), shape (n,)."""
        return low + (high - low) * self.latents[latent]

    def where(self, attribute: str, yes: Number, no: Number) -> Array:
        """Return `yes` for images that have the attribute, `no` for the others, shape (n,)."""
        return np.where(self.attributes[attribute], yes, no).astype(np.float32)

    def chance(self, latent: str, probability: Number) -> Array:
        """Return 1 with the given probability, else 0, shape (n,)."""
        return (self.latents[latent] < probability).astype(np.float32)

    def flipped(self, attribute: str) -> Factors:
        """Return the same factors with one attribute negated in every image."""
        return replace(self, attributes={**self.attributes, attribute: ~self.attributes[attribute]})


Draw = Callable[[Factors, int, np.random.Generator], NDArray[np.uint8]]


@dataclass(frozen=True)
class Subject:
    """A kind of object to render.

    Attributes:
        fixed_attributes, varying_attributes: attributes of an identity, and of a single image.
        fixed_latents, varying_latents: likewise for nuisance factors.
        draw: factors of n images, size and pixel noise → uint8 RGB, shape (n, 3, size, size).
    """

    fixed_attributes: tuple[str, ...]
    varying_attributes: tuple[str, ...]
    fixed_latents: tuple[str, ...]
    varying_latents: tuple[str, ...]
    draw: Draw


def pose(factors: Factors, *, shift: float, turn: float, scale: tuple[float, float]) -> Pose:
    """Return a random pose.

    Args:
        factors: with the latents `POSE`.
        shift: largest shift along each axis, in image half-widths.
        turn: largest rotation to either side, in radians.
        scale: smallest and largest scale.
    """
    return Pose(
        x=factors.between("shift_x", -shift, shift),
        y=factors.between("shift_y", -shift, shift),
        angle=factors.between("angle", -turn, turn),
        scale=factors.between("scale", *scale),
        mirror=np.ones(len(factors), dtype=np.float32),
    )


def background(factors: Factors, size: int, tone: Array) -> Array:
    """Return a coloured background with a gradient and two waves, shape (n, 3, size, size).

    Args:
        factors: with the latents `BACKGROUND`.
        size: pixels a side.
        tone: mean luminance in 0–1, shape (n,).
    """
    ground = tint(tone, factors.latents["back_hue"], factors.between("back_colour", 0, 0.4))
    slope = factors.between("back_ramp", 0, 0.2)
    pattern = ramp(size, factors.between("back_angle", 0, 2 * np.pi)) * slope[:, None, None]
    for name, frequency, height in (("wave", 6.0, 0.16), ("weave", 16.0, 0.12)):
        pattern += (
            waves(
                size,
                factors.between(f"{name}_across", -frequency, frequency),
                factors.between(f"{name}_down", -frequency, frequency),
                factors.between(f"{name}_phase", 0, 2 * np.pi),
            )
            * factors.between(f"{name}_size", 0, height)[:, None, None]
        )
    return ground[:, :, None, None] + pattern[:, None]


def add_light_and_noise(
    image: Array, factors: Factors, noise: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the images lit from one side, with a colour cast and sensor noise.

    Args:
        image: RGB around 0–1, shape (n, 3, size, size); overwritten.
        factors: with the latents `LIGHT`.
        noise: generator of the pixel noise.

    Returns:
        uint8 RGB, shape (n, 3, size, size).
    """
    light = ramp(image.shape[-1], factors.between("light_angle", 0, 2 * np.pi))
    light *= factors.between("light_strength", 0.05, 0.3)[:, None, None]
    light += factors.between("gain", 0.8, 1.15)[:, None, None]
    cast = _cast(factors)
    image *= light[:, None]
    image *= 255 * cast[:, :, None, None]
    grain = noise.random(image.shape, dtype=np.float32)
    strength = factors.between("noise", 8, 30)[:, None, None, None]
    grain *= strength
    image += grain
    image += (0.5 - strength / 2) + 127.5 * (1 - factors.between("contrast", 0.75, 1.05))[
        :, None, None, None
    ]
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _cast(factors: Factors) -> Colour:
    one = np.ones(len(factors), dtype=np.float32)
    colour = tint(one * 0.8, factors.latents["cast_hue"], factors.between("cast", 0, 0.08)) / 0.8
    return colour * factors.between("contrast", 0.75, 1.05)[:, None]
