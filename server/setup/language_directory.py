"""A directory with a pretrained language model, in Hugging Face's form: config.json, tokenizer.json and safetensors.

It is read once, when a run is made. The architecture and the tokenizer become parts of the run; the weights fill the model
that is built of it, those that nothing trains by way of the base. Nothing is downloaded, and no code of the directory's is run.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zowarmup.common.lora import DOWN, UP
from zowarmup.common.models.base import BaseError, Constant, read_base
from zowarmup.common.models.hugging_face import CONFIG, TOKENIZER, WEIGHTS
from zowarmup.common.prefix import PREFIX_ENDS
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.system.files import read_given
from zowarmup.common.text import listed
from zowarmup.server.setup.prepare import PreparationError

if TYPE_CHECKING:
    from torch import nn

INDEX = "model.safetensors.index.json"
_PREFIXES = ("", "bert.", "roberta.", "model.")
"""Of the names of weights, where a file holds a model with an output layer."""
_PICKLED = ("pytorch_model.bin", "tf_model.h5", "model.onnx")
OUTPUT = "lm_head.weight"
"""The name of the output layer."""
_MOST_TOKENIZER = 64 << 20


@dataclass(frozen=True, slots=True)
class LanguageDirectory:
    """What a run keeps of a directory.

    Args:
        architecture: As config.json says.
        tokenizer: The bytes of tokenizer.json.
        signature: Of all its files, equal as long as they are: for caches.
    """

    architecture: Architecture
    tokenizer: bytes
    signature: tuple[tuple[str, int, int], ...]


def read_directory(path: Path) -> LanguageDirectory:
    """What a run keeps of a directory.

    Args:
        path: The directory.

    Raises:
        PreparationError: A file is missing or cannot be used; the sentence names it, and the field.
    """
    tokenizer = _content(path, TOKENIZER, _MOST_TOKENIZER)
    try:
        architecture = Architecture.from_config(_content(path, CONFIG).decode(), _separator(tokenizer))
    except ValueError as error:
        raise PreparationError(f"model.name: {path / CONFIG}: {error}") from error
    read = (path / CONFIG, path / TOKENIZER, *_files(path))
    files = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in read)
    return LanguageDirectory(architecture, tokenizer, files)


def load_body(module: "nn.Module", path: Path) -> None:
    """Fill a language model with the weights of a directory; what the directory holds beyond it is left alone.

    Args:
        module: An `Encoder`, `Decoder` or `Opt`, changed in place.
        path: The directory.

    Raises:
        PreparationError: A tensor is missing or of another shape, or a file cannot be read.
    """
    import torch

    tensors = tensors_in(path)
    # Adapters and prefixes are the run's own.
    own = (f".{DOWN}", f".{UP}", *PREFIX_ENDS)
    wanted = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith(own)}
    prefix = max(_PREFIXES, key=lambda found: sum(found + name in tensors for name in wanted))
    with torch.no_grad():
        for name, parameter in wanted.items():
            found = tensors.get(prefix + name)
            if found is None or found.shape != tuple(parameter.shape):
                is_there = "missing" if found is None else f"of shape {found.shape}"
                raise PreparationError(
                    f"model.name: {path}: {prefix + name} must have shape {tuple(parameter.shape)} and is {is_there}: are "
                    f"{CONFIG} and the weights of one model?"
                )
            parameter.copy_(torch.from_numpy(found.widened().copy()))


def load_output(module: "nn.Module", path: Path) -> None:
    """Fill the output layer of a language model with the weights of a directory, where it is not its embedding.

    Args:
        module: A `CausalModel`, changed in place.
        path: The directory.

    Raises:
        PreparationError: It is missing or of another shape, or a file cannot be read.
    """
    import torch

    layer = getattr(module, "lm_head", None)
    if layer is not None:
        rows = output_layer(path, tuple(layer.weight.shape))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(rows.widened().copy()))


def output_layer(path: Path, shape: tuple[int, ...]) -> Constant:
    """The output layer of a directory, which is not the embedding.

    Args:
        path: The directory.
        shape: (vocabulary, hidden), which it must have.

    Raises:
        PreparationError: It is missing or of another shape, or a file cannot be read.
    """
    found = tensors_in(path).get(OUTPUT)
    if found is None or found.shape != shape:
        is_there = "missing" if found is None else f"of shape {found.shape}"
        raise PreparationError(
            f"model.name: {path}: {OUTPUT} must have shape {shape} and is {is_there}: save the model with its output layer "
            "(AutoModelForCausalLM)"
        )
    return found


def tensors_in(path: Path) -> dict[str, Constant]:
    """All tensors of a directory by name, mapped into memory.

    Args:
        path: The directory.

    Raises:
        PreparationError: A file cannot be read.
    """
    tensors: dict[str, Constant] = {}
    for file in _files(path):
        try:
            tensors |= read_base(file, others=True)
        except (BaseError, OSError) as error:
            raise PreparationError(f"model.name: {file} cannot be used: {error}") from error
    return tensors


def _files(path: Path) -> list[Path]:
    """Where the weights are."""
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    if (path / INDEX).exists():
        try:
            names = sorted(set(json.loads(_content(path, INDEX, 1 << 26))["weight_map"].values()))
            files = [path / str(name) for name in names if os.sep not in str(name)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PreparationError(f"model.name: {path / INDEX} has no map of weights: fetch it again") from error
        if missing := [file.name for file in files if not file.exists()]:
            raise PreparationError(f"model.name: {path} lacks {listed(missing)}, which {INDEX} names: fetch it again")
        return files
    pickled = [name for name in _PICKLED if (path / name).exists()]
    has = f" but {listed(pickled)}: save it by save_pretrained(DIR, safe_serialization=True)" if pickled else ""
    raise PreparationError(f"model.name: {path} holds no {WEIGHTS}{has or ': name a folder with a pretrained model'}")


def _content(path: Path, name: str, longest: int = 1 << 20) -> bytes:
    try:
        return read_given(path / name, longest)
    except OSError as error:
        raise PreparationError(
            f"model.name: {path / name} cannot be read ({error.strerror or error}): name a folder that holds {CONFIG}, "
            f"{TOKENIZER} and {WEIGHTS}"
        ) from error


def _separator(tokenizer: bytes) -> int:
    """The token that stands between two texts; -1 where there is none of the usual name."""
    try:
        made = json.loads(tokenizer)
        added = {token["content"]: token["id"] for token in made.get("added_tokens") or ()}
        vocabulary = made.get("model", {}).get("vocab")
        known = vocabulary if isinstance(vocabulary, dict) else {}
        found = added.get("[SEP]", known.get("[SEP]", -1))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PreparationError(f"model.name: {TOKENIZER} is no tokenizer: fetch it again") from error
    return found if type(found) is int else -1
