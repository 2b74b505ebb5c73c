"""Noise that devices add together: how much the sum has, what one example moves it by, and that it is exact on the grid."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from zowarmup.common.algorithms.gaussian_privacy import delta_of
from zowarmup.common.algorithms.private_release import Mechanism
from zowarmup.common.algorithms.shared_noise import FURTHEST, NoiseShares
from zowarmup.common.secure_aggregation.fixed_point import WEIGHT_BITS
from zowarmup.common.settings.privacy import MOST_MULTIPLIER

ANY = st.floats(width=64, allow_nan=True, allow_infinity=True)
CLIENTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=3, max_size=6)


def clipped(shares: NoiseShares, contributions: NDArray[np.float64]) -> NDArray[np.float64]:
    """As a device has it: by the mechanism of the whole noise."""
    return Mechanism(shares.clip, shares.multiplier, np.zeros).clipped(contributions)


@pytest.mark.parametrize("fewest", [1, 4, 9])
def test_what_the_fewest_devices_add_has_the_noise_that_is_asked_for(fewest: int) -> None:
    draws, shares = np.random.default_rng(5), NoiseShares(0.5, 3.0, fewest)
    nothing = np.zeros(40)
    sums = np.zeros((500, 40), np.uint64)
    for row in sums:
        for _ in range(fewest):
            row += shares.added(nothing, 1, 1, draws.standard_normal(40))
    found = np.stack([shares.mean(row, 1, fewest) for row in sums])
    bound = 2 * 0.5 * math.sqrt(40)  # what one example moves
    assert found.std() == pytest.approx(3.0 * bound, rel=0.02)
    assert abs(found.mean()) < 4 * 3.0 * bound / math.sqrt(found.size)


@given(CLIENTS, st.data(), st.floats(0.01, 100), st.floats(0.1, 50), st.integers(1, 5), st.integers(1, 12))
def test_another_example_of_any_device_moves_the_sum_by_the_bound_at_most(
    sizes: list[tuple[int, int]], data: st.DataObject, clip: float, multiplier: float, fewest: int, count: int
) -> None:
    """Whatever the examples are, and however little a device's count."""
    shares = NoiseShares(clip, multiplier, fewest)
    draws = np.random.default_rng(data.draw(st.integers(0, 1000)))
    fleet = [(draws.normal(size=(examples, count)), min(weight, examples)) for examples, weight in sizes]
    which = data.draw(st.integers(0, len(fleet) - 1))
    other = fleet[which][0].copy()
    other[0] = data.draw(hnp.arrays(np.float64, count, elements=ANY))

    def summed(replaced: NDArray[np.float64] | None) -> NDArray[np.int64]:
        total = np.zeros(count, np.uint64)
        for number, (each, weight) in enumerate(fleet):
            own = each if replaced is None or number != which else replaced
            total += shares.added(clipped(shares, own), weight, len(own), np.zeros(count))
        return total.view(np.int64)

    moved = (summed(None) - summed(other)).astype(np.float64)
    assert np.linalg.norm(moved) * shares.step(count) <= 2 * clip * math.sqrt(count)


def test_the_bound_is_met() -> None:
    shares, there = NoiseShares(1.0, 2.0, 3), np.full((1, 16), 1e300)
    ends = [shares.added(clipped(shares, side * there), 1, 1, np.zeros(16)).view(np.int64) for side in (1, -1)]
    assert 7.99 < np.linalg.norm((ends[0] - ends[1]).astype(np.float64)) * shares.step(16) <= 8


@given(CLIENTS, st.integers(0, 1000), st.floats(0.1, 20))
def test_the_sum_is_that_of_whole_numbers_and_its_mean_that_of_the_clipped_examples(
    sizes: list[tuple[int, int]], seed: int, clip: float
) -> None:
    """Nothing is lost by adding modulo 2^64, in whichever order; and against the definition in float64, to the grid."""
    shares, draws, count = NoiseShares(clip, 0.5, 2), np.random.default_rng(seed), 5
    fleet = [(3 * draws.normal(size=(examples, count)), min(weight, examples)) for examples, weight in sizes]
    normal = [draws.standard_normal(count) for _ in fleet]
    parts = [
        shares.added(clipped(shares, each), weight, len(each), noise)
        for (each, weight), noise in zip(fleet, normal, strict=True)
    ]
    forward, backward = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    for part, last in zip(parts, reversed(parts), strict=True):
        forward += part
        backward += last
    exact = [sum(int(part.view(np.int64)[place]) for part in parts) for place in range(count)]
    assert (forward == backward).all() and forward.view(np.int64).tolist() == exact
    total = sum(weight for _, weight in fleet)
    wanted = np.zeros(count)
    most = clip * math.sqrt(count) * (1 - 0.5 * math.sqrt(count) / 2**16)
    for (each, weight), noise in zip(fleet, normal, strict=True):
        lengths = np.linalg.norm(each, axis=1)
        wanted += weight / len(each) * (each * np.minimum(1, most / lengths)[:, None]).sum(0)
        wanted += noise * 0.5 * 2 * clip * math.sqrt(count) / math.sqrt(2)
    assert shares.mean(forward, total, len(fleet)) == pytest.approx(
        wanted / total, abs=2 * len(fleet) * shares.step(count) / total, rel=1e-6
    )


def test_no_sum_overflows() -> None:
    """Of as many devices and examples as there may be, all far off on one side."""
    for shares in (NoiseShares(1e6, 0.01, 667), NoiseShares(1e-6, MOST_MULTIPLIER, 1)):
        steps = ((1 << WEIGHT_BITS) + 1000) * shares.clip * 90 / shares.step(90 * 90)
        assert steps + 1000 * (FURTHEST * 2**16 + 1) < 2**62


def test_what_cannot_have_been_added_is_refused() -> None:
    shares = NoiseShares(1.0, 2.0, 3)
    with pytest.raises(ValueError, match="7 examples cannot count as 8"):
        shares.added(np.zeros(4), 8, 7, np.zeros(4))
    with pytest.raises(ValueError, match="a device added something else than its part"):
        shares.mean(np.array([1 << 62, 0], np.uint64), 100, 5)


@pytest.mark.parametrize("devices", [2, 5])
def test_a_sum_of_rounded_noises_tells_no_more_than_the_accountant_says(devices: int) -> None:
    """The exact distribution of what is summed, on grids that are coarser by far than the true one, whose standard deviation has 2^16
    steps: what is above the accountant's delta falls with the square of the step."""
    above = []
    for deviation in (16, 64):
        reach = 12 * deviation
        edges = [NormalDist(0, deviation).cdf(k + 0.5) for k in range(-reach - 1, reach + 1)]
        one = np.diff(edges)
        whole = one
        for _ in range(devices - 1):
            whole = np.convolve(whole, one)
        moved = round(deviation * math.sqrt(devices) / 0.7)
        multiplier = deviation * math.sqrt(devices) / moved
        padding = np.zeros(moved)
        here, there = np.concatenate([whole, padding]), np.concatenate([padding, whole])
        deltas = [
            (float(np.maximum(here - math.exp(epsilon) * there, 0).sum()), delta_of(epsilon, multiplier, 1))
            for epsilon in (0.5, 1.0, 2.0, 4.0)
        ]
        above.append(max(found / said - 1 for found, said in deltas))
        assert all(found >= 0.9 * said for found, said in deltas)
    assert above[0] < 1e-3 and above[1] < 1e-4
