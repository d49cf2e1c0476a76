"""DLG and iDLG: squared error of the gradients, L-BFGS, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leakbench.attacks.matching.distance import squared_error
from leakbench.attacks.matching.matching_attack import GradientMatching, Labels
from leakbench.attacks.matching.method import Method, standard_normal
from leakbench.attacks.matching.optimisers import LBFGS
from leakbench.base.registry import register_attack
from leakbench.threat.server import Server


@register_attack("dlg")
@dataclass(frozen=True, kw_only=True)
class DeepLeakage(GradientMatching):
    """Reconstructs images and soft labels together, by minimising Σ‖∇ − ∇*‖² (Zhu, Liu, Han 2019).

    1. x̃ ~ N(0, 1) in raw pixels, one vector of label logits ỹ ~ N(0, 1) for each individual.
    2. L-BFGS at PyTorch's defaults (history 100, no line search) on x̃ and ỹ, with the soft
       cross-entropy of softmax(ỹ). No clamp, no prior.

    It often diverges: the best iterate counts, and a run that overflows or gets stuck starts afresh
    with what is left of its budget.

    Attributes:
        labels: as in the paper `joint`; others as in every gradient-matching attack.
    """

    title = "DLG"
    reference = "Zhu, Liu, Han 2019, Deep Leakage from Gradients (NeurIPS), arXiv 1906.08935"
    presets: ClassVar = {"paper": {"budget": 6_000}}

    labels: Labels = "joint"

    def method(self, server: Server) -> Method:
        """Return the algorithm box of the paper; 20 steps here are one of its 300."""
        return Method(
            distance=squared_error,
            optimiser=LBFGS(),
            start=standard_normal(server.image_shape),
            steps=self.steps,
            projected=0,
            tolerance=CONVERGED,
            patience=PATIENCE,
        )


@register_attack("idlg")
@dataclass(frozen=True, kw_only=True)
class ImprovedDeepLeakage(DeepLeakage):
    """DLG, with the label read off the output layer's gradient first (Zhao, Mopuri, Bilen 2020).

    The sign rule holds for a single individual, so that B > 1 is refused.

    Attributes:
        labels: as in the paper `idlg`; others as in every gradient-matching attack.
    """

    title = "iDLG"
    largest_batch = 1
    reference = (
        "Zhao, Mopuri, Bilen 2020, iDLG: Improved Deep Leakage from Gradients, arXiv 2001.02610"
    )

    labels: Labels = "idlg"


PATIENCE = 200
"""Evaluations, ten of PyTorch's steps, without progress after which a run is stuck."""

CONVERGED = 1e-9
"""Squared error at which float32 gradients cannot be told apart any more."""
