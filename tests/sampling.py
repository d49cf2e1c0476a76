"""A part of CelebA, in whose place tests of every change need not decode the whole."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

EVERY = 4
"""Of so many people one is taken, with all images."""

IN_TWO_PLACES = (
    ("037778.jpg", "131898.jpg"),
    ("076977.jpg", "133020.jpg"),
    ("111126.jpg", "130348.jpg"),
    ("117478.jpg", "175117.jpg"),
    ("142277.jpg", "198376.jpg"),
)
"""Photos that the data set has under two identities each; the sample has them all."""


def with_few_faces(root: Path, folder: Path) -> Path:
    """Return `folder` with links to all that `root` has, of CelebA to the images of a sample.

    It is made by whichever of the session's worker processes needs it first.
    """
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            for entry in root.iterdir():
                if entry.name != "celeba":
                    (folder / entry.name).symlink_to(entry)
            _link_sample(root / "celeba", folder / "celeba")
    return folder


def _link_sample(whole: Path, part: Path) -> None:
    (part / "img_align_celeba").mkdir(parents=True)
    for entry in whole.iterdir():
        if entry.name != "img_align_celeba":
            (part / entry.name).symlink_to(entry)
    doubled = {name for pair in IN_TWO_PLACES for name in pair}
    rows = (whole / "identity_CelebA.txt").read_text(encoding="utf-8").splitlines()
    for name, identity in (row.split() for row in rows if row.strip()):
        image = whole / "img_align_celeba" / name
        if (int(identity) % EVERY == 0 or name in doubled) and image.exists():
            (part / "img_align_celeba" / name).symlink_to(image)
