"""Seconds between attempts."""

from zowarmup.client.net.retrying import Backoff


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
