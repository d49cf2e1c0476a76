"""Numbers that are measured: how they are computed, and their intervals."""
