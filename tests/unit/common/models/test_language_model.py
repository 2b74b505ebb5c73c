"""The language model that a run asks for: what is built, and what cannot be."""

import json
from typing import Any

import pytest
from torch import nn

from tests.language import DECODER, ENCODER
from zowarmup.common.lora import Lora
from zowarmup.common.models.language.causal import CausalModel
from zowarmup.common.models.language.choices import ChoiceModel
from zowarmup.common.models.language.classifier import TextClassifier
from zowarmup.common.models.language.model import language_model
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.language import Language


def made(shape: tuple[int, ...], config: dict[str, Any] = DECODER, **settings: Any) -> nn.Module:
    language = Language(architecture=Architecture.from_config(json.dumps(config)), **settings)
    return language_model("hf:it", language, shape, 2)


def test_the_task_decides_what_stands_on_it() -> None:
    assert isinstance(made((9,)), TextClassifier)
    assert type(made((9,), completes=True)) is CausalModel
    assert type(made((3, 9), completes=True, choices=3)) is ChoiceModel


@pytest.mark.parametrize(
    ("shape", "settings", "said"),
    [
        ((21,), {}, "reads texts of at most 20 tokens"),
        ((3, 8, 8), {}, "use data of tsv:PATH or jsonl:PATH"),
        ((3, 9), {"completes": True}, "use data of tsv:PATH or jsonl:PATH"),
        ((9,), {"completes": True, "choices": 2}, "use data of jsonl:PATH with prompt, choices and label"),
        ((9,), {"config": ENCODER, "completes": True}, "tasks that predict tokens are for decoders"),
        ((9,), {"config": ENCODER, "last_token": True}, "verbalizers are for decoders"),
        ((9,), {"cut": 2}, "zeroth_order.cut = 2: model hf:it has 2 layers"),
        ((9,), {"lora": Lora(2, ("gate",)), "config": ENCODER}, "zeroth_order.train: this model has no module gate"),
    ],
)
def test_what_cannot_be_had_is_refused(shape: tuple[int, ...], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(shape, **settings)
