"""Small language models for tests: a folder in Hugging Face's form, with random weights; and texts to train them on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.words import tokenizer
from zowarmup.common.models.language.body import body_of
from zowarmup.common.settings.architecture import Architecture

WORDS = "the film is was a fine dull good bad great awful very not plot cast and but it"
ENCODER = {
    "model_type": "bert",
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
}
DECODER = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 20,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 24,
    "max_position_embeddings": 20,
    "word_embed_proj_dim": 16,
    "do_layer_norm_before": True,
}


def language_folder(folder: Path, config: dict[str, Any], prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """Write a model's folder.

    Args:
        folder: Where; it is made.
        config: Of config.json, such as ENCODER.
        prefix: Of the names of the weights.
        dtype: In what they are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    made = Architecture.from_config(json.dumps(config))
    body = body_of(made)
    weights = {prefix + name: tensor.to(dtype).contiguous() for name, tensor in body.state_dict().items()}
    if made.decoder and not made.tied:
        weights["lm_head.weight"] = torch.randn(made.vocabulary, made.hidden)
    save_file({**weights, "position_ids": torch.arange(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(tokenizer(WORDS, ends=not made.decoder))
    return folder


def sayings(path: Path, examples: int, seed: int) -> Path:
    """Prompts of a few words, and what follows from the last."""
    random, lines = np.random.default_rng(seed), ["prompt\tcompletion"]
    for _ in range(examples):
        word, follows = random.choice([["fine", "good film"], ["dull", "bad plot"], ["great", "awful"]])
        lines.append(f"{' '.join(random.choice(['the', 'cast', 'and'], random.integers(1, 4)))} {word}\t{follows}")
    path.write_text("\n".join(lines) + "\n")
    return path


def questions(path: Path, examples: int, seed: int) -> Path:
    """Prompts as those of `sayings`, and two or three ways to go on, of which one follows from the last word."""
    random, lines = np.random.default_rng(seed), list[str]()
    follows = {"fine": "good film", "dull": "bad plot", "great": "awful"}
    for _ in range(examples):
        word, count = str(random.choice(list(follows))), int(random.integers(2, 4))
        choices = [text for text in random.permutation(list(follows.values())) if text != follows[word]][: count - 1]
        label = int(random.integers(count))
        choices.insert(label, follows[word])
        prompt = f"{' '.join(random.choice(['the', 'cast', 'and'], random.integers(1, 4)))} {word}"
        lines.append(json.dumps({"prompt": prompt, "choices": choices, "label": label}))
    path.write_text("\n".join(lines) + "\n")
    return path
