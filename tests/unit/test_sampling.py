from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zowarmup.server.sampling import draw, seeds

NAMES = st.sets(st.text("abcdef0123456789-", min_size=1, max_size=8), max_size=30)


@given(NAMES, st.integers(0, 2**63 - 1), st.integers(1, 10**6), st.integers(0, 40), st.randoms())
def test_a_draw_depends_on_who_is_there_and_not_on_their_order(names, seed, round, count, chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = sorted(names)
    chance.shuffle(shuffled)
    drawn = draw(seed, round, shuffled, count)
    assert drawn == draw(seed, round, sorted(names), count)
    assert list(drawn) == sorted(set(drawn)) and set(drawn) <= names
    assert len(drawn) == min(count, len(names))


def test_every_client_is_drawn_about_as_often() -> None:
    names = [f"pi-{i}" for i in range(10)]
    often = Counter(name for round in range(1, 2001) for name in draw(7, round, names, 3))
    assert all(500 < often[name] < 700 for name in names)  # 600 expected, standard deviation 20


@given(st.integers(0, 2**63 - 1), st.integers(1, 2**40), st.integers(1, 2**40))
def test_seeds_of_a_run_never_meet(run_seed: int, one: int, other: int) -> None:
    first, second = seeds(run_seed, one, 50), seeds(run_seed, other, 50)
    assert len(set(first)) == 50
    assert one == other or not set(first) & set(second)
    assert all(0 <= seed < 2**64 for seed in first)


def test_golden_draws_and_seeds() -> None:
    """A run continued by a later version must draw as it began."""
    assert seeds(7, 1, 2) == (439715107498064571, 439715107498064570)
    assert draw(7, 3, ["a", "b", "c", "d"], 2) == ("a", "d")
