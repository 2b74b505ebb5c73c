"""The exact core once more, as plainly as it can be said: whole numbers, one parameter at a time, no NumPy.

It is what the golden vectors are made by, and a text to follow when writing a client in another language:
`python tests/golden/reference.py > tests/golden/vectors.json`. The tests hold it, the vectors and the core together.
"""

import json
import struct
import sys
from typing import Any

import xxhash

MASK = (1 << 64) - 1


def philox(seed: int, group: int, counter: int) -> list[int]:
    """Four 64-bit words of Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    c0, c1, c2, c3 = (counter >> shift & MASK for shift in (0, 64, 128, 192))
    k0, k1 = seed, group
    for _ in range(10):
        product0, product1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = product1 >> 64 ^ c1 ^ k0, product1 & MASK, product0 >> 64 ^ c3 ^ k1, product0 & MASK
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & MASK, k1 + 0xBB67AE8584CAA73B & MASK
    return [c0, c1, c2, c3]


def lanes(seed: int, group: int, start: int, count: int) -> bytes:
    """Bytes of a stream. Its first 32 come from counter 1, the next from counter 2, and so on."""
    first, last = start // 32, -(-(start + count) // 32)
    stream = b"".join(struct.pack("<4Q", *philox(seed, group, counter + 1)) for counter in range(first, last))
    return stream[start - 32 * first :][:count]


def moved(ticks: list[int], steps: list[dict[str, Any]]) -> list[int]:
    """Weights, in ticks, after steps {seed, start, stop, ticks}: ticks[k] times the sign of direction k, for each k."""
    ticks = list(ticks)
    for step in steps:
        start, stop = step["start"], step["stop"]
        for group in range(-(-len(step["ticks"]) // 8)):
            signs = lanes(int(step["seed"]), group, start, stop - start)
            for bit, along in enumerate(step["ticks"][8 * group : 8 * group + 8]):
                for place, byte in enumerate(signs, start):
                    ticks[place] += along if byte >> bit & 1 else -along
    return ticks


def patterned(size: int) -> list[int]:
    """Weights in ticks that a vector too long to be written out begins with."""
    return [place * 2654435761 % 2**32 % 2001 - 1000 for place in range(size)]


def digest(ticks: list[int], exponent: int) -> str:
    """xxh3-128 of the weights ticks * 2^-exponent as little-endian float32."""
    return xxhash.xxh3_128_hexdigest(struct.pack(f"<{len(ticks)}f", *(tick * 2.0**-exponent for tick in ticks)))


def vectors() -> dict[str, Any]:
    """Seeds and groups are strings, because they need 64 bits and JSON readers often keep 53."""
    places = [
        (7, 0, 0, 64),
        (7, 0, 5, 43),
        (7, 0, 1_000_003, 32),
        (7, 1, 0, 32),
        (0, 0, 0, 32),
        (0, 7, 0, 32),
        (1, 6, 31, 34),
        (2**63, 3, 8, 32),
        (MASK, 0, 0, 32),
        (0, MASK, 64, 32),
        (MASK, MASK, 2**40 + 1, 32),
    ]
    small = [(place * 7919 % 401 - 200) * 100 for place in range(40)]
    small_steps = [
        {"seed": "7", "start": 0, "stop": 40, "ticks": [3, -1, 4, 1, -5, 9, -2, 6, 5, -3, 5]},
        {"seed": "18446744073709551615", "start": 0, "stop": 29, "ticks": [-100]},
        {"seed": "7", "start": 29, "stop": 40, "ticks": [1000, 0, -1000]},
    ]
    large = 200_000
    large_steps = [
        {"seed": "11", "start": 0, "stop": 199_001, "ticks": [12, -7, 0, 3, 5, -8, 13, 21, -34]},
        {"seed": "12", "start": 150_003, "stop": 200_000, "ticks": [2_000_000, -2_000_001]},
    ]
    probe = {"seed": "7", "start": 3, "stop": 37, "ticks": [0] * 10 + [262]}
    return {
        "lanes": [
            {"seed": str(seed), "group": str(group), "start": start, "bytes": lanes(seed, group, start, count).hex()}
            for seed, group, start, count in places
        ],
        "apply_steps": {
            "exponent": 18,
            "weights": small,
            "digest_before": digest(small, 18),
            "steps": small_steps,
            "result": moved(small, small_steps),
            "digest_after": digest(moved(small, small_steps), 18),
        },
        "apply_steps_large": {
            "exponent": 20,
            "size": large,
            "weights_rule": "weight p is (p * 2654435761 mod 2^32) mod 2001 - 1000 ticks",
            "digest_before": digest(patterned(large), 20),
            "steps": large_steps,
            "digest_after": digest(moved(patterned(large), large_steps), 20),
        },
        "perturb": {
            "exponent": 18,
            "weights": small,
            "seed": "7",
            "index": 10,
            "start": 3,
            "stop": 37,
            "ticks": 262,
            "result": moved(small, [probe]),
            "digest_after": digest(moved(small, [probe]), 18),
        },
    }


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1)
    print()
