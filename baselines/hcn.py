"""HCN: a server deploys a model whose outputs encode a property besides its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from leakbench.base.cache import cached_tensors
from leakbench.base.errors import UsageError
from leakbench.base.plugins import parameter_names
from leakbench.base.registry import MODELS, register_attack
from leakbench.base.seeds import digest, seed_for, tensor_digest
from leakbench.baselines.hybrid_capturing.backbone import features, frozen_backbone
from leakbench.baselines.hybrid_capturing.networks import (
    classifier,
    entropy,
    entropy_score,
    head,
    reader,
)
from leakbench.baselines.hybrid_capturing.training import (
    Build,
    Examples,
    train_honest,
    train_parametrised,
    train_reader,
    train_regularised,
)
from leakbench.federation.backbones.weight_sources import Weights
from leakbench.threat.attack import Attack, AttackResult, Progress, part_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Auxiliary, Server

TRAINING_VERSION = 1
"""Raised when training gives other weights for the same D_aux."""


@register_attack("hcn")
@dataclass(frozen=True, kw_only=True)
class HonestButCurious(Attack):
    """Deploys for each property a classifier F whose outputs encode it (Malekzadeh et al. 2021).

    F is trained on D_aux alone and deployed in the shared model's place; each individual's output
    answers for that individual. The property's terms weigh presence and absence alike, so that ½ is
    the threshold of balanced accuracy. A quarter of D_aux's people select the epoch, by accuracy
    and balanced accuracy weighted β_y to β_s. One F takes 20 seconds of a core for 1,000 images of
    32 px, four times as much at 64 px.

    Attributes:
        form: `parametrised`: a network G reads the property off F's outputs and is trained in turns
            with F on β_y·NLL(y) + β_s·CE(G(F(x)), s) + β_x·H(F(x)); `regularised`: F is trained on
            β_y·NLL(y) + β_s·(H_{s=0} − H_{s=1}), and an entropy from a threshold on means presence;
            `honest`: F is trained for the main task alone and G afterwards, the control that says
            what any model's outputs give away.
        outputs: what F hands out, and G reads: the classes' `logits`, or `probabilities`.
        epochs: over D_aux, for F and where it is trained alone for G.
        width: channels of F's last two convolutions; the others and the hidden layer have twice as
            many. In the paper's code as many as an image has pixels a side, at 64 px.
        backbone: a registered model whose feature extractor, frozen, F starts with; only a hidden
            layer and the output layer are trained then. Empty for the paper's small network.
        weights: the backbone's pretrained weights, as the model's own parameter names them. Those
            named by their content must be the shared model's too, which bring them into the cache.
        beta_y: β_y, the main task's weight.
        beta_s: β_s, the property's weight.
        beta_x: β_x, the weight of the outputs' entropy.
    """

    reconstructs_features = False
    is_random = False
    title = "HCN"
    reference = (
        "Malekzadeh, Borovykh, Gündüz 2021, Honest-but-Curious Nets: Sensitive Attributes of "
        "Private Inputs Can Be Secretly Coded into the Classifiers' Outputs (CCS), arXiv 2105.12049"
    )
    note = (
        "another threat model: the server trains and deploys a model of its own for each property, "
        "and reads the property off its outputs for one individual at a time; no update is seen, "
        "nothing is matched. With form = honest the model is trained for the main task alone: what "
        "any model's outputs give away"
    )

    presets: ClassVar = {"paper": {"width": 64}}
    example_parameters: ClassVar = {"epochs": 1, "width": 4}

    form: Literal["parametrised", "regularised", "honest"] = "parametrised"
    outputs: Literal["logits", "probabilities"] = "logits"
    epochs: Annotated[int, Field(gt=0)] = 50
    width: Annotated[int, Field(gt=0)] = 32
    backbone: str = ""
    weights: Weights = "none"
    beta_y: Annotated[float, Field(gt=0)] = 5.0
    beta_s: Annotated[float, Field(ge=0)] = 5.0
    beta_x: Annotated[float, Field(ge=0)] = 2.0

    def __post_init__(self) -> None:
        if not self.backbone:
            if self.weights != "none":
                raise ValueError("weights are a backbone's; name it with `backbone`")
            return
        if "weights" not in parameter_names(MODELS.get(self.backbone)):
            raise ValueError(f"model {self.backbone!r} takes no weights, so that it is no backbone")

    @property
    def required_knowledge(self) -> Knowledge:
        """D_aux, and the outputs of what it deploys."""
        return Knowledge.AUXILIARY | Knowledge.OUTPUTS

    def work(self, batch_size: int) -> float:  # noqa: ARG002
        """The training of one property's model, as if shared by 256 individuals."""
        return float(self.epochs)

    def deploy(self, server: Server, progress: Progress) -> Mapping[str, nn.Module]:
        """Return F for each property, trained now or found in the cache.

        Raises:
            UsageError: individuals of D_aux have no main-task label.
        """
        assert server.auxiliary is not None
        if bool((server.auxiliary.labels < 0).any()):
            raise UsageError(
                "attack 'hcn' trains a model for the main task on D_aux, whose individuals have no "
                "label of it; choose a main task of attributes that D_aux's data set has"
            )
        deployed = {}
        for number, name in enumerate(server.properties):
            part = part_of(progress, number, len(server.properties))
            network = self._classifier(server, self._weights(server, name, part), "F.")
            before = [] if (extractor := self._extractor(server)) is None else [extractor]
            deployed[name] = nn.Sequential(*before, network, _Read(self.outputs))
        progress(1.0)
        return deployed

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Read each property off its own model's outputs, individual by individual."""
        readers = {name: self._weights(server, name, lambda _: None) for name in server.properties}
        results = []
        for observation in observations:
            assert observation.outputs is not None
            results.append(
                AttackResult(
                    scores={
                        name: self._read(server, weights, observation.outputs[name])
                        for name, weights in readers.items()
                    }
                )
            )
        progress(1.0)
        return results

    def _read(self, server: Server, weights: Mapping[str, Tensor], outputs: Tensor) -> Tensor:
        """Return the probability of presence, shape (B,), from outputs (B, K)."""
        if self.form == "regularised":
            # Logarithms of probabilities are logits too; a probability may have rounded to 0.
            logits = outputs.clamp_min(1e-30).log() if self.outputs == "probabilities" else outputs
            return entropy_score(entropy(logits), weights["threshold"].item(), server.classes)
        curious = _filled(lambda: reader(server.classes), weights, "G.", str(outputs.device))
        with torch.no_grad():
            return curious(outputs).softmax(1)[:, 1]  # type: ignore[no-any-return]

    def _weights(self, server: Server, name: str, progress: Progress) -> dict[str, Tensor]:
        """Return what training for a property gave: F, and G or the threshold, from the cache."""
        auxiliary = server.auxiliary
        assert auxiliary is not None
        secret = auxiliary.properties[name]
        shaped_by = [
            *self._shapes_the_main_task(server),
            self.form,
            tensor_digest(secret),
            self.outputs,
        ]
        if self.form != "honest":
            shaped_by += [self.beta_y, self.beta_s, self.beta_x]
        key = digest("hcn", TRAINING_VERSION, shaped_by)[:24]
        return cached_tensors(
            f"hcn/{key}-{secret.device.type}",
            lambda: self._train(server, auxiliary, secret, seed_for(key), progress),
        )

    def _train(
        self, server: Server, auxiliary: Auxiliary, secret: Tensor, seed: int, progress: Progress
    ) -> dict[str, Tensor]:
        data = Examples.of(auxiliary, self._inputs(server), secret, server.classes)
        main, hidden, sharp = self.beta_y, self.beta_s, self.beta_x
        read = _Read(self.outputs)
        build = self._untrained(server)
        if self.form == "regularised":
            network, threshold = train_regularised(
                data, build, (main, hidden), self.epochs, seed, progress
            )
            return _named("F.", network) | {"threshold": torch.tensor(threshold)}
        if self.form == "parametrised":
            network, curious = train_parametrised(
                data, build, read, (main, hidden, sharp), self.epochs, seed, progress
            )
        else:
            network = self._honest(server, data, build, progress)
            curious = train_reader(network, data, read, self.epochs, seed)
        return _named("F.", network) | _named("G.", curious)

    def _honest(
        self, server: Server, data: Examples, build: Build, progress: Progress
    ) -> nn.Sequential:
        """Return the F of the main task alone, the same for all properties."""
        key = digest("hcn honest", TRAINING_VERSION, self._shapes_the_main_task(server))[:24]
        weights = cached_tensors(
            f"hcn/{key}-{data.inputs.device.type}",
            lambda: train_honest(data, build, self.epochs, seed_for(key), progress).state_dict(),
        )
        return self._classifier(server, weights, "")

    def _classifier(
        self, server: Server, weights: Mapping[str, Tensor], prefix: str
    ) -> nn.Sequential:
        """Return F, or its part after the backbone, with trained weights."""
        assert server.auxiliary is not None
        device = str(server.auxiliary.images.device)
        return _filled(self._untrained(server), weights, prefix, device)

    def _untrained(self, server: Server) -> Build:
        """Return what makes F, or its part after the backbone."""
        extractor = self._extractor(server)
        if extractor is not None:
            assert server.auxiliary is not None
            with torch.no_grad():
                features = extractor(server.auxiliary.images[:1]).shape[1]
            return lambda: head(server.classes, features, self.width)
        return lambda: classifier(server.classes, server.image_shape[-1], self.width)

    def _inputs(self, server: Server) -> Tensor:
        """Return D_aux as F's trained part sees it: images, or the backbone's features of them."""
        assert server.auxiliary is not None
        images = server.auxiliary.images
        extractor = self._extractor(server)
        if extractor is None:
            return images
        return features(extractor, self.backbone, self.weights, images)

    def _extractor(self, server: Server) -> nn.Module | None:
        """Return the frozen backbone; None without."""
        if not self.backbone:
            return None
        assert server.auxiliary is not None
        device = str(server.auxiliary.images.device)
        return frozen_backbone(self.backbone, self.weights, server.image_shape[-1], device)

    def _shapes_the_main_task(self, server: Server) -> list[Any]:
        auxiliary = server.auxiliary
        assert auxiliary is not None
        tensors = (auxiliary.images, auxiliary.labels, auxiliary.identities)
        shaping = [*map(tensor_digest, tensors), server.classes, self.epochs, self.width]
        return [*shaping, self.backbone, self.weights] if self.backbone else shaping


class _Read(nn.Module):
    """What is handed out of logits."""

    def __init__(self, outputs: Literal["probabilities", "logits"]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.outputs == "probabilities" else logits


def _named(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}


def _filled(
    build: Callable[[], nn.Sequential], weights: Mapping[str, Tensor], prefix: str, device: str
) -> nn.Sequential:
    """Return a network with the weights that have a prefix, in evaluation mode."""
    # Without storage: drawing first weights would move on PyTorch's global generator.
    with torch.device("meta"):
        network = build()
    chosen = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    network.load_state_dict(chosen, assign=True)
    return network.to(device).eval()
