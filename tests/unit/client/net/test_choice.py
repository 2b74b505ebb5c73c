"""Which coordinator is talked to, and the seconds between attempts: on a clock of the test's, with its generators."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.client.net.choice import REST_S, SPREAD_S, STOPPING_S, Backoff, Choice

THREE = ("a:1", "b:1", "c:1")


def test_waits_grow_to_the_cap_and_begin_again() -> None:
    for _ in range(50):
        backoff, last_s = Backoff(0.2, 30.0), 0.2
        for _ in range(40):
            wait_s = backoff.next_s()
            assert 0.2 <= wait_s <= min(30.0, 3 * last_s)
            last_s = wait_s
        backoff.reset()
        assert backoff.next_s() <= 0.6


def test_a_fleet_does_not_come_back_at_one_moment() -> None:
    waits = sorted(Backoff().next_s() for _ in range(200))
    assert waits[-1] - waits[0] > 0.3


def busiest(moments: list[float], window_s: float) -> int:
    """The most within a window."""
    return max(sum(start <= at < start + window_s for at in moments) for start in moments)


def test_devices_begin_evenly() -> None:
    begun = Counter(Choice(THREE, random.Random(seed)).present for seed in range(300))
    assert min(begun[one] for one in THREE) > 70


@pytest.mark.parametrize(("stopping", "spread_s"), [(False, SPREAD_S), (True, STOPPING_S)])
def test_200_devices_of_one_that_is_killed_spread_over_seconds_and_over_the_others(
    stopping: bool, spread_s: float
) -> None:
    moments, chosen = [], Counter[str]()
    for seed in range(200):
        choice = Choice(THREE, random.Random(seed))
        choice.take("a:1")
        choice.works()
        moments.append(choice.broke("a:1", 1000.0, stopping))
        chosen[choice.present] += 1
        assert not choice.exhausted
    assert chosen["a:1"] == 0 and min(chosen["b:1"], chosen["c:1"]) > 70
    assert min(moments) >= 0.0 and 0.8 * spread_s < max(moments) < spread_s
    assert busiest(moments, spread_s / 10) < 45, "a tenth of the time brings a tenth of them, and not twice as many"


def test_everything_is_tried_before_anything_is_tried_again() -> None:
    for seed in range(50):
        choice, now, tried = Choice(THREE, random.Random(seed)), 0.0, []
        for _ in range(9):
            tried.append(choice.present)
            now += 20.0  # it takes so long to find that nobody answers, and the first has rested by then
            now += choice.broke(choice.present, now)
        for start in (0, 3, 6):
            assert sorted(tried[start : start + 3]) == sorted(THREE)


def test_what_has_broken_rests_while_there_is_another() -> None:
    for seed in range(50):
        choice = Choice(THREE, random.Random(seed))
        first = choice.present
        choice.broke(first, 0.0)
        second = choice.present
        choice.works()
        choice.broke(second, REST_S - 1)
        assert choice.present not in (first, second)
        choice.works()
        third = choice.present
        choice.broke(third, REST_S)
        assert choice.present == first, "it has rested"


def test_once_all_have_failed_waits_grow_and_each_is_asked_as_often_as_one_alone() -> None:
    choice, now, asked = Choice(THREE, random.Random(1)), 0.0, dict.fromkeys(THREE, 0)
    for _ in range(60):
        now += choice.broke(choice.present, now)
    waits = []
    for _ in range(300):
        asked[choice.present] += 1
        waits.append(choice.broke(choice.present, now))
        now += waits[-1]
    assert set(asked.values()) == {100}
    assert max(waits) <= 10.0 and sum(waits) / 100 > 10.0
    choice.works()
    assert not choice.exhausted
    assert choice.broke(choice.present, now) <= SPREAD_S and not choice.exhausted
    choice.broke(choice.present, now)
    assert choice.broke(choice.present, now) <= 0.6 / 3, "waits have begun anew"


def test_one_that_is_there_and_not_ready_is_not_waited_for_ever_longer() -> None:
    choice = Choice(("a:1",), random.Random(0))
    for _ in range(50):
        choice.hears()
        assert choice.broke("a:1", 0.0) <= 0.6


@given(st.integers(0, 1 << 32), st.integers(1, 60))
def test_one_alone_is_waited_for_as_ever(seed: int, attempts: int) -> None:
    """The waits are those of `Backoff`, whatever comes between."""
    generator = random.Random(seed)
    choice = Choice(("a:1",), generator)
    state = generator.getstate()
    backoff = Backoff(generator=generator)
    expected = [backoff.next_s() for _ in range(attempts)]
    generator.setstate(state)
    assert [choice.broke("a:1", 7.0 * n, stopping=n % 3 == 0) for n in range(attempts)] == expected
    assert choice.exhausted and choice.present == "a:1"


def test_whoever_finds_late_that_one_has_broken_follows_the_others() -> None:
    choice = Choice(THREE, random.Random(3))
    first = choice.present
    choice.broke(first, 0.0)
    second = choice.present
    for _ in range(20):
        assert choice.broke(first, 0.1) <= SPREAD_S
        assert choice.present == second


def test_where_names_change_the_present_one_stays_until_it_breaks() -> None:
    choice = Choice(("old:1",), random.Random(0))
    choice.renew(("new:1", "newer:1"))
    assert choice.present == "old:1"
    choice.works()
    choice.broke("old:1", 0.0)
    other = choice.present
    assert other in choice.options
    choice.broke(other, 0.0)
    assert {other, choice.present} == {"new:1", "newer:1"} and not choice.exhausted
    choice.renew((other,))
    choice.broke(choice.present, 0.0)
    assert choice.present == other
    assert set(choice._broke_at) <= {"new:1", "newer:1"}, "of what is no more nothing is remembered"
