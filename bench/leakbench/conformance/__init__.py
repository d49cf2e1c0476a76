"""What every attack, data set, defense and model must do, as checks that anybody can run.

`leakbench check NAME` runs them on one plugin; the tests run them on every registered one.
"""
