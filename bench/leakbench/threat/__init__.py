"""The threat model as types: what the adversary knows and sees, and what it never sees.

The harness builds a `GroundTruth` for every victim batch and derives from it an `Observation`
with only what the cell's `Knowledge` grants. An attack receives a `Server` and `Observation`s and
returns `AttackResult`s. No signature of an attack mentions `GroundTruth`.

`knowledge`, `observation`, `server` and `attack` define these types; `validation` checks results;
`candidates` and `deployment` provide the observations of membership inference and of deployed
models; `property_models` are the models f_p.
"""
