"""The decoders on mutated messages: a short, repeatable form of `make fuzz`."""

import random

import pytest

from tests.fuzz.targets import TARGETS

INPUTS = 1500


def mutated(chance: random.Random, valid: tuple[bytes, ...]) -> bytes:
    data = bytearray(chance.choice(valid))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 2:
                del data[at : at + chance.randrange(1, 9)]
            case 3 if at < len(data):
                data[at] = chance.choice(b'\x00\xff\x7f\x80{}[]",:-eN0')
            case 4:
                data[at:at] = chance.choice(
                    [b"NaN", b"1e999", b"-1", b"null", b"[[[[", b"9" * 40, b"\xff\xff\xff\xff\x0f"]
                )
            case _:
                data = data[:at] + bytearray(chance.choice(valid))[at:]
    return bytes(data)


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_decoder_takes_or_refuses_whatever_it_is_given(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    for valid in target.valid:
        target.take(valid)
    for _ in range(INPUTS):
        target.take(mutated(chance, target.valid))
        target.take(chance.randbytes(chance.randrange(64)))


def test_deep_nesting_is_refused() -> None:
    for name in ("layout", "spec", "header", "identity"):
        TARGETS[name].take(b"[" * 100_000)
