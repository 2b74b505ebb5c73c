"""Low-rank adapters in language models, and programs in which each example has its own."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.language import DECODER, ENCODER
from zowarmup.common.lora import Lora
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, build, sample
from zowarmup.common.models.description import constants_of, describe, flatten, load_into
from zowarmup.common.models.export import export_program
from zowarmup.common.models.language.adapters import add_adapters
from zowarmup.common.models.language.body import body_of
from zowarmup.common.models.language.linear import Linear
from zowarmup.common.models.program import Program
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model

EVERY = {"bert": "q,k,v,o,up,down", "llama": "q,k,v,o,up,gate,down"}
BOTH = pytest.mark.parametrize("config", [ENCODER, DECODER], ids=["encoder", "decoder"])


def adapted(config: dict[str, Any], modules: str, rank: int = 3) -> Any:
    """A classifier of texts with adapters, and its layout."""
    train = f"lora:r={rank},modules={modules}"
    architecture = Architecture.from_config(json.dumps(config))
    module = build(
        Model(name="hf:model"), (16,), 2, 0, language=Language(architecture=architecture, lora=Lora.of(train))
    )
    return module, describe(module, (16,), train=train, pretrained=True)


@BOTH
def test_every_module_of_a_family_has_an_adapter(config: dict[str, Any]) -> None:
    module, layout = adapted(config, EVERY[config["model_type"]])
    linear = [name for name, layer in module.body.named_modules() if isinstance(layer, Linear)]
    assert {tensor.name for tensor in layout.tensors} == {f"body.{name}.lora_b" for name in linear} | {
        "classifier.weight",
        "classifier.bias",
    }
    assert layout.block("trunk").size == sum(
        3 * layer.out_features for layer in module.body.modules() if isinstance(layer, Linear)
    )
    assert all(f"body.{name}.lora_a" in constants_of(module) for name in linear), "A is drawn once, and stays"


@pytest.mark.parametrize(("module", "layer"), [("o", "attention.output.dense"), ("down", "output.dense")])
def test_names_that_end_alike_are_told_apart(module: str, layer: str) -> None:
    _, layout = adapted(ENCODER, module)
    found = [tensor.name for tensor in layout.tensors if tensor.name.endswith("lora_b")]
    assert found == [f"body.encoder.layer.{number}.{layer}.lora_b" for number in range(2)]


@BOTH
def test_an_adapter_adds_the_product_of_its_factors(config: dict[str, Any]) -> None:
    module, layout = adapted(config, EVERY[config["model_type"]])
    tokens = sample(module, (16,), 3)
    with torch.no_grad():
        begun = module(tokens)
        weights = flatten(module, layout)
        weights += np.random.default_rng(0).normal(0, 3, layout.size).astype(np.float32)
        load_into(module, layout, weights)
        moved = module(tokens)
        for layer in module.modules():
            if isinstance(layer, Linear) and layer.lora_a is not None and layer.lora_b is not None:
                layer.weight += layer.lora_b.T @ layer.lora_a
                layer.lora_a = layer.lora_b = None
        assert torch.allclose(module(tokens), moved, atol=1e-5)
    assert (moved - begun).abs().max() > 1e-2


@BOTH
def test_one_pass_at_several_vectors_is_a_pass_at_each(config: dict[str, Any]) -> None:
    module, layout = adapted(config, "q,v,down")
    random, begun = np.random.default_rng(1), flatten(module, layout)
    vectors = np.stack([begun, begun, begun])
    vectors[1:, : layout.block("trunk").stop] += random.normal(0, 3, (2, layout.block("trunk").size))
    constants = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    program = Program(export_program(module, layout, (16,)), layout, begun.copy(), constants=constants)
    assert program.own == {tensor.name for tensor in layout.tensors if tensor.name.endswith("lora_b")}
    tokens, of = sample(module, (16,), 5).numpy(), np.array([2, 0, 1, 1, 0])
    logits, features = program.forward_each(tokens, vectors, of)
    assert features is not None
    for number, vector in enumerate(vectors):
        load_into(module, layout, vector)
        with torch.no_grad():
            wanted = module(torch.from_numpy(tokens)).numpy()
        assert np.allclose(logits[of == number], wanted[of == number], atol=1e-5)
    plain, _ = program.forward(tokens)
    assert np.allclose(plain[of == 0], logits[of == 0], atol=1e-6), "afterwards all have the vector's own again"
    assert not np.allclose(plain, logits, atol=1e-3)


def test_what_cannot_be_adapted_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="this model has no module gate: it has down,k,o,q,up,v"):
        add_adapters(body_of(Architecture.from_config(json.dumps(ENCODER))), Lora(2, ("q", "gate")))
    with pytest.raises(ModelError, match=r"train = 'lora:r=2,modules=q': this model has no adapters"):
        describe(build(Model(name="mlp"), (4,), 2, 0), (4,), train="lora:r=2,modules=q")
    with pytest.raises(ModelError, match=r"zeroth_order.train: this model has no module gate"):
        adapted(ENCODER, "gate")
