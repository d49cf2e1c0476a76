"""Vehicles on wheels (cars, vans, trucks) and without (sledges, boats, hovercraft).

Wheels and what replaces them (runners, hull, skirt) have the same brightness and size on average;
bodies are the same for both. Only shape is informative.

Coordinates: the vehicle faces right and is about 1.5 long; the ground is at y = 0.45.
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
    rectangle,
    stroke,
    tint,
)

GROUND = 0.45


@dataclass(frozen=True)
class _Body:
    """Measures that several parts of a vehicle share; shape (n,) or (n, 3) each."""

    paint: Colour
    half: Array
    sill: Array
    deck: Array


def draw(factors: Factors, size: int, noise: np.random.Generator) -> NDArray[np.uint8]:
    """Return images of n vehicles, uint8 RGB, shape (n, 3, size, size)."""
    image = background(factors, size, factors.between("back_tone", 0.2, 0.9))
    placed = pose(factors, shift=0.15, turn=0.22, scale=(0.85, 1.1))
    placed.mirror[:] = factors.where("facing_left", -1, 1)
    canvas = Canvas(image, placed)
    body = _measure(factors)
    _ground(canvas, factors)
    _cargo(canvas, factors, body)
    _cabin(canvas, factors, body)
    _hull(canvas, factors, body)
    _wheels(canvas, factors, body)
    _runners(canvas, factors, body)
    return add_light_and_noise(image, factors, noise)


def _measure(factors: Factors) -> _Body:
    tone = factors.where(
        "dark_paint",
        factors.between("paint_tone", 0.08, 0.35),
        factors.between("paint_tone", 0.55, 0.9),
    )
    return _Body(
        paint=tint(tone, factors.latents["paint_hue"], factors.between("paint_colour", 0.1, 0.7)),
        half=factors.between("length", 0.6, 0.78),
        sill=factors.between("sill", 0.2, 0.28),
        deck=factors.between("deck", -0.12, 0.02),
    )


def _ground(canvas: Canvas, factors: Factors) -> None:
    tone = tint(factors.between("ground_tone", 0.15, 0.9), factors.latents["ground_hue"], 0.25)
    canvas.paint(rectangle(0.0, GROUND + 2.0, 4.0, 2.0), tone, 0.8)


def _cargo(canvas: Canvas, factors: Factors, body: _Body) -> None:
    """Paint a load on the roof."""
    load = tint(factors.between("cargo_tone", 0.15, 0.9), factors.latents["cargo_hue"], 0.5)
    x = factors.between("cabin_x", -0.3, -0.05)
    top = body.deck - factors.between("cabin_height", 0.28, 0.42)
    tall = factors.between("cargo_height", 0.07, 0.12)
    box = rectangle(x, top - tall, factors.between("cargo_width", 0.2, 0.32), tall, rounding=0.03)
    canvas.paint(box, load, factors.where("cargo", 1, 0))


def _cabin(canvas: Canvas, factors: Factors, body: _Body) -> None:
    x = factors.between("cabin_x", -0.3, -0.05)
    half = factors.between("cabin_width", 0.32, 0.42)
    top = body.deck - factors.between("cabin_height", 0.28, 0.42)
    rake = factors.between("rake", 0.1, 0.25)
    shape = polygon(
        [
            (x - half * 0.95, top),
            (x + half - rake, top),
            (x + half + 0.05, body.deck + 0.05),
            (x - half, body.deck + 0.05),
        ]
    )
    canvas.paint(shape, body.paint)
    glass_light = factors.chance("glass_light", 0.5)[:, None] > 0
    glass = np.where(glass_light, body.paint * 0.3 + 0.65, body.paint * 0.3).astype(np.float32)
    left, right = x - half * 0.78, x + half - rake * 0.9
    high, low = top + 0.06, body.deck - 0.02
    middle, gap = (left + right) / 2, 0.045
    two = factors.where("two_windows", 1, 0)
    whole = polygon(
        [(left, high), (right - rake * 0.2, high), (right + rake * 0.4, low), (left, low)]
    )
    canvas.paint(whole, glass)
    post = rectangle(middle, (high + low) / 2, gap, (low - high) / 2 + 0.03)
    canvas.paint(post, body.paint, two)


def _hull(canvas: Canvas, factors: Factors, body: _Body) -> None:
    nose = factors.between("nose", 0.0, 0.16)
    shape = polygon(
        [
            (-body.half, body.deck),
            (body.half - nose, body.deck + 0.02),
            (body.half, body.deck + 0.1),
            (body.half - 0.02, body.sill),
            (-body.half + factors.between("stern", 0.0, 0.1), body.sill),
        ]
    )
    canvas.paint(shape, body.paint)
    stripe = tint(factors.between("stripe_tone", 0.1, 0.95), factors.latents["stripe_hue"], 0.5)
    y = (body.deck + body.sill) / 2
    line = rectangle(-0.03, y, body.half - 0.06, 0.025)
    canvas.paint(line, stripe, factors.chance("stripe", 0.5))
    lamp = np.array([[0.98, 0.9, 0.5]], np.float32)
    canvas.paint(ellipse(body.half - 0.06, body.deck + 0.13, 0.045, 0.045), lamp)


def _gear_colours(factors: Factors) -> tuple[Colour, Colour]:
    """Return colours of tyres, runners and skirts, and of the hubs and trimmings on them."""
    light = factors.chance("gear_light", 0.4)[:, None] > 0
    dark = tint(factors.between("gear_tone", 0.04, 0.2), factors.latents["gear_hue"], 0.3)
    pale = tint(factors.between("gear_tone", 0.65, 0.9), factors.latents["gear_hue"], 0.3)
    return np.where(light, pale, dark), np.where(light, dark, pale)


def _wheels(canvas: Canvas, factors: Factors, body: _Body) -> None:
    rolling = factors.where("wheel", 1, 0)
    tyre, hub = _gear_colours(factors)
    radius = factors.between("gear_size", 0.15, 0.21)
    spread = body.half - factors.between("axle", 0.2, 0.3)
    third = rolling * factors.chance("third_axle", 0.3)
    y = GROUND - radius
    places = ((spread, rolling), (-spread, rolling), (-spread + 2.1 * radius, third))
    for x, seen in places:
        canvas.paint(ellipse(x, y, radius, radius), tyre, seen)
        inner = radius * factors.between("hub", 0.4, 0.6)
        canvas.paint(ellipse(x, y, inner, inner), hub, seen)


def _runners(canvas: Canvas, factors: Factors, body: _Body) -> None:
    """Paint a sledge's runners, a boat's keel or a hovercraft's skirt, by identity."""
    still = factors.where("wheel", 0, 1)
    kind = np.floor(factors.latents["kind"] * 3)
    gear, trim = _gear_colours(factors)
    thick = factors.between("gear_size", 0.03, 0.045)
    sledge = still * (kind == 0)
    low = GROUND - thick
    canvas.paint(stroke(-body.half, low, body.half, low, thick), gear, sledge)
    canvas.paint(stroke(body.half, low, body.half + 0.12, low - 0.14, thick), gear, sledge)
    for place in (-0.6, 0.0, 0.6):
        x = body.half * place
        canvas.paint(stroke(x, body.sill, x * 1.1, low, thick), gear, sledge)
    boat = still * (kind == 1)
    keel = polygon(
        [
            (-body.half, body.sill - 0.04),
            (body.half + 0.06, body.sill - 0.1),
            (body.half - 0.22, low + 0.02),
            (-body.half + 0.12, low + 0.02),
        ]
    )
    canvas.paint(keel, gear, boat)
    foam = curve(0.0, low + 0.03, body.half + 0.1, -0.05, 0.03)
    canvas.paint(foam, trim, boat)
    hover = still * (kind == 2)
    middle, tall = (body.sill + GROUND) / 2, (GROUND - body.sill) / 2 + 0.03
    canvas.paint(rectangle(0.0, middle, body.half + 0.08, tall, rounding=tall * 0.9), gear, hover)
    canvas.paint(stroke(-body.half, middle, body.half, middle, 0.02), trim, hover)


VEHICLES = Subject(
    fixed_attributes=("wheel", "dark_paint", "two_windows"),
    varying_attributes=("facing_left", "cargo"),
    fixed_latents=(
        *("paint_tone", "paint_hue", "paint_colour", "length", "sill", "deck", "cabin_x"),
        *("cabin_height", "cabin_width", "rake", "glass_light", "nose", "stern", "stripe"),
        *("stripe_tone", "stripe_hue", "gear_light", "gear_tone", "gear_hue", "gear_size"),
        *("axle", "third_axle", "hub", "kind"),
    ),
    varying_latents=(
        *SCENE,
        *("ground_tone", "ground_hue", "cargo_tone", "cargo_hue", "cargo_height", "cargo_width"),
    ),
    draw=draw,
)
