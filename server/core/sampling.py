"""Sampling of a round's participants and seeds.

Both are functions of a key and the round alone, over the clients in ascending order: the same on every machine and whatever
order clients arrived in. The key is a secret of the run, 256 random bits which never leave the coordinator, so that nobody
else can compute a draw before it is made, or choose a name that is drawn more often. Where the run file asks for reproducible
draws, the key is its seed, and whoever knows the seed can compute every draw.
"""

import functools
import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

SLOT_BITS = 20
FEISTEL_ROUNDS = 4
"""Enough for a strong pseudorandom permutation (Luby and Rackoff, 1988)."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The draws of one run.

    Args:
        seed: The run file's.
        secret: 64 hex digits, or empty: the draws then follow from `seed`.
    """

    seed: int
    secret: str = field(default="", repr=False)

    def participants(self, round: int, eligible: Iterable[str], count: int) -> tuple[str, ...]:
        """At most `count` of the eligible clients, each equally likely, in ascending order."""
        start, sha256 = f"draw/{self.secret or self.seed}/{round}/".encode(), hashlib.sha256
        # Thousands are looked at for each round: what is compared are the first bytes of the hashes, as they are.
        hashed = ((sha256(start + client.encode()).digest()[:8], client) for client in eligible)
        return tuple(sorted(client for _, client in heapq.nsmallest(count, hashed)))

    def seeds(self, round: int, count: int) -> tuple[int, ...]:
        """`count` seeds of 64 bits, distinct from each other and from those of every other round of the run: the round,
        encrypted by the secret where there is one, and the slot are packed side by side and masked."""
        if count >= 1 << SLOT_BITS or round >= 1 << (64 - SLOT_BITS):
            raise ValueError(
                f"{count} participants in round {round} exceed 2^{SLOT_BITS} slots or 2^{64 - SLOT_BITS} rounds"
            )
        first = (_encrypted(self.secret, round) if self.secret else round) << SLOT_BITS
        mask = _hash(f"seed/{self.secret or self.seed}")
        return tuple(mask ^ (first | slot) for slot in range(count))


@functools.cache
def pool_seed(run_seed: int) -> int:
    """The stream of the directions that every round of a run shares, where its algorithm has such. Clients know it. Asked at
    each contribution."""
    return _hash(f"pool/{run_seed}")


def _encrypted(secret: str, round: int) -> int:
    """The round's number, encrypted within its bits by a Feistel network: a permutation, so no two rounds meet."""
    left, right = round >> _HALF_BITS, round & _HALF
    for number in range(FEISTEL_ROUNDS):
        left, right = right, left ^ _hash(f"round/{secret}/{number}/{right}") & _HALF
    return left << _HALF_BITS | right


_HALF_BITS = (64 - SLOT_BITS) // 2
_HALF = (1 << _HALF_BITS) - 1


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
