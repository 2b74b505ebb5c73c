"""Participants that fail their rounds rest, rounds after abandoned ones are spaced, and a pause names who it is for."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from zowarmup.common.messages.values import Abstention, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting
from zowarmup.server.core.resting import LONGEST_REST_S, resting

Begin = Callable[..., Any]


def fleet(begin: Begin, *names: str, **options: object) -> Any:
    """A script in its first zeroth-order round, with the limit on abandoned rounds that a run file has by itself."""
    script = begin(warmup=0, **{"zeroth_order": 9999, "quorum": 0.8, "deadline_s": 60.0, **options})
    run_file = script.state.run_file
    script.state = replace(script.state, run_file=replace(run_file, server=replace(run_file.server, abandoned_limit=5)))
    script.created = replace(script.created, run_file=script.state.run_file)
    script.advance(0)
    script.do(cmd.Pause("until all are here"))
    for name in names:
        script.join(name)
    script.do(cmd.Resume())
    return script


def abstain(script: Any, name: str, reason: str = "no") -> None:
    script.do(cmd.Abstain(name, Abstention(script.state.current.number, reason)))


def take_part(script: Any, hostile: Callable[[Any, str], None], names: set[str]) -> None:
    """All who are drawn for the open round contribute within half a second, but the hostile ones, who do what they do
    first. Time passes until the round is over."""
    current = script.state.current
    if current is None:
        script.advance(0.25)
        return
    for name in sorted(names & current.seeds.keys()):
        if script.state.current is not None and script.state.current.number == current.number:
            hostile(script, name)
    script.advance(0.25)
    for name in sorted(current.seeds.keys() - names):
        now = script.state.current
        if now is not None and now.number == current.number and not now.closed:
            script.contribute(name)
    script.advance(0.25)
    while (now := script.state.current) is not None and now.number == current.number and not now.closed:
        script.advance(1)
    if now is not None and now.closed:
        script.commit()


def silent(script: Any, name: str) -> None:
    """Connected, and never heard of."""


def vanish(script: Any, name: str) -> None:
    script.lose(name)
    script.advance(0.25)
    script.hello(name)
    script.lose(name)


def back(script: Any, names: set[str]) -> None:
    for name in names:
        if not script.state.presence[name].connected:
            script.hello(name)


@pytest.mark.parametrize("hostile", [abstain, vanish, silent])
def test_of_two_hundred_five_that_never_contribute_cost_no_round(
    begin: Begin, hostile: Callable[[Any, str], None]
) -> None:
    names = [f"c{number:03}" for number in range(200)]
    script, five = fleet(begin, *names, clients=10), {"c003", "c050", "c051", "c120", "c199"}
    began = script.now
    while script.state.version < 300:
        take_part(script, hostile, five)
        back(script, five)
        assert not script.state.paused
    assert not [event for event in script.events if isinstance(event, ev.RoundAbandoned)]
    drawn = [set(event.participants) & five for event in script.events if isinstance(event, ev.RoundOpened)]
    assert sum(map(len, drawn[:100])) < 25 and sum(map(len, drawn[-100:])) < 15
    assert sum(map(len, drawn)) < 45, "75 by chance"
    if hostile is not silent:
        assert script.now - began < 300


@pytest.mark.parametrize("hostile", [abstain, vanish, silent])
def test_one_of_three_does_not_stop_a_run_that_two_can_carry(begin: Begin, hostile: Callable[[Any, str], None]) -> None:
    """As it did, within milliseconds: five rounds in a row were abandoned by its word."""
    script = fleet(begin, "a", "b", "c", clients=3, minimum=2)
    while script.state.version < 200:
        take_part(script, hostile, {"c"})
        back(script, {"c"})
        assert not script.state.paused
    lost = sum(isinstance(event, ev.RoundAbandoned) for event in script.events)
    assert lost < 10, "about the logarithm of the time"
    failures = [event.failures for event in script.events if isinstance(event, ev.ParticipantsFailed)]
    assert {failure.client for failed in failures for failure in failed} == {"c"}


def test_one_that_alternates_costs_a_share_and_never_stops_the_run(begin: Begin) -> None:
    script, turn = fleet(begin, "a", "b", "c", clients=3, minimum=2), [0]

    def alternate(script: Any, name: str) -> None:
        turn[0] += 1
        if turn[0] % 2:
            abstain(script, name)
        else:
            script.contribute(name)

    while script.state.version < 200:
        take_part(script, alternate, {"c"})
        assert not script.state.paused
    lost = sum(isinstance(event, ev.RoundAbandoned) for event in script.events)
    assert lost < 30, "one in five seconds at most"
    assert all(f.in_a_row == 1 for e in script.events if isinstance(e, ev.ParticipantsFailed) for f in e.failures)


def test_where_all_are_needed_the_run_pauses_in_its_time_and_names_who_it_is(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3)
    began, said = script.now, set()
    while not script.state.paused:
        if script.state.current is not None:
            abstain(script, "c", "the disk is full")
        else:
            said.add(waiting(script.state, script.now))
        script.advance(0.25)
        assert script.now < began + 60
    assert script.now - began > 10, "and not within moments"
    assert (
        "waiting: 3 rounds in a row were abandoned, without c (abstains: the disk is full; 3 times in a row); the next one "
        "opens in 4 s"
    ) in said
    assert "" not in said
    assert waiting(script.state, script.now) == (
        "paused: 5 rounds in a row were abandoned, without c (abstains: the disk is full; 5 times in a row); check the "
        "clients, or revoke them, then `zowarmup resume`"
    )
    opened = [event.opened_at for event in script.events if isinstance(event, ev.RoundOpened)]
    assert [later - before for before, later in pairwise(opened)] == [0, 2, 4, 8]
    script.do(cmd.Resume())
    assert script.state.current is not None and not script.state.failures, "all begins anew"


def test_where_all_abstain_the_run_pauses_and_does_not_turn_for_ever(begin: Begin) -> None:
    script = fleet(begin, *"abcdef", clients=6, minimum=1)
    while not script.state.paused:
        for name in script.state.current.seeds if script.state.current is not None else ():
            if script.state.current is not None and name in script.state.current.seeds:
                abstain(script, name)
        script.advance(0.25)
        assert script.now < 1100
    named = waiting(script.state, script.now)
    assert "(abstains: no" in named and " and 1 more; check the clients" in named


def test_it_rests_longer_each_time_up_to_a_bound_and_a_version_forgets_all(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=2, minimum=1, quorum=0.5)
    rests: list[float] = []
    while len(rests) < 10:
        before = len(script.events)
        take_part(script, abstain, {"c"})
        failed = [event for event in script.events[before:] if isinstance(event, ev.ParticipantsFailed)]
        rests += [round(failure.rests_until - script.now, 1) + 0.5 for event in failed for failure in event.failures]
    assert [rest // 5 * 5 for rest in rests] == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert script.replayed().failures == script.state.failures
    while "c" in script.state.failures:
        take_part(script, abstain, set())
    assert not resting(script.state, script.now)


def test_what_cannot_be_combined_is_predictions_by_the_rounds_that_can(begin: Begin) -> None:
    """A contribution that passes every check, and spoils what it is combined with: nobody knows whose it is."""
    names = [f"c{number:02}" for number in range(20)]
    script = fleet(begin, *names, clients=3)
    spoilt = 0
    while script.state.version < 100:
        current = script.state.current
        if current is None:
            script.advance(0.25)
            continue
        script.contribute(*current.seeds)
        script.advance(0.5)
        if "c07" in current.seeds:
            spoilt += 1
            script.do(cmd.AbandonRound(current.number, "its contributions cannot be aggregated"))
        else:
            script.commit()
        assert not script.state.paused
    assert spoilt < 10, "18 by chance"


def test_a_rest_does_not_outlast_a_clock_that_was_set_back(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=2, minimum=1)
    while "c" not in script.state.failures:
        take_part(script, abstain, {"c"})
    assert resting(script.state, script.now) == {"c"}
    assert not resting(script.state, script.now - 2 * LONGEST_REST_S)


def test_a_member_that_is_revoked_is_named_no_longer(begin: Begin) -> None:
    script = fleet(begin, "a", "b", "c", clients=3)
    abstain(script, "c")
    script.do(cmd.Revoke("c", "it abstains"))
    assert not script.state.failures
    assert list(script.state.ready[Tier.LOW]) == ["a", "b"]
