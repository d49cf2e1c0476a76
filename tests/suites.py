"""The text of suites that run in seconds."""

from __future__ import annotations

CELL = {
    "image_size": "32",
    "dataset": '"synthetic"',
    "dataset_parameters": "{ individuals = 300 }",
    "properties": '["gender", "glasses"]',
    "main_task": '"2-class"',
    "model_parameters": "{ width = 4 }",
    "clients": "2",
    "rounds": "3",
    "victim_share": "0.2",
    "individuals": "8",
}
"""Fields of a small cell, in TOML."""


def small_suite(*tables: str, **changes: str) -> str:
    """The text of a suite of small cells.

    Args:
        tables: attacks and groups, in TOML.
        changes: fields of the cell, in TOML, over those of `CELL`.
    """
    fields = [f"{name} = {value}" for name, value in (CELL | changes).items()]
    return "\n".join(['title = "Small"', "", "[cell]", *fields, "", *tables, ""])
