"""How long rounds last, how many are drawn for them, and how a run pauses itself."""

from collections.abc import Callable
from typing import Any

import pytest

from zowarmup.common.messages.values import Scalars, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting
from zowarmup.server.core.errors import Rejected

Begin = Callable[..., Any]


def opened(script: Any) -> ev.RoundOpened:
    return next(event for event in reversed(script.events) if isinstance(event, ev.RoundOpened))


def lasts(script: Any) -> tuple[float, str]:
    event = opened(script)
    return round(event.deadline - event.opened_at, 6), event.deadline_reason


def zeroth_order(begin: Begin, *names: str, **options: object) -> Any:
    script = begin(warmup=0, **{"clients": len(names), "zeroth_order": 99, "deadline_s": 60.0, **options})
    script.advance(0)
    script.do(cmd.Pause("until all are here"))
    for name in names:
        script.join(name)
    script.do(cmd.Resume())
    return script


def a_round(script: Any, **after_s: float) -> None:
    """Everyone contributes so many seconds after the round opened, and it is committed at once."""
    began = script.now
    for name, seconds in sorted(after_s.items(), key=lambda item: item[1]):
        script.now = began + seconds
        script.contribute(name)
    script.commit()


def test_the_first_round_has_the_longest_time_and_the_second_what_the_first_took(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b")
    assert lasts(script) == (60.0, "as the run file says: no low-tier contribution to this phase was timed yet")
    a_round(script, a=1.0, b=2.0)
    assert [event.took_s for event in script.events if isinstance(event, ev.Contributed)] == [1.0, 2.0]
    assert lasts(script) == (11.0, "3 times 2 s, which the slowest usually take, and 5 s")


def test_one_mishap_is_no_habit_but_two_are(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b")
    a_round(script, a=1.0, b=1.0)
    a_round(script, a=1.0, b=7.0)
    assert lasts(script)[0] == 8.0, "of four, the slowest is left out"
    a_round(script, a=1.0, b=7.0)
    assert lasts(script)[0] == 26.0


def test_only_the_last_32_contributions_of_a_tier_count(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b")
    a_round(script, a=4.0, b=4.0)
    for _ in range(15):
        a_round(script, a=1.0, b=1.0)
    assert lasts(script)[0] == 17.0
    a_round(script, a=1.0, b=1.0)
    assert lasts(script)[0] == 8.0
    assert len(script.state.took_s[Tier.LOW]) == 32


def test_never_longer_than_the_run_file_allows_and_fixed_where_it_says_so(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b", deadline_s=10.0)
    a_round(script, a=1.0, b=2.0)
    assert lasts(script) == (10.0, "as the run file says: contributions take up to 2 s")
    script = zeroth_order(begin, "a", "b", learn_deadline=False)
    a_round(script, a=1.0, b=2.0)
    assert lasts(script) == (60.0, "as the run file says")


def test_a_tier_that_is_new_to_the_phase_gets_the_longest_time(begin: Begin) -> None:
    script = begin(warmup=1, zeroth_order=9, deadline_s=50.0, quorum=1.0)
    script.join("jetson", Tier.HIGH)
    script.join("pi")
    script.now += 3
    script.contribute("jetson")
    script.commit()
    assert lasts(script)[1].startswith("as the run file says: no high or low-tier contribution"), (
        "warm-up times are not"
    )
    a_round(script, jetson=1.0, pi=4.0)
    assert lasts(script)[0] == 17.0, "the slowest tier decides"


def test_after_an_abandoned_round_the_next_has_the_longest_time(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b", quorum=1.0)
    a_round(script, a=0.1, b=0.1)
    assert lasts(script)[0] == 5.3
    script.contribute("a")
    script.advance(6)
    assert lasts(script) == (60.0, "as the run file says, after an abandoned round")


def test_a_restart_in_the_midst_of_a_round_teaches_nothing(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b")
    a_round(script, a=1.0, b=1.0)
    script.state = script.replayed()
    assert script.state.took_s == {Tier.LOW: (1.0, 1.0)}, "what was learnt is in the ledger"
    script.now += 3600
    script.do(cmd.Restart())
    script.hello("a")
    script.hello("b")
    script.contribute("a", "b")
    assert script.state.took_s == {Tier.LOW: (1.0, 1.0)}


def test_over_selection_draws_more_and_closes_when_enough_have_contributed(begin: Begin) -> None:
    names = [f"c{number:02}" for number in range(15)]
    script = zeroth_order(begin, *names, clients=10, over_selection=0.2)
    event = opened(script)
    assert (len(event.participants), event.needed) == (12, 10)
    *fast, slow, slower = event.participants
    script.contribute(*fast)
    assert script.events[-1] == ev.RoundClosed(1, "10 of 12 contributed, 10 were needed")
    for late in (slow, slower):
        with pytest.raises(Rejected, match="round 1 is closed: 10 of 12 contributed") as refused:
            script.do(cmd.Contribute(late, Scalars(1, (0.5, -0.25), (1.0,))))
        assert refused.value.reason == "late"
    assert script.do(cmd.Contribute(fast[0], Scalars(1, (0.5, -0.25), (1.0,)))) == [], (
        "one that counted is told so again"
    )


def test_over_selection_draws_no_more_than_there_are(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b", "c", clients=2, over_selection=10.0)
    assert (len(opened(script).participants), opened(script).needed) == (3, 2)
    assert script.advance(59) == []
    script.contribute("c")
    (closed,) = script.advance(1)
    assert closed == ev.RoundClosed(1, "1 of 3 contributed, the deadline is over"), "the quorum is of those needed"


def test_a_round_that_opens_with_fewer_needs_them_all(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b", clients=10, minimum=2, over_selection=0.5, quorum=1.0)
    assert opened(script).needed == 2
    script.contribute("a")
    assert script.state.current.closed == ""
    script.contribute("b")
    assert script.events[-1] == ev.RoundClosed(1, "all 2 participants contributed")


def test_a_run_that_paused_itself_is_told_from_one_that_was_paused(begin: Begin) -> None:
    script = zeroth_order(begin, "a", "b")
    assert not script.state.paused_itself
    script.do(cmd.Pause("lunch"))
    assert not script.state.paused_itself
    script.do(cmd.Resume())
    for _ in range(3):
        script.advance(60)
    assert script.state.paused_itself
    assert script.replayed().paused_itself
    assert waiting(script.state, script.now).startswith("paused: 3 rounds in a row were abandoned")
    script.do(cmd.Resume())
    assert not script.state.paused_itself
