"""Scalars rounded to a byte or half of one: without bias, within the levels beside them, and as the golden file has them."""

import json
import runpy
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.algorithms import zeroth_order_settings
from tests.faults.small import LAYOUT
from zowarmup.common.algorithms.directional_derivatives import as_float32
from zowarmup.common.algorithms.protocol import ClientScalars, Start
from zowarmup.common.algorithms.scalar_rounding import rounded
from zowarmup.common.algorithms.zowarmup import ZOWarmUp
from zowarmup.common.exact.grid import Grid
from zowarmup.common.messages.small_floats import Precision, exponent, levels, unpack
from zowarmup.common.messages.values import Scalars

GOLDEN = Path(__file__).parents[3] / "golden"
CASES = json.loads((GOLDEN / "scalars.json").read_text())
FEW_BITS = [Precision.BYTE, Precision.NIBBLE]
float32s = st.floats(width=32, min_value=-(2.0**32), max_value=2.0**32, allow_nan=False)


def beside(value: float, values: tuple[float, ...], precision: Precision) -> tuple[Fraction, Fraction]:
    """The magnitudes that a scalar may become, exactly."""
    unit = Fraction(2) ** exponent(values, precision)
    numbers = [level * unit for level in levels(precision)]
    size = abs(Fraction(value))
    return max(n for n in numbers if n <= size), min(n for n in numbers if n >= size)


@given(
    st.sampled_from(FEW_BITS),
    st.lists(float32s, max_size=12),
    st.lists(float32s, max_size=5),
    st.integers(0, 2**64 - 1),
)
def test_a_scalar_becomes_a_number_beside_it(
    precision: Precision, probes: list[float], projections: list[float], seed: int
) -> None:
    given_ = Scalars(3, tuple(probes), tuple(projections))
    found = rounded(given_, precision, seed)
    assert rounded(given_, precision, seed) == found, "asked again, the same"
    assert (found.round, found.precision) == (3, precision)
    assert rounded(found, precision, seed + 1 & 2**64 - 1) == found, "what is there already stays"
    for before, after in ((given_.probes, found.probes), (given_.projections, found.projections)):
        assert len(before) == len(after)
        for value, number in zip(before, after, strict=True):
            assert abs(Fraction(number)) in beside(value, before, precision)
            assert number * value >= 0 and (value or not number)
            low, high = beside(value, before, precision)
            if precision is Precision.BYTE and low >= 8 * Fraction(2) ** exponent(before, precision):
                assert high - low <= abs(Fraction(value)) / 8


def test_float32_stays_as_it_is() -> None:
    scalars = Scalars(1, (0.1, 1e-30), (3.3,))
    assert rounded(scalars, Precision.FLOAT32, 5) is scalars


@pytest.mark.parametrize("precision", FEW_BITS)
def test_the_mean_over_seeds_is_the_scalar_and_the_spread_what_is_said(precision: Precision) -> None:
    chance = np.random.default_rng(4)
    values = np.concatenate([chance.normal(size=24), chance.normal(size=6) * 1e-3, [0.0, 1e-12]]).astype(np.float32)
    scalars = Scalars(1, tuple(values.tolist()), tuple((-values[:3]).tolist()))
    seeds = 4_000
    sums, squares = np.zeros(values.size), np.zeros(values.size)
    for seed in range(seeds):
        errors = np.array(rounded(scalars, precision, seed).probes) - values
        sums += errors
        squares += errors**2
    expected = np.array(
        [
            float((high - abs(Fraction(v))) * (abs(Fraction(v)) - low))
            for v in scalars.probes
            for low, high in [beside(v, scalars.probes, precision)]
        ]
    )
    # Five standard deviations of a mean of so many.
    assert np.all(np.abs(sums / seeds) <= 5 * np.sqrt(expected / seeds) + 1e-12)
    assert squares.sum() / seeds == pytest.approx(expected.sum(), rel=0.05)
    large = np.abs(values) > np.abs(values).max() / 10_000
    share = np.sqrt(expected[large]) / np.abs(values[large])
    if precision is Precision.BYTE:
        assert share.max() <= 288**-0.5


def test_the_kinds_and_the_scalars_of_a_kind_are_rounded_independently() -> None:
    scalars = Scalars(1, (5.0, 5.0, 12.0), (5.0, 5.0, 12.0))
    found = [rounded(scalars, Precision.NIBBLE, seed) for seed in range(2000)]
    ups = np.array([[value == 6 for value in (*one.probes[:2], *one.projections[:2])] for one in found], dtype=float)
    assert ups.mean(axis=0) == pytest.approx([0.5] * 4, abs=0.06)
    assert np.abs(np.corrcoef(ups.T) - np.eye(4)).max() < 0.12


@pytest.mark.parametrize(("precision", "least", "most"), [("byte", 0.12, 0.16), ("nibble", 2.4, 4.2)])
def test_few_bits_add_little_to_the_variance(precision: str, least: float, most: float) -> None:
    chance = np.random.default_rng(6)
    for draw in (chance.standard_normal, lambda size: chance.standard_t(4, size)):
        scalars = [Scalars(1, as_float32(np.asarray(draw(32)).tolist()), ()) for _ in range(1000)]
        added = sum(
            np.sum(np.subtract(rounded(one, Precision(precision), seed).probes, one.probes) ** 2)
            for seed, one in enumerate(scalars)
        )
        assert least <= 100 * added / sum(np.sum(np.square(one.probes)) for one in scalars) <= most


def test_the_numbers_are_aggregated_and_clipped_whatever_they_travelled_as() -> None:
    algorithm = ZOWarmUp(zeroth_order_settings(rounds=9, scalars="nibble"), LAYOUT)
    chance, start = np.random.default_rng(8), Start(np.ones(LAYOUT.size, dtype=np.float32), Grid(18))
    parts = [
        ClientScalars(
            seed,
            40,
            rounded(
                Scalars(1, *(as_float32((scale * chance.normal(size=32)).tolist()) for _ in range(2))),
                Precision.NIBBLE,
                seed,
            ),
        )
        for seed, scale in enumerate((1.0, 2.0, 0.01, 1.0, 1e6))
    ]
    floats = [part._replace(scalars=replace(part.scalars, precision=Precision.FLOAT32)) for part in parts]
    found = algorithm.aggregate(start, parts)
    assert found == algorithm.aggregate(start, floats)
    assert found.clipped_scalars == 64


def test_the_golden_scalars_are_what_the_reference_makes() -> None:
    assert runpy.run_path(str(GOLDEN / "reference.py"))["scalars"]() == CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['scalars']}-{case['seed'][:3]}")
def test_golden_scalars_become_the_golden_numbers(case: dict[str, Any]) -> None:
    precision = Precision(case["scalars"])
    found = rounded(Scalars(1, tuple(case["probes"]), tuple(case["projections"])), precision, int(case["seed"]))
    assert list(found.probes) == case["sent"]["probes"]["numbers"]
    assert list(found.projections) == case["sent"]["projections"]["numbers"]
    for sent in case["sent"].values():
        assert list(unpack(bytes.fromhex(sent["bytes"]), precision)) == sent["numbers"]
