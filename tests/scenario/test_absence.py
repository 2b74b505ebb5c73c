"""Whom a round waits for: those who may still come, for a grace those whose stream has broken, and nobody else."""

from collections.abc import Callable
from typing import Any

import pytest

from zowarmup.common.messages.values import Abstention
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting, work_for

Begin = Callable[..., Any]


def fleet(begin: Begin, *names: str, **options: object) -> Any:
    """A script in its first zeroth-order round, which may last 60 s."""
    script = begin(warmup=0, **{"zeroth_order": 99, "quorum": 0.8, "deadline_s": 60.0, **options})
    script.advance(0)
    script.do(cmd.Pause("until all are here"))
    for name in names:
        script.join(name)
    script.do(cmd.Resume())
    assert script.state.current is not None
    return script


def kinds(events: list[ev.Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def until_something(script: Any, at_most_s: float = 100.0) -> tuple[float, list[ev.Event]]:
    """Let time pass, a quarter of a second at a time as the coordinator does, until something follows from it: after how
    many seconds, and what."""
    began = script.now
    while script.now < began + at_most_s:
        if happened := script.advance(0.25):
            return script.now - began, happened
    return at_most_s, []


def test_a_killed_client_of_three_costs_a_grace_and_not_the_deadline(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=2)
    script.lose("c")
    script.contribute("a", "b")
    sentence = "waiting: 2 of 3 contributed to round 1 (c gone for 0 s), at most 5 s more for those who may be back"
    assert waiting(script.state, script.now) == sentence
    took, happened = until_something(script)
    assert took == 5.0
    assert happened == [ev.RoundClosed(1, "2 of 3 contributed (c gone for 5 s), the others are gone or abstain")]
    assert kinds(script.commit()) == ["Committed", "RoundOpened"]
    assert script.state.current.seeds.keys() == {"a", "b"}, "and no round after that waits for it"
    assert kinds(script.contribute("a", "b")) == ["Contributed", "Contributed", "RoundClosed"]


def test_the_grace_is_over_while_others_compute(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=2)
    script.lose("c")
    script.advance(9)
    assert waiting(script.state, script.now) == "", "a and b are at work"
    assert kinds(script.contribute("a", "b")) == ["Contributed", "Contributed", "RoundClosed"]


def test_where_no_round_could_open_without_it_the_round_stays_for_its_return(begin: Begin) -> None:
    """Nothing is to be won by giving up what the others have computed: three are needed, by the run file."""
    script = fleet(begin, "a", "b", "c", clients=3)
    script.contribute("a", "b")
    script.lose("c")
    assert script.advance(20) == []
    sentence = (
        "waiting: 2 of 3 contributed to round 1 (c gone for 20 s), quorum is 3; another round needs 3 connected clients "
        "and there are 2; at most 40 s more"
    )
    assert waiting(script.state, script.now) == sentence
    script.hello("c")
    assert work_for(script.state, "c", script.now) is not None
    assert kinds(script.contribute("c")) == ["Contributed", "RoundClosed"]


def test_another_client_takes_its_place_where_one_is_connected(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=2)
    lost, other = script.state.current.seeds
    (spare,) = {"a", "b", "c"} - {lost, other}
    script.contribute(other)
    script.lose(lost)
    took, happened = until_something(script)
    assert took == 5.0
    cause = f"1 of 2 can contribute, quorum is 2 and others are connected ({lost} gone for 5 s)"
    assert happened[0] == ev.RoundAbandoned(1, cause)
    assert kinds(happened) == ["RoundAbandoned", "RoundOpened"]
    assert script.state.current.seeds.keys() == {other, spare}


def test_one_of_two_hundred_is_hardly_noticed(begin: Begin) -> None:
    names = [f"c{number:03}" for number in range(200)]
    script = fleet(begin, *names, clients=200)
    script.lose("c007")
    closed = script.contribute(*(name for name in names if name != "c007"))[-1]
    assert closed == ev.RoundClosed(1, "199 of 200 contributed (c007 gone for 0 s), the others are gone or abstain")
    script.commit()
    assert script.state.current is None
    assert waiting(script.state, script.now).startswith("waiting: 199 of 200 clients connected (c007 gone for")


def test_many_of_two_hundred_on_a_bad_network(begin: Begin) -> None:
    """Each round draws 10 and loses 3, which is one more than a quorum can spare; nothing waits for a deadline."""
    names = [f"c{number:03}" for number in range(200)]
    script = fleet(begin, *names, clients=10, minimum=5)
    began = script.now
    for _ in range(20):
        drawn = list(script.state.current.seeds)
        for name in drawn[:3]:
            script.lose(name)
        script.contribute(*drawn[3:])
        _, happened = until_something(script)
        assert kinds(happened) == ["RoundClosed"], "of the 7 that are left all have contributed"
        script.commit()
        for name in drawn[:3]:
            script.hello(name)
    assert script.state.version == 20
    assert script.now - began <= 20 * 5.0


def test_where_all_are_gone_the_round_is_theirs_until_its_deadline(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1)
    for name in ("a", "b", "c"):
        script.lose(name)
    script.advance(30)
    assert waiting(script.state, script.now) == (
        "waiting: 0 of 3 contributed to round 1 (a gone for 30 s, b gone for 30 s, c gone for 30 s), quorum is 1; "
        "another round needs 1 connected clients and there are 0; at most 30 s more"
    )
    took, happened = until_something(script)
    assert took == 30.0
    assert kinds(happened) == ["RoundAbandoned"], "once: no other opens while nobody is there"
    assert until_something(script, 600.0) == (600.0, [])
    assert kinds(script.hello("b")) == ["ClientConnected", "RoundOpened"]


def test_one_that_comes_back_first_goes_on_with_the_round_of_all(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1)
    for name in ("a", "b", "c"):
        script.lose(name)
    script.advance(30)
    assert kinds(script.hello("b")) == ["ClientConnected"]
    assert kinds(script.contribute("b")) == ["Contributed", "RoundClosed"], "a round of one, as would open now"


def test_no_one_who_is_gone_is_waited_for_once_there_is_a_quorum(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, quorum=0.6)
    script.lose("c")
    closed = script.contribute("a", "b")[-1]
    assert closed == ev.RoundClosed(1, "2 of 3 contributed (c gone for 0 s), the others are gone or abstain")


def test_one_that_is_back_before_the_others_are_done_counts_whatever_the_quorum(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, quorum=0.3)
    script.contribute("a")
    script.lose("c")
    script.advance(2)
    script.hello("c")
    assert kinds(script.contribute("b", "c")) == ["Contributed", "Contributed", "RoundClosed"]
    assert len(script.state.current.contributions) == 3


@pytest.mark.parametrize("others_first", [True, False])
@pytest.mark.parametrize("quorum", [0.8, 1.0])
def test_a_blip_of_two_seconds_loses_no_contribution(begin: Begin, others_first: bool, quorum: float) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1, quorum=quorum)
    if others_first:
        script.contribute("a", "b")
    computed = script.contribution("c")
    script.lose("c")
    assert script.advance(2) == []
    script.hello("c")
    if not others_first:
        script.contribute("a", "b")
    assert script.advance(20) == [], "it is here again, and is waited for as any other"
    happened = script.do(cmd.Contribute("c", computed))
    assert happened[-1] == ev.RoundClosed(1, "all 3 participants contributed")


def test_a_second_blip_has_a_grace_of_its_own(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1)
    script.contribute("a", "b")
    for _ in range(3):
        script.lose("c")
        assert script.advance(4) == []
        script.hello("c")
    assert kinds(script.contribute("c")) == ["Contributed", "RoundClosed"]


def test_one_that_is_back_late_still_counts_while_the_round_is_open(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1)
    script.lose("c")
    script.advance(9)
    script.contribute("a")
    script.hello("c")
    assert kinds(script.contribute("c", "b")) == ["Contributed", "Contributed", "RoundClosed"]
    assert len(script.state.current.contributions) == 3


def test_a_device_that_alternates_costs_at_most_a_grace_a_round_and_never_pauses_the_run(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=2)
    for _ in range(10):
        began = script.now
        if "c" in script.state.current.seeds:
            script.advance(1)
            script.lose("c")
        script.contribute("a", "b")
        if not script.state.current.closed:
            until_something(script)
        script.hello("c")
        script.commit()
        assert script.now - began <= 6.0
    assert script.state.version == 10
    assert not any(isinstance(event, ev.RoundAbandoned) for event in script.events)


def test_a_device_that_alternates_among_others_does_not_pause_the_run(begin: Begin) -> None:
    """Where the round must be abandoned, the next one is without it and is committed: never so many in a row."""
    script = fleet(begin, "a", "b", "c", clients=2)
    while script.state.version < 10:
        if "c" in script.state.current.seeds and script.state.presence["c"].connected:
            script.lose("c")
            until_something(script)
        assert not script.state.paused
        script.contribute(*script.state.current.seeds)
        script.hello("c")
        script.commit()


def test_where_everyone_abstains_nobody_is_waited_for(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1)
    for name in ("a", "b", "c"):
        happened = script.do(cmd.Abstain(name, Abstention(script.state.current.number, "no data")))
        if kinds(happened)[-1] == "RoundOpened":
            break
    assert kinds(happened) == ["Abstained", "RoundAbandoned", "RoundOpened"]


def test_with_the_gone_and_those_that_abstain_a_round_of_the_rest_closes(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", "d", clients=4, minimum=1, quorum=0.5)
    script.lose("d")
    script.lose("c")
    script.do(cmd.Abstain("b", Abstention(1, "no data")))
    script.contribute("a")
    took, (closed,) = until_something(script)
    assert took == 5.0
    detail = "1 of 4 contributed (b abstains: no data, c gone for 5 s, d gone for 5 s), the others are gone or abstain"
    assert closed == ev.RoundClosed(1, detail)


def test_a_revoked_client_is_waited_for_no_longer(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3)
    script.contribute("a", "b")
    script.lose("c")
    assert kinds(script.do(cmd.Revoke("c", "stolen"))) == ["ClientRevoked", "RoundClosed"]


def test_in_a_short_round_the_grace_is_short(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1, deadline_s=3.0)
    script.contribute("a", "b")
    script.lose("c")
    assert until_something(script)[0] == 1.5


def test_a_grace_lasts_no_longer_than_the_round(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=1)
    script.contribute("a", "b")
    script.advance(59)
    script.lose("c")
    took, (closed,) = until_something(script)
    assert took == 1.0
    assert isinstance(closed, ev.RoundClosed)
    assert closed.reason == "2 of 3 contributed (c gone for 1 s), the deadline is over"


def test_after_a_restart_those_that_do_not_return_are_given_up_before_the_deadline(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3, minimum=2, deadline_s=600.0)
    script.contribute("a")
    script.state = script.replayed()
    script.now += 100
    script.do(cmd.Restart())
    assert waiting(script.state, script.now) == (
        "waiting: 1 of 3 contributed to round 1 (b not back since the restart, c not back since the restart), "
        "at most 40 s more for those who may be back"
    )
    script.advance(3)
    script.hello("a")
    script.hello("b")
    script.contribute("b")
    took, (closed,) = until_something(script)
    assert took == 37.0
    detail = "2 of 3 contributed (c not back since the restart), the others are gone or abstain"
    assert closed == ev.RoundClosed(1, detail)


def test_over_selection_waits_for_no_one_once_enough_have_contributed(begin: Begin) -> None:
    script = fleet(begin, *"abcdef", clients=4, over_selection=0.5)
    for name in "ef":
        script.lose(name)
    assert script.contribute(*"abcd")[-1] == ev.RoundClosed(1, "4 of 6 contributed, 4 were needed")


def test_no_round_is_given_up_early_where_that_would_pause_the_run(begin: Begin) -> None:
    script = fleet(begin, *"abcdefgh", clients=2)
    for _ in range(2):
        (lost, _) = script.state.current.seeds
        script.lose(lost)
        took, happened = until_something(script)
        assert (took, kinds(happened)) == (5.0, ["RoundAbandoned", "RoundOpened"])
    lost, other = script.state.current.seeds
    script.lose(lost)
    script.contribute(other)
    assert script.advance(20) == []
    sentence = (
        f"waiting: 1 of 2 contributed to round 3 ({lost} gone for 20 s), quorum is 2; 2 rounds in a row were abandoned; "
        "at most 40 s more"
    )
    assert waiting(script.state, script.now) == sentence
    script.hello(lost)
    assert kinds(script.contribute(lost)) == ["Contributed", "RoundClosed"]
