"""Architectures: read from a config.json, and what is not carried out refused by the field's name."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.language import DECODER, ENCODER, OPT
from zowarmup.common.settings.architecture import Architecture


@pytest.mark.parametrize("config", [ENCODER, DECODER], ids=["encoder", "decoder"])
def test_what_travels_is_what_was_read(config: dict[str, Any]) -> None:
    made = Architecture.from_config(json.dumps(config), 3)
    assert Architecture.from_json(made.to_json()) == made
    assert made.decoder is (config is DECODER)
    assert (made.hidden, made.layers, made.heads, made.head_size) == (16, 2, 4, 4)
    assert made.separator == (-1 if made.decoder else 3)


def test_an_opt_counts_its_places_from_two_and_is_tied_unless_it_says_otherwise() -> None:
    made = Architecture.from_config(json.dumps({**OPT, "hidden_size": 12, "word_embed_proj_dim": 12}))
    assert made.decoder and made.tied
    assert (made.first_position, made.positions, made.head_size, made.activation) == (2, 20, 3, "relu")


def test_roberta_counts_its_places_from_behind_its_padding() -> None:
    config = {**ENCODER, "model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 514}
    made = Architecture.from_config(json.dumps(config))
    assert (made.first_position, made.positions) == (2, 512)


@pytest.mark.parametrize(
    ("config", "changed", "said"),
    [
        (ENCODER, {"model_type": "t5"}, "model_type = 't5': known are bert"),
        (ENCODER, {"model_type": None}, "model_type is missing"),
        (ENCODER, {"hidden_size": "16"}, "hidden_size = '16': must be of type int"),
        (ENCODER, {"hidden_size": 18}, "head_size = 4: must be hidden / heads"),
        (ENCODER, {"num_attention_heads": 0}, "heads = 0"),
        (ENCODER, {"hidden_act": "mish"}, "activation = 'mish'"),
        (
            ENCODER,
            {"position_embedding_type": "relative_key"},
            "position_embedding_type = 'relative_key': is not carried",
        ),
        (ENCODER, {"is_decoder": True}, "is_decoder = True: is not carried out"),
        (ENCODER, {"vocab_size": 1 << 40}, "vocabulary = 1099511627776"),
        (DECODER, {"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling"),
        (DECODER, {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
        (DECODER, {"use_sliding_window": True}, "use_sliding_window = True"),
        (DECODER, {"attention_bias": True}, "attention_bias = True"),
        (DECODER, {"num_key_value_heads": 3}, "key_heads = 3: must be a divisor of heads, 4"),
        (DECODER, {"head_dim": 5}, "head_size = 5: must be even"),
        (DECODER, {"rms_norm_eps": 0.0}, "epsilon = 0.0"),
        (OPT, {"do_layer_norm_before": False}, "do_layer_norm_before = False: is not carried out"),
        (OPT, {"word_embed_proj_dim": 8}, "word_embed_proj_dim = 8: is not carried out"),
        (OPT, {"enable_bias": False}, "enable_bias = False"),
        (OPT, {"_remove_final_layer_norm": True}, "_remove_final_layer_norm = True"),
        (OPT, {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine = False"),
        (OPT, {"hidden_size": 18, "word_embed_proj_dim": 18}, "head_size = 4: must be hidden / heads"),
    ],
)
def test_what_is_not_carried_out_is_refused(config: dict[str, Any], changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Architecture.from_config(json.dumps({**config, **changed}))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 50_000])
def test_what_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is not JSON|it is not an object"):
        Architecture.from_config(text)


def test_a_separator_is_a_token() -> None:
    made = Architecture.from_config(json.dumps(ENCODER))
    with pytest.raises(ValueError, match="separator = 32"):
        replace(made, separator=32)
