from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.server.core.sampling import Draws

NAMES = st.sets(st.text("abcdef0123456789-", min_size=1, max_size=8), max_size=30)
SECRET = "0123456789abcdef" * 4
DRAWS = st.builds(Draws, st.integers(0, 2**63 - 1), st.sampled_from(["", SECRET, "f" * 64]))


@given(NAMES, DRAWS, st.integers(1, 10**6), st.integers(0, 40), st.randoms())
def test_a_draw_depends_on_who_is_there_and_not_on_their_order(names, draws, round, count, chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = sorted(names)
    chance.shuffle(shuffled)
    drawn = draws.participants(round, shuffled, count)
    assert drawn == draws.participants(round, sorted(names), count)
    assert list(drawn) == sorted(set(drawn)) and set(drawn) <= names
    assert len(drawn) == min(count, len(names))


@pytest.mark.parametrize("secret", ["", SECRET])
def test_every_client_is_drawn_about_as_often(secret: str) -> None:
    names = [f"pi-{i}" for i in range(10)]
    often = Counter(name for round in range(1, 2001) for name in Draws(7, secret).participants(round, names, 3))
    assert all(500 < often[name] < 700 for name in names)  # 600 expected, standard deviation 20


@pytest.mark.parametrize("name", ["", "0", "a", "pi-0", "zzzz", "x" * 63])
def test_a_name_does_not_move_how_often_a_device_is_drawn(name: str) -> None:
    """Nor does the one that would be drawn most often if the draws followed from the seed."""
    others = [f"pi-{i}" for i in range(1, 10)]
    rounds = range(1, 2001)
    if not name:  # by who knows the seed, of two hundred names the best for the next twenty rounds
        rounds = range(1, 21)
        known = Draws(7)
        name = max(
            (f"n{i}" for i in range(200)),
            key=lambda tried: sum(tried in known.participants(round, [*others, tried], 3) for round in rounds),
        )
        assert sum(name in known.participants(round, [*others, name], 3) for round in rounds) >= 12, "6 are its share"
    drawn = 0
    for number in range(2000 // len(rounds)):
        draws = Draws(7, f"{number:064x}")
        drawn += sum(name in draws.participants(round, [*others, name], 3) for round in rounds)
    assert 500 < drawn < 700


def test_equal_seeds_and_clients_do_not_make_equal_draws() -> None:
    """All that is public is equal. What is drawn is as different as by chance."""
    names = [f"pi-{i}" for i in range(10)]
    one, other, public = Draws(7, SECRET), Draws(7, "f" * 64), Draws(7)
    for first, second in ((one, other), (one, public), (other, public)):
        rounds = range(1, 1001)
        same = sum(first.participants(n, names, 3) == second.participants(n, names, 3) for n in rounds)
        assert same < 30, "1 in 120 by chance"
        assert not {s for n in rounds for s in first.seeds(n, 5)} & {s for n in rounds for s in second.seeds(n, 5)}


def test_the_seeds_of_past_rounds_do_not_tell_the_next() -> None:
    """As they do by a mask, which one seed gives away. With a secret, all bits that a round decides are as good as random."""
    draws = Draws(7, SECRET)
    flips: Counter[int] = Counter()
    for round in range(1, 1001):
        (before,), (after,) = draws.seeds(round, 1), draws.seeds(round + 1, 1)
        flips.update(bit for bit in range(64) if (before ^ after) >> bit & 1)
    assert all(400 < flips[bit] < 600 for bit in range(20, 64))  # 500 expected, standard deviation 16
    masked = {Draws(7).seeds(round, 1)[0] ^ (round << 20) for round in range(1, 1001)}
    assert len(masked) == 1, "which is why it is for who asks for reproducible draws only"


@given(DRAWS, st.integers(1, 2**40), st.integers(1, 2**40))
def test_seeds_of_a_run_never_meet(draws: Draws, one: int, other: int) -> None:
    first, second = draws.seeds(one, 50), draws.seeds(other, 50)
    assert len(set(first)) == 50
    assert one == other or not set(first) & set(second)
    assert all(0 <= seed < 2**64 for seed in first)


def test_the_secret_is_not_in_what_a_log_would_show() -> None:
    assert SECRET not in repr(Draws(7, SECRET))


def test_golden_draws_and_seeds() -> None:
    """A run continued by a later version must draw as it began."""
    assert Draws(7).seeds(1, 2) == (439715107498064571, 439715107498064570)
    assert Draws(7).participants(3, ["a", "b", "c", "d"], 2) == ("a", "d")
    assert Draws(7, SECRET).seeds(1, 2) == (1222667977839771209, 1222667977839771208)
    assert Draws(7, SECRET).participants(3, ["a", "b", "c", "d"], 2) == ("b", "d")
