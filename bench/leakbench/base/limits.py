"""The largest numbers that settings may ask for.

A larger number is a slip: what it asks for would take years, or more memory than any machine has.
"""

MOST = 10**7
"""Of individuals, rounds, steps, restarts and all else that is counted; no data set has more.

A plugin's parameter may state a limit of its own.
"""

MOST_EPOCHS = 10**4
"""Passes of a client over its data in one round; federated averaging takes a few."""

MOST_PIXELS = 8192
"""To which a side of images is resized, at most."""
