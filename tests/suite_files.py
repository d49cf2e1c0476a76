"""Suite files for tests, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import Suite

TITLE = 'title = "Small"\n'


CELL = """
[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 40, seed = 3 }
properties = ["gender", "smile"]
main_task = "hat"
rounds = 5
"""


COLUMNS = """
[attack.feature]
parameters = { budget = 7, lam = 0.5 }

[attack.soft]
attack = "feature"
title = "Joint"
parameters = { budget = 7, labels = "joint" }

[attack.prior]

[attack.oracle]
grant = ["model", "auxiliary", "features"]
"""


GROUP = """
[[group]]
title = "By batch size"
layout = "table2"
sweep = { batch_size = [1, 8] }
"""


SECOND_GROUP = """
[[group]]
title = "By data set"
layout = "table1"
cell = { properties = ["wheel"], main_task = "cargo", batch_size = 2, \
dataset_parameters = { subject = "vehicles" } }
"""


BUDGET_GROUP = """
[[group]]
title = "By budget"
layout = "budget"
cell = { batch_size = 8 }
sweep = { attack.budget = [3, 5] }
"""


SMALL = TITLE + CELL + COLUMNS + GROUP


def cells(suite: Suite, *settings: str, only: Sequence[str] = ()) -> list[Cell]:
    return [entry.cell for entry in expand("small", override(suite, settings), only)]


def keys(entries: list[SuiteEntry]) -> list[str]:
    return [entry.key for entry in entries]


PRESETS = {"paper": {"budget": 9, "lam": 0.25, "restarts": 3}, "fast": {"budget": 2}}


def of_group(suite: Suite, title: str, *settings: str) -> list[SuiteEntry]:
    return [p for p in expand("small", override(suite, settings)) if p.group == title]


def parameters(entry: Sequence[SuiteEntry], name: str) -> list[tuple[str, Any]]:
    return [(p.column, p.cell.attack_parameters.get(name)) for p in entry]


def toml(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in parameters.items())
