"""How long a round waits, and how it ends: the functions that `decide` asks, with their exact reasons."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.algorithms import changed
from tests.unit.server.test_coordinator import CREATED, RUN
from zowarmup.common.messages.values import Abstention, Phase, Scalars, Tier
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.rounds import GRACE_S, absence, end_round, grace, lasts, open_round, parenthesis, took
from zowarmup.server.core.state import Round, State

NAMES = ("a", "b", "c", "d")
OPENED = 100.0


def made(*events: ev.Event, opened: bool = True, connected: Sequence[str] = NAMES, **rules: Any) -> State:
    """A run of four low-tier clients in its zeroth-order phase, 100 s after its clock began. A round of all four that lasts
    60 s is open, unless it is not."""
    settings = {
        "rounds": 5,
        "clients_per_round": 4,
        "quorum": 0.5,
        "deadline_s": 60.0,
        "learn_deadline": False,
        **rules,
    }
    run_file = replace(RUN, zeroth_order=changed(RUN.zeroth_order, **settings))
    joined = [ev.ClientEnrolled(name, Tier.LOW, 10, name * 64) for name in NAMES]
    here = [ev.ClientConnected(name, 1, 10, 0, "", "") for name in connected]
    opening = (
        [ev.RoundOpened(1, Phase.ZEROTH_ORDER, 0, NAMES, (1, 2, 3, 4), (10,) * 4, 160.0, "", 4, OPENED)]
        if opened
        else []
    )
    start: list[ev.Event] = [replace(CREATED, run_file=run_file), ev.Pivoted(0, "")]
    state = fold(None, [*start, *joined, *here, *opening, *events])
    assert state is not None
    return state


def contributed(*names: str) -> list[ev.Event]:
    return [ev.Contributed(name, Scalars(1, (1.0,), ()), 1.0) for name in names]


def abstained(*names: str) -> list[ev.Event]:
    return [ev.Abstained(name, Abstention(1, "no memory")) for name in names]


def gone(*names: str, at: float = 101.0, return_by: float = 106.0) -> list[ev.Event]:
    return [ev.ClientDisconnected(name, at, return_by) for name in names]


@pytest.mark.parametrize(
    ("events", "now", "end"),
    [
        (contributed("a", "b", "c"), 101.0, None),
        (contributed(*NAMES), 101.0, ev.RoundClosed(1, "all 4 participants contributed")),
        (contributed("a", "b"), 159.9, None),
        (
            contributed("a", "b"),
            160.0,
            ev.RoundClosed(1, "2 of 4 contributed, the deadline is over"),
        ),
        (contributed("a"), 160.0, ev.RoundAbandoned(1, "1 of 4 contributed by the deadline, quorum is 2")),
        (
            contributed("a", "b") + abstained("c", "d"),
            101.0,
            ev.RoundClosed(
                1,
                "2 of 4 contributed (c abstains: no memory, d abstains: no memory), the others are gone or abstain",
            ),
        ),
        (
            abstained("a", "b", "c"),
            101.0,
            ev.RoundAbandoned(
                1,
                "1 of 4 could contribute, quorum is 2 (a abstains: no memory, b abstains: no memory, "
                "c abstains: no memory)",
            ),
        ),
        (
            contributed("a", "b", "c") + gone("d"),
            103.0,
            ev.RoundClosed(1, "3 of 4 contributed (d gone for 2 s), the others are gone or abstain"),
        ),
        (
            [ev.ClientRevoked(name, "lost") for name in NAMES],
            101.0,
            ev.RoundAbandoned(1, "every participant has been revoked"),
        ),
    ],
)
def test_how_a_round_ends(events: list[ev.Event], now: float, end: ev.Event | None) -> None:
    assert end_round(made(*events), now) == end


def test_a_round_that_needs_fewer_than_it_drew_closes_with_the_first_of_them() -> None:
    state = made(*contributed("a", "b"))
    assert state.current is not None
    enough = replace(state, current=replace(state.current, needed=2))
    assert end_round(enough, 101.0) == ev.RoundClosed(1, "2 of 4 contributed, 2 were needed")


def test_who_may_be_back_is_waited_for_and_who_is_lost_is_not() -> None:
    state = made(*contributed("a"), *gone("b", "c", "d"), minimum_clients=1, clients_per_round=4)
    assert absence(state, current(state), 103.0) == (
        "waiting: 1 of 4 contributed to round 1 (b gone for 2 s, c gone for 2 s, d gone for 2 s), "
        "at most 3 s more for those who may be back"
    )
    assert end_round(state, 105.9) is None
    assert end_round(state, 106.0) == ev.RoundClosed(
        1, "1 of 4 contributed (b gone for 5 s, c gone for 5 s, d gone for 5 s), the others are gone or abstain"
    )


def test_an_absence_without_enough_for_another_round_is_waited_for_until_the_deadline() -> None:
    state = made(*gone(*NAMES))
    assert end_round(state, 130.0) is None
    assert absence(state, current(state), 130.0) == (
        "waiting: 0 of 4 contributed to round 1 (a gone for 29 s, b gone for 29 s, c gone for 29 s, 1 more gone), "
        "quorum is 2; another round needs 4 connected clients and there are 0; at most 30 s more"
    )
    assert absence(made(*gone("a", "b")), current(state), 103.0) == "", "two still compute"


def current(state: State) -> Round:
    assert state.current is not None
    return state.current


def test_a_round_opens_with_whom_it_needs_and_lasts_as_the_run_file_says() -> None:
    opened = open_round(made(opened=False, clients_per_round=2, over_selection=0.5), 7.0)
    assert isinstance(opened, ev.RoundOpened)
    assert len(opened.participants) == 3 and set(opened.participants) < set(NAMES), "half as many more are drawn"
    assert (opened.round, opened.needed, opened.opened_at, opened.deadline) == (1, 2, 7.0, 67.0)
    assert opened.deadline_reason == "as the run file says"
    assert opened.examples == (10, 10, 10) and len(set(opened.seeds)) == 3
    assert open_round(made(opened=False, connected=("a", "b", "c")), 7.0) is None, "one of four is not connected"


@pytest.mark.parametrize(
    ("times", "seconds", "why"),
    [
        ((), 60.0, "as the run file says: no low-tier contribution to this phase was timed yet"),
        ((1.0, 2.0), 11.0, "3 times 2 s, which the slowest usually take, and 5 s"),
        ((1.0, 2.0, 3.0, 50.0), 14.0, "3 times 3 s, which the slowest usually take, and 5 s"),
        ((20.0,), 60.0, "as the run file says: contributions take up to 20 s"),
    ],
)
def test_how_long_a_round_may_last_is_learnt(times: tuple[float, ...], seconds: float, why: str) -> None:
    state = replace(made(learn_deadline=True), took_s={Tier.LOW: times})
    assert lasts(state, NAMES) == (seconds, why)


def test_after_an_abandoned_round_the_next_has_all_the_time() -> None:
    state = replace(made(learn_deadline=True), took_s={Tier.LOW: (1.0,)}, abandoned=1)
    assert lasts(state, NAMES) == (60.0, "as the run file says, after an abandoned round")


def test_the_grace_is_at_most_half_of_a_round() -> None:
    state = made()
    assert grace(state) == GRACE_S
    assert grace(replace(state, current=replace(current(state), deadline=OPENED + 4.0))) == 2.0
    assert grace(replace(state, current=replace(current(state), opened_at=0.0))) == GRACE_S


def test_what_a_contribution_took_is_unknown_after_a_restart() -> None:
    opened = current(made())
    assert (took(opened, 103.5), took(opened, OPENED)) == (3.5, 1e-3)
    assert took(replace(opened, opened_at=0.0), 103.5) == 0.0


def test_a_parenthesis_around_nothing_is_nothing() -> None:
    assert (parenthesis([]), parenthesis(["one", "another"])) == ("", " (one, another)")
