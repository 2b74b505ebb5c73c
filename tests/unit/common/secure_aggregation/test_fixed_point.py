"""Sums in fixed point, against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.secure_aggregation.fixed_point import WEIGHT_BITS, decoded, encoded, exponents, whole_weights

LIMITS = st.floats(1e-9, 1e12)


@given(LIMITS, st.lists(st.tuples(st.integers(1, 1 << 48), st.floats(-1, 1)), min_size=1, max_size=40))
def test_a_sum_is_exact_in_its_units_and_never_overflows(limit: float, given_: list[tuple[int, float]]) -> None:
    weights = whole_weights([count for count, _ in given_])
    total, limits = sum(weights), np.array([limit])
    unit = Fraction(2) ** -int(exponents(limits, total)[0])
    values = [limit * share for _, share in given_]
    sums = np.zeros(1, np.uint64)
    exact = Fraction(0)
    for value, weight in zip(values, weights, strict=True):
        sums += encoded(np.array([value]), limits, weight, total)
        exact += weight * round(Fraction(value) / unit)
    assert abs(exact) < 1 << 63
    assert int(sums.view(np.int64)[0]) == exact
    mean = decoded(sums, limits, total, total)[0]
    true = sum((weight * Fraction(value) for value, weight in zip(values, weights, strict=True)), Fraction(0)) / total
    assert abs(Fraction(mean) - true) <= unit + abs(true) / 2**50
    assert unit <= Fraction(limit) * 4 * total / 2**61


@given(st.lists(st.integers(1, 1 << 48), min_size=1, max_size=100))
def test_weights_are_the_counts_unless_these_are_too_many(counts: list[int]) -> None:
    weights = whole_weights(counts)
    if sum(counts) < 1 << WEIGHT_BITS:
        assert weights == counts
    assert min(weights) >= 1 and sum(weights) <= (1 << WEIGHT_BITS) + len(counts)


def test_what_is_beyond_its_limit_is_refused_at_both_ends() -> None:
    limits = np.array([1.0, 2.0])
    for wrong in (1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="beyond the limit"):
            encoded(np.array([wrong, 0.0]), limits, 1, 10)
    hostile = np.array([1 << 62, 0], np.uint64)
    with pytest.raises(ValueError, match="a device gave something else"):
        decoded(hostile, limits, 10, 10)
