"""A user's model, split after a submodule, is the same function with the same gradients."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.nn import functional

from auditing import SIZE, Net, net
from leakbench.attacks.linear_layers.head import head_of
from leakbench.attacks.matching.dummy_gradients import dummy_gradients, layers_with_rules
from leakbench.auditing.model_loading import load_model
from leakbench.auditing.model_splitting import PixelScale, SplitModel, split_model
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import deep_features

IMAGES = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0])


class Functional(nn.Module):
    """Activations are functions, as many write them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 36, 32)
        self.output = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        count = images.shape[0]
        seen = functional.relu(self.norm(self.convolution(images)))
        hidden = functional.relu(self.hidden(seen.view(count, -1)))
        return self.output(functional.dropout(hidden, training=self.training))


class Deciding(nn.Module):
    """A forward pass that looks at values and cannot be followed; it lies beside the split."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 2 if float(images.shape[1]) == 3 else images


class WithDeciding(Net):
    def __init__(self) -> None:
        super().__init__()
        self.features.insert(0, Deciding())


class Checking(Functional):
    """A check that only an export gets past."""

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3:
            raise ValueError("three channels")
        return super().forward(images)


class Skipping(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + images.mean((1, 2, 3))[:, None]


class Grouped(Net):
    """Layers that the engine has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Hardswish(), nn.AvgPool2d(2)
        )


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def exported(model: nn.Module) -> ExportedProgram:
    return export(model, (IMAGES,), dynamic_shapes=({0: Dim("n")},))


def gradients_by_user_names(shared: SplitModel) -> dict[str, Tensor]:
    return {shared.names[name]: g for name, g in client_update(shared, IMAGES, LABELS).items()}


@pytest.mark.parametrize(
    ("kind", "split"),
    [
        (Net, "features"),
        (Net, "head.1"),
        (Functional, "convolution"),
        (Functional, "hidden"),
        (WithDeciding, "features"),
        (Checking, "norm"),
        (Grouped, "features"),
    ],
)
def test_the_split_model_gives_the_users_logits_and_gradients(
    kind: Callable[[], nn.Module], split: str
) -> None:
    model = made(kind)
    if split == "convolution":
        with pytest.raises(UsageError, match="no submodule"):
            split_model(model, "convolutions", IMAGES)
    shared = split_model(model, split, IMAGES)
    torch.testing.assert_close(shared(IMAGES), model(IMAGES))
    loss = functional.cross_entropy(model(IMAGES), LABELS)
    found = gradients_by_user_names(shared)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        (expected,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        torch.testing.assert_close(found[name], expected, msg=name)


@pytest.mark.parametrize(("kind", "split"), [(Net, "features"), (Functional, "norm")])
def test_a_saved_program_is_split_like_the_model_that_it_was_made_of(
    kind: Callable[[], nn.Module], split: str, tmp_path: Path
) -> None:
    model = made(kind)
    torch.export.save(exported(model), tmp_path / "net.pt2")
    program = load_model(str(tmp_path / "net.pt2"), None)
    shared, plain = split_model(program, split, IMAGES), split_model(model, split, IMAGES)
    assert sorted(shared.names.values()) == sorted(plain.names.values())
    assert layers_with_rules(shared, IMAGES) is not None
    by_name, expected = gradients_by_user_names(shared), gradients_by_user_names(plain)
    for name, value in expected.items():
        torch.testing.assert_close(by_name[name], value)
    # BatchNorm is a layer again, so that clients who normalise by the batch can be simulated.
    trained = [client_update(in_mode(each, "train"), IMAGES, LABELS) for each in (shared, plain)]
    names = [each.names for each in (shared, plain)]
    found, right = (
        {n[name]: g for name, g in of.items()} for of, n in zip(trained, names, strict=True)
    )
    for name, value in right.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_a_program_with_pickled_parts_is_refused_and_example_inputs_are_not_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(exported(net()), path)
    poisoned = tmp_path / "poisoned.pt2"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(poisoned, "w") as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            if "sample_inputs" in entry.filename:
                content = _bomb(tmp_path / "read")
            changed.writestr(entry.filename, content)
    load_model(str(poisoned), None)
    assert not (tmp_path / "read").exists()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(poisoned, "w") as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle":false', b'"use_pickle":true')
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
                assert b"true" in content
            changed.writestr(entry.filename, content)
    with pytest.raises(UsageError, match="could only be unpickled"):
        load_model(str(poisoned), None)


@pytest.mark.parametrize(
    "record",
    [
        "data/SAMPLE_INPUTS/model.PT",
        "data/weights/MODEL.PT",
        "data/aotinductor/model/model.so",
        "data/constants/custom_obj_0",
        "extra/notes.txt",
        "data/sample_inputs/other.pt",
        "models/model.json",
    ],
)
def test_a_program_with_records_that_none_has_is_refused_and_they_are_not_read(
    record: str, tmp_path: Path
) -> None:
    # PyTorch finds records whatever the case of their names.
    torch.export.save(exported(net()), tmp_path / "net.pt2")
    poisoned = tmp_path / "poisoned.pt2"
    with (
        zipfile.ZipFile(tmp_path / "net.pt2") as archive,
        zipfile.ZipFile(poisoned, "w") as changed,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for entry in archive.infolist():
            if entry.filename.lower() != f"net/{record}".lower() or record == entry.filename[4:]:
                changed.writestr(entry.filename, archive.read(entry))
        changed.writestr(f"net/{record}", _bomb(tmp_path / "read"))
    with pytest.raises(UsageError, match=r"no part of a program|parts of the same name"):
        load_model(str(poisoned), None)
    assert not (tmp_path / "read").exists()


class Flat(Net):
    """Normalises features that are flat already."""

    def __init__(self) -> None:
        super().__init__()
        self.head.insert(2, nn.BatchNorm1d(64))


def test_a_program_may_normalise_flat_features() -> None:
    model = made(Flat)
    shared = split_model(exported(model), "features", IMAGES)
    assert any(isinstance(module, nn.BatchNorm1d) for module in shared.modules())
    torch.testing.assert_close(shared(IMAGES), model(IMAGES))


def test_a_program_exported_in_training_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="the program normalises by the batch"):
        split_model(exported(made(Flat).train()), "features", IMAGES)


def _bomb(path: Path) -> bytes:
    """A pickle that makes a file when it is read."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (path,)

    stream = io.BytesIO()
    torch.save(Bomb(), stream)
    return stream.getvalue()


def test_pickles_are_refused_by_their_ending() -> None:
    with pytest.raises(UsageError, match="may be a pickle, which is never loaded"):
        load_model("net.pt", None)


def test_layers_without_weights_after_the_split_come_before_the_head() -> None:
    shared = split_model(made(Functional), "norm", IMAGES)
    features = deep_features(shared, IMAGES)
    assert features.shape == (5, 4 * 36)
    assert bool((features >= 0).all())
    assert len(head_of(shared, "an attack").layers) == 2


def test_features_that_are_no_rows_are_flattened_for_the_head_and_back() -> None:
    class Deep(Net):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))

    model = made(Deep)
    shared = split_model(model, "features", IMAGES)
    assert deep_features(shared, IMAGES).shape == (5, 8 * 16)
    torch.testing.assert_close(shared(IMAGES), model(IMAGES))


def test_a_network_with_groups_has_its_gradients_layer_by_layer() -> None:
    shared = split_model(made(Grouped), "features", IMAGES)
    layers = layers_with_rules(shared, IMAGES)
    assert layers is not None
    gradients, _ = dummy_gradients(shared, IMAGES[None], LABELS[None], layers)
    for name, value in client_update(shared, IMAGES, LABELS).items():
        torch.testing.assert_close(gradients[name][0], value, rtol=1e-4, atol=1e-6)


def test_pixels_are_scaled_as_clients_scale_them() -> None:
    model = net().eval()
    shared = split_model(model, "features", IMAGES, PixelScale((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))
    scaled = (IMAGES - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.2, 0.1]
    ).view(3, 1, 1)
    torch.testing.assert_close(shared(IMAGES), model(scaled))
    assert set(shared.names.values()) == {name for name, _ in model.named_parameters()}


def test_frozen_weights_are_in_no_update() -> None:
    model = net()
    model.features.requires_grad_(False)
    shared = split_model(model, "features", IMAGES)
    assert set(shared.names.values()) == {
        name for name, _ in model.named_parameters() if name.startswith("head")
    }
    assert set(client_update(shared, IMAGES, LABELS)) == set(shared.names)


def test_the_users_model_is_left_as_it_is() -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shared = split_model(model, "features", IMAGES)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not {id(p) for p in shared.parameters()} & {id(p) for p in model.parameters()}


def test_what_hangs_on_the_backward_pass_is_left_behind() -> None:
    model = net()
    model.head[1].register_full_backward_hook(lambda *_: pytest.fail("the user's hook ran"))
    client_update(split_model(model, "features", IMAGES), IMAGES, LABELS)


def test_double_precision_and_further_arguments_are_taken() -> None:
    class Scaled(Net):
        def forward(self, images: Tensor, factor: float = 2.0) -> Tensor:
            return super().forward(images * factor)

    model = made(Scaled)
    shared = split_model(model.double(), "features", IMAGES, PixelScale((0.0,), (2.0,)))
    torch.testing.assert_close(shared(IMAGES), model.float()(IMAGES / 2))


class Tied(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 0 * self.features(images).sum()


class Doubling(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images) * self.scale
        return self.head(features) * self.scale


@pytest.mark.parametrize(
    ("kind", "split", "said"),
    [
        (Net, "feature", "the model has no submodule 'feature' to split after; did you mean feat"),
        (Skipping, "features", "the head reads 'images', which is computed before the split"),
        (Tied, "features", "must be one tensor that is computed once, but it is computed 2"),
        (Net, "head.3", "no weights follow the split 'head.3'"),
        (Doubling, "head", "parameter 'scale' is used before and after"),
    ],
)
def test_a_split_that_is_none_is_refused_in_a_sentence(
    kind: Callable[[], nn.Module], split: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        split_model(made(kind), split, IMAGES)


def test_a_parameter_on_both_sides_is_refused() -> None:
    class Reusing(Net):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(8, 8, 1)
            self.middle = nn.Sequential(self.mix)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.mix(self.middle(self.features(images))))

    with pytest.raises(UsageError, match=r"parameter 'mix.weight' is used before and after"):
        split_model(made(Reusing), "middle", IMAGES)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Flatten(0), nn.Linear(5 * 192, 3)), "must return logits of shape"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), r"does not take images of shape \(5, 3, 8, 8\)"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_a_sentence(model: nn.Module, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split_model(model, "0", IMAGES)


def test_a_program_of_a_fixed_batch_size_says_what_it_lacks() -> None:
    fixed = export(net().eval(), (IMAGES[:2],))
    with pytest.raises(UsageError, match="dynamic_shapes"):
        split_model(fixed, "features", IMAGES)


def test_a_head_that_does_more_than_its_layers_say_is_refused_by_attacks_on_layers() -> None:
    class Louder(Net):
        def forward(self, images: Tensor) -> Tensor:
            hidden = self.head[2](self.head[1](self.features(images).flatten(1)))
            return self.head[3](hidden * 3)

    shared = split_model(made(Louder), "features", IMAGES)
    with pytest.raises(UsageError, match="computes something else with its layers"):
        head_of(shared, "an attack")


class LouderLogits(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 10


def test_labels_are_read_off_a_bias_alone_that_feeds_the_logits() -> None:
    assert split_model(made(Net), "features", IMAGES).output_bias == "classifier.head.3.bias"
    shared = split_model(made(LouderLogits), "features", IMAGES)
    with pytest.raises(UsageError, match="does not end in a linear layer with a bias"):
        assert shared.output_bias


class Dropping(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head.insert(3, nn.Dropout(0.5))


@pytest.mark.parametrize("kind", [Dropping, Functional])
@pytest.mark.parametrize("form", [lambda model: model, exported])
def test_dropout_that_is_left_out_is_remembered(
    kind: Callable[[], nn.Module], form: Callable[[nn.Module], nn.Module | ExportedProgram]
) -> None:
    split = "norm" if kind is Functional else "features"
    assert split_model(form(made(kind)), split, IMAGES).has_dropout
    assert not split_model(made(Net), "features", IMAGES).has_dropout


def test_a_frozen_weight_that_two_layers_share_is_in_no_update() -> None:
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU())
            self.features[1].weight = self.features[0].weight
            self.features[0].weight.requires_grad_(False)
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4))

    shared = split_model(made(Twice), "features", IMAGES)
    assert {name for name, _ in shared.named_parameters()} == set(shared.names)


def test_labels_cannot_be_read_off_an_output_without_a_bias() -> None:
    model = net()
    model.head[3] = nn.Linear(64, 4, bias=False)
    with pytest.raises(UsageError, match="does not end in a linear layer with a bias"):
        assert split_model(model, "features", IMAGES).output_bias
