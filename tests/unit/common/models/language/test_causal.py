"""A decoder that predicts tokens: equal to `transformers`, whatever the batch and the parts of the vocabulary."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.language import DECODER
from zowarmup.common.lora import Lora
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, build, sample
from zowarmup.common.models.description import constants_of, describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.language import causal
from zowarmup.common.models.language.body import embedding_of
from zowarmup.common.models.program import Program
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model

UNTIED = {**DECODER, "tie_word_embeddings": False}


def model(config: dict[str, Any], train: str = "all") -> Any:
    language = Language(architecture=Architecture.from_config(json.dumps(config)), lora=Lora.of(train), completes=True)
    return build(Model(name="hf:model", task="completion"), (16,), 2, 0, logits=False, language=language)


def tokens() -> torch.Tensor:
    """Three examples of 7, 4 and 2 tokens, of which the last 3, 1 and 1 are to be predicted."""
    found = torch.randint(0, 32, (3, 7), generator=torch.Generator().manual_seed(3))
    found[1, 4:] = found[2, 2:] = PADDING
    for row, (first, stop) in enumerate(((4, 7), (3, 4), (1, 2))):
        found[row, first:stop] += PREDICTED
    return found


@pytest.mark.parametrize("config", [DECODER, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("rows", [5, 32])
def test_the_loss_is_that_of_transformers(config: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(causal, "ROWS", rows)
    mine, given = model(config), tokens()
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config, attn_implementation="eager")
    ).eval()
    theirs.model.load_state_dict(mine.body.state_dict())
    if mine.lm_head is not None:
        theirs.lm_head.load_state_dict(mine.lm_head.state_dict())
    with torch.no_grad():
        found = mine(given)
        for row, count in enumerate((3, 1, 1)):
            plain = given[row][given[row] != PADDING] % PREDICTED
            logits = theirs(plain[None]).logits[0]
            wanted = nn.functional.cross_entropy(logits[-1 - count : -1], plain[-count:], reduction="sum")
            assert found[row].tolist() == pytest.approx([wanted.item(), count], rel=1e-5)


@pytest.mark.parametrize("config", [DECODER, UNTIED], ids=["tied", "untied"])
def test_a_program_gives_two_numbers_for_an_example(config: dict[str, Any]) -> None:
    train = "lora:r=2,modules=q,v"
    module = model(config, train)
    layout = describe(module, (16,), exact_head=False, train=train, pretrained=True)
    assert layout.head is None
    assert all(tensor.name.endswith("lora_b") for tensor in layout.tensors), "what is pretrained is in no vector"
    constants = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    program = Program(export_program(module, layout, (16,)), layout, flatten(module, layout), constants=constants)
    given = tokens()
    with torch.no_grad():
        wanted = module(given).numpy()
    found, features = program.forward(given.numpy())
    assert features is None
    assert np.allclose(found, wanted, atol=1e-5)
    alone, _ = program.forward(given[1:2, :4].numpy())
    assert np.allclose(alone, found[1:2], atol=1e-5), "an example's loss does not depend on its batch"


def test_the_embedding_is_one_tensor() -> None:
    tied, untied = model(DECODER), model(UNTIED)
    assert tied.lm_head is None
    assert untied.lm_head.weight is not embedding_of(untied.body).weight
    assert (sample(tied, (16,), 3) >= PREDICTED).any(), "what it is tried on has tokens to be predicted"


def test_an_encoder_predicts_no_tokens() -> None:
    with pytest.raises(ModelError, match=r"is an encoder .*: tasks that predict tokens are for decoders"):
        model({**DECODER, "model_type": "bert", "layer_norm_eps": 1e-5, "hidden_act": "gelu"})
