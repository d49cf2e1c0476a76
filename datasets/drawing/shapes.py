"""Anti-aliased rendering of many images at once from signed distances.

A shape is a signed distance (negative inside) with its bounding box. Coordinates run from −1 (left,
top) to 1 (right, bottom), so that a shape can be rendered at any number of pixels. Every parameter
of a shape is one number per image, shape (n,), or a plain number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
"""float32 throughout."""

Number = Array | float
"""One number per image, shape (n,), or one for all."""

Colour = Array
"""RGB in 0–1, shape (n, 3)."""

Distance = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Shape:
    """A region of the plane, in the coordinates of a pose.

    Attributes:
        distance: signed distance from coordinates x and y, shape (n, h, w), to the edge.
        box: centre x, centre y, half width and half height of a box that holds the region.
    """

    distance: Distance
    box: tuple[Number, Number, Number, Number]

    def __and__(self, other: Shape) -> Shape:
        """Return the part of this shape inside `other`; bounded by this shape's box."""
        return replace(
            self, distance=lambda x, y: np.maximum(self.distance(x, y), other.distance(x, y))
        )

    def __sub__(self, other: Shape) -> Shape:
        """Return the part of this shape outside `other`."""
        return replace(
            self, distance=lambda x, y: np.maximum(self.distance(x, y), -other.distance(x, y))
        )

    def __or__(self, other: Shape) -> Shape:
        """Return both shapes as one."""
        return Shape(
            lambda x, y: np.minimum(self.distance(x, y), other.distance(x, y)),
            _hull(self.box, other.box),
        )

    def grown(self, by: Number) -> Shape:
        """Return the shape with its edge moved outwards by `by`."""
        x, y, half_x, half_y = self.box
        return Shape(
            lambda u, v: self.distance(u, v) - _broadcast(by), (x, y, half_x + by, half_y + by)
        )

    def outline(self, thickness: Number) -> Shape:
        """Return a line along the edge, `thickness` to either side of it."""
        x, y, half_x, half_y = self.box
        return Shape(
            lambda u, v: np.abs(self.distance(u, v)) - _broadcast(thickness),
            (x, y, half_x + thickness, half_y + thickness),
        )


def _broadcast(number: Number) -> Number:
    """Return one number per image in shape (n, 1, 1), to broadcast over its pixels."""
    return number[:, None, None] if isinstance(number, np.ndarray) else number


def _hull(
    a: tuple[Number, Number, Number, Number], b: tuple[Number, Number, Number, Number]
) -> tuple[Number, Number, Number, Number]:
    left, right = np.minimum(a[0] - a[2], b[0] - b[2]), np.maximum(a[0] + a[2], b[0] + b[2])
    top, bottom = np.minimum(a[1] - a[3], b[1] - b[3]), np.maximum(a[1] + a[3], b[1] + b[3])
    return (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2


def _turned(x: Array, y: Array, centre: tuple[Number, Number], angle: Number) -> tuple[Array, ...]:
    """Return coordinates relative to `centre`, rotated by `angle` radians."""
    dx, dy = x - _broadcast(centre[0]), y - _broadcast(centre[1])
    if isinstance(angle, float) and angle == 0:
        return dx, dy
    cos, sin = _broadcast(np.cos(angle)), _broadcast(np.sin(angle))
    return dx * cos + dy * sin, dy * cos - dx * sin


def ellipse(x: Number, y: Number, half_x: Number, half_y: Number, angle: Number = 0.0) -> Shape:
    """Return an ellipse centred at (x, y), rotated by `angle` radians clockwise."""
    half_a, half_b = _broadcast(half_x), _broadcast(half_y)

    def distance(u: Array, v: Array) -> Array:
        # First order in the distance to the edge, which suffices for anti-aliasing.
        dx, dy = _turned(u, v, (x, y), angle)
        a, b = dx / half_a, dy / half_b
        level = a * a + b * b - 1
        a /= half_a
        b /= half_b
        slope: Array = np.sqrt(a * a + b * b)
        slope += 1e-3
        level /= slope
        level *= 0.5
        return level

    reach = np.maximum(half_x, half_y)
    turned = not (isinstance(angle, float) and angle == 0)
    return Shape(distance, (x, y, reach, reach) if turned else (x, y, half_x, half_y))


def rectangle(
    x: Number,
    y: Number,
    half_x: Number,
    half_y: Number,
    *,
    rounding: Number = 0.0,
    angle: Number = 0.0,
) -> Shape:
    """Return a rectangle centred at (x, y), its corners rounded by `rounding`."""
    inner_x, inner_y = _broadcast(half_x - rounding), _broadcast(half_y - rounding)

    def distance(u: Array, v: Array) -> Array:
        dx, dy = _turned(u, v, (x, y), angle)
        dx, dy = np.abs(dx) - inner_x, np.abs(dy) - inner_y
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return outside + np.minimum(np.maximum(dx, dy), 0) - _broadcast(rounding)

    turned = not (isinstance(angle, float) and angle == 0)
    reach = half_x + half_y
    return Shape(distance, (x, y, reach, reach) if turned else (x, y, half_x, half_y))


def stroke(x0: Number, y0: Number, x1: Number, y1: Number, thickness: Number) -> Shape:
    """Return a line with round ends from (x0, y0) to (x1, y1), `thickness` to either side."""
    dx, dy = x1 - x0, y1 - y0
    square = dx * dx + dy * dy + 1e-9

    def distance(u: Array, v: Array) -> Array:
        a, b = u - _broadcast(x0), v - _broadcast(y0)
        along = np.clip(a * _broadcast(dx / square) + b * _broadcast(dy / square), 0, 1)
        return np.hypot(a - along * _broadcast(dx), b - along * _broadcast(dy)) - _broadcast(
            thickness
        )

    return Shape(
        distance,
        (
            (x0 + x1) / 2,
            (y0 + y1) / 2,
            np.abs(dx) / 2 + thickness,
            np.abs(dy) / 2 + thickness,
        ),
    )


def curve(
    x: Number,
    y: Number,
    half_x: Number,
    rise: Number,
    thickness: Number,
    *,
    slope: Number = 0.0,
) -> Shape:
    """Return a curved line: a parabola with its middle at (x, y) and its ends `rise` above it.

    Args:
        x: of its middle.
        y: of its middle.
        half_x: half its width.
        rise: height of the ends over the middle; negative for ends that hang down.
        thickness: half thickness of the line in the middle; it tapers to half of that at the ends.
        slope: tilt of the whole, as height lost for each unit to the right.
    """
    bend = -rise / (half_x * half_x)

    def distance(u: Array, v: Array) -> Array:
        dx = u - _broadcast(x)
        height = v - _broadcast(y) - dx * (dx * _broadcast(bend) + _broadcast(slope))
        steepness = dx * _broadcast(2 * bend) + _broadcast(slope)
        line = np.abs(height) / np.sqrt(1 + steepness * steepness)
        taper = np.abs(dx) / _broadcast(half_x)
        ends = np.abs(dx) - _broadcast(half_x)
        edge: Array = np.maximum(line - _broadcast(thickness) * (1 - 0.5 * taper), ends)
        return edge

    tall = np.abs(rise) + np.abs(slope) * half_x + thickness
    return Shape(distance, (x, y, half_x, tall))


def polygon(corners: Sequence[tuple[Number, Number]]) -> Shape:
    """Return a convex polygon; its corners go round clockwise as seen on the screen."""
    xs, ys = [corner[0] for corner in corners], [corner[1] for corner in corners]
    edges = []
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        dx, dy = x1 - x0, y1 - y0
        length = np.hypot(dx, dy) + 1e-6
        edges.append((x0, y0, dy / length, -dx / length))

    def distance(u: Array, v: Array) -> Array:
        sides = (
            (u - _broadcast(x)) * _broadcast(nx) + (v - _broadcast(y)) * _broadcast(ny)
            for x, y, nx, ny in edges
        )
        return reduce(np.maximum, sides)

    left, right = reduce(np.minimum, xs), reduce(np.maximum, xs)
    top, bottom = reduce(np.minimum, ys), reduce(np.maximum, ys)
    box = ((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)
    return Shape(distance, box)


def below(y: Number, side: Number = 1.0) -> Shape:
    """Return the half plane below height `y`, above it if `side` is −1; only for cutting."""
    return Shape(lambda _, v: _broadcast(side) * (_broadcast(y) - v), (0.0, 0.0, np.inf, np.inf))


def stripes(period: Number, phase: Number, angle: Number, share: Number = 0.5) -> Shape:
    """Return parallel stripes over the whole plane; only to cut other shapes with.

    Args:
        period: from one stripe to the next.
        phase: offset of the first stripe, in periods.
        angle: of the direction across them, radians from horizontal.
        share: part of the plane that they cover.
    """
    across_x, across_y = _broadcast(np.cos(angle) / period), _broadcast(np.sin(angle) / period)

    def distance(u: Array, v: Array) -> Array:
        place = u * across_x + v * across_y + _broadcast(phase)
        return (np.abs(place - np.floor(place) - 0.5) - _broadcast(share * 0.5)) * _broadcast(
            period
        )

    return Shape(distance, (0.0, 0.0, np.inf, np.inf))


@dataclass(frozen=True)
class Pose:
    """Position, rotation and scale of a subject in its image; every field has shape (n,).

    Attributes:
        x, y: the origin of the subject's coordinates in the image.
        angle: clockwise rotation in radians.
        scale: length of the coordinates' unit in the image.
        mirror: 1, or −1 to look the other way.
    """

    x: Array
    y: Array
    angle: Array
    scale: Array
    mirror: Array


class Canvas:
    """A batch of images that are painted on, and the coordinates in which shapes are given.

    Args:
        image: RGB around 0–1, shape (n, 3, size, size); painted on in place.
        pose: shapes painted on this canvas are given in its coordinates.
    """

    def __init__(self, image: Array, pose: Pose) -> None:
        self.image = image
        self._pose = pose
        size = image.shape[-1]
        cos, sin = np.cos(pose.angle), np.sin(pose.angle)
        # One unit to the right, and one down, of the pose's coordinates, in the image.
        self._right_x, self._right_y = (
            pose.scale * pose.mirror * cos,
            pose.scale * pose.mirror * sin,
        )
        self._down_x, self._down_y = pose.scale * sin, pose.scale * cos
        self._reach_x, self._reach_y = pose.scale * np.abs(cos), pose.scale * np.abs(sin)
        axis = pixel_centres(size)
        x = (axis - pose.x[:, None]) / pose.scale[:, None]
        y = (axis - pose.y[:, None]) / pose.scale[:, None]
        self._x = x[:, None, :] * _broadcast(cos * pose.mirror) + y[:, :, None] * _broadcast(
            sin * pose.mirror
        )
        self._y = y[:, :, None] * _broadcast(cos) - x[:, None, :] * _broadcast(sin)
        self._pixel = 2 / (size * pose.scale)

    def paint(
        self,
        shape: Shape,
        colour: Colour,
        opacity: Number = 1.0,
        softness: Number = 0.0,
    ) -> None:
        """Paint `shape` onto the images.

        Args:
            shape: in the coordinates of the pose.
            colour: shape (n, 3).
            opacity: 0–1; images with opacity 0 are unchanged.
            softness: half width of the blurred edge, in addition to half a pixel of anti-aliasing.
        """
        rows, columns = self._window(shape.box, softness, opacity)
        if rows.stop <= rows.start or columns.stop <= columns.start:
            return
        cover = shape.distance(self._x[:, rows, columns], self._y[:, rows, columns])
        blur = self._pixel + 2 * softness
        cover *= _broadcast(-1 / blur)
        cover += 0.5
        np.clip(cover, 0, 1, out=cover)
        if not (isinstance(opacity, float) and opacity == 1):
            cover *= _broadcast(opacity)
        window = self.image[:, :, rows, columns]
        change = colour[:, :, None, None] - window
        change *= cover[:, None]
        window += change

    def _window(
        self, box: tuple[Number, Number, Number, Number], softness: Number, opacity: Number
    ) -> tuple[slice, slice]:
        """Return the window of pixels that the shape covers in any image, with its blurred edge."""
        placed, size = self._pose, self.image.shape[-1]
        x, y, half_x, half_y = box
        margin = self._pixel + softness
        half_x, half_y = half_x + margin, half_y + margin
        centre_x = placed.x + self._right_x * x - self._down_x * y
        centre_y = placed.y + self._right_y * x + self._down_y * y
        reach_x = self._reach_x * half_x + self._reach_y * half_y
        reach_y = self._reach_y * half_x + self._reach_x * half_y
        if isinstance(opacity, np.ndarray):
            seen = opacity > 0
            centre_x, reach_x = centre_x[seen], reach_x[seen]
            centre_y, reach_y = centre_y[seen], reach_y[seen]
        return _pixels(centre_y, reach_y, size), _pixels(centre_x, reach_x, size)


def _pixels(centre: Array, reach: Array, size: int) -> slice:
    """Return the slice of pixels within `reach` of `centre` in any image, along one axis."""
    if not len(centre):
        return slice(0, 0)
    low = float((centre - reach).min())
    high = float((centre + reach).max())
    # An unbounded shape covers the whole canvas.
    low, high = max(low, -1.0), min(high, 1.0)
    return slice(math.floor((low + 1) / 2 * size), math.ceil((high + 1) / 2 * size))


def pixel_centres(size: int) -> Array:
    """Return the coordinates of the centres of `size` pixels over [−1, 1], shape (size,)."""
    return ((np.arange(size, dtype=np.float32) + np.float32(0.5)) * (2 / size) - 1).astype(
        np.float32
    )


def waves(size: int, across: Array, down: Array, phase: Array) -> Array:
    """Return a plane wave in each image, values in [−1, 1], shape (n, size, size).

    Args:
        size: height and width in pixels.
        across: radians per unit along x, shape (n,).
        down: radians per unit along y, shape (n,).
        phase: radians, shape (n,).
    """
    # sin(a + b) by the addition formula: sines of 2·size numbers, not of size².
    axis = pixel_centres(size)
    a = axis * across[:, None]
    b = axis * down[:, None] + phase[:, None]
    wave: Array = np.sin(a)[:, None, :] * np.cos(b)[:, :, None]
    wave += np.cos(a)[:, None, :] * np.sin(b)[:, :, None]
    return wave


def ramp(size: int, angle: Array) -> Array:
    """Return a gradient over each image, −1 to 1 along `angle` radians, shape (n, size, size)."""
    axis = pixel_centres(size)
    x, y = np.cos(angle)[:, None] * axis, np.sin(angle)[:, None] * axis
    return x[:, None, :] + y[:, :, None]


def mix(a: Colour, b: Colour, share: Array) -> Colour:
    """Return colours between `a` (share 0) and `b` (share 1), shape (n, 3)."""
    return a + (b - a) * share[:, None]


def tint(luminance: Array, hue: Array, saturation: Number) -> Colour:
    """Return colours of given luminance, hue (cyclic) and saturation, all 0–1, shape (n, 3)."""
    thirds = np.array([0, 1 / 3, 2 / 3], dtype=np.float32)
    wheel = np.cos(2 * np.pi * (hue[:, None] - thirds))
    if isinstance(saturation, np.ndarray):
        saturation = saturation[:, None]
    colour: Colour = np.clip(luminance[:, None] * (1 + saturation * wheel), 0, 1)
    return colour
