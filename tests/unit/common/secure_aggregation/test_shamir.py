"""Shamir's sharing: any threshold of shares, and no fewer."""

import random as pseudo
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.secure_aggregation.shamir import (
    MOST_SHARES,
    PRIME,
    SECRET_BYTES,
    SHARE_BYTES,
    _values,
    recovered,
    shares,
    weights_at_0,
)


def test_the_field_has_a_prime_number_of_elements() -> None:
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):  # Miller and Rabin's test
        odd, twos = PRIME - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        powers = [pow(base, odd << n, PRIME) for n in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES), st.integers(1, 20), st.integers(0, 12), st.integers(0))
def test_any_so_many_shares_give_the_secret_back(secret: bytes, threshold: int, more: int, seed: int) -> None:
    draws = pseudo.Random(seed)
    made = shares(secret, threshold, threshold + more, draws.randbytes)
    assert {len(share) for share in made} == {SHARE_BYTES}
    chosen = draws.sample(range(1, len(made) + 1), threshold)
    assert recovered({number: made[number - 1] for number in chosen}) == secret


@pytest.mark.parametrize("coefficient", [0, 1, PRIME - 1, (1 << 128) - 1, 0x1234567 << 96])
def test_each_share_is_the_polynomials_value_up_to_the_most_there_can_be(coefficient: int) -> None:
    """In exact numbers; the limbs that they are computed in are largest where all bits are ones."""
    found = _values([PRIME - 1, *[coefficient] * 40], MOST_SHARES - 1)
    for x in (1, 2, 3, 999, 1000, MOST_SHARES - 2, MOST_SHARES - 1):
        assert found[x - 1] == sum(c * x**power for power, c in enumerate([*[coefficient] * 40, PRIME - 1])) % PRIME


def test_one_share_fewer_says_nothing() -> None:
    """With 2 of 3 needed, a share of one secret is as likely that of another: of two secrets its bytes are spread alike."""
    draws = pseudo.Random(0)
    spread = [
        Counter(shares(secret, 2, 3, draws.randbytes)[0][0] >> 5 for _ in range(4000))
        for secret in (bytes(16), b"\xff" * 16)
    ]
    for counts in spread:
        assert all(abs(counts[part] - 500) < 110 for part in range(8))  # a standard deviation is 21


def test_what_is_no_share_is_refused() -> None:
    made = shares(bytes(16), 2, 3, pseudo.Random(1).randbytes)
    with pytest.raises(ValueError, match="not in the field"):
        recovered({1: made[0], 2: b"\xff" * SHARE_BYTES})
    with pytest.raises(ValueError, match="different"):
        weights_at_0([1, 1])
    with pytest.raises(ValueError, match="4 of 3"):
        shares(bytes(16), 4, 3, pseudo.Random(1).randbytes)
