"""Verification of folders of records: by checks, and by measuring a sample again."""
