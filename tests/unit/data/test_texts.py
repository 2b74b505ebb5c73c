"""Text files: what they may look like, and one sentence, with the line, where one cannot be used."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from zowarmup.common.settings.data_card import DataCard
from zowarmup.data import DataError, Dataset, divide, load
from zowarmup.data.card import card_of, fitted
from zowarmup.data.texts import MOST_LINE

TSV = "label\ttext\nbad\ta dull film\ngood\ta fine film\nbad\tno\n"
EXPECTED = [("a dull film",), ("a fine film",), ("no",)]


def read(folder: Path, content: str | bytes, kind: str = "tsv") -> Dataset:
    path = folder / f"data.{kind}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(f"{kind}:{path}")


def refused(folder: Path, content: str | bytes, kind: str = "tsv") -> str:
    with pytest.raises(DataError) as caught:
        read(folder, content, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "")


def jsonl(*examples: object) -> str:
    return "".join(json.dumps(example) + "\n" for example in examples)


def check(data: Dataset) -> None:
    assert data.is_text and data.inputs.tolist() == EXPECTED
    assert (data.class_names, data.targets.tolist(), data.every_class) == (("bad", "good"), [0, 1, 0], False)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_with_names(tmp_path: Path, end: str, packed: bool) -> None:
    content = TSV.replace("\n", end).encode("utf-8-sig")
    check(read(tmp_path, gzip.compress(content) if packed else content))


def test_a_table_of_two_columns_needs_no_names(tmp_path: Path) -> None:
    check(read(tmp_path, "a dull film\tbad\na fine film\tgood\n\nno\tbad"))


def test_objects_a_line(tmp_path: Path) -> None:
    labels = ("bad", "good", "bad")
    lines = [{"id": 3, "label": label, "text": text} for label, (text,) in zip(labels, EXPECTED, strict=True)]
    check(read(tmp_path, jsonl(*lines), "jsonl"))


def test_pairs_and_numbered_labels(tmp_path: Path) -> None:
    table = read(tmp_path, "text_b\tlabel\ttext_a\nyes\t10\tit rains\nno\t2\tit snows\n")
    lines = [{"text_a": "it rains", "text_b": "yes", "label": 10}, {"text_a": "it snows", "text_b": "no", "label": "2"}]
    for data in (table, read(tmp_path, jsonl(*lines), "jsonl")):
        assert data.inputs.tolist() == [("it rains", "yes"), ("it snows", "no")]
        assert (data.class_names, data.targets.tolist()) == (("2", "10"), [1, 0])


def test_prompts_and_completions(tmp_path: Path) -> None:
    for kind, content in (
        ("tsv", "completion\tother\tprompt\n good\tx\tit was\n"),
        ("jsonl", '{"prompt": "it was", "completion": " good", "label": 3}\n'),
    ):
        data = read(tmp_path, content, kind)
        assert data.inputs.tolist() == [("it was", " good")]
        assert (data.classes, data.target_size, data.targets.tolist()) == (0, 1, [[0.0]])
    assert "line 2 has no completion" in refused(tmp_path, "prompt\tcompletion\nit was\t\n")
    held_out, mine = read(tmp_path, "prompt\tcompletion\na\tb\n"), read(tmp_path, TSV)
    with pytest.raises(DataError, match="targets of here are labels, and the run's are numbers"):
        fitted(mine, card_of(held_out, "held-out", 8), "here")


def test_prompts_and_choices(tmp_path: Path) -> None:
    lines = [{"prompt": "it was", "choices": [" good", " bad"], "label": 1}]
    lines += [{"prompt": "", "choices": [" a", " b", " c"], "label": 0}]
    data = read(tmp_path, jsonl(*lines), "jsonl")
    assert data.inputs.tolist() == [("it was", " good", " bad"), ("", " a", " b", " c")]
    assert (data.classes, data.class_names, data.targets.tolist(), data.has_choices) == (3, (), [1, 0], True)
    card = card_of(data, "held-out", 8)
    assert (card.shape, card.axes, card.choices) == ((3, 8), ("choices", "tokens"), 3)
    assert DataCard.from_json(card.to_json()) == card
    mine, remarks = fitted(read(tmp_path, jsonl(lines[0]), "jsonl"), card, "here")
    assert (mine.classes, remarks) == (3, [])
    few = card_of(read(tmp_path, jsonl(lines[0]), "jsonl"), "held-out", 8)
    for examples, run, said in (
        (data, few, "here has examples with 3 choices and the run's have at most 2"),
        (read(tmp_path, TSV), card, "the examples of here have no choices, and the run's have some"),
        (
            data,
            card_of(read(tmp_path, TSV), "held-out", 8),
            "the examples of here have choices, and the run's have none",
        ),
    ):
        with pytest.raises(DataError, match=said):
            fitted(examples, run, "here")
    with pytest.raises(ValueError, match="data card: shape"):
        replace(card, classes=2)


def test_shards_hold_every_text_once(tmp_path: Path) -> None:
    content = "".join(f"text {place}\t{place % 3}\n" for place in range(30))
    whole = read(tmp_path, content)
    shards = divide(f"tsv:{tmp_path / 'data.tsv'},alpha=0.5", 3, [0, 1, 2])
    assert sorted(text for shard in shards for (text,) in shard.inputs) == sorted(text for (text,) in whole.inputs)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "there must be two columns"),
        ("one\ttwo\tthree\n", "the first line must name the columns, text and label"),
        ("text\ttext_a\ttext_b\tlabel\n", "must have text and label, or text_a, text_b and label"),
        ("label\tother\n", "must have text and label"),
        ("text\tlabel\n", "there are no examples"),
        ("text\tlabel\na\tgood\nb\n", "line 3 has 1 fields and the first line 2"),
        ("a\tgood\nb\t\n", "line 2: the label is missing"),
        ("a\tgood\nb\t0.5\n", "line 2: the label is 0.5"),
        ("  \tgood\n", "line 1 has no text"),
        (b"\xff\xfe\t1\n", "not in UTF-8"),
        (gzip.compress(TSV.encode(), mtime=0)[:-9], "damaged"),
        (b"a" * (MOST_LINE + 1), "line 1 is longer than"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1 is not JSON"),
        ("[" * 50_000, "line 1 is not JSON"),
        ("[1]\n", "line 1 is not an object"),
        (jsonl({"text": "a"}), "line 1 has text: must have text and label"),
        (jsonl({"text": "a", "label": 1}, {"text": 3, "label": 1}), "line 2: text is 3: must be a text"),
        (jsonl({"text": "a", "label": 1}, {"label": 1}), "line 2: text is missing"),
        (jsonl({"text": "a", "label": 0.5}), "line 1: label is 0.5: must be a name or a whole number"),
        (jsonl({"text": "a", "label": True}), "line 1: label is True"),
        (jsonl({"text": "a", "label": None}), "line 1: label is missing"),
        (
            jsonl({"prompt": "a", "choices": "b", "label": 0}),
            "line 1: choices is 'b': must be a list of 2 to 256 texts",
        ),
        (jsonl({"prompt": "a", "choices": ["b"], "label": 0}), "must be a list of 2"),
        (jsonl({"prompt": "a", "choices": ["b", 3], "label": 0}), "line 1: one of choices is 3: must be a text"),
        (
            jsonl({"prompt": "a", "choices": ["b", "c"], "label": 2}),
            "label is 2: must be the place of the right one, 0 to 1",
        ),
        (jsonl({"prompt": "a", "choices": ["b", "c"], "label": "0"}), "label is '0': must be the place"),
        (jsonl({"prompt": "a", "choices": ["b", ""], "label": 0}), "line 1 has no completion"),
    ],
)
def test_objects_that_cannot_be_used(tmp_path: Path, content: str, said: str) -> None:
    assert said in refused(tmp_path, content, "jsonl")


def test_texts_are_matched_with_the_runs_classes(tmp_path: Path) -> None:
    card = card_of(read(tmp_path, TSV), "tsv:x", 16)
    assert (card.element, card.shape, card.axes, card.class_names) == ("token", (16,), ("tokens",), ("bad", "good"))
    assert DataCard.from_json(card.to_json()) == card
    alone, remarks = fitted(read(tmp_path, "fine\tgood\n"), card, "tsv:mine")
    assert (alone.targets.tolist(), alone.classes, remarks) == ([1], 2, [])
    with pytest.raises(DataError, match="has other classes than the run"):
        fitted(read(tmp_path, "fine\tawful\n"), card, "tsv:mine")
    with pytest.raises(DataError, match="are numbers, and the run reads texts"):
        fitted(load("digits:1/10"), card, "digits:1/10")
    digits = card_of(load("digits:test"), "digits:test")
    with pytest.raises(DataError, match="are texts, and the run reads numbers"):
        fitted(read(tmp_path, TSV), digits, "tsv:mine")
