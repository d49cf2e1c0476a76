"""A static site of records: pages as values, then as HTML, then as files."""
