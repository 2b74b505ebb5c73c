"""JSON from elsewhere is read by the types that a class declares, or refused in a sentence."""

import json
from typing import Any

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Model

SPEC = ClientSpec(
    model=Model(name="mlp"),
    card=DataCard(shape=(8, 8), classes=2, class_names=("a", "b")),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=2),
    pool_seed=7,
)
LAYOUT = Layout(
    tensors=(Tensor("body", (4, 3), 0), Tensor("head.weight", (2, 3), 12)),
    trainable=18,
    size=18,
    blocks=(Block("all", 0, 18), Block("trunk", 0, 12), Block("head", 12, 18)),
    head=Head("head.weight", None, 3, 2),
)
OTHERS: tuple[object, ...] = (None, True, 1, -1, 1.5, "1", "", [], [1], {}, {"a": 1}, 10**400, float("nan"), [[]])


def places(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [place for key, value in inner for place in ((*path, key), *places(value, (*path, key)))]


@pytest.mark.parametrize(("kind", "value"), [(ClientSpec, SPEC), (Layout, LAYOUT)])
def test_another_type_anywhere_is_refused_or_read_as_it_stands(kind: Any, value: Any) -> None:
    """A value of the right type may be taken; then it is what is written again."""
    assert kind.from_json(value.to_json()) == value
    for path in places(json.loads(value.to_json())):
        if path[0] in ("input_shape", "classes") or path == ("card", "axes"):
            continue  # said again for others; empty: the usual ones
        for other in OTHERS:
            raw = json.loads(value.to_json())
            at = raw
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = other
            try:
                found = kind.from_json(json.dumps(raw))
            except ValueError:
                continue
            again: Any = json.loads(found.to_json())
            for key in path:
                again = again[key]
            assert again == other
            assert type(again) is type(other) or (type(again), type(other)) == (float, int)


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("model", "name", ["os:system"], r"run spec: model: name = \['os:system'\]: must be a text"),
        ("model", "norm", 3, "must be 'group' or 'batch'"),
        ("warmup", "epochs", 1.5, "run spec: warmup: epochs = 1.5: must be a whole number"),
        ("warmup", "epochs", 10**9, "epochs = 1000000000: must be 1 to 10000"),
        ("warmup", "learn_deadline", 1, "must be true or false"),
        ("zeroth_order", "rate", "0.1", "rate = '0.1': must be a number"),
        ("zeroth_order", "extra", 1, "ZOWarmUpSettings has no field 'extra'"),
        ("card", "mean", 1, "mean = 1: must be a list"),
    ],
)
def test_the_sentence_names_the_field(section: str, field: str, value: object, words: str) -> None:
    raw = json.loads(SPEC.to_json())
    raw[section][field] = value
    with pytest.raises(ValueError, match=words):
        ClientSpec.from_json(json.dumps(raw))
