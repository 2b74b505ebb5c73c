"""What an algorithm changes in how rounds are opened and checked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.algorithms import changed
from tests.scenario.conftest import Script
from zowarmup.common.messages.codec import work_from_wire, work_to_wire
from zowarmup.common.messages.values import Delta, Phase, Scalars, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting, work_for
from zowarmup.server.core.errors import Rejected


def running(begin: Callable[..., Script], **algorithm: Any) -> Script:
    """In its first zeroth-order round, with one client of each tier."""
    script = begin(warmup=0, zeroth_order=3)
    run_file = script.state.run_file
    chosen = replace(run_file, zeroth_order=changed(run_file.zeroth_order, **algorithm))
    script.state = replace(script.state, run_file=chosen)
    script.join("high", Tier.HIGH)
    script.join("low")
    assert script.state.phase is Phase.ZEROTH_ORDER and script.state.current is not None
    return script


def test_where_both_tiers_train_both_are_drawn_for_the_warm_up(begin: Callable[..., Script]) -> None:
    script = begin(warmup=2, zeroth_order=0)
    warmup = changed(script.state.run_file.warmup, "heterofl", clients_per_round=2)
    script.state = replace(script.state, run_file=replace(script.state.run_file, warmup=warmup))
    script.join("low")
    assert waiting(script.state, script.now) == "waiting: 1 of 2 clients connected"
    script.join("high", Tier.HIGH)
    given = {client: work_for(script.state, client, script.now) for client in ("high", "low")}
    assert {client: work.phase for client, work in given.items() if work} == dict.fromkeys(given, Phase.WARM_UP)
    assert [script.state.uplink_bytes(client) for client in ("high", "low")] == [80, 48]
    with pytest.raises(Rejected, match="a scalars does not belong in a warm-up round"):
        script.do(cmd.Contribute("low", Scalars(1, (0.5,) * 2, (1.0,))))
    for _ in range(2):
        script.contribute("high", "low")
        script.commit()
    assert script.events[-1] == ev.RunFinished(2, "all 0 zeroth-order rounds are done")


def opened(script: Script) -> list[ev.RoundOpened]:
    return [event for event in script.events if isinstance(event, ev.RoundOpened)]


def test_shared_seeds_are_one_for_a_round_and_another_for_the_next(begin: Callable[..., Script]) -> None:
    script = running(begin, algorithm="decomfl")
    script.contribute("high", "low")
    script.commit()
    (first, second) = [set(event.seeds) for event in opened(script)]
    assert len(first) == len(second) == 1 and first != second
    distinct = running(begin)
    assert len(set(opened(distinct)[0].seeds)) == 2


def test_work_says_how_far_the_run_is_where_clients_take_steps_of_their_own(begin: Callable[..., Script]) -> None:
    for steps, done in ((2, [0, 1]), (1, [0, 0])):
        script = running(begin, local_steps=steps, probes=2 // steps, head_projections=2 // steps)
        said = []
        for _ in done:
            work = work_for(script.state, "low", script.now)
            assert work is not None
            assert work_from_wire(work_to_wire(work)).done == work.done
            said.append(work.done)
            for client in ("high", "low"):
                scalars = Scalars(work.round, (0.5, -0.25), (1.0, 1.0))
                script.do(cmd.Contribute(client, scalars))
            script.commit()
        assert said == done


def test_each_tier_must_send_what_is_its_to_send(begin: Callable[..., Script]) -> None:
    script = running(begin, gradient_projections=5)
    exact, probed = Scalars(1, (0.5,) * 5, (1.0,)), Scalars(1, (0.5,) * 2, (1.0,))
    for client, wrong in (("high", probed), ("low", exact)):
        with pytest.raises(Rejected, match=f"in the {client} tier"):
            script.do(cmd.Contribute(client, wrong))
    script.do(cmd.Contribute("high", exact))
    script.do(cmd.Contribute("low", probed))
    assert script.state.current is not None and script.state.current.closed


def test_a_high_tier_that_goes_on_training_gets_the_warm_ups_work(begin: Callable[..., Script]) -> None:
    script = running(begin, algorithm="mixed")
    given = {client: work_for(script.state, client, script.now) for client in ("high", "low")}
    assert {client: work.phase for client, work in given.items() if work} == {
        "high": Phase.ZEROTH_ORDER,
        "low": Phase.ZEROTH_ORDER,
    }
    scalars, delta = Scalars(1, (0.5,) * 2, (1.0,)), Delta(1, "a" * 32, 100, 1.5)
    with pytest.raises(Rejected, match="a scalars does not belong in a zeroth-order round from the high tier"):
        script.do(cmd.Contribute("high", scalars))
    with pytest.raises(Rejected, match="a delta does not belong in a zeroth-order round"):
        script.do(cmd.Contribute("low", delta))
    script.do(cmd.Contribute("high", delta))
    script.do(cmd.Contribute("low", scalars))
    assert script.state.current is not None and script.state.current.closed
