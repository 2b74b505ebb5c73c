"""Whole runs as scripts: what happens, in which order, and for which stated reason."""

from collections.abc import Callable
from typing import Any

import pytest

from zowarmup.common.messages.values import Abstention, Delta, Phase, Scalars, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting, work_for
from zowarmup.server.core.errors import Rejected

Begin = Callable[..., Any]


def kinds(events: list[ev.Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def zeroth_order(begin: Begin, clients: int = 2, **options: object) -> Any:
    """A script that has pivoted and waits for its first zeroth-order round."""
    script = begin(warmup=0, clients=clients, **options)
    script.advance(0)
    assert script.state.phase is Phase.ZEROTH_ORDER
    return script


def test_a_run_from_nothing_to_its_end(begin: Begin) -> None:
    script = begin()
    assert kinds(script.advance(1)) == []
    assert waiting(script.state, script.now) == "waiting: 0 of 1 high-tier clients connected"
    assert kinds(script.join("pi")) == ["ClientEnrolled", "ClientConnected"], "the low tier waits for the pivot"
    assert kinds(script.join("jetson", Tier.HIGH)) == ["ClientEnrolled", "ClientConnected", "RoundOpened"]
    assert script.state.current.seeds.keys() == {"jetson"}
    assert kinds(script.contribute("jetson")) == ["Contributed", "RoundClosed"]
    assert kinds(script.advance(100)) == [], "a closed round waits for its commit, however long that takes"
    assert kinds(script.commit()) == ["Committed", "Pivoted", "RoundOpened"]
    assert script.state.current.seeds.keys() == {"jetson", "pi"}
    for _ in range(2):
        script.contribute("pi", "jetson")
        last = script.commit()
    assert kinds(last) == ["Committed", "RunFinished"]
    assert last[-1] == ev.RunFinished(3, "all 2 zeroth-order rounds are done")
    assert waiting(script.state, script.now) == "finished: all 2 zeroth-order rounds are done"


def test_high_clients_alone_make_up_the_warm_up(begin: Begin) -> None:
    """Paper, section 3: rounds 0..N-1 sample from the high-resource clients."""
    script = begin(warmup=5)
    for name in ("a", "b", "c"):
        script.join(name)
    assert script.events[-1] == ev.ClientConnected("c", 3, 100)
    script.join("z", Tier.HIGH)
    assert set(script.state.current.seeds) == {"z"}


def test_a_round_may_wait_for_more_than_it_draws(begin: Begin) -> None:
    """So whom it draws does not depend on who came first."""
    drawn = []
    for names in ("abcd", "dcba"):
        script = zeroth_order(begin, clients=2, minimum=4)
        for name in names[:3]:
            script.join(name)
        assert waiting(script.state, script.now) == "waiting: 3 of 4 clients connected"
        script.join(names[3])
        drawn.append(script.state.current.seeds)
    assert len(drawn[0]) == 2
    assert drawn[0] == drawn[1]


def test_no_two_seeds_of_a_run_are_equal(begin: Begin) -> None:
    script = zeroth_order(begin, zeroth_order=20)
    script.join("a")
    script.join("b")
    while script.state.phase is not Phase.FINISHED:
        script.contribute("a", "b")
        script.commit()
    seeds = [seed for event in script.events if isinstance(event, ev.RoundOpened) for seed in event.seeds]
    assert len(seeds) == len(set(seeds)) == 40


def test_the_order_of_arrival_changes_nothing(begin: Begin) -> None:
    opened = []
    for order in ("abcd", "dcba", "bdac"):
        script = zeroth_order(begin, clients=3, minimum=0)
        script.do(cmd.Pause("until all are here"))
        for name in order:
            script.join(name)
        (_, event) = script.do(cmd.Resume())
        opened.append(event)
    assert opened[0] == opened[1] == opened[2]
    assert len(opened[0].participants) == 3


def test_a_contribution_sent_twice_counts_once(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.join("b")
    first = script.contribution("a")
    assert kinds(script.do(cmd.Contribute("a", first))) == ["Contributed"]
    assert script.do(cmd.Contribute("a", first)) == [], "the same answer, no second event"
    script.contribute("b")
    assert script.do(cmd.Contribute("a", first)) == [], "also once the round is closed"
    script.commit()
    assert script.do(cmd.Contribute("a", first)) == [], "and once the next one is open"


@pytest.mark.parametrize(
    ("contribution", "reason"),
    [
        (Scalars(9, (0.5, -0.25), (1.0,)), "not_assigned"),
        (Scalars(1, (0.5,), (1.0,)), "malformed"),
        (Scalars(1, (0.5, -0.25), ()), "malformed"),
        (Delta(1, "a" * 32, 100, 1.0), "malformed"),
    ],
)
def test_a_wrong_contribution_is_refused_and_changes_nothing(begin: Begin, contribution: Any, reason: str) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.join("b")
    before = script.state
    with pytest.raises(Rejected) as refused:
        script.do(cmd.Contribute("a", contribution))
    assert refused.value.reason == reason
    assert script.state is before


def test_only_those_drawn_may_contribute(begin: Begin) -> None:
    script = zeroth_order(begin)
    for name in ("a", "b", "c"):
        script.join(name)
    (outsider,) = {"a", "b", "c"} - set(script.state.current.seeds)
    assert work_for(script.state, outsider, script.now) is None
    with pytest.raises(Rejected, match="was not drawn"):
        script.do(cmd.Contribute(outsider, Scalars(1, (0.5, -0.25), (1.0,))))


def test_a_round_closes_at_its_deadline_with_a_quorum(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.join("b")
    script.contribute("a")
    assert script.advance(9.9) == []
    (closed,) = script.advance(0.2)
    assert closed == ev.RoundClosed(1, "1 of 2 contributed, the deadline is over")


def test_a_round_without_a_quorum_is_abandoned_and_retried_with_new_seeds(begin: Begin) -> None:
    script = zeroth_order(begin, quorum=1.0)
    script.join("a")
    script.join("b")
    script.contribute("a")
    abandoned, opened = script.advance(10)
    assert abandoned == ev.RoundAbandoned(1, "1 of 2 contributed by the deadline, quorum is 2")
    assert opened.round == 2
    assert opened.version == 0
    assert not set(opened.seeds) & set(script.events[-3].seeds if hasattr(script.events[-3], "seeds") else ())
    with pytest.raises(Rejected, match="round 1 is over"):
        script.do(cmd.Contribute("b", Scalars(1, (0.5, -0.25), (1.0,))))


def test_too_many_abandoned_rounds_pause_the_run_until_the_operator_resumes_it(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.join("b")
    script.advance(10)
    script.advance(10)
    assert kinds(script.advance(10)) == ["RoundAbandoned", "RunPaused"]
    assert waiting(script.state, script.now).startswith("paused: 3 rounds in a row were abandoned")
    assert script.advance(1000) == []
    assert kinds(script.do(cmd.Resume())) == ["RunResumed", "RoundOpened"]


def abstain(script: Any, client: str, reason: str = "a value is not finite") -> list[ev.Event]:
    found: list[ev.Event] = script.do(cmd.Abstain(client, Abstention(script.state.current.number, reason)))
    return found


def test_a_round_does_not_wait_for_those_that_abstain_once_it_has_a_quorum(begin: Begin) -> None:
    script = zeroth_order(begin, clients=3)
    for name in ("a", "b", "c"):
        script.join(name)
    assert kinds(abstain(script, "b")) == ["Abstained"]
    assert script.state.current.missing == ("a", "c")
    script.lose("c")
    assert script.state.current is not None, "without a quorum it waits: c may come back"
    script.contribute("a")
    script.hello("c")
    closed = script.contribute("c")[-1]
    cause = "2 of 3 contributed (b abstains: a value is not finite), the others are gone or abstain"
    assert closed == ev.RoundClosed(1, cause)


def test_a_round_that_can_have_no_quorum_is_abandoned_at_once(begin: Begin) -> None:
    script = zeroth_order(begin, clients=5, quorum=1.0)
    for name in "abcde":
        script.join(name)
    happened = abstain(script, "b")
    cause = "4 of 5 could contribute, quorum is 5 (b abstains: a value is not finite)"
    assert happened[1] == ev.RoundAbandoned(1, cause)
    assert kinds(happened) == ["Abstained", "RoundAbandoned", "RoundOpened"]
    assert script.state.abandoned == 1
    assert kinds(abstain(script, "a")) == ["Abstained", "RoundAbandoned"], "the third waits a little"
    assert kinds(script.advance(2)) == ["RoundOpened"]
    assert kinds(abstain(script, "a")) == ["Abstained", "RoundAbandoned", "RunPaused"], "and they do not retry for ever"
    assert "a (abstains: a value is not finite; 2 times in a row)" in waiting(script.state, script.now)


def test_abstentions_are_counted_where_there_are_many(begin: Begin) -> None:
    script = zeroth_order(begin, clients=6)
    for name in "abcdef":
        script.join(name)
    for name in "abc":
        abstain(script, name)
    closed = abstain(script, "d")[1]
    names = ", ".join(f"{name} abstains: a value is not finite" for name in "abc")
    assert closed == ev.RoundAbandoned(1, f"2 of 6 could contribute, quorum is 3 ({names}, 1 more abstain)")


def test_an_abstention_counts_once_and_gives_way_to_a_contribution(begin: Begin) -> None:
    script = zeroth_order(begin, clients=3)
    for name in ("a", "b", "c"):
        script.join(name)
    with pytest.raises(Rejected, match="there has been no round 9; the last one is 1"):
        script.do(cmd.Abstain("b", Abstention(9, "why")))
    assert kinds(abstain(script, "b")) == ["Abstained"]
    assert abstain(script, "b") == []
    assert kinds(script.contribute("b")) == ["Contributed"]
    assert script.state.current.abstained == {}
    assert abstain(script, "b") == [], "it has contributed"
    assert kinds(script.contribute("a", "c")) == ["Contributed", "Contributed", "RoundClosed"]
    assert abstain(script, "a") == [], "the round is closed"


def test_only_those_drawn_may_abstain(begin: Begin) -> None:
    script = zeroth_order(begin)
    for name in ("a", "b", "c"):
        script.join(name)
    (outsider,) = {"a", "b", "c"} - set(script.state.current.seeds)
    with pytest.raises(Rejected, match="was not drawn"):
        abstain(script, outsider)


def test_waiting_names_who_is_gone(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("pi-3")
    script.lose("pi-3")
    script.advance(42)
    script.join("pi-4")
    assert waiting(script.state, script.now) == "waiting: 1 of 2 clients connected (pi-3 gone for 42 s)"


def test_a_newer_stream_makes_the_older_ones_farewell_void(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.hello("a")
    assert script.do(cmd.DisconnectClient("a", 1)) == []
    assert script.state.presence["a"].connected


def test_a_paused_run_ends_its_round_and_opens_no_other(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.join("b")
    script.do(cmd.Pause("maintenance"))
    script.contribute("a", "b")
    assert kinds(script.commit()) == ["Committed"]
    assert waiting(script.state, script.now) == "paused: maintenance"


def test_the_operator_pivots_and_stops_between_rounds(begin: Begin) -> None:
    script = begin(warmup=100)
    script.join("jetson", Tier.HIGH)
    assert kinds(script.do(cmd.Pivot("good enough"))) == ["PivotRequested"]
    script.contribute("jetson")
    _, pivoted = script.commit()
    assert pivoted == ev.Pivoted(1, "good enough")
    with pytest.raises(Rejected, match="the pivot is behind it"):
        script.do(cmd.Pivot("again"))
    script.join("pi")
    script.do(cmd.Stop("lunch"))
    script.contribute("jetson", "pi")
    assert script.commit()[-1] == ev.RunFinished(2, "stopped: lunch")


def test_a_taken_name_gets_a_number(begin: Begin) -> None:
    script = begin()
    for _ in range(3):
        script.join("pi")
    assert set(script.state.clients) == {"pi", "pi-2", "pi-3"}


def test_a_thousand_devices_of_one_name(begin: Begin) -> None:
    """As from one image of a card; some of the numbers are names already."""
    script = begin()
    script.join("pi-7")
    for _ in range(1000):
        script.join("pi")
    assert len(script.state.clients) == 1001
    assert {"pi", "pi-2", "pi-7", "pi-999"} <= set(script.state.clients)


def test_a_restart_gives_an_open_round_its_time_again(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.join("b")
    script.contribute("a")
    script.state = script.replayed()
    script.now += 3600
    (extended,) = script.do(cmd.Restart())
    assert extended == ev.DeadlineExtended(1, script.now + 10, "the coordinator restarted", script.now + 40)
    assert script.advance(1) == [], "nobody is connected, but the round is theirs until its deadline"
    script.hello("b")
    work = work_for(script.state, "b", script.now)
    assert work is not None
    assert work.seed == script.state.current.seeds["b"]
    assert kinds(script.contribute("b")) == ["Contributed", "RoundClosed"]


def test_a_commit_that_does_not_follow_is_refused(begin: Begin) -> None:
    script = zeroth_order(begin)
    script.join("a")
    script.join("b")
    with pytest.raises(Rejected, match="does not follow"):
        script.do(cmd.CommitRound(ev.Committed(1, 1, "0" * 32, (), None, ())))
