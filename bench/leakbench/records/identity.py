"""Whether a record is what the name of its file says: the key of its content."""

from __future__ import annotations

from leakbench.records.record import Record


def content_key(record: Record) -> str:
    """Return the key that a record's content gives: that of its cell, under its attack's version.

    Every check of a record's key calls this function.
    """
    return record.cell.key(record.attack_version, record.schema_version)


def misnamed(record: Record, name: str) -> str:
    """Return why a record is not the one that its file's name says; empty if it is.

    Args:
        name: of the file, without the ending.
    """
    if record.key != name:
        return f"the record in it has another key, {record.key}"
    if record.key != content_key(record):
        return "its key is not that of its content, which was changed"
    return ""
