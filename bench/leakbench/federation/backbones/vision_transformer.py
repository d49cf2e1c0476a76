"""What vision transformers share: patches, and an embedding for each position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.federation.backbones.backbone import Backbone
from leakbench.federation.backbones.transformer import named_as_chain


class VisionTransformerBackbone(Backbone):
    """A transformer whose input is a grid of square patches."""

    ignored = ("heads",)
    patch: ClassVar[int] = 16

    def named(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return torchvision's tensors under the names of the chain's."""
        input_size = self.input_size or self.default_input[0]
        return named_as_chain(tensors, input_size, self.patch)

    def check_input(self, size: int) -> None:
        """Refuse an input that is no grid of patches.

        Raises:
            UsageError: names the value and the patch.
        """
        super().check_input(size)
        height, _ = self.input_shape(size)
        if height % self.patch:
            raise UsageError(
                f"model {self.name} divides its input into patches of {self.patch} px, and "
                f"{height} px are no multiple of it; set model.input_size to one"
            )
