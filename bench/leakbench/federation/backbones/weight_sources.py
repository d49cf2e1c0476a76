"""Where pretrained weights come from: nowhere, a download, a package, or a file.

`weights` is a parameter of a model, of type `Weights`: `none` (random weights), `download`
(torchvision's, fetched only where a user says so), `package` (shipped by a Python package), a
safetensors FILE, or `sha256:` and the 64 hexadecimal digits of such a file's content. A FILE
becomes its content's name as soon as the model is built from its parameters, and its content goes
into the cache: cells, keys and records hold no path of any machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from leakbench.base.cache import stored_tensors
from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.federation.backbones.weight_downloads import (
    download_path,
    downloaded,
    is_downloaded,
    packaged_file,
    pickled_tensors,
    published,
)
from leakbench.federation.backbones.weight_files import (
    FOLDER,
    cached_path,
    content_digest,
    find_under,
    is_stored,
    named_file,
    store,
)
from leakbench.federation.backbones.weight_registry import (
    CONTENT_NAME,
    DOWNLOAD,
    FILES,
    NONE,
    PACKAGE,
    PREFIX,
    WORDS,
)

Downloading = Literal["allowed", "refused"]
"""Whether weights may be fetched that are not on this machine."""


class NotDownloadedError(UsageError):
    """Weights to download are not on this machine, and may not be fetched now."""


class MissingWeightsError(UsageError):
    """Weights that are named by their content are nowhere on this machine.

    Args:
        missing: model and content's name of each.
    """

    def __init__(self, missing: Iterable[tuple[str, str]]) -> None:
        self.missing = tuple(dict.fromkeys(missing))
        named = "; ".join(_described(model, weights) for model, weights in self.missing)
        super().__init__(
            f"weights are neither in the cache nor in the folder {FOLDER} of --data-root: {named}; "
            f"put their safetensors file into DIR/{FOLDER} and pass --data-root DIR, or name it "
            f"once with --set model.weights=FILE"
        )

    @classmethod
    def together(cls, errors: Iterable[Self]) -> Self:
        """Return one error for the weights of all of them."""
        return cls(each for error in errors for each in error.missing)


def _described(model: str, weights: str) -> str:
    known = FILES.get(weights)
    return f"model {model} has {weights}" + (f" ({known.title}, {known.source})" if known else "")


def named(weights: str) -> str:
    """Return the name of weights by which cells and records know them; see the module.

    The content of a file goes into the cache.

    Raises:
        UsageError: it is neither a word, nor a content's name, nor a readable safetensors file.
        WriteError: the cache cannot be written to, or the disk is full.
    """
    if weights in WORDS:
        return weights
    if weights.lower().startswith(PREFIX):
        if not CONTENT_NAME.fullmatch(weights.lower()):
            raise UsageError(
                f"the name of a file's content is {PREFIX} and 64 hexadecimal digits, and this has "
                f"{len(weights) - len(PREFIX)} characters after the colon"
            )
        return weights.lower()
    file = named_file(weights)
    content = content_digest(file)
    store(file, content)
    return f"{PREFIX}{content}"


def _validated(weights: str) -> str:
    try:
        return named(weights)
    except WriteError:
        raise
    except UsageError as error:
        # Pydantic names the parameter and its value.
        raise ValueError(str(error)) from None


Weights = Annotated[str, AfterValidator(_validated)]
"""Type of a model's parameter `weights`."""


def takes_weights(plugin: type) -> bool:
    """Whether a model has the parameter `weights` of this module.

    A model of an outside package may have one of that name that means something else.
    """
    fields = {field.name: field.type for field in dataclasses.fields(plugin)}
    found = fields.get("weights")
    return found == Weights or str(found).rpartition(".")[2] == "Weights"


def provide(
    weights: str, model: str, data_root: Path | None, downloading: Downloading = "allowed"
) -> None:
    """Make sure that this machine has weights: copy them into the cache, or download them.

    Args:
        weights: a name as `named` returns it.
        model: the name of the registered model that has them.
        data_root: its folder `backbones` is searched for a file with that content.
        downloading: only what is named `download` is ever fetched, and not even that if `refused`.

    Raises:
        MissingWeightsError: no file with that content is there.
        NotDownloadedError: they would have to be downloaded, which is refused.
        UsageError: the model has no such weights, the package that ships them is not installed,
            or they cannot be downloaded.
        WriteError: the cache cannot be written to, or the disk is full.
    """
    if weights == NONE:
        return
    if weights == PACKAGE:
        packaged_file(model)
    elif weights == DOWNLOAD:
        wanted = published(model)
        if downloading == "refused" and not is_downloaded(wanted):
            raise NotDownloadedError(
                f"weights of model {model} are torchvision's {wanted.enum}, which are not on "
                f"this machine; fetch them once by a run with --set model.weights=download"
            )
        downloaded(model, wanted)
    else:
        content = _content(weights, model)
        if is_stored(content):
            return
        file = find_under(data_root, content)
        if file is None:
            raise MissingWeightsError([(model, weights)])
        store(file, content)


def path_in_cache(weights: str, model: str) -> str | None:
    """Return the path in the cache of weights, to send them to another machine; None without.

    Args:
        weights: a name as `named` returns it.
        model: the name of the registered model that has them.
    """
    if weights == DOWNLOAD:
        return download_path(published(model))
    return None if weights in (NONE, PACKAGE) else cached_path(_content(weights, model))


def tensors_of(weights: str, model: str) -> Mapping[str, Tensor]:
    """Return the tensors that `provide` has made available, by name; none for random weights.

    Args:
        weights: a name as `named` returns it.
        model: the name of the registered model that has them.

    Raises:
        UsageError: they are not there, or are damaged.
    """
    if weights == NONE:
        return {}
    if weights == PACKAGE:
        return pickled_tensors(packaged_file(model), model)
    if weights == DOWNLOAD:
        return downloaded(model, published(model))
    content = _content(weights, model)
    tensors = stored_tensors(cached_path(content)) if is_stored(content) else None
    if tensors is None:
        raise MissingWeightsError([(model, weights)])
    return tensors


def check_name(weights: object, model: str) -> None:
    """Refuse what is no name as cells and records have it, above all the path of a file.

    Raises:
        UsageError: it is neither a word nor a content's name.
    """
    if weights not in WORDS:
        _content(str(weights), model)


def _content(weights: str, model: str) -> str:
    if not CONTENT_NAME.fullmatch(weights):
        raise UsageError(
            f"model {model} has weights {weights!r}, which is none of {', '.join(WORDS)} and "
            f"{PREFIX}DIGEST"
        )
    return weights.removeprefix(PREFIX)


def load_strictly(
    network: nn.Module, tensors: Mapping[str, Tensor], model: str, ignore: Collection[str] = ()
) -> None:
    """Load tensors into a network's parameters and buffers; every one must have its counterpart.

    BatchNorm's counters of batches may be missing, as in files of early versions of PyTorch.

    Args:
        tensors: by their names in the network.
        model: the name of the registered model.
        ignore: names, or the first parts of names before a dot, that need no counterpart: in the
            file, such as the classes of its own task, or in the network.

    Raises:
        UsageError: a tensor is missing, surplus, of another shape or not finite.
    """
    own = {name: t for name, t in network.state_dict().items() if not _is_ignored(name, ignore)}
    given = {name: t for name, t in tensors.items() if not _is_ignored(name, ignore)}
    missing = [n for n in own if n not in given and not n.endswith("num_batches_tracked")]
    surplus = [n for n in given if n not in own]
    if missing or surplus:
        parts = [_counted("lacks", missing, len(own)), _counted("has in addition", surplus)]
        wrong = " and ".join(filter(None, parts))
        raise UsageError(
            f"the weights of model {model} do not fit it: the file {wrong}; these are weights "
            f"of another network, take those of {model}"
        )
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise UsageError(
                f"the weights of model {model} do not fit it: tensor {name!r} has shape "
                f"{tuple(tensor.shape)} and must have {tuple(own[name].shape)}; these are weights "
                f"of another network, take those of {model}"
            )
        _check_numbers(name, tensor, own[name], model)
    network.load_state_dict(given, strict=False)


def _is_ignored(name: str, ignore: Collection[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in ignore)


def _counted(verb: str, names: list[str], of: int | None = None) -> str:
    if not names:
        return ""
    total = "" if of is None else f" of {of}"
    return f"{verb} {len(names)}{total} tensors, the first {names[0]!r}"


def _check_numbers(name: str, tensor: Tensor, own: Tensor, model: str) -> None:
    if tensor.is_floating_point() != own.is_floating_point():
        raise UsageError(
            f"the weights of model {model} cannot be used: tensor {name!r} is of type "
            f"{str(tensor.dtype).removeprefix('torch.')} and must be "
            f"{str(own.dtype).removeprefix('torch.')}; quantised weights do not fit"
        )
    wrong = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
    if wrong:
        raise UsageError(
            f"the weights of model {model} cannot be used: {wrong} of {tensor.numel()} values of "
            f"tensor {name!r} are infinite or no number; take a file that is not damaged, of a "
            f"training that did not diverge"
        )
