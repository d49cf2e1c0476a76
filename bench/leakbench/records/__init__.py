"""What was measured: records, their folders, checks, merging, and the data frame."""
