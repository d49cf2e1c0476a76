"""leakbench measures what a federated-learning server infers about each individual.

The public names, for audits of your own model and for plugins in other packages::

    from leakbench import audit, record_rounds, read_fedml, read_nvflare, LabelledImages
    from leakbench import Attack, AttackResult, Knowledge, Observation, Server, register_attack

In a checkout its subpackages `attacks`, `baselines` and `datasets` are links to the folders at the
top level.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leakbench.auditing.audit import audit as audit
    from leakbench.auditing.fedml_files import read_fedml as read_fedml
    from leakbench.auditing.flower_tap import record_rounds as record_rounds
    from leakbench.auditing.labelled_images import LabelledImages as LabelledImages
    from leakbench.auditing.nvflare_files import read_nvflare as read_nvflare
    from leakbench.auditing.report import Report as Report
    from leakbench.auditing.training import FederatedTraining as FederatedTraining
    from leakbench.base.errors import UsageError as UsageError
    from leakbench.base.registry import register_attack as register_attack
    from leakbench.base.registry import register_dataset as register_dataset
    from leakbench.base.registry import register_defense as register_defense
    from leakbench.base.registry import register_model as register_model
    from leakbench.data.dataset import DataSet as DataSet
    from leakbench.data.dataset import Individuals as Individuals
    from leakbench.federation.client import Client as Client
    from leakbench.federation.client import Compute as Compute
    from leakbench.federation.client import Update as Update
    from leakbench.federation.defense import Defense as Defense
    from leakbench.federation.defense import Stage as Stage
    from leakbench.federation.shared_model import Architecture as Architecture
    from leakbench.federation.shared_model import Normalise as Normalise
    from leakbench.federation.shared_model import SharedModel as SharedModel
    from leakbench.records.data_frame import results as results
    from leakbench.threat.attack import Attack as Attack
    from leakbench.threat.attack import AttackResult as AttackResult
    from leakbench.threat.attack import Progress as Progress
    from leakbench.threat.knowledge import Knowledge as Knowledge
    from leakbench.threat.observation import Observation as Observation
    from leakbench.threat.server import Server as Server

_HOME = {
    "audit": "auditing.audit",
    "FederatedTraining": "auditing.training",
    "record_rounds": "auditing.flower_tap",
    "read_fedml": "auditing.fedml_files",
    "read_nvflare": "auditing.nvflare_files",
    "LabelledImages": "auditing.labelled_images",
    "Report": "auditing.report",
    "UsageError": "base.errors",
    "register_attack": "base.registry",
    "register_dataset": "base.registry",
    "register_defense": "base.registry",
    "register_model": "base.registry",
    "DataSet": "data.dataset",
    "Individuals": "data.dataset",
    "Client": "federation.client",
    "Compute": "federation.client",
    "Update": "federation.client",
    "Defense": "federation.defense",
    "Stage": "federation.defense",
    "Architecture": "federation.shared_model",
    "Normalise": "federation.shared_model",
    "SharedModel": "federation.shared_model",
    "results": "records.data_frame",
    "Attack": "threat.attack",
    "AttackResult": "threat.attack",
    "Progress": "threat.attack",
    "Knowledge": "threat.knowledge",
    "Observation": "threat.observation",
    "Server": "threat.server",
}
"""Public name → the module that defines it, imported at the first use of the name: the command
line starts without PyTorch."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"leakbench.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
