"""Faces: gender, glasses, smile and age, each shown by several local and noisy cues.

No single pixel is informative. Lips, frames, hair and beards are darker than their surroundings in
some images and lighter in others; wrinkles and grey strands are a dark line beside a light one; and
everything moves with the pose. Only shape is informative.

Coordinates: the centre of the face is (0, 0); the head is about 1 wide and 1.25 high.
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
    Number,
    Shape,
    below,
    curve,
    ellipse,
    mix,
    rectangle,
    stripes,
    stroke,
    tint,
)

LIGHT_SKIN = np.array([[0.96, 0.80, 0.69]], dtype=np.float32)
DARK_SKIN = np.array([[0.42, 0.27, 0.19]], dtype=np.float32)
WHITE = np.array([[0.96, 0.95, 0.92]], dtype=np.float32)
BLACK = np.array([[0.06, 0.05, 0.05]], dtype=np.float32)


@dataclass(frozen=True)
class _Face:
    """Measures that several parts of a face share; shape (n,) or (n, 3) each."""

    skin: Colour
    hair: Colour
    width: Array
    yaw: Array
    eye_y: Array
    eye_x: Array
    eye_half: Array
    mouth_y: Array
    head: Shape


def draw(factors: Factors, size: int, noise: np.random.Generator) -> NDArray[np.uint8]:
    """Return images of n faces, uint8 RGB, shape (n, 3, size, size)."""
    tone = factors.where(
        "bright_background",
        factors.between("back_tone", 0.62, 0.95),
        factors.between("back_tone", 0.12, 0.45),
    )
    image = background(factors, size, tone)
    canvas = Canvas(image, pose(factors, shift=0.15, turn=0.24, scale=(0.95, 1.2)))
    face = _measure(factors)
    _hair_behind(canvas, factors, face)
    _body(canvas, factors, face)
    _head(canvas, factors, face)
    _age(canvas, factors, face)
    _nose(canvas, factors, face)
    _beard(canvas, factors, face)
    _mouth(canvas, factors, face)
    _eye_sockets(canvas, factors, face)
    for side in (-1.0, 1.0):
        _eye(canvas, factors, face, side)
        _brow(canvas, factors, face, side)
    _hair_above(canvas, factors, face)
    _glasses(canvas, factors, face)
    _hat(canvas, factors, face)
    return add_light_and_noise(image, factors, noise)


def _measure(factors: Factors) -> _Face:
    yaw = factors.between("yaw", 0.05, 0.15) * factors.where("looking_left", -1, 1)
    width = factors.between("face_width", 0.43, 0.51)
    jaw = factors.where(
        "gender", factors.between("jaw", 0.84, 1.0), factors.between("jaw", 0.72, 0.88)
    )
    chin = factors.between("chin", 0.40, 0.50) + factors.where("young", 0, 0.05)
    hair = tint(
        factors.where(
            "dark_hair",
            factors.between("hair_tone", 0.06, 0.26),
            factors.between("hair_tone", 0.5, 0.85),
        ),
        factors.between("hair_hue", 0.05, 0.16),
        factors.between("hair_colour", 0.05, 0.3),
    )
    return _Face(
        skin=mix(LIGHT_SKIN, DARK_SKIN, factors.latents["skin"]),
        hair=hair,
        width=width,
        yaw=yaw,
        eye_y=factors.between("eye_y", -0.1, -0.02),
        eye_x=factors.between("eye_spacing", 0.19, 0.23),
        eye_half=factors.between("eye_size", 0.085, 0.11) * factors.where("young", 1.15, 0.95),
        mouth_y=factors.between("mouth_y", 0.34, 0.40),
        head=ellipse(0.0, -0.08, width, 0.54) | ellipse(yaw * 0.3, 0.2, width * jaw, chin),
    )


def _shade(colour: Colour, factor: float) -> Colour:
    shaded: Colour = np.clip(colour * factor, 0, 1)
    return shaded


def _strands(
    canvas: Canvas, factors: Factors, face: _Face, shape: Shape, seen: Number = 1.0
) -> None:
    """Paint grey strands in the hair of faces that are not young."""
    grey = mix(face.hair, face.hair.mean(axis=1, keepdims=True), np.ones(len(factors), np.float32))
    strength = factors.between("grey", 0.4, 0.85) * factors.where("young", 0, 1) * seen
    period = factors.between("strand", 0.14, 0.2)
    lines = stripes(period, factors.latents["strand_phase"], factors.between("strand", -0.5, 0.5))
    canvas.paint(shape & lines, np.clip(grey + 0.3, 0, 1), strength)


def _hair_behind(canvas: Canvas, factors: Factors, face: _Face) -> None:
    long = factors.chance("long_hair", factors.where("gender", 0.08, 0.87))
    length = factors.between("hair_length", 0.5, 0.95)
    half = (0.62 + length) / 2
    spread = face.width + factors.between("hair_spread", 0.08, 0.2)
    fall = rectangle(0.0, half - 0.62, spread, half, rounding=spread * 0.75)
    canvas.paint(fall, face.hair, long)
    _strands(canvas, factors, face, fall, long)


def _body(canvas: Canvas, factors: Factors, face: _Face) -> None:
    cloth = tint(factors.between("cloth_tone", 0.15, 0.9), factors.latents["cloth_hue"], 0.4)
    canvas.paint(ellipse(0.0, 1.35, factors.between("shoulders", 0.75, 0.95), 0.55), cloth)
    canvas.paint(rectangle(0.0, 0.65, 0.2, 0.28, rounding=0.1), _shade(face.skin, 0.8))


def _head(canvas: Canvas, factors: Factors, face: _Face) -> None:
    for side in (-1.0, 1.0):
        canvas.paint(ellipse(side * face.width, 0.04, 0.08, 0.13), _shade(face.skin, 0.88))
    canvas.paint(face.head, face.skin)
    blush = mix(face.skin, np.array([[0.85, 0.3, 0.3]], np.float32), factors.latents["blush"] * 0.3)
    for side in (-1.0, 1.0):
        canvas.paint(ellipse(side * 0.27 + face.yaw, 0.18, 0.1, 0.08), blush, softness=0.06)


def _age(canvas: Canvas, factors: Factors, face: _Face) -> None:
    """Paint wrinkles of faces that are not young: forehead, cheeks, and under the eyes."""
    depth = factors.where("young", 0, 1) * factors.between("fold_depth", 0.55, 1)
    wide = factors.between("fold_width", 0.2, 0.32)
    bend = factors.between("fold_bend", -0.05, 0.03)
    for i, height in enumerate((-0.33, -0.42)):
        y = height + factors.between("fold_y", -0.03, 0.03)
        valley = curve(face.yaw, y, wide, bend, 0.022)
        ridge = curve(face.yaw, y + 0.045, wide, bend, 0.026)
        _fold(canvas, face, valley, ridge, depth * factors.chance(f"fold_{i}", 0.8))
    for side in (-1.0, 1.0):
        x = face.yaw + side * 0.2
        valley = stroke(x - side * 0.07, 0.17, x + side * 0.06, 0.34, 0.022)
        ridge = stroke(x - side * 0.02, 0.15, x + side * 0.12, 0.32, 0.022)
        _fold(canvas, face, valley, ridge, depth * factors.chance("fold_cheek", 0.85))
        valley = curve(x, face.eye_y + 0.15, 0.1, 0.05, 0.022)
        ridge = curve(x, face.eye_y + 0.195, 0.1, 0.05, 0.02)
        _fold(canvas, face, valley, ridge, depth * factors.chance("fold_bag", 0.85))


def _fold(canvas: Canvas, face: _Face, valley: Shape, ridge: Shape, depth: Array) -> None:
    """Paint a dark line beside a light one, with the mean brightness of smooth skin."""
    canvas.paint(valley, _shade(face.skin, 0.6), depth)
    canvas.paint(ridge, np.clip(face.skin * 1.2 + 0.06, 0, 1), depth)


def _nose(canvas: Canvas, factors: Factors, face: _Face) -> None:
    dark = _shade(face.skin, 0.72)
    tip = face.yaw * 1.5
    bottom = factors.between("nose", 0.14, 0.2)
    canvas.paint(stroke(face.yaw, 0.0, tip, bottom, 0.022), dark, 0.7)
    canvas.paint(curve(tip, bottom + 0.03, 0.08, 0.03, 0.022), dark)


def _beard(canvas: Canvas, factors: Factors, face: _Face) -> None:
    male = factors.where("gender", 1, 0)
    # Lighter or darker than the skin, independent of the hair.
    light = factors.chance("beard_light", 0.5)[:, None] > 0
    colour = np.where(light, face.skin * 0.55 + 0.45, face.skin * 0.45).astype(np.float32)
    x, y = face.yaw, face.mouth_y
    beard = (face.head & below(y - 0.1)) - ellipse(x, y - 0.02, 0.23, 0.11)
    beard = Shape(beard.distance, (0.0, 0.45, 0.52, 0.3))
    canvas.paint(beard, colour, male * factors.chance("beard", 0.5) * 0.8)
    lip = curve(x, y - 0.1, 0.2, -0.05, 0.045)
    canvas.paint(lip, colour, male * factors.chance("moustache", 0.4) * 0.9)


def _mouth(canvas: Canvas, factors: Factors, face: _Face) -> None:
    """Paint the mouth: corners up for a smile, else level or down; lips closed or parted."""
    up = factors.where("smile", 1, -1)
    rise = factors.where(
        "smile", factors.between("rise", 0.15, 0.22), factors.between("rise", -0.11, -0.01)
    )
    half = factors.between("mouth_width", 0.23, 0.28)
    full = factors.between("lips", 0.025, 0.04) + factors.where("gender", 0, 0.018)
    lips, inside = _mouth_colours(factors, face)
    x, y = face.yaw * 1.15, face.mouth_y
    parted = factors.chance("parted", factors.where("smile", 0.6, 0.5))
    canvas.paint(curve(x, y + rise * 0.5, half, rise, full), lips, 1 - parted)
    line = _shade(face.skin, 0.3)
    canvas.paint(curve(x, y + rise * 0.5, half * 1.05, rise, 0.016), line, 1 - parted)
    deep = factors.between("gape", 0.15, 0.2)
    level = y - up * deep * 0.5
    opening = ellipse(x, level, half * 0.9, deep) & below(level, up)
    canvas.paint(opening.grown(full), lips, parted)
    canvas.paint(opening, inside, parted)


def _mouth_colours(factors: Factors, face: _Face) -> tuple[Colour, Colour]:
    """Return colours of the lips, paler or redder than the skin, and of the mouth between them."""
    light = factors.chance("lip_light", 0.15)[:, None] > 0
    red = np.array([[0.62, 0.1, 0.16]], np.float32)
    pale = np.clip(face.skin * 0.4 + np.array([[0.6, 0.42, 0.46]], np.float32), 0, 1)
    made_up = factors.where("gender", 0.1, factors.between("lip_red", 0.4, 1))
    lips = np.where(light, pale, mix(face.skin * 0.65, red, made_up))
    teeth = factors.chance("teeth", factors.where("smile", 0.65, 0.45))[:, None] > 0
    return lips.astype(np.float32), np.where(teeth, WHITE, BLACK).astype(np.float32)


def _eye_sockets(canvas: Canvas, factors: Factors, face: _Face) -> None:
    """Paint random light or dark eye sockets, so that brightness there does not reveal glasses."""
    light = factors.chance("socket_light", 0.5)[:, None] > 0
    tone = np.where(light, face.skin * 0.5 + 0.5, face.skin * 0.45).astype(np.float32)
    strength = factors.between("socket", 0, 0.5)
    for side in (-1.0, 1.0):
        socket = ellipse(face.yaw + side * face.eye_x, face.eye_y, 0.14, 0.12)
        canvas.paint(socket, tone, strength, softness=0.04)


def _eye(canvas: Canvas, factors: Factors, face: _Face, side: float) -> None:
    x, y, half = face.yaw + side * face.eye_x, face.eye_y, face.eye_half
    tall = half * factors.between("eye_open", 0.55, 0.8)
    canvas.paint(ellipse(x, y, half, tall), WHITE)
    iris = tint(factors.between("iris_tone", 0.12, 0.5), factors.latents["iris_hue"], 0.5)
    gaze = x + face.yaw * 0.3
    canvas.paint(ellipse(gaze, y, tall * 0.8, tall * 0.85), iris)
    canvas.paint(ellipse(gaze, y, tall * 0.4, tall * 0.45), BLACK)
    lash = factors.where("gender", 0.01, factors.between("lash", 0.018, 0.038))
    canvas.paint(curve(x, y - tall, half * 1.1, -tall * 0.8, lash), BLACK)
    wing = stroke(x + side * half, y - tall * 0.2, x + side * half * 1.7, y - tall * 1.1, lash)
    canvas.paint(wing, BLACK, factors.where("gender", 0, 1) * factors.chance("wing", 0.75))


def _brow(canvas: Canvas, factors: Factors, face: _Face, side: float) -> None:
    thick = factors.where(
        "gender", factors.between("brow", 0.028, 0.055), factors.between("brow", 0.012, 0.03)
    )
    arch = factors.where("gender", -0.02, -0.06)
    x = face.yaw + side * (face.eye_x + 0.01)
    y = face.eye_y - factors.between("brow_raise", 0.16, 0.2)
    brow = curve(x, y, face.eye_half * 1.35, arch, thick, slope=side * -arch * 0.5)
    canvas.paint(brow, face.hair * factors.where("dark_hair", 1, 0.6)[:, None])


def _hair_above(canvas: Canvas, factors: Factors, face: _Face) -> None:
    hairline = factors.between("hairline", -0.52, -0.34)
    part = factors.between("part", -0.1, 0.1)
    cap = ellipse(0.0, -0.1, face.width + 0.06, 0.62)
    opening = ellipse(face.yaw * 0.5 + part, hairline + 0.6, face.width * 0.95, 0.6)
    hair = cap - opening - below(factors.between("side_hair", 0.0, 0.2))
    # Without an edge, fair hair over fair skin looks like a bald head.
    canvas.paint(hair.grown(0.02), _shade(face.hair, 0.6))
    canvas.paint(hair, face.hair)
    _strands(canvas, factors, face, hair)


def _glasses(canvas: Canvas, factors: Factors, face: _Face) -> None:
    worn = factors.where("glasses", 1, 0)
    light = factors.chance("frame_light", 0.5)[:, None] > 0
    hue = factors.latents["frame_hue"]
    frame = np.where(
        light,
        tint(factors.between("frame_tone", 0.8, 0.98), hue, 0.15),
        tint(factors.between("frame_tone", 0.05, 0.25), hue, 0.5),
    ).astype(np.float32)
    half = factors.between("lens", 0.15, 0.18)
    tall = half * factors.between("lens_tall", 0.75, 1.0)
    thick = factors.between("rim", 0.02, 0.032)
    y = face.eye_y + 0.01
    for side in (-1.0, 1.0):
        x = face.yaw + side * (face.eye_x + 0.01)
        lens = rectangle(x, y, half, tall, rounding=tall * factors.between("lens_round", 0.4, 0.95))
        glare = factors.between("glare", 0, 0.3)
        canvas.paint(lens, np.where(light, BLACK, WHITE).astype(np.float32), worn * glare)
        canvas.paint(lens.outline(thick), frame, worn)
        temple = stroke(x + side * half, y - 0.03, side * face.width, y - 0.05, thick)
        canvas.paint(temple, frame, worn)
    canvas.paint(curve(face.yaw, y - 0.03, 0.06, -0.02, thick), frame, worn)


def _hat(canvas: Canvas, factors: Factors, face: _Face) -> None:
    worn = factors.where("hat", 1, 0)
    cloth = tint(factors.between("hat_tone", 0.15, 0.9), factors.latents["hat_hue"], 0.5)
    brim_y = factors.between("brim", -0.48, -0.38)
    crown = ellipse(0.0, -0.42, face.width + 0.07, factors.between("crown", 0.28, 0.42))
    crown = crown - below(brim_y)
    canvas.paint(crown, cloth, worn)
    band = np.clip(cloth * 0.5 + factors.chance("band", 0.5)[:, None] * 0.45, 0, 1)
    wide = face.width + factors.between("brim_width", 0.06, 0.25)
    canvas.paint(rectangle(face.yaw * 0.5, brim_y, wide, 0.05, rounding=0.05), band, worn)


FACES = Subject(
    fixed_attributes=("gender", "young", "dark_hair"),
    varying_attributes=("glasses", "smile", "hat", "looking_left", "bright_background"),
    fixed_latents=(
        *("face_width", "jaw", "chin", "skin", "hair_tone", "hair_hue", "hair_colour"),
        *("eye_y", "eye_spacing", "eye_size", "mouth_y", "mouth_width", "nose", "lips", "brow"),
        *("long_hair", "hair_length", "hair_spread", "hairline", "part", "side_hair"),
        *("grey", "strand", "fold_0", "fold_1", "fold_cheek", "fold_bag", "fold_width"),
        *("fold_bend", "fold_y", "beard", "moustache", "beard_light", "iris_tone", "iris_hue"),
    ),
    varying_latents=(
        *SCENE,
        *("yaw", "rise", "parted", "teeth", "gape", "lip_light", "lip_red", "lash", "wing"),
        *("eye_open", "brow_raise", "blush", "socket", "socket_light", "strand_phase"),
        *("fold_depth", "cloth_tone", "cloth_hue"),
        *("shoulders", "frame_light", "frame_hue", "frame_tone", "lens", "lens_tall"),
        *("lens_round", "rim", "glare", "hat_tone", "hat_hue", "brim", "crown", "band"),
        "brim_width",
    ),
    draw=draw,
)
