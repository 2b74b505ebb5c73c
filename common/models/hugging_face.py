"""A trained language model in Hugging Face's form: a folder that `transformers` loads.

Adapters are merged into the layers that they adapt, so the model is one of its family as any other; a classifier of texts is in the file
beside it, under its own name, for `transformers` knows none that reads all layers.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.lora import DOWN, UP
from zowarmup.common.settings.architecture import BERT, ENCODERS, OPT, QWEN2, QWEN3, ROBERTA, Architecture

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
"""The files of such a folder."""
_BODY = "body."


def merged(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The tensors of a model whose layers have taken their adapters in: W + (A^T B)^T in float64, rounded to float32.

    Args:
        tensors: By name, float32.
    """
    found = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in (DOWN, UP)}
    for name, up in tensors.items():
        layer, _, last = name.rpartition(".")
        if last == UP:
            added = up.astype(np.float64).T @ tensors[f"{layer}.{DOWN}"].astype(np.float64)
            found[f"{layer}.weight"] = (found[f"{layer}.weight"] + added).astype(np.float32)
    return found


def renamed(tensors: Mapping[str, NDArray[np.float32]], architecture: Architecture) -> dict[str, NDArray[np.float32]]:
    """Tensors under the names that `transformers` has for them.

    Args:
        tensors: By name, float32, without adapters.
        architecture: Of the language model.
    """
    prefix = f"{architecture.family}." if architecture.family in ENCODERS else "model."
    return {
        prefix + name.removeprefix(_BODY) if name.startswith(_BODY) else name: tensor
        for name, tensor in tensors.items()
    }


def config_of(architecture: Architecture) -> str:
    """The config.json of an architecture, of which `Architecture.from_config` makes the same again."""
    made = architecture
    common: dict[str, Any] = {
        "model_type": made.family,
        "torch_dtype": "float32",
        "vocab_size": made.vocabulary,
        "hidden_size": made.hidden,
        "num_hidden_layers": made.layers,
        "num_attention_heads": made.heads,
        "max_position_embeddings": made.positions + (made.first_position if made.family == ROBERTA else 0),
    }
    if made.family in ENCODERS:
        own: dict[str, Any] = {
            "architectures": ["BertModel" if made.family == BERT else "RobertaModel"],
            "intermediate_size": made.inner,
            "hidden_act": made.activation,
            "layer_norm_eps": made.epsilon,
            "type_vocab_size": made.types,
            "pad_token_id": made.first_position - 1 if made.family == ROBERTA else 0,
        }
    elif made.family == OPT:
        own = {
            "architectures": ["OPTForCausalLM"],
            "ffn_dim": made.inner,
            "activation_function": made.activation,
            "word_embed_proj_dim": made.hidden,
            "do_layer_norm_before": True,
            "tie_word_embeddings": made.tied,
        }
    else:
        named = {QWEN2: "Qwen2ForCausalLM", QWEN3: "Qwen3ForCausalLM"}
        own = {
            "architectures": [named.get(made.family, "LlamaForCausalLM")],
            "intermediate_size": made.inner,
            "hidden_act": made.activation,
            "rms_norm_eps": made.epsilon,
            "num_key_value_heads": made.key_heads,
            "head_dim": made.head_size,
            "rope_theta": made.theta,
            "tie_word_embeddings": made.tied,
        }
    return json.dumps(common | own, indent=2, sort_keys=True)
