"""Verbalizers: a classifier that begins as `transformers` says of the classes' words, and the sentence where it cannot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.language import DECODER, ENCODER, OPT, WORDS, language_folder
from tests.words import tokenizer
from zowarmup.common.models.construction import build
from zowarmup.common.settings.data_card import PADDING, DataCard
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.common.settings.text import Text
from zowarmup.data import DataError
from zowarmup.server.setup.language_directory import load_body, read_directory
from zowarmup.server.setup.prepare import PreparationError
from zowarmup.server.setup.verbalizers import load_verbalizers

TEXT = Text(template="{text} it was", most_tokens=12, verbalizers=(" dull", " fine", " great"))
CARD = DataCard(classes=3, class_names=("bad", "fair", "good"), shape=(12,), axes=("tokens",), element="token")
UNTIED = {**DECODER, "tie_word_embeddings": False}
VOCABULARY = json.loads(tokenizer(WORDS))["model"]["vocab"]


def classifier(folder: Path, text: Text = TEXT, card: DataCard = CARD) -> nn.Module:
    """As a run begins with it."""
    made = read_directory(folder).architecture
    module = build(
        Model(name=f"hf:{folder}"), (12,), card.classes, 0, language=Language(architecture=made, last_token=True)
    )
    load_body(module.get_submodule("body"), folder)
    load_verbalizers(module, folder, text, card)
    return module


@pytest.mark.parametrize("config", [DECODER, UNTIED, OPT], ids=["tied", "untied", "opt"])
def test_the_classifier_says_what_transformers_says_of_the_words(config: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    folder = language_folder(tmp_path / "model", config)
    theirs.save_pretrained(folder)
    given = torch.randint(4, 20, (3, 7), generator=torch.Generator().manual_seed(3))
    given[1, 4:] = given[2, 1:] = PADDING
    present = (given != PADDING).long()
    with torch.no_grad():
        found = classifier(folder)(given)
        every = theirs(input_ids=given.clamp(min=0), attention_mask=present).logits
    wanted = every[torch.arange(3), present.sum(1) - 1][:, [VOCABULARY[word.strip()] for word in TEXT.verbalizers]]
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_rows_of_half_precision_are_read_exactly(tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "model", UNTIED)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors")
    module = classifier(folder)
    rows = weights["lm_head.weight"][[VOCABULARY["dull"], VOCABULARY["fine"], VOCABULARY["great"]]].float()
    torch.testing.assert_close(module.get_parameter("classifier.weight"), rows, rtol=0, atol=0)
    assert module.get_parameter("classifier.bias").tolist() == [0, 0, 0]


def refused(folder: Path, text: Text = TEXT) -> str:
    with pytest.raises((PreparationError, DataError)) as caught:
        classifier(folder, text)
    return str(caught.value)


def test_what_cannot_be_a_classifier_is_refused(tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "model", UNTIED)
    two = Text(verbalizers=(" dull", " fine"))
    assert "has 2 words, and the run 3 classes, in this order: 'bad', 'fair', 'good'" in refused(folder, two)
    several = Text(verbalizers=(" dull", " very good", " fine"))
    assert "' very good' is 'very', 'good' in the run's tokenizer, and must be one token" in refused(folder, several)
    ending = tokenizer(WORDS)
    (folder / "tokenizer.json").write_bytes(ending)
    assert "ends every text with '[SEP]'" in refused(folder)
    many = tokenizer(" ".join(map(str, range(40))) + " dull fine great", ends=False)
    (folder / "tokenizer.json").write_bytes(many)
    assert "has the token 46, and config.json says vocab_size = 32" in refused(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer(WORDS, ends=False))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors")
    assert "lm_head.weight must have shape (32, 16) and is missing: save the model with its output" in refused(folder)
    with pytest.raises(ValueError, match=r"is an encoder \(bert\)"):
        classifier(language_folder(tmp_path / "encoder", ENCODER))
