"""Ways to damage a small data set: change a line, remove a file, truncate or shrink an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Damage = Callable[[Path], object]
"""Damages the data set in a folder."""


def noise(seed: int, height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write(file: str, text: str) -> Damage:
    return lambda folder: (folder / file).write_text(text)


def write_bytes(file: str, content: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(content)


def remove(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def replace(file: str, old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return damage


def replace_line(file: str, number: int, line: str) -> Damage:
    def damage(folder: Path) -> None:
        lines = (folder / file).read_text().splitlines()
        lines[number - 1] = line
        (folder / file).write_text("\n".join(lines) + "\n")

    return damage


def truncate(file: str) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return damage


def shrink(file: str, width: int, height: int) -> Damage:
    return lambda folder: Image.new("RGB", (width, height)).save(folder / file)
