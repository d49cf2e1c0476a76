"""Suites to draw figures of, and checks of drawn files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender", "glasses"]
main_task = "hat+smile"
model_parameters = { width = 4 }
clients = 2
rounds = 3
victim_share = 0.2
individuals = 12

[attack.feature]
parameters = { budget = 4 }

[attack.soft]
attack = "feature"
title = "Soft"
parameters = { budget = 5, labels = "joint" }

[attack.blind]

[attack.oracle]
grant = ["model", "auxiliary", "features"]

[[group]]
title = "Table 2"
layout = "table2"
sweep = { batch_size = [1, 4, 12], seed = [0, 1] }

[[group]]
title = "By budget"
layout = "budget"
cell = { batch_size = 4 }
sweep = { attack.budget = [10, 100, 1000] }
"""

HEAD = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender", "glasses"]
main_task = "hat+smile"
model_parameters = { width = 4 }
clients = 2
rounds = 3
victim_share = 0.2
individuals = 8

[attack.feature]
parameters = { budget = 4 }

[attack.adaptive]
attack = "feature"
title = "Adaptive"
parameters = { budget = 4 }
grant = ["model", "update", "auxiliary", "labels", "defense"]

[attack.blind]

[attack.labels]

[attack.oracle]
grant = ["model", "auxiliary", "features"]
"""

DEFENSES_BY_LEVEL = """
[[group]]
title = "Noise"
layout = "defense"

[group.sweep]
batch_size = [1, 8]
defense = [
    { name = "none" },
    { name = "gaussian", sigma = 0.1 },
    { name = "gaussian", sigma = 0 },
    { name = "gaussian", sigma = 0.01 },
]

[[group]]
title = "Others"
layout = "defense"

[group.sweep]
batch_size = [1, 8]
defense = [{ name = "none" }, { name = "laplace", sigma = 0.1 }]
"""

LAMBDAS = """
[[group]]
title = "By λ"
layout = "table2"
sweep = { batch_size = [1, 8], attack.lam = [0.0, 0.1, 1.0] }

[group.attack.feature]

[group.attack.blind]

[group.attack.labels]

[group.attack.oracle]
"""


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def is_svg(path: Path) -> bool:
    return ElementTree.fromstring(path.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
