"""Prefixes: attention with further keys and values, and what they begin with."""

import json
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.language import DECODER, ENCODER, OPT
from zowarmup.common.models.construction import ModelError, build
from zowarmup.common.models.description import describe
from zowarmup.common.models.initial_prefixes import begin_with_tokens, drawn_tokens
from zowarmup.common.models.language.attention import Attention, Prefix, visible
from zowarmup.common.models.language.body import body_of
from zowarmup.common.models.language.prefixes import add_prefixes
from zowarmup.common.models.trained import trained
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model

LENGTH, HEADS, SIZE, TOKENS = 3, 4, 6, 7
QWEN3 = {**DECODER, "model_type": "qwen3", "head_dim": 6, "num_key_value_heads": 1}
FAMILIES: list[dict[str, Any]] = [ENCODER, DECODER, QWEN3, OPT]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("key_heads", "rows", "own"), [(4, 1, 0), (2, 1, 0), (2, 1, 4), (2, 2, 2), (4, 2, 1), (1, 1, 1)]
)
def test_attention_with_a_prefix_is_attention_with_further_keys_and_values(key_heads: int, rows: int, own: int) -> None:
    """`own`: how many of the 4 / rows examples have a prefix of their own; 1: one is repeated; 0: there is one, without an axis."""
    prefix = Prefix(LENGTH, key_heads, HEADS, SIZE, rows)
    shape = (*([own] if own else []), key_heads, LENGTH, SIZE)
    theirs = {"keys": drawn(*shape), "values": 2 * drawn(*shape)}
    queries, keys, values = (drawn(4, HEADS, TOKENS, SIZE) * scale for scale in (1, 2, 3))
    tokens = torch.ones(4, TOKENS, dtype=torch.int64)
    tokens[1, 3:] = tokens[2, 1:] = PADDING
    added = visible(tokens, causal=True)
    found = torch.func.functional_call(prefix, theirs, (queries, keys, values, added))
    wide = [theirs[name].reshape(-1, key_heads, LENGTH, SIZE) for name in ("keys", "values")]
    wide = [
        part.repeat_interleave(4 // len(part), 0).repeat_interleave(HEADS // key_heads, 1).double() for part in wide
    ]
    all_keys, all_values = (torch.cat((w, part.double()), 2) for w, part in zip(wide, (keys, values), strict=True))
    mask = torch.cat((torch.zeros(4, 1, TOKENS, LENGTH), added.expand(4, 1, TOKENS, TOKENS)), 3).double()
    wanted = scaled_dot_product_attention(queries.double(), all_keys, all_values, mask)
    assert torch.allclose(found.double(), wanted, atol=2e-6)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config["model_type"])
def test_prefixes_begin_as_the_keys_and_values_of_tokens(config: dict[str, Any]) -> None:
    made = Architecture.from_config(json.dumps(config))
    torch.manual_seed(0)
    body = body_of(made)
    tokens = drawn_tokens(made, LENGTH, 7)
    assert torch.equal(tokens, drawn_tokens(made, LENGTH, 7)) and tokens.shape == (LENGTH,)
    text = torch.randint(0, 32, (2, 6), generator=torch.Generator().manual_seed(3))
    text[1, 4:] = PADDING
    with torch.no_grad():
        plain = body(text)
        longer = body(torch.cat((tokens.expand(2, -1), text), 1))
        add_prefixes(body, made, LENGTH)
        begin_with_tokens(body, made, tokens)
        begun = [layer.prefix.keys.clone() for layer in body.modules() if isinstance(layer, Attention) and layer.prefix]
        found = body(text)
        begin_with_tokens(body, made, tokens)
    assert len(begun) == made.layers and all(float(keys.abs().min()) > 0 for keys in begun)
    again = [layer.prefix.keys for layer in body.modules() if isinstance(layer, Attention) and layer.prefix]
    assert all(map(torch.equal, begun, again)), "a prefix is no part of what it begins with"
    there = text != PADDING
    assert not torch.allclose(found[-1][there], plain[-1][there], atol=1e-3)
    if made.rotary:
        for mine, theirs in zip(found, longer, strict=True):
            assert torch.allclose(mine[there], theirs[:, LENGTH:][there], atol=1e-5), "as if these tokens had been read"


def test_prefixes_are_what_moves() -> None:
    language = Language(architecture=Architecture.from_config(json.dumps(ENCODER)), prefix=LENGTH)
    module = build(Model(name="hf:model"), (12,), 2, 0, language=language)
    layout = describe(module, (12,), train="prefix:3", pretrained=True)
    names = [tensor.name for tensor in layout.tensors]
    assert [name.rpartition("prefix.")[2] for name in names[:-2]] == ["keys", "values"] * 2
    assert names[-2:] == ["classifier.weight", "classifier.bias"]
    assert trained("prefix:3", dict(module.named_parameters()), layout.head) == names[:-2]
    with pytest.raises(ModelError, match="this model has no prefixes"):
        describe(build(Model(name="mlp"), (4,), 2, 0), (4,), train="prefix:3")
