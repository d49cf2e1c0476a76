"""Which part of a model can be demixed: a rule for each kind of end."""
