"""A trained language model as a folder that `transformers` loads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.language import DECODER, ENCODER, OPT
from zowarmup.common.lora import Lora
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import constants_of
from zowarmup.common.models.hugging_face import CONFIG, WEIGHTS, config_of, merged, renamed
from zowarmup.common.models.language.choices import ChoiceModel
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.common.tasks.multiple_choice import NO_CHOICE

FAMILIES: list[dict[str, Any]] = [
    ENCODER,
    {**ENCODER, "model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 1},
    DECODER,
    {**DECODER, "tie_word_embeddings": False},
    {**DECODER, "model_type": "qwen2"},
    {**DECODER, "model_type": "qwen3", "head_dim": 6, "num_key_value_heads": 1},
    OPT,
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config["model_type"])
def test_transformers_loads_what_was_trained(config: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = Architecture.from_config(json.dumps(config))
    assert Architecture.from_config(config_of(made)) == made
    language = Language(architecture=made, lora=Lora.of("lora:r=2,modules=q,v"), completes=made.decoder)
    module = build(Model(name="hf:model"), (12,), 2, 0, logits=not made.decoder, language=language)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.add_(torch.randn(tensor.shape), alpha=1.6 if name.endswith("lora_b") else 0.1)
    tensors = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    assert any(name in tensors for name in constants_of(module)), "A of the adapters"
    found = renamed(merged(tensors), made)
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in found.items()}, tmp_path / WEIGHTS, {"format": "pt"}
    )
    (tmp_path / CONFIG).write_text(config_of(made))
    load = transformers.AutoModelForCausalLM if made.decoder else transformers.AutoModel
    theirs, said = load.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not [name for name in said["missing_keys"] if "pooler" not in name]
    tokens = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        if made.decoder:
            marked = tokens.clone()
            marked[:, 1:] += 1 << 24
            logits = theirs(tokens).logits[:, :-1]
            wanted = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").sum(1)
            assert torch.allclose(module(marked)[:, 0], wanted, rtol=1e-5)
            _check_choices(module, replace(language, choices=3), theirs)
        else:
            assert torch.allclose(module.get_submodule("body")(tokens)[-1], theirs(tokens).last_hidden_state, atol=1e-5)


def _check_choices(module: torch.nn.Module, language: Language, theirs: Any) -> None:
    """The scores of choices are the means of the log-likelihoods that `transformers` has, whatever company an example is in."""
    scorer = ChoiceModel(language)
    scorer.load_state_dict(module.state_dict())
    random = np.random.default_rng(5)
    examples = [
        [(random.integers(4, 32, 3).tolist(), random.integers(4, 32, size).tolist()) for size in sizes]
        for sizes in ((1, 4, 2), (3, 3), (1, 2, 6))
    ]
    rows = np.full((3, 3, 9), PADDING)
    for row, choices in zip(rows, examples, strict=True):
        for place, (prompt, choice) in zip(row, choices, strict=False):
            place[: 3 + len(choice)] = [*prompt, *(token + PREDICTED for token in choice)]
    found = scorer(torch.from_numpy(rows))
    for scores, choices in zip(found.tolist(), examples, strict=True):
        assert scores[len(choices) :] == [NO_CHOICE] * (3 - len(choices))
        for score, (prompt, choice) in zip(scores, choices, strict=False):
            likely = theirs(torch.tensor([prompt + choice])).logits[0, 2:-1].log_softmax(1)
            assert score == pytest.approx(float(likely[range(len(choice)), choice].mean()), rel=1e-4)
    assert torch.allclose(scorer(torch.from_numpy(rows[1:2, :, :6])), found[1:2], rtol=1e-5)
