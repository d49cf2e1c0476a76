"""What is to be measured: cells, suites and overrides, and their descriptions as text."""
