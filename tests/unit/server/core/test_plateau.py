"""The end of a warm-up with `pivot = "auto"`: medians of the held-out loss, and which of the losses are kept."""

import math

import pytest

from tests.algorithms import warmup_settings
from zowarmup.server.core.plateau import Losses, plateau, with_loss

AUTO = warmup_settings(rounds=100, pivot="auto", patience=3, least_improvement=0.1)
ROUNDS = warmup_settings(rounds=100)


def losses(*values: float) -> Losses:
    """Of versions 1, 2 ..."""
    found: Losses = ()
    for version, loss in enumerate(values, 1):
        found = with_loss(AUTO, found, version, loss)
    return found


def test_the_losses_of_twice_the_patience_are_kept() -> None:
    assert losses(9, 8, 7, 6, 5, 4, 3, 2) == ((3, 7), (4, 6), (5, 5), (6, 4), (7, 3), (8, 2))


def test_a_version_that_is_evaluated_again_has_its_last_loss() -> None:
    assert with_loss(AUTO, ((1, 3.0), (2, 2.0)), 2, 1.5) == ((1, 3.0), (2, 1.5))


def test_a_loss_that_is_no_number_is_infinite() -> None:
    assert with_loss(AUTO, (), 1, math.nan) == ((1, math.inf),)


def test_nothing_is_kept_or_decided_where_the_run_file_says_how_many_rounds() -> None:
    assert with_loss(ROUNDS, ((1, 3.0),), 2, 1.0) == ()
    assert plateau(ROUNDS, losses(1, 1, 1, 1, 1, 1)) == ""


def test_nothing_is_decided_before_twice_the_patience_has_passed() -> None:
    assert plateau(AUTO, ()) == plateau(AUTO, losses(1, 1, 1, 1, 1)) == ""


@pytest.mark.parametrize(
    ("late", "over"),
    [((0.9, 0.9, 0.9), True), ((0.89, 0.89, 0.89), False), ((0.1, 0.95, 0.9), True), ((2, 2, 2), True)],
)
def test_the_median_must_fall_by_the_least_improvement(late: tuple[float, ...], over: bool) -> None:
    assert bool(plateau(AUTO, losses(0.2, 1.0, 5.0, *late))) is over, "the median of the early ones is 1"


def test_the_sentence_names_both_medians_and_their_rounds() -> None:
    assert plateau(AUTO, losses(7, 1, 2, 3, 2.5, 1.9, 2.1)) == (
        "the held-out loss has not fallen by 10 %: 2 nats in rounds 2 to 4, 2.1 in rounds 5 to 7"
    )


def test_versions_that_were_not_evaluated_are_left_out() -> None:
    assert plateau(AUTO, ((5, 1.0), (6, 1.0))) == "", "there is nothing to compare with"
    assert plateau(AUTO, ((3, 1.0), (6, 0.95))).endswith("1 nats in rounds 1 to 3, 0.95 in rounds 4 to 6")
