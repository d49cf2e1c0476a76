"""Sweeps: the cells of a suite, the work that they share, and the executors that run both."""
