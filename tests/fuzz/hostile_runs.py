"""Hostile runs without end: what a coordinator answers to GetRun, changed field by field. A number is an answer."""

import json
import random
from typing import Any

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.client.hostile_programs import LAYOUT
from zowarmup.common.exact.layout import Layout
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import PROTOCOL, ClientSpec, Model
from zowarmup.v1 import coordinator_pb2 as wire

SHAPE, CLASSES = (8, 8), 10
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 10, 64, 65536, 2**31, 2**53, 2**63, 2**64, 10**30, 1.5, 1e308, -1e-300),
    *(float("nan"), float("inf"), "", "0", "1", "x", "os:system", "a:b", "\x1b[2J\n", "é", "\ud800", "x" * 3000),
    *([], [1], [[1]], [0] * 1000, ["a"] * 300, {}, {"a": 1}, {"name": "x"}),
)
SPEC = ClientSpec(
    model=Model(name="mlp"),
    card=DataCard(shape=SHAPE, classes=CLASSES, element="uint8", scale=255.0, mean=(0.5,) * 8, deviation=(0.2,) * 8),
    warmup=warmup_settings(rounds=3),
    zeroth_order=zeroth_order_settings(rounds=9),
    pool_seed=5,
)


def answer(number: int, layouts: tuple[Layout, ...] = (LAYOUT,)) -> wire.GetRunResponse:
    """The answer of that number."""
    chance = random.Random(number)
    layout = chance.choice(layouts)
    made = wire.GetRunResponse(
        protocol=PROTOCOL if chance.random() < 0.99 else chance.choice((0, 2**32 - 1)),
        run_id=chance.choice(("run", "", "../..", "x" * 5000, "\x1b[2J")),
        name=chance.choice(("run", "", "../..", "x" * 5000, "\x1b[2J")),
        spec_json=_changed(SPEC.to_json(), chance),
        layout_json=_changed(layout.to_json(), chance),
        program_sha256=chance.choice((bytes(32), b"", bytes(1000))),
        program_bytes=chance.choice((0, 1, 1000, 1000, 1000, 1000, 2**40, 2**64 - 1)),
        high_memory_bytes=chance.choice((0, 1, 1, 2**40, 2**64 - 1)),
        low_memory_bytes=chance.choice((1, 1, 1, 1, 1, 0, 2**64 - 1)),
        now_s=chance.choice((0.0, 1.7e9, float("nan"), float("inf"), -1e308)),
        software=chance.choice(("", "zowarmup 0.1.0", "zowarmup 99.0", "x" * 5000, "zowarmup 1" + "0" * 5000)),
    )
    return made


def _changed(text: str, chance: random.Random) -> str:
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        raw = json.loads(text)
        place = raw
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = chance.choice(list(keys))
            if not (isinstance(place[key], dict | list) and place[key]) or chance.random() < 0.25:
                _change(place, key, chance)
                break
            place = place[key]
        text = json.dumps(raw)
    if chance.random() < 0.1:
        at = chance.randrange(len(text) + 1)
        junk = chance.choice(("[" * 10**5, "9" * 5000, "NaN", "1e999", "\ud800", '"', "{", ",", '{"a":' * 5000))
        text = text[:at] + junk + text[at:]
    if chance.random() < 0.02:
        text = json.dumps(_many(chance))
    return text.encode(errors="replace").decode()


def _change(place: Any, key: Any, chance: random.Random) -> None:
    match chance.randrange(6):
        case 0:
            del place[key]
        case 1 if isinstance(place, list):
            place.extend([place[key]] * chance.choice((1, 5, 5, 300)))
        case 2 if isinstance(place, dict):
            place[chance.choice(("more", "", "x" * 3000))] = place[key]
        case 3 if isinstance(place[key], int | float):
            place[key] = place[key] * chance.choice((2, -1, 10**6, 0.5)) + chance.choice((0, 1, -1))
        case 4 if isinstance(place, list):
            place[key : key + 1] = [place[key]] * 2
        case _:
            place[key] = chance.choice(VALUES)


def _many(chance: random.Random) -> dict[str, Any]:
    """A layout of many parts, or of a part with many axes."""
    count = chance.choice((10, 1000, 60_000))
    if chance.random() < 0.5:
        tensors = [{"name": "w", "shape": [10**18] * count, "start": 0}]
        return {
            "tensors": tensors,
            "trainable": 1,
            "size": 1,
            "blocks": [{"name": "all", "start": 0, "stop": 1}],
            "head": None,
        }
    last = chance.choice((count - 1, count - 2))
    tensors = [{"name": f"w{min(place, last)}", "shape": [1], "start": place} for place in range(count)]
    blocks = [{"name": "all", "start": 0, "stop": count}]
    blocks += [{"name": f"b{min(place, last)}", "start": place, "stop": place + 1} for place in range(count)]
    return {"tensors": tensors, "trainable": count, "size": count, "blocks": blocks, "head": None}
