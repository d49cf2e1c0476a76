"""The renderer of the data set `synthetic`."""
