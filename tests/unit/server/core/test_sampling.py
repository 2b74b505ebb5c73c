from collections import Counter
from collections.abc import Iterable
from itertools import combinations, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.server.core.sampling import Draws
from zowarmup.server.core.sorted_names import SortedNames

NAMES = st.sets(st.text("abcdef0123456789-", min_size=1, max_size=8), max_size=30)
SECRET = "0123456789abcdef" * 4
DRAWS = st.builds(Draws, st.integers(0, 2**63 - 1), st.sampled_from(["", SECRET, "f" * 64]))


def drawn(draws: Draws, round: int, names: Iterable[str], count: int) -> tuple[str, ...]:
    return tuple(sorted(islice(draws.order(round, [SortedNames(names)]), count)))


@given(NAMES, NAMES, DRAWS, st.integers(1, 10**6), st.integers(0, 70), st.randoms())
def test_a_draw_depends_on_who_is_there_and_not_on_their_order(high, low, draws, round, count, chance) -> None:  # type: ignore[no-untyped-def]
    groups = [{f"{name}+" for name in high}, low]
    shuffled = [sorted(names) for names in groups]
    for names in shuffled:
        chance.shuffle(names)
    order = list(draws.order(round, [*map(SortedNames, shuffled)]))
    assert order == list(draws.order(round, [*map(SortedNames, map(sorted, groups))]))
    assert sorted(order) == sorted({*groups[0], *groups[1]}), "each once"
    assert order[:count] == list(islice(draws.order(round, [*map(SortedNames, groups)]), count)), (
        "however many are asked for"
    )


@pytest.mark.parametrize("secret", ["", SECRET])
def test_every_client_is_drawn_about_as_often(secret: str) -> None:
    names = [f"pi-{i}" for i in range(10)]
    often = Counter(name for round in range(1, 2001) for name in drawn(Draws(7, secret), round, names, 3))
    assert all(500 < often[name] < 700 for name in names)  # 600 expected, standard deviation 20


@pytest.mark.parametrize("secret", ["", SECRET])
def test_every_set_of_participants_is_drawn_about_as_often(secret: str) -> None:
    """So that nobody is drawn in another's company or never."""
    high, low = SortedNames("abc"), SortedNames("de")
    often = Counter(tuple(sorted(islice(Draws(7, secret).order(round, [high, low]), 3))) for round in range(1, 5001))
    assert set(often) == set(combinations("abcde", 3))
    assert all(400 < times < 600 for times in often.values())  # 500 expected, standard deviation 21


def test_every_order_is_as_likely() -> None:
    often = Counter("".join(Draws(7, SECRET).order(round, [SortedNames("abcd")])) for round in range(1, 4801))
    assert len(often) == 24
    assert all(140 < times < 260 for times in often.values())  # 200 expected, standard deviation 14


def test_nobody_is_looked_at_who_is_not_drawn() -> None:
    class Watched(SortedNames):
        asked = 0

        def at(self, place: int) -> str:
            Watched.asked += 1
            return f"{place}"

        def __len__(self) -> int:
            return 1_000_000

    assert len({*islice(Draws(7, SECRET).order(1, [Watched()]), 100)}) == 100
    assert Watched.asked == 100


@pytest.mark.parametrize("name", ["", "0", "a", "pi-0", "zzzz", "x" * 63])
def test_a_name_does_not_move_how_often_a_device_is_drawn(name: str) -> None:
    """Nor does the one that would be drawn most often if the draws followed from the seed."""
    others = [f"pi-{i:02}" for i in range(1, 30)]
    rounds = range(1, 2001)
    if not name:  # by who knows the seed, of the names between two others the best for the next twenty rounds
        rounds = range(1, 21)
        known = Draws(0)
        name = max(
            ("a", *(f"{other}+" for other in others)),
            key=lambda tried: sum(tried in drawn(known, round, [*others, tried], 9) for round in rounds),
        )
        assert sum(name in drawn(known, round, [*others, name], 9) for round in rounds) >= 11, "6 are its share"
    times = 0
    for number in range(2000 // len(rounds)):
        draws = Draws(7, f"{number:064x}")
        times += sum(name in drawn(draws, round, [*others, name], 9) for round in rounds)
    assert 500 < times < 700


def test_equal_seeds_and_clients_do_not_make_equal_draws() -> None:
    """All that is public is equal. What is drawn is as different as by chance."""
    names = [f"pi-{i}" for i in range(10)]
    one, other, public = Draws(7, SECRET), Draws(7, "f" * 64), Draws(7)
    for first, second in ((one, other), (one, public), (other, public)):
        rounds = range(1, 1001)
        same = sum(drawn(first, n, names, 3) == drawn(second, n, names, 3) for n in rounds)
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
    assert "".join(Draws(7).order(3, [SortedNames("abcd"), SortedNames("efgh")])) == "abchgedf"
    assert Draws(7, SECRET).seeds(1, 2) == (1222667977839771209, 1222667977839771208)
    assert "".join(Draws(7, SECRET).order(3, [SortedNames("abcd"), SortedNames("efgh")])) == "abecfgdh"
