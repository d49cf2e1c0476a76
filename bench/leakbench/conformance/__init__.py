"""Checks that every attack, data set, defense and model must pass.

`leakbench check NAME` runs them on one plugin; the tests run them on every registered one.
"""
