"""A language model to begin with: `make_data.py` has it written into model/, in Hugging Face's form.

It is a tiny BERT with random weights, so that the project works at once and without a download: it has learnt nothing, but a
classifier on what it makes of the words can tell simple texts apart. For work that matters take a pretrained model (MiniLM, say):
download its folder once, with config.json, tokenizer.json and model.safetensors, and name it in run.toml, name = "hf:FOLDER". This
file is not needed then.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, INNER, LAYERS, HEADS, POSITIONS = 32, 64, 1, 4, 64
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def write(folder: Path, words: Iterable[str]) -> None:
    """Write config.json, tokenizer.json and model.safetensors into a folder, of a model that knows these words."""
    folder.mkdir(exist_ok=True)
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *sorted(set(words))))}
    config = {
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "hidden_act": "gelu",
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(vocabulary), indent=2) + "\n", encoding="utf-8")
    save_file(_weights(len(vocabulary)), folder / "model.safetensors")


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, object]:
    """Words and punctuation in lower case, each a token."""
    begin, text, end = (
        {kind: {"id": name, "type_id": 0}}
        for kind, name in (("SpecialToken", "[CLS]"), ("Sequence", "A"), ("SpecialToken", "[SEP]"))
    )
    special = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text, end],
            "pair": [begin, text, end, {"Sequence": {"id": "B", "type_id": 1}}, end],
            "special_tokens": special,
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }


def _weights(words: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    linear = {
        "attention.self.query": (HIDDEN, HIDDEN),
        "attention.self.key": (HIDDEN, HIDDEN),
        "attention.self.value": (HIDDEN, HIDDEN),
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (INNER, HIDDEN),
        "output.dense": (HIDDEN, INNER),
    }
    for layer in range(LAYERS):
        shapes |= {f"encoder.layer.{layer}.{name}.weight": shape for name, shape in linear.items()}
    weights = {name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["embeddings.word_embeddings.weight"] *= 20  # what a word is counts for more than where it stands
    for name, shape in shapes.items():
        if name.startswith("encoder."):
            weights[name.replace("weight", "bias")] = np.zeros(shape[0], np.float32)
    norms = ["embeddings.LayerNorm"]
    norms += [f"encoder.layer.{n}.{part}.LayerNorm" for n in range(LAYERS) for part in ("attention.output", "output")]
    for name in norms:
        weights[f"{name}.weight"] = np.ones(HIDDEN, np.float32)
        weights[f"{name}.bias"] = np.zeros(HIDDEN, np.float32)
    return weights
