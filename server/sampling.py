"""Who takes part in a round, and with which seeds.

Both are functions of the run's seed and the round alone, over the clients in ascending order, by SHA-256: the same on
every machine and whatever order clients arrived in.
"""

import hashlib
from collections.abc import Iterable

SLOT_BITS = 20


def draw(run_seed: int, round: int, eligible: Iterable[str], count: int) -> tuple[str, ...]:
    """At most `count` of the eligible clients, each equally likely, in ascending order."""
    drawn = sorted(eligible, key=lambda client: (_hash(f"draw/{run_seed}/{round}/{client}"), client))[:count]
    return tuple(sorted(drawn))


def seeds(run_seed: int, round: int, count: int) -> tuple[int, ...]:
    """`count` seeds of 64 bits, distinct from each other and from those of every other round of the run: round and
    slot are packed side by side and masked by the run's key, which no two can share."""
    if count >= 1 << SLOT_BITS or round >= 1 << (64 - SLOT_BITS):
        raise ValueError(
            f"{count} participants in round {round} exceed 2^{SLOT_BITS} slots or 2^{64 - SLOT_BITS} rounds"
        )
    key = _hash(f"seed/{run_seed}")
    return tuple(key ^ (round << SLOT_BITS | slot) for slot in range(count))


def pool_seed(run_seed: int) -> int:
    """The stream of the directions that every round of a run shares, where its method has such."""
    return _hash(f"pool/{run_seed}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
