"""The exact core once more, as plainly as it can be said: whole numbers, one parameter at a time, no NumPy.

It is what the golden vectors are made by, and a text to follow when writing a client in another language:
`python tests/golden/reference.py > tests/golden/vectors.json`. Below it is what a client does in a zeroth-order round, in
float64, for a model small enough to write out: `python tests/golden/reference.py contributions >
tests/golden/contributions.json`; and scalars in a byte or half of one: `python tests/golden/reference.py scalars >
tests/golden/scalars.json`. The tests hold it, the vectors and the core together.
"""

import json
import math
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


def moved_in_ranges(ticks: list[int], exponents: list[int], steps: list[dict[str, Any]]) -> list[int]:
    """The same where parameters have exponents of their own, and their ticks: a step is in ticks of the smallest exponent of
    its block."""
    ticks = list(ticks)
    for step in steps:
        alone = moved([0] * len(ticks), [step])
        coarsest = min(exponents[step["start"] : step["stop"]])
        ticks = [
            tick + (move << exponent - coarsest if move else 0)
            for tick, move, exponent in zip(ticks, alone, exponents, strict=True)
        ]
    return ticks


def patterned(size: int) -> list[int]:
    """Weights in ticks that a vector too long to be written out begins with."""
    return [place * 2654435761 % 2**32 % 2001 - 1000 for place in range(size)]


def digest(ticks: list[int], exponent: int) -> str:
    """xxh3-128 of the weights ticks * 2^-exponent as little-endian float32."""
    return digest_in_ranges(ticks, [exponent] * len(ticks))


def digest_in_ranges(ticks: list[int], exponents: list[int]) -> str:
    """The same where parameters have exponents of their own."""
    weights = [tick * 2.0**-exponent for tick, exponent in zip(ticks, exponents, strict=True)]
    return xxhash.xxh3_128_hexdigest(struct.pack(f"<{len(ticks)}f", *weights))


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
    exponents = [14] * 25 + [20] * 15
    ranged_steps = [
        {"seed": "7", "start": 0, "stop": 40, "ticks": [3, -1, 4, 1, -5, 9, -2, 6, 5, -3, 5]},
        {"seed": "8", "start": 0, "stop": 25, "ticks": [-100, 7]},
        {"seed": "8", "start": 25, "stop": 40, "ticks": [1000, 0, -1001]},
    ]
    ranged = moved_in_ranges(small, exponents, ranged_steps)
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
        "apply_steps_in_ranges": {
            "exponent": 14,
            "ranges": [[25, 20]],
            "weights": small,
            "steps": ranged_steps,
            "result": ranged,
            "digest_after": digest_in_ranges(ranged, exponents),
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


EXPONENT = 8
TRUNK, HEAD, ALL = (0, 4), (4, 10), (0, 10)
WEIGHTS = [128, -64, 32, 96, 64, -32, -128, 96, 16, -16]
"""In ticks of 2^-8: W (features, inputs), V (classes, features), b (classes,), each row-major."""
PARTS = {"all": (0, 14), "trunk": (0, 8), "head": (8, 14), "lower": (0, 4), "upper": (4, 8)}
PART_WEIGHTS = [*WEIGHTS[:4], 192, -96, 64, 160, *WEIGHTS[4:]]
"""The same with U (features, features) before V: a model that is cut between W and U."""
INPUTS, LABELS = [[1.0, 2.0], [-1.0, 0.5], [0.5, -2.0]], [0, 1, 1]


def forward(ticks: list[int], example: int) -> tuple[float, list[float]]:
    """An example's loss, and its gradient by the head: features = W x or, of a model in two parts, U W x, logits = V features + b,
    cross-entropy in nats."""
    w, features, label = [tick * 2.0**-EXPONENT for tick in ticks], INPUTS[example], LABELS[example]
    for a in range(0, len(w) - 6, 4):
        features = [w[a] * features[0] + w[a + 1] * features[1], w[a + 2] * features[0] + w[a + 3] * features[1]]
    v, b = w[-6:-2], w[-2:]
    logits = [v[0] * features[0] + v[1] * features[1] + b[0], v[2] * features[0] + v[3] * features[1] + b[1]]
    total = sum(math.exp(logit) for logit in logits)
    residual = [math.exp(logit) / total - (label == index) for index, logit in enumerate(logits)]
    return math.log(total) - logits[label], [r * feature for r in residual for feature in features] + residual


def words(seed: int, number: int, count: int) -> list[int]:
    """The first words of stream (seed, 2^63 + number)."""
    return [word for block in range(-(-count // 4)) for word in philox(seed, 2**63 + number, block + 1)][:count]


def slices(seed: int, number: int, probes: int) -> list[list[int]]:
    """The examples of each probe with `slices = "own"`: the first ones have one more, where they cannot be equal."""
    drawn = words(seed, number, len(INPUTS))
    order, longer = sorted(range(len(INPUTS)), key=lambda example: (drawn[example], example)), len(INPUTS) % probes
    sizes = [len(INPUTS) // probes + (index < longer) for index in range(probes)]
    return [order[sum(sizes[:index]) :][:size] for index, size in enumerate(sizes)]


def along(seed: int, direction: int, block: tuple[int, int], ticks: list[int]) -> dict[str, Any]:
    """The step of so many ticks along a direction or, of as many numbers, those that a Gaussian one is made of."""
    moves = [0] * (len(ticks) * direction) + ticks
    return {"seed": str(seed), "start": block[0], "stop": block[1], "ticks": moves}


def rounded(length: float, seed: int, block: tuple[int, int], direction: int, turn: int) -> int:
    """A length in ticks as one of the two whole numbers beside it, the upper one as often as the rest says."""
    word = philox(seed, 0, (1 << 192) + (block[0] << 128) + direction // 4 + 1)[direction % 4]
    threshold = (word + turn * 0x9E3779B97F4A7C15 & MASK) >> 11
    return math.floor(length) + (threshold * 2.0**-53 < length - math.floor(length))


def contribution(spec: dict[str, Any], seed: int) -> dict[str, Any]:
    """A zeroth-order contribution with `slices = "own"` and tau 1, and everything on the way. `spec` is what `spec_json`
    says under `zeroth_order`, with the pool's seed and what `Work.done` says."""
    pool, gaussian = spec.get("pool", 0), spec.get("directions") == "gaussian"
    count, projections = spec["probes"], spec["head_projections"]
    block = TRUNK if projections else ALL
    signs, root = (16, 4) if gaussian else (1, 1)  # a Gaussian direction is a quarter of the sum of 16
    ticks = max(1, round(spec["eps"] * 2**EXPONENT / root))
    length = root * ticks * 2.0**-EXPONENT
    # What is probed before each step of the client's own: (direction's seed, direction, examples).
    times = [
        [(seed, time * count + index, chosen) for index, chosen in enumerate(slices(seed, time, count))]
        for time in range(spec.get("local_steps", 1))
    ]
    if pool:
        drawn = [word % pool for word in words(seed, 1, count)]
        times = [[(int(spec["pool_seed"]), d, chosen)] for d, (_, _, chosen) in zip(drawn, times[0], strict=True)]
    here, steps, probed, found, projected = list(WEIGHTS), list[Any](), list[Any](), list[float](), list[float]()
    mean_square = 0.0
    for time, probes in enumerate(times):
        gradient = [0.0] * (HEAD[1] - HEAD[0])
        for source, direction, chosen in probes:
            losses = []
            for side in (ticks, -ticks):
                there = moved(here, [along(source, direction, block, [side] * signs)])
                passes = [forward(there, example) for example in chosen]
                losses.append(sum(loss for loss, _ in passes) / len(chosen))
                for _, part in passes:
                    gradient = [total + value for total, value in zip(gradient, part, strict=True)]
            found.append((losses[0] - losses[1]) / (2 * length))
            probed.append(
                {
                    "seed": str(source),
                    "direction": direction,
                    "examples": chosen,
                    "above": losses[0],
                    "below": losses[1],
                }
            )
        # The mean over all examples of all passes of this time.
        mean = [value / (2 * sum(len(chosen) for _, _, chosen in probes)) for value in gradient]
        for direction in range(time * projections, (time + 1) * projections):
            ones = moved([0] * 10, [along(seed, direction, HEAD, [1])])[HEAD[0] :]
            projected.append(sum(value * sign for value, sign in zip(mean, ones, strict=True)))
        if time + 1 == len(times):
            break
        # A step of the client's own: as the round will move the model, at `local_rate` (0: `rate`).
        shares = [len(chosen) / sum(len(chosen) for _, _, chosen in probes) for _, _, chosen in probes]
        latest = found[-len(probes) :]
        mean_square += sum(share * slope * slope for share, slope in zip(shares, latest, strict=True))
        probed_down = head_down = -(spec.get("local_rate", 0) or spec["rate"]) * 2**EXPONENT
        if spec["step"] == "normalized":
            annealed, trunk = 1 - spec["done"] / spec["rounds"], mean_square / (time + 1)
            head = sum(projection**2 for projection in projected) / len(projected)
            probed_down *= annealed / math.sqrt(trunk)
            head_down *= annealed / math.sqrt(max(trunk, head))
        taken = []
        for (source, direction, _), share, slope in zip(probes, shares, latest, strict=True):
            far = probed_down * share * slope / root
            parts = [rounded(far, source, block, signs * direction + part, time) for part in range(signs)]
            taken.append(along(source, direction, block, parts))
        for direction in range(time * projections, (time + 1) * projections):
            far = head_down * projected[direction] / projections
            taken.append(along(seed, direction, HEAD, [rounded(far, seed, HEAD, direction, time)]))
        here = moved(here, taken)
        steps.append(here)
    return {
        "zeroth_order": spec,
        "seed": str(seed),
        "ticks": ticks,
        "probed": probed,
        "weights_after_local_steps": steps,
        "probes": found,
        "projections": projected,
    }


def contribution_in_parts(spec: dict[str, Any], seed: int) -> dict[str, Any]:
    """A contribution to a round of fedspzo, `slices` own and tau 1, of the model that is cut between W and U."""
    ticks, (below, above) = max(1, round(spec["eps"] * 2**EXPONENT)), spec["probes"]
    lower, upper, head = PARTS["lower"], PARTS["upper"], PARTS["head"]
    if spec["split"] == "apart":
        tried = [([(lower, index)], chosen) for index, chosen in enumerate(slices(seed, 0, below))]
        tried += [([(upper, index)], chosen) for index, chosen in enumerate(slices(seed, 1, above))]
    else:
        nests = enumerate(slices(seed, 0, below))
        tried = [([(lower, s), (upper, s * above + j)], chosen) for s, chosen in nests for j in range(above)]
    found, probed, gradient, passes = list[float](), list[Any](), [0.0] * (head[1] - head[0]), 0
    for directions, chosen in tried:
        losses = []
        for side in (ticks, -ticks):
            there = moved(PART_WEIGHTS, [along(seed, index, block, [side]) for block, index in directions])
            made = [forward(there, example) for example in chosen]
            losses.append(sum(loss for loss, _ in made) / len(chosen))
            if directions[-1][0] == upper:
                passes += len(made)
                gradient = [
                    total + sum(values) for total, *values in zip(gradient, *(part for _, part in made), strict=True)
                ]
        found.append((losses[0] - losses[1]) / (2 * ticks * 2.0**-EXPONENT))
        said = [{"start": block[0], "direction": index} for block, index in directions]
        probed.append({"along": said, "examples": chosen, "above": losses[0], "below": losses[1]})
    projected = []
    for direction in range(spec["head_projections"]):
        ones = moved([0] * 14, [along(seed, direction, head, [1])])[head[0] :]
        projected.append(sum(value / passes * sign for value, sign in zip(gradient, ones, strict=True)))
    return {
        "zeroth_order": spec,
        "seed": str(seed),
        "ticks": ticks,
        "probed": probed,
        "probes": found,
        "projections": projected,
    }


def contributions() -> dict[str, Any]:
    """One for each way to probe."""
    seed = 9876543210987654321
    plain = {"probes": 2, "head_projections": 3, "eps": 0.015625, "rate": 0.25, "step": "normalized"}
    pooled = {
        "method": "fedkseed",
        "pool": 5,
        "pool_seed": "16674047419643964532",
        "head_projections": 0,
        "probes": 3,
        "step": "raw",
        "local_rate": 0.0625,
    }
    return {
        "exponent": EXPONENT,
        "blocks": {"all": ALL, "trunk": TRUNK, "head": HEAD},
        "weights": WEIGHTS,
        "inputs": INPUTS,
        "labels": LABELS,
        "cases": {
            "signs": contribution(plain, seed),
            "gaussian": contribution({**plain, "directions": "gaussian"}, seed),
            "local_steps": contribution({**plain, "local_steps": 2, "rounds": 10, "done": 4}, seed),
            "pool": contribution({**plain, **pooled}, seed),
        },
        "in_two_parts": {
            "blocks": PARTS,
            "weights": PART_WEIGHTS,
            "cases": {
                split: contribution_in_parts(
                    {"algorithm": "fedspzo", "probes": [2, 3], "split": split, "head_projections": 3, "eps": 0.015625},
                    seed,
                )
                for split in ("apart", "nested")
            },
        },
    }


def described(seed: int, rank: int) -> list[float]:
    """What a client sends of the features of the same model in the first round of a run that whitens them: their mean square,
    their mean, and for each of the vectors of signs the mean of the features times their product with it."""
    first, count = HEAD[0], len(INPUTS[0])
    w = [tick * 2.0**-EXPONENT for tick in WEIGHTS]
    features = [[sum(w[count * row + i] * x[i] for i in range(count)) for row in range(count)] for x in INPUTS]
    sent = [sum(sum(f * f for f in example) for example in features) / len(features)]
    sent += [sum(example[place] for example in features) / len(features) for place in range(count)]
    for index in range(rank):
        bytes_ = lanes(seed, index // 8, first, count)
        signs = [1 if byte >> index % 8 & 1 else -1 for byte in bytes_]
        along = [sum(sign * f for sign, f in zip(signs, example, strict=True)) for example in features]
        for place in range(count):
            sent.append(sum(a * example[place] for a, example in zip(along, features, strict=True)) / len(features))
    return sent


def in_few_bits(values: list[float], bits: int, drawn: list[int]) -> dict[str, Any]:
    """Scalars of one kind, float32, in a byte or half of one: their bytes, and the numbers that these stand for."""
    octave, highest = (8, 128) if bits == 8 else (2, 8)
    levels = [c if c < octave else (octave + c % octave) * 2 ** (c // octave - 1) for c in range(highest)]
    exponent = -128
    while levels[-1] * 2.0**exponent < max(map(abs, values)):
        exponent += 1
    codes, numbers = [], []
    for value, word in zip(values, drawn, strict=True):
        size = abs(value) / 2.0**exponent
        code = max(c for c in range(highest) if levels[c] <= size)
        if code + 1 < highest:
            code += (word >> 11) * 2.0**-53 < (size - levels[code]) / (levels[code + 1] - levels[code])
        codes.append(code + highest if value < 0 and code else code)
        numbers.append(math.copysign(levels[code] * 2.0**exponent, value) if code else 0.0)
    if bits == 4:
        codes += [highest] * (len(codes) % 2)
        codes = [low + 16 * high for low, high in zip(codes[::2], codes[1::2], strict=True)]
    return {"exponent": exponent, "bytes": bytes([exponent + 128, *codes]).hex(), "numbers": numbers}


def scalars() -> list[dict[str, Any]]:
    """The worked contribution's scalars, and some far apart, as bytes and as nibbles."""
    spread = [0.0, 1e-30, -3e-5, 0.004, -0.25, 1.0, -1.5, 1.96875, 1.999, 7.5], [-4e9, 2.5e5, 1.0]
    worked = [-0.7344306546, 0.8292976089], [-0.5771681582, 0.4788568784, 0.6576927828]
    cases = []
    for seed, kinds in ((9876543210987654321, worked), (7, spread)):
        probes, projections = (list(struct.unpack(f"<{len(k)}f", struct.pack(f"<{len(k)}f", *k))) for k in kinds)
        drawn = words(seed, 2**62, len(probes) + len(projections))
        given = {"seed": str(seed), "probes": probes, "projections": projections}
        for name, bits in (("byte", 8), ("nibble", 4)):
            found = (
                in_few_bits(probes, bits, drawn[: len(probes)]),
                in_few_bits(projections, bits, drawn[len(probes) :]),
            )
            cases.append({**given, "scalars": name, "sent": dict(zip(("probes", "projections"), found, strict=True))})
    return cases


if __name__ == "__main__":
    made = {"contributions": contributions, "scalars": scalars}.get("".join(sys.argv[1:]), vectors)()
    json.dump(made, sys.stdout, indent=1)
    print()
