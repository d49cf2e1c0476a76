"""Data sets, one file each; shared readers and the renderer of `synthetic` in folders below."""
