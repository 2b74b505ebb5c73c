"""Language models: equal to `transformers`, an example's outputs independent of its batch, and exported without a transposed
weight. One file for the small modules `activations`, `attention`, `linear`, `encoder`, `decoder`, `opt` and `classifier`."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.language import DECODER, ENCODER, OPT
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, build, sample
from zowarmup.common.models.description import constants_of, describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.language.activations import activation
from zowarmup.common.models.language.attention import BARRED, visible
from zowarmup.common.models.language.body import body_of
from zowarmup.common.models.language.classifier import MOST_FEATURES, TextClassifier, layers_read
from zowarmup.common.models.language.decoder import Decoder, RMSNorm
from zowarmup.common.models.language.encoder import Encoder
from zowarmup.common.models.language.linear import Linear
from zowarmup.common.models.language.opt import Opt
from zowarmup.common.models.program import Program
from zowarmup.common.settings.architecture import ACTIVATIONS, DECODERS, Architecture
from zowarmup.common.settings.data_card import PADDING
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model

SEPARATOR = 9
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": {**ENCODER, "model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 1, "hidden_act": "gelu"},
    "llama": DECODER,
    "qwen2": {**DECODER, "model_type": "qwen2"},
    "qwen3": {**DECODER, "model_type": "qwen3", "head_dim": 6, "num_key_value_heads": 1},
    "opt": OPT,
}


def tokens() -> torch.Tensor:
    """Three examples of 7, 4 and 1 tokens, two of which hold the separator."""
    found = torch.randint(10, 32, (3, 7), generator=torch.Generator().manual_seed(3))
    found[0, 2] = found[1, 3] = SEPARATOR
    found[1, 4:] = found[2, 1:] = PADDING
    return found


def architecture(family: str) -> Architecture:
    return Architecture.from_config(json.dumps(FAMILIES[family]), SEPARATOR)


def classifier(family: str, last_token: bool = False) -> nn.Module:
    model = Model(name=f"hf:{family}")
    return build(model, (12,), 3, 0, language=Language(architecture=architecture(family), last_token=last_token))


WAYS = [*((family, False) for family in FAMILIES), *((family, True) for family in DECODERS)]
"""Of reading a text: every layer of each family, and of the decoders the last token alone."""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_hidden_states_are_those_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**FAMILIES[family], attn_implementation="eager")
    torch.manual_seed(1)
    theirs = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases begin at 0 and norms at 1, which would hide one that is missing
            parameter += 0.1 * torch.randn_like(parameter)
    ours = body_of(architecture(family)).eval()
    assert isinstance(ours, Opt if family == "opt" else Decoder if family in DECODERS else Encoder)
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ours.state_dict()})
    given, known = tokens(), {}
    if family == "bert":
        ends = (given == SEPARATOR).long()
        known["token_type_ids"] = ((ends.cumsum(1) - ends) > 0).long()
    if family == "roberta":
        # It numbers the places of tokens that are no padding, which a text never holds.
        known["position_ids"] = torch.arange(7)[None] + 2
    with torch.no_grad():
        found = ours(given)
        wanted = theirs(
            input_ids=given.clamp(min=0), attention_mask=(given != PADDING).long(), output_hidden_states=True, **known
        ).hidden_states
    assert len(found) == len(wanted) == 3
    there = (given != PADDING)[:, :, None]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose((one * there).numpy(), (other * there).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "last_token"), WAYS)
def test_what_is_said_of_a_text_does_not_depend_on_its_batch(family: str, last_token: bool) -> None:
    module, given = classifier(family, last_token), tokens()
    with torch.no_grad():
        together = module(given)
        for place, length in enumerate((7, 4, 1)):
            alone = module(given[place : place + 1, :length])
            np.testing.assert_allclose(alone[0].numpy(), together[place].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "last_token"), [*WAYS[: len(FAMILIES)], ("llama", True)])
def test_the_program_reads_tokens_of_any_length_and_transposes_no_weight(family: str, last_token: bool) -> None:
    module, features_there = classifier(family, last_token), 16 if last_token else 3 * 16
    layout = describe(module, (12,), train="auto", whitening=3, pretrained=True)
    assert layout.head is not None and layout.head_alone and layout.head.features == features_there
    assert [tensor.name for tensor in layout.tensors] == [
        "classifier.weight",
        "classifier.bias",
        "classifier.whitening",
    ]
    program = export_program(module, layout, (12,))
    graph = onnx.load_from_string(program).graph
    constants = constants_of(module)
    turned = {name for node in graph.node if node.op_type == "Transpose" for name in node.input}
    assert not turned & (constants.keys() | {tensor.name for tensor in layout.tensors})
    base = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants.items()}
    running = Program(program, layout, flatten(module, layout), constants=base)
    assert running.tokens and running.shape == (None,)
    for given in (tokens(), tokens()[:1], tokens()[2:, :1], sample(module, (12,), 5)):
        logits, features = running.forward(given.numpy())
        with torch.no_grad():
            np.testing.assert_allclose(logits, module(given).numpy(), rtol=1e-4, atol=1e-5)
        assert features is not None and features.shape == (len(given), features_there)
    with pytest.raises(ValueError, match="the model takes tokens"):
        running.forward(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(("train", "moved"), [("norm", 2 * 9 + 2 + 5), ("layers:*attention*query*", 4), ("all", None)])
def test_only_what_is_trained_is_in_the_vector(train: str, moved: int | None) -> None:
    module = classifier("bert")
    every = dict(module.named_parameters())
    layout = describe(module, (12,), train=train, whitening=0, pretrained=True)
    trained = {tensor.name for tensor in layout.tensors}
    assert trained | set(constants_of(module)) == set(every)
    assert not trained & set(constants_of(module))
    if train == "norm":
        assert all(every[name].ndim == 1 for name in trained - {"classifier.weight"})
    if train == "all":
        assert trained == set(every)
    if moved == 4:
        assert len(trained) == 4 + 2, "weight and bias in two layers, and the head"
    assert layout.frozen == 0
    assert layout.block("head").start > 0


def test_a_model_of_texts_is_for_texts_it_has_places_for() -> None:
    made, model = architecture("bert"), Model(name="hf:bert")
    with pytest.raises(ModelError, match="at most 20 tokens, and an example has the shape"):
        build(model, (21,), 3, 0, language=Language(architecture=made))
    with pytest.raises(ModelError, match="at most 20 tokens"):
        build(model, (1, 8, 8), 3, 0, language=Language(architecture=made))
    with pytest.raises(ModelError, match="no architecture"):
        build(model, (12,), 3, 0)
    with pytest.raises(ModelError, match=r"hf:bert is an encoder \(bert\).* leave text.verbalizers out"):
        build(model, (12,), 3, 0, language=Language(architecture=made, last_token=True))


def test_a_token_sees_what_it_may() -> None:
    added = visible(torch.tensor([[4, 5, PADDING]]), causal=True)
    assert added[0, 0].tolist() == [[0, BARRED, BARRED], [0, 0, BARRED], [0, 0, BARRED]]
    assert visible(torch.tensor([[4, PADDING]]), causal=False).tolist() == [[[[0, BARRED]]]]


def test_a_linear_layer_is_torchs() -> None:
    layer, inputs = Linear(5, 3), torch.randn(2, 4, 5)
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


def test_the_norm_of_the_mean_square() -> None:
    inputs = torch.randn(2, 6)
    torch.testing.assert_close(RMSNorm(6, 1e-6)(inputs), nn.functional.rms_norm(inputs, (6,), eps=1e-6))


def test_every_activation_of_a_config_is_there() -> None:
    assert all(activation(name)(torch.zeros(2)).shape == (2,) for name in ACTIVATIONS)


def test_the_head_reads_every_layer_alike() -> None:
    module = classifier("bert")
    assert isinstance(module, TextClassifier)
    read: list[torch.Tensor] = []
    module.classifier.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    with torch.no_grad():
        module(tokens())
        states = module.body(tokens())
    pieces = read[0].reshape(3, 3, 16)
    assert pieces.mean(-1).abs().max() < 1e-5 and (pieces.var(-1, correction=0) - 1).abs().max() < 1e-2
    mean = states[1][1, :4].mean(0)
    torch.testing.assert_close(pieces[1, 1], (mean - mean.mean()) / (mean.var(correction=0) + 1e-5).sqrt())


@pytest.mark.parametrize(
    ("layers", "hidden", "read"),
    [(6, 384, [0, 1, 2, 3, 4, 5, 6]), (30, 576, [0, 5, 10, 15, 20, 25, 30]), (24, 2048, [24]), (24, 1024, [0, 12, 24])],
)
def test_a_head_reads_as_many_layers_as_can_be_whitened(layers: int, hidden: int, read: list[int]) -> None:
    config = {**DECODER, "num_hidden_layers": layers, "hidden_size": hidden}
    assert layers_read(Architecture.from_config(json.dumps(config))) == read
    assert len(read) * hidden <= MOST_FEATURES
