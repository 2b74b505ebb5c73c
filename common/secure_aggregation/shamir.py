"""Shamir's secret sharing (Communications of the ACM 22, 1979) of secrets of 128 bits.

A secret is the value at 0 of a random polynomial over the field of PRIME elements; share x is its value at x, 1 and up. Any
`threshold` shares give the secret back, and fewer say nothing about it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

PRIME = (1 << 128) + 51
"""The least prime above 2^128."""
SECRET_BYTES = 16
SHARE_BYTES = 17
MOST_SHARES = 1 << 14


def shares(secret: bytes, threshold: int, count: int, random: Callable[[int], bytes]) -> list[bytes]:
    """Share a secret.

    Args:
        secret: SECRET_BYTES.
        threshold: How many shares give it back, 1 to `count`.
        count: How many shares there are.
        random: Gives so many random bytes.

    Returns:
        Shares 1 to `count`, SHARE_BYTES each.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= count < MOST_SHARES:
        raise ValueError(f"a secret of {len(secret)} bytes cannot be shared {threshold} of {count}")
    # 24 bytes modulo a prime of 129 bits are uniform but for 2^-63.
    coefficients = [int.from_bytes(random(24), "little") % PRIME for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "little"))
    return [value.to_bytes(SHARE_BYTES, "little") for value in _values(coefficients, count)]


def _values(coefficients: Sequence[int], count: int) -> list[int]:
    """Of the polynomial, highest power first, at 1 to `count`: by Horner's rule at all places at once, a number in five limbs of 32
    bits, of which what is carried beyond 2^128 comes back as 51 times its negative."""
    text = b"".join(coefficient.to_bytes(20, "little") for coefficient in coefficients)
    limbs = np.frombuffer(text, "<u4").reshape(-1, 5, 1).astype(np.int64)
    x, value = np.arange(1, count + 1), np.zeros((5, count), np.int64)
    for place, limb in enumerate(limbs):
        value *= x
        value += limb
        if place % 2 or place + 1 == len(limbs):  # x below 2^14: twice in a row stays below 2^63
            for low in range(4):
                value[low + 1] += value[low] >> 32
                value[low] &= 0xFFFFFFFF
            value[0] -= 51 * value[4]
            value[4] = 0
    return [sum(limb << 32 * place for place, limb in enumerate(one)) % PRIME for one in value.T.tolist()]


def weights_at_0(places: Sequence[int]) -> list[int]:
    """Lagrange's weights: the value at 0 of a polynomial is the sum of so many times its values at these places.

    Args:
        places: Different numbers from 1 up, as many as the polynomial has coefficients.
    """
    if len(set(places)) < len(places) or min(places, default=0) < 1:
        raise ValueError("the numbers of shares must be different, and at least 1")
    found = []
    for x in places:
        above = below = 1
        for other in places:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return found


def recovered(given: Mapping[int, bytes], weights: Sequence[int] | None = None) -> bytes:
    """The secret of as many shares as its threshold asks for.

    Args:
        given: Shares by their number, from 1.
        weights: `weights_at_0` of these numbers, where they are known.

    Raises:
        ValueError: They are not shares of one secret of SECRET_BYTES.
    """
    values = [int.from_bytes(share, "little") for share in given.values()]
    if any(value >= PRIME for value in values):
        raise ValueError("a share is not in the field")
    weights = weights_at_0(list(given)) if weights is None else weights
    secret = sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME
    if secret >> 8 * SECRET_BYTES:
        raise ValueError("the shares are not of one secret")
    return secret.to_bytes(SECRET_BYTES, "little")
