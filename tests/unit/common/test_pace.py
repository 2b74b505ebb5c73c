import pytest

from zowarmup.common.pace import RECENT, time_left


@pytest.mark.parametrize(
    ("committed_at", "rounds", "said"),
    [
        ([], 5, ""),
        ([1.0], 5, ""),
        ([1.0, 2.0], 0, ""),
        ([2.0, 2.0], 5, ""),
        ([2.0, 1.0], 5, ""),
        ([1.0, 1.2, 1.4], 40, "about 8 s to the pivot: 40 rounds, of which the last took 0.2 s each"),
        ([0.0, 60.0], 1, "about 1 min 00 s to the pivot: 1 round, of which the last took 1 min 00 s each"),
        ([0.0, *(1000.0 + n for n in range(RECENT))], 10, "about 10 s to the pivot: 10 rounds, of which the last took 1 s each"),
    ],
)  # fmt: skip
def test_the_last_rounds_say_how_long_it_goes_on(committed_at: list[float], rounds: int, said: str) -> None:
    assert time_left(committed_at, rounds, " to the pivot") == said
