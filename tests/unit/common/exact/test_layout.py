"""The layout: what is a layout and what is not, views, its JSON, and the digest."""

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xxhash

from zowarmup.common.exact.layout import Block, Head, Layout, Tensor, digest

# conv, a scalar gain, the head, then a buffer: 2*3 + 1 + 4*3 + 4 = 23 trainable, 25 in all.
LAYOUT = Layout(
    tensors=(
        Tensor("conv.weight", (2, 3), 0),
        Tensor("gain", (), 6),
        Tensor("fc.weight", (4, 3), 7),
        Tensor("fc.bias", (4,), 19),
        Tensor("norm.running_mean", (2,), 23),
    ),
    trainable=23,
    size=25,
    blocks=(Block("all", 0, 23), Block("trunk", 0, 7), Block("head", 7, 23)),
    head=Head("fc.weight", "fc.bias", 3, 4),
)


def test_views_share_the_vector() -> None:
    weights = np.arange(25, dtype=np.float32)
    views = LAYOUT.views(weights)
    assert list(views) == [tensor.name for tensor in LAYOUT.tensors]
    assert views["fc.weight"].tolist() == [[7, 8, 9], [10, 11, 12], [13, 14, 15], [16, 17, 18]]
    assert views["gain"].shape == ()
    views["gain"][...] = -1
    weights[23] = -2
    assert weights[6] == -1
    assert views["norm.running_mean"].tolist() == [-2, 24]


@pytest.mark.parametrize(
    "weights", [np.zeros(24, np.float32), np.zeros(25), np.zeros((1, 25), np.float32), np.zeros(50, np.float32)[::2]]
)
def test_views_of_another_vector_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="layout is float32"):
        LAYOUT.views(weights)


def test_block_by_name() -> None:
    assert LAYOUT.block("trunk") == Block("trunk", 0, 7)
    with pytest.raises(ValueError, match="no block 'tail', there are all, trunk, head"):
        LAYOUT.block("tail")


@pytest.mark.parametrize(
    "layout",
    [
        LAYOUT,
        replace(LAYOUT, head=None, blocks=(Block("all", 0, 23), Block("first", 0, 6), Block("second", 6, 23))),
        Layout((Tensor("w", (3,), 0), Tensor("fc", (2, 5), 3)), 13, 13,
               (Block("all", 0, 13), Block("trunk", 0, 3), Block("head", 3, 13)), Head("fc", None, 5, 2)),
    ],
)  # fmt: skip
def test_json_there_and_back(layout: Layout) -> None:
    assert Layout.from_json(layout.to_json()) == layout
    assert "\n" not in layout.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 26}, "tensors end at 25"),
        ({"trainable": 22}, "trainable = 22"),
        ({"trainable": 0}, "trainable = 0"),
        ({"blocks": ()}, 'first block must be "all"'),
        ({"blocks": (Block("all", 0, 7),)}, 'first block must be "all"'),
        ({"blocks": (*LAYOUT.blocks, Block("more", 20, 24))}, "block more ends at 24"),
        ({"blocks": (*LAYOUT.blocks, Block("head", 1, 2))}, "two blocks have the name head"),
        ({"blocks": LAYOUT.blocks[:2]}, '"trunk", \\[0, 7\\), and "head"'),
        ({"blocks": (LAYOUT.blocks[0], Block("trunk", 0, 6), Block("head", 6, 23))}, '"trunk", \\[0, 7\\)'),
        ({"head": Head("fc.weight", None, 3, 4)}, "do not end in the head"),
        ({"head": Head("fc.weight", "fc.bias", 4, 3)}, "do not end in the head"),
        ({"tensors": (*LAYOUT.tensors[:4], Tensor("norm.running_mean", (1,), 24))}, "starts at 24"),
        ({"tensors": (*LAYOUT.tensors[:4], Tensor("gain", (2,), 23))}, "two tensors have the name gain"),
        ({"frozen": 5}, "frozen = 5 is not where"),
        ({"frozen": 19}, "frozen = 19 is not where"),
        ({"frozen": 6}, 'a block "probed" up to 7'),
    ],
)
def test_what_is_not_a_layout(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LAYOUT, **changes)


def test_a_head_may_be_all_that_moves() -> None:
    blocks = (Block("all", 0, 6), Block("head", 0, 6))
    layout = Layout((Tensor("fc", (2, 3), 0),), 6, 6, blocks, Head("fc", None, 3, 2))
    assert layout.head_alone
    assert layout.edges == ()
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize("arguments", [("", 0, 1), ("x", 1, 1), ("x", 2, 1), ("x", -1, 1)])
def test_what_is_not_a_block(arguments: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match="block"):
        Block(*arguments)


@pytest.mark.parametrize("arguments", [("", (1,), 0), ("x", (0,), 0), ("x", (-2, -2), 0), ("x", (1,), -1)])
def test_what_is_not_a_tensor(arguments: tuple[str, tuple[int, ...], int]) -> None:
    with pytest.raises(ValueError, match="tensor"):
        Tensor(*arguments)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{}", '{"tensors": 3}', LAYOUT.to_json().replace('"start"', '"begin"'), '"abc"', "null"]
)
def test_text_that_is_not_a_layout(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Layout.from_json(text)


def test_a_layout_of_many_parts_is_read_or_refused_at_once() -> None:
    """Comparing each name with each, or multiplying thousands of extents, would take minutes."""
    count = 40_000
    many: dict[str, Any] = {
        "tensors": [{"name": f"w{place}", "shape": [1], "start": place} for place in range(count)],
        "blocks": [{"name": "all", "start": 0, "stop": count}],
        "trainable": count,
        "size": count,
        "head": None,
    }
    begun = time.process_time()
    assert Layout.from_json(json.dumps(many)).size == count
    many["tensors"][-1]["name"] = many["tensors"][-2]["name"]
    with pytest.raises(ValueError, match="two tensors have the name w39998"):
        Layout.from_json(json.dumps(many))
    many["tensors"] = [{"name": "w", "shape": [10**18] * count, "start": 0}]
    with pytest.raises(ValueError, match="layout: tensor w has start 0 and shape"):
        Layout.from_json(json.dumps(many))
    assert time.process_time() - begun < 30


def test_a_missing_field_is_named() -> None:
    raw = json.loads(LAYOUT.to_json())
    del raw["trainable"]
    with pytest.raises(ValueError, match="'trainable' is missing"):
        Layout.from_json(json.dumps(raw))


@pytest.mark.parametrize("frozen", [6, 7])
def test_a_digest_of_what_is_frozen_and_of_what_moves(frozen: int) -> None:
    layout = replace(LAYOUT, frozen=frozen, blocks=(*LAYOUT.blocks, *([Block("probed", 6, 7)] if frozen == 6 else [])))
    assert Layout.from_json(layout.to_json()) == layout
    weights = np.arange(25, dtype=np.float32)
    still = digest(np.concatenate([weights[:frozen], weights[23:]]))
    assert layout.frozen_digest(weights) == still
    expected = xxhash.xxh3_128_digest(still + weights[frozen:23].tobytes())
    assert layout.digest(weights) == layout.digest(weights, still) == expected
    for place in range(25):
        changed = weights.copy()
        changed[place] += 1
        assert layout.digest(changed) != expected
        assert (layout.digest(changed, still) != expected) == (frozen <= place < 23), "only what moves is read"
    assert (LAYOUT.frozen_digest(weights), LAYOUT.digest(weights)) == (b"", digest(weights))


def test_digest_is_pinned_and_sees_one_bit() -> None:
    weights = np.array([1.0, -2.5, 0.0], np.float32)
    assert digest(weights).hex() == "bbb1d753e541d01267761070173446a6"
    other = weights.copy()
    other.view(np.uint32)[2] ^= 1 << 31
    assert other.tolist() == weights.tolist()
    assert digest(other) != digest(weights)
    assert digest(np.repeat(weights, 2)[::2]) == digest(weights)
