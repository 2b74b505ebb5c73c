"""The accountant: against published values, a kept accountant that adds up privacy losses, and the definition itself."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.algorithms.gaussian_privacy import MOST_EPSILON, delta_of, epsilon_of, multiplier_for

MULTIPLIERS, RELEASES = st.floats(0.05, 500), st.integers(1, 10_000)
DELTAS, EPSILONS = st.sampled_from([1e-2, 1e-5, 1e-6, 1e-9]), st.floats(0.05, 50)


@pytest.mark.parametrize(
    ("noise", "epochs", "epsilon"), [(1.3, 15, 0.83), (1.1, 60, 2.32), (0.7, 45, 5.07), (1.06, 20, 1.34)]
)
def test_published_values(noise: float, epochs: int, epsilon: float) -> None:
    """Bu, Dong, Long, Su, arXiv 1911.11607: MNIST's three settings, and the first of figure 4, in batches of 256 of 60,000, at delta
    1e-5. By the central limit theorem their training is as private as one release of the multiplier 1 / mu."""
    mu = 256 / 60_000 * math.sqrt(epochs * 60_000 / 256) * math.sqrt(math.exp(noise**-2) - 1)
    assert epsilon_of(1 / mu, 1, 1e-5) == pytest.approx(epsilon, abs=0.005)


@pytest.mark.parametrize(
    ("multiplier", "releases", "delta", "epsilon"),
    [
        (1.0, 1, 1e-5, 4.37717810002493),
        (5.0, 100, 1e-5, 9.99725615024243),
        (20.0, 150, 1e-5, 2.501739987745278),
        (2.0, 10, 1e-6, 8.306225053649792),
        (0.6, 1, 1e-5, 8.003691057033608),
        (100.0, 1000, 1e-5, 1.1993695877381323),
    ],
)
def test_what_dp_accounting_comes_to(multiplier: float, releases: int, delta: float, epsilon: float) -> None:
    """`dp-accounting` 0.6.0 adds up privacy losses (`python -m benchmarks.privacy.accountants`). It rounds up."""
    found = epsilon_of(multiplier, releases, delta)
    assert found <= epsilon
    assert found == pytest.approx(epsilon, abs=2e-8)


@given(MULTIPLIERS, RELEASES, DELTAS)
def test_epsilon_is_the_least_that_delta_allows(multiplier: float, releases: int, delta: float) -> None:
    epsilon = epsilon_of(multiplier, releases, delta)
    if math.isinf(epsilon):
        assert delta_of(MOST_EPSILON, multiplier, releases) > delta
        return
    assert delta_of(epsilon, multiplier, releases) <= delta
    if epsilon > 1e-3:
        assert delta_of(epsilon * (1 - 1e-6), multiplier, releases) > delta


@given(EPSILONS, DELTAS, RELEASES)
def test_the_noise_for_a_budget_keeps_it_and_no_less_does(epsilon: float, delta: float, releases: int) -> None:
    multiplier = multiplier_for(epsilon, delta, releases)
    assert epsilon_of(multiplier, releases, delta) <= epsilon * (1 + 1e-12)
    assert epsilon_of(multiplier * (1 - 1e-6), releases, delta) > epsilon


@given(MULTIPLIERS, RELEASES, DELTAS)
def test_more_releases_tell_more_and_more_noise_less(multiplier: float, releases: int, delta: float) -> None:
    epsilon = epsilon_of(multiplier, releases, delta)
    assert epsilon_of(multiplier, releases + 1, delta) >= epsilon >= epsilon_of(multiplier * 1.1, releases, delta)


def test_nothing_is_told_by_no_release() -> None:
    assert epsilon_of(1.0, 0, 1e-5) == delta_of(0.0, 1.0, 0) == 0.0
