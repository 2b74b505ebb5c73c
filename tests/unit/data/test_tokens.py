"""Tokens: what a template and a tokenizer make of texts, and batches of them."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.words import tokenizer
from zowarmup.common.settings.data_card import PADDING, PREDICTED, DataCard
from zowarmup.common.settings.text import Text
from zowarmup.data import DataError, Dataset
from zowarmup.data.dataset import MOST_PADDING, TOKENS_AN_EXAMPLE, made_up, micro_batches
from zowarmup.data.tokens import tokenised, verbalizer_tokens

WORDS = tokenizer("a fine dull film it was")


def texts(*examples: tuple[str, ...]) -> Dataset:
    inputs = np.empty(len(examples), dtype=object)
    inputs[:] = list(examples)
    return Dataset(inputs, np.zeros(len(examples), np.int64), 2, axes=("text",))


def words_of(data: Dataset, place: int = 0) -> list[str]:
    known = {number: word for word, number in json.loads(WORDS)["model"]["vocab"].items()}
    return [known[int(token)] for token in data.inputs[place] if token != PADDING]


def completions(*examples: tuple[str, str]) -> Dataset:
    inputs = np.empty(len(examples), dtype=object)
    inputs[:] = list(examples)
    return Dataset(inputs, np.zeros((len(examples), 1), np.float32), 0, axes=("text",))


@pytest.mark.parametrize(
    ("most", "before", "after"),
    [(9, ["[CLS]", "a", "fine", "film", "it", "was"], ["dull", "film"]), (6, ["[CLS]", "film", "it", "was"], ["dull", "film"]),
     (3, ["[CLS]"], ["dull", "film"]), (2, ["[CLS]"], ["dull"])],
)  # fmt: skip
def test_a_completion_follows_its_prompt_and_is_marked(most: int, before: list[str], after: list[str]) -> None:
    text = Text(template="{prompt} it was", most_tokens=most)
    (row,) = tokenised(completions(("a fine film", "dull film")), text, WORDS).inputs
    known = {number: word for word, number in json.loads(WORDS)["model"]["vocab"].items()}
    assert [known[int(token)] for token in row if 0 <= token < PREDICTED] == before
    assert [known[int(token) - PREDICTED] for token in row if token >= PREDICTED] == after
    assert len(row) == most
    assert (row[len(before) + len(after) :] == PADDING).all()


def test_each_choice_follows_its_prompt_in_a_row_of_its_own() -> None:
    inputs = np.empty(2, dtype=object)
    inputs[:] = [("it was", "a", "a film"), ("a fine film", "dull", "it", "fine")]
    data = Dataset(inputs, np.zeros(2, np.int64), 3, axes=("choices", "text"))
    found = tokenised(data, Text(most_tokens=6), tokenizer("a fine dull film it was", ends=False))
    assert found.inputs.shape == (2, 3, 6) and found.axes == ("choices", "tokens") and found.shape == (3, 6)
    for example, texts in zip(found.inputs, inputs, strict=True):
        for place, row in enumerate(example):
            pair = completions((texts[0], texts[1 + place])) if place + 1 < len(texts) else None
            alone = tokenised(pair, Text(most_tokens=6), WORDS).inputs[0] if pair else np.full(6, PADDING)
            assert row.tolist() == alone.tolist()
    assert found.lengths is not None and found.lengths.tolist() == [3 * 5, 3 * 5], "of the longest, for each"
    assert found.batch(np.array([0])).inputs.shape == (1, 3, 5)


def test_a_completion_without_anything_before_it_is_refused() -> None:
    alone = tokenizer("a film")
    text = Text(most_tokens=4)
    (row,) = tokenised(completions(("", "film")), text, alone).inputs
    assert np.count_nonzero(row != PADDING) == 2, "a special token is before it"
    bare = json.loads(alone) | {"post_processor": None}
    with pytest.raises(DataError, match="example 1: nothing is before the only token"):
        tokenised(completions(("", "film")), text, json.dumps(bare).encode())
    with pytest.raises(DataError, match=r"text.template = '\{text\}' does not suit examples of prompt"):
        tokenised(completions(("a", "film")), Text(template="{text}", most_tokens=4), alone)


@pytest.mark.parametrize(
    ("template", "example", "found"),
    [
        ("", ("a film",), ["[CLS]", "a", "film", "[SEP]"]),
        ("", ("a film", "dull"), ["[CLS]", "a", "film", "[SEP]", "dull", "[SEP]"]),
        ("{text} it was", ("a film",), ["[CLS]", "a", "film", "it", "was", "[SEP]"]),
        ("{text_b} it was {text_a}", ("dull", "film"), ["[CLS]", "film", "it", "was", "dull", "[SEP]"]),
        ("{text} {was {text}", ("film",), ["[CLS]", "film", "[UNK]", "was", "film", "[SEP]"]),
        ("", ("{text}",), ["[CLS]", "[UNK]", "[UNK]", "[UNK]", "[SEP]"]),
        ("", ("a fine film it was a fine film",), ["[CLS]", "a", "fine", "film", "it", "was", "a", "[SEP]"]),
    ],
)
def test_a_template_and_the_tokenizer(template: str, example: tuple[str, ...], found: list[str]) -> None:
    data = tokenised(texts(example), Text(template=template, most_tokens=8), WORDS)
    assert data.inputs.dtype == np.int32 and data.inputs.shape == (1, 8)
    assert words_of(data) == found


DECODER = tokenizer("a fine dull film it was", ends=False)


def test_with_verbalizers_the_end_of_the_template_is_never_cut() -> None:
    text = Text(template="{text} it was", most_tokens=5, verbalizers=(" dull", " fine"))
    assert words_of(tokenised(texts(("a fine film a dull film",)), text, DECODER)) == [
        "[CLS]",
        "dull",
        "film",
        "it",
        "was",
    ]


def test_a_verbalizer_is_one_token_that_the_tokenizer_knows() -> None:
    assert verbalizer_tokens(Text(verbalizers=(" dull", " fine"), most_tokens=1), DECODER) == (6, 5)
    for words, said in (
        ((" fine", " a film"), r"' a film' is 'a', 'film' in the run's tokenizer"),
        ((" good", " fine"), r"' good' is '\[UNK\]' in"),
        ((" ", " fine"), r"' ' is nothing in"),
        ((" fine", "fine"), r"' fine' and 'fine' are the same token, 'fine'"),
    ):
        with pytest.raises(DataError, match=said):
            verbalizer_tokens(Text(verbalizers=words, most_tokens=1), DECODER)
    with pytest.raises(DataError, match=r"ends every text with '\[SEP\]', and verbalizers are to follow"):
        verbalizer_tokens(Text(verbalizers=(" fine", " dull")), WORDS)


def test_batches_are_as_long_as_their_longest() -> None:
    data = tokenised(texts(("a",), ("a fine film",), ("it was",)), Text(most_tokens=9), WORDS)
    assert data.lengths is not None and data.lengths.tolist() == [3, 5, 4]
    short, both = data.batch(np.array([0])), data.batch(np.array([0, 1]))
    assert short.inputs.dtype == np.int64 and short.inputs.shape == (1, 3) and both.inputs.shape == (2, 5)
    assert both.inputs[0].tolist() == [*short.inputs[0].tolist(), PADDING, PADDING]
    assert data.batch(np.array([2, 0])).inputs.shape == (2, 4)


@pytest.mark.parametrize(
    ("template", "example"),
    [("{text}", ("a", "b")), ("{text_a} {text_b}", ("a",)), ("{text_a}{text_b}{text}", ("a", "b"))],
)
def test_a_template_for_other_examples_is_refused(template: str, example: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"text\.template = .* does not suit examples of text"):
        tokenised(texts(example), Text(template=template), WORDS)


def test_a_tokenizer_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="tokenizer cannot be used"):
        tokenised(texts(("a",)), Text(), b"{}")


@pytest.mark.parametrize(
    "settings",
    [
        {"template": "no place"},
        {"template": "{text_a}"},
        {"most_tokens": 0},
        {"most_tokens": 9000},
        {"verbalizers": ("good", "good")},
        {"verbalizers": ("good", "")},
        {"verbalizers": ("good" * 20,)},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"template|most_tokens|verbalizers"):
        Text(**settings)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_micro_batches_hold_every_example_once_and_few_tokens(lengths: list[int], most: int) -> None:
    sizes = np.array(lengths, np.int64)
    chosen = np.arange(len(sizes))[::-1]
    batches = list(micro_batches(sizes, chosen, most))
    assert sorted(np.concatenate(batches).tolist()) == sorted(chosen.tolist())
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= most * TOKENS_AN_EXAMPLE
        assert len(batch) * sizes[batch].max() - sizes[batch].sum() <= MOST_PADDING
    ordered = [int(sizes[place]) for batch in batches for place in batch]
    assert ordered == sorted(ordered)
    plain: list[NDArray[np.int64]] = list(micro_batches(None, chosen, most))
    assert np.concatenate(plain).tolist() == chosen.tolist()
    assert all(len(batch) == most for batch in plain[:-1])


def test_made_up_examples_are_as_long_as_any_can_be() -> None:
    card = DataCard(classes=2, shape=(7,), axes=("tokens",), element="token")
    data = made_up(card, 3)
    assert data.batch(np.arange(3)).inputs.tolist() == [[1] * 7] * 3


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (np.array([[1, 2], [PADDING, PADDING]], np.int32), "has no token"),
        (np.array([1, 2], np.int32), "tokens must be int32"),
    ],
)
def test_tokens_that_are_none_are_refused(inputs: NDArray[np.int32], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Dataset(inputs, np.zeros(2, np.int64), 2)


def test_where_every_example_must_have_tokens_one_without_has_the_first_of_the_vocabulary() -> None:
    """And so has one on which the tokenizer fails: whether a device contributes tells nothing of one example."""
    bare = json.loads(WORDS)
    pieces = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    bare["post_processor"] |= {"single": pieces[:1], "pair": pieces, "special_tokens": {}}
    failing = bare | {"model": bare["model"] | {"unk_token": "absent"}}
    text = Text(most_tokens=4)
    for made, second in ((bare, ""), (failing, "nobody")):
        content = json.dumps(made).encode()
        with pytest.raises(DataError):
            tokenised(texts(("a film",), (second,), ("fine",)), text, content)
        rows = tokenised(texts(("a film",), (second,), ("fine",)), text, content, every=True).inputs
        whole = tokenised(texts(("a film",), ("fine",)), text, content).inputs
        assert rows[[0, 2]].tolist() == whole.tolist()
        assert rows[1].tolist() == [0, PADDING, PADDING, PADDING]
        for prompt, completion in (("a film", second), (second, second), ("", "film")):
            pair = completions(("a", "fine film"), (prompt, completion))
            with pytest.raises(DataError):
                tokenised(pair, text, content)
            both = tokenised(pair, text, content, every=True).inputs
            assert both[0].tolist() == tokenised(completions(("a", "fine film")), text, content).inputs[0].tolist()
            assert both[1].tolist() == [0, PREDICTED, PADDING, PADDING]
