"""A folder with a pretrained model: what is read of it, and the file that is named where it cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.language import DECODER, ENCODER, OPT, language_folder
from zowarmup.common.models.language.body import body_of
from zowarmup.server.setup.language_directory import load_body, read_directory
from zowarmup.server.setup.prepare import PreparationError


@pytest.mark.parametrize(("config", "prefix"), [(ENCODER, ""), (ENCODER, "bert."), (OPT, ""), (OPT, "model.")])
def test_weights_with_and_without_a_prefix(tmp_path: Path, config: dict[str, Any], prefix: str) -> None:
    folder = language_folder(tmp_path / "model", config, prefix)
    made = read_directory(folder)
    assert (
        made.architecture.separator == (3 if config is ENCODER else -1)
        and json.loads(made.tokenizer)["model"]["type"] == "WordLevel"
    )
    body = body_of(made.architecture)
    load_body(body, folder)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, saved[prefix + name]) for name, tensor in body.state_dict().items())


def test_shards_and_half_precision(tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "model", DECODER)
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {}
    for number, (name, tensor) in enumerate(whole.items()):
        file = f"part-{number % 2}.safetensors"
        where[name] = file
        whole[name] = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
    for file in set(where.values()):
        save_file({name: tensor for name, tensor in whole.items() if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    body = body_of(read_directory(folder).architecture)
    load_body(body, folder)
    assert all(torch.equal(tensor, whole[name].float()) for name, tensor in body.state_dict().items())
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(PreparationError, match=r"lacks part-1\.safetensors"):
        load_body(body, folder)


def refused(folder: Path) -> str:
    with pytest.raises(PreparationError) as caught:
        load_body(body_of(read_directory(folder).architecture), folder)
    return str(caught.value)


def test_what_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    assert "tokenizer.json cannot be read" in refused(tmp_path)
    folder = language_folder(tmp_path / "model", ENCODER)
    (folder / "config.json").write_text(json.dumps({**ENCODER, "hidden_size": 32}))
    assert "must have shape (32, 32) and is of shape (32, 16)" in refused(folder)
    (folder / "config.json").write_text(json.dumps({**ENCODER, "num_hidden_layers": 3}))
    assert "encoder.layer.2" in refused(folder) and "is missing" in refused(folder)
    (folder / "config.json").write_text(json.dumps({**ENCODER, "hidden_act": "mish"}))
    assert "config.json: architecture: activation = 'mish'" in refused(folder)
    (folder / "config.json").write_text(json.dumps(ENCODER))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "but pytorch_model.bin: save it by save_pretrained" in refused(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "holds no model.safetensors: name a folder" in refused(folder)
    (folder / "model.safetensors").write_bytes(b"PK")
    assert "does not begin as safetensors do" in refused(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json is no tokenizer" in refused(folder)
