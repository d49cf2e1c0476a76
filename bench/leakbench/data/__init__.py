"""Data sets: their type, images, label files, and how individuals are split."""
