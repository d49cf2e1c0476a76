"""Birds with a short conical beak, or a long one: needle-shaped, or hooked.

Beak, crest and plumage are lighter than the background in some images and darker in others. Only
shape is informative.

Coordinates: the bird faces right; the centre of its body is (−0.1, 0.1), its head near (0.3, −0.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leakbench.datasets.drawing.scene import (
    SCENE,
    Factors,
    Subject,
    add_light_and_noise,
    background,
    pose,
)
from leakbench.datasets.drawing.shapes import (
    Array,
    Canvas,
    Colour,
    curve,
    ellipse,
    polygon,
    stripes,
    stroke,
    tint,
)


@dataclass(frozen=True)
class _Bird:
    """Measures that several parts of a bird share; shape (n,) or (n, 3) each."""

    plumage: Colour
    accent: Colour
    head_x: Array
    head_y: Array
    head: Array
    girth: Array


def draw(factors: Factors, size: int, noise: np.random.Generator) -> NDArray[np.uint8]:
    """Return images of n birds, uint8 RGB, shape (n, 3, size, size)."""
    image = background(factors, size, factors.between("back_tone", 0.2, 0.9))
    placed = pose(factors, shift=0.15, turn=0.25, scale=(0.85, 1.1))
    placed.mirror[:] = factors.where("facing_left", -1, 1)
    canvas = Canvas(image, placed)
    bird = _measure(factors)
    _perch(canvas, factors)
    _tail(canvas, factors, bird)
    _crest(canvas, factors, bird)
    _beak(canvas, factors, bird)
    _body(canvas, factors, bird)
    _wing(canvas, factors, bird)
    _eye(canvas, bird)
    return add_light_and_noise(image, factors, noise)


def _measure(factors: Factors) -> _Bird:
    tone = factors.where(
        "dark_plumage",
        factors.between("plumage_tone", 0.08, 0.35),
        factors.between("plumage_tone", 0.55, 0.9),
    )
    return _Bird(
        plumage=tint(tone, factors.latents["plumage_hue"], factors.between("vivid", 0.1, 0.7)),
        accent=tint(factors.between("accent_tone", 0.1, 0.95), factors.latents["accent_hue"], 0.5),
        head_x=factors.between("neck", 0.24, 0.36),
        head_y=factors.between("posture", -0.36, -0.22),
        head=factors.between("head", 0.17, 0.22),
        girth=factors.between("girth", 0.26, 0.33),
    )


def _perch(canvas: Canvas, factors: Factors) -> None:
    wood = tint(factors.between("perch_tone", 0.1, 0.8), factors.latents["perch_hue"], 0.3)
    y = factors.between("perch_y", 0.52, 0.6)
    tilt = factors.between("perch_tilt", -0.15, 0.15)
    canvas.paint(stroke(-2.0, y - tilt, 2.0, y + tilt, 0.045), wood)
    for x in (-0.12, 0.04):
        canvas.paint(stroke(x, 0.35, x + 0.02, y, 0.022), wood)


def _tail(canvas: Canvas, factors: Factors, bird: _Bird) -> None:
    length = factors.where(
        "long_tail", factors.between("tail", 0.5, 0.65), factors.between("tail", 0.14, 0.26)
    )
    angle = factors.between("tail_angle", 0.1, 0.7)
    x, y = -0.38 - length * np.cos(angle), 0.18 + length * np.sin(angle)
    canvas.paint(stroke(-0.34, 0.16, x, y, factors.between("tail_width", 0.05, 0.08)), bird.accent)


def _crest(canvas: Canvas, factors: Factors, bird: _Bird) -> None:
    crested = factors.where("crest", 1, 0)
    long = factors.between("crest_length", 0.16, 0.24)
    for lean in (-1.0, -0.35, 0.3):
        x, y = bird.head_x + 0.5 * lean * bird.head, bird.head_y - bird.head * 0.7
        tip_x, tip_y = x + lean * long * 0.7, y - long
        canvas.paint(stroke(x, y, tip_x, tip_y, 0.035), bird.accent, crested)


def _beak(canvas: Canvas, factors: Factors, bird: _Bird) -> None:
    light = factors.chance("beak_light", 0.5)
    tone = np.where(
        light > 0, factors.between("beak_tone", 0.7, 0.95), factors.between("beak_tone", 0.05, 0.25)
    ).astype(np.float32)
    colour = tint(tone, factors.between("beak_hue", 0.0, 0.2), 0.4)
    x, y = bird.head_x + bird.head * 0.8, bird.head_y + factors.between("gape", -0.02, 0.05)
    short = factors.where("beak", 0, 1)
    deep = factors.between("cone", 0.08, 0.12)
    tip = x + factors.between("beak_length", 0.14, 0.2)
    canvas.paint(polygon([(x, y - deep), (tip, y + 0.02), (x, y + deep)]), colour, short)
    hooked = factors.chance("hooked", 0.5)
    needle = (1 - short) * (1 - hooked)
    length = factors.between("beak_length", 0.36, 0.5)
    canvas.paint(stroke(x, y, x + length, y + 0.04, 0.035), colour, needle)
    hook = (1 - short) * hooked
    middle = x + length * 0.45
    canvas.paint(curve(middle, y, length * 0.5, -0.16, 0.055, slope=0.2), colour, hook)


def _body(canvas: Canvas, factors: Factors, bird: _Bird) -> None:
    canvas.paint(
        ellipse(-0.08, 0.12, 0.42, bird.girth, 0.35 * np.ones_like(bird.girth)), bird.plumage
    )
    breast = ellipse(0.08, 0.2, 0.2, bird.girth * 0.65)
    canvas.paint(breast, bird.accent, factors.chance("breast", 0.5) * 0.8, softness=0.04)
    neck = stroke(0.12, 0.0, bird.head_x, bird.head_y, bird.head * 0.85)
    canvas.paint(neck | ellipse(bird.head_x, bird.head_y, bird.head, bird.head), bird.plumage)


def _wing(canvas: Canvas, factors: Factors, bird: _Bird) -> None:
    wing = ellipse(-0.18, 0.1, 0.32, 0.16, factors.between("wing_angle", -0.1, -0.5) * -1)
    shade = np.clip(bird.plumage * factors.between("wing_tone", 0.6, 1.5)[:, None], 0, 1)
    canvas.paint(wing, shade)
    bars = stripes(0.14, factors.latents["bars_phase"], 0.3)
    canvas.paint(wing & bars, bird.accent, factors.chance("bars", 0.4) * 0.7)


def _eye(canvas: Canvas, bird: _Bird) -> None:
    x, y = bird.head_x + bird.head * 0.3, bird.head_y - bird.head * 0.2
    canvas.paint(ellipse(x, y, 0.055, 0.055), np.array([[0.95, 0.93, 0.85]], np.float32))
    canvas.paint(ellipse(x, y, 0.032, 0.032), np.array([[0.05, 0.05, 0.05]], np.float32))


BIRDS = Subject(
    fixed_attributes=("beak", "long_tail", "crest", "dark_plumage"),
    varying_attributes=("facing_left",),
    fixed_latents=(
        *("plumage_tone", "plumage_hue", "vivid", "accent_tone", "accent_hue", "neck", "head"),
        *("girth", "tail", "tail_width", "crest_length", "beak_light", "beak_tone", "beak_hue"),
        *("gape", "cone", "beak_length", "hooked", "breast", "wing_tone", "bars"),
    ),
    varying_latents=(
        *SCENE,
        *("posture", "perch_tone", "perch_hue", "perch_y", "perch_tilt", "tail_angle"),
        *("wing_angle", "bars_phase"),
    ),
    draw=draw,
)
