"""The privacy budget as the coordinator counts it: by the rounds that a client was drawn for, whatever became of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.algorithms import changed
from zowarmup.common.messages.values import Abstention
from zowarmup.common.settings.privacy import Privacy
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting
from zowarmup.server.core.evolve import fold

Begin = Callable[..., Any]


def private(begin: Begin, releases: int, **options: object) -> Any:
    """A script in its zeroth-order rounds, with a budget."""
    script = begin(warmup=0, **{"zeroth_order": 5, "clients": 2, "quorum": 1.0, **options})
    run_file = script.state.run_file
    rounds = changed(run_file.zeroth_order, slices="whole", whitening=0)
    budget = Privacy(mode="local", epsilon=4.0, releases=releases)
    run_file = replace(run_file, zeroth_order=rounds, privacy=budget)
    script.created = replace(script.created, run_file=run_file)
    script.state = replace(script.state, run_file=run_file)
    script.events.clear()
    script.end = script.log.append([], script.now, script.end)
    return script


def take_part(script: Any) -> tuple[str, ...]:
    """The open round's participants contribute, and it is committed."""
    drawn = tuple(script.state.current.seeds)
    script.contribute(*drawn)
    script.commit()
    return drawn


def test_each_draw_counts_and_those_who_have_used_theirs_are_drawn_no_more(begin: Begin) -> None:
    script = private(begin, releases=2)
    for name in ("a", "b", "c"):
        script.join(name)
    drawn: Counter[str] = Counter()
    while script.state.current is not None:
        drawn.update(take_part(script))
    assert script.state.releases == drawn
    used_up = [client for client, times in drawn.items() if times == 2]
    assert max(drawn.values()) == 2 and len(used_up) >= 2, "so that too few are left"
    assert script.state.budget.epsilon(2) <= 4.0
    finished = script.events[-1]
    assert isinstance(finished, ev.RunFinished)
    assert finished.reason == (
        f"the privacy budget is used up after {sum(drawn.values()) // 2} of 5 zeroth-order rounds: a round needs 2 clients, "
        f"and {3 - len(used_up)} of 3 may release more"
    )


def test_an_abandoned_round_may_have_been_answered(begin: Begin) -> None:
    script = private(begin, releases=4)
    script.join("a")
    script.join("b")
    script.do(cmd.Abstain("a", Abstention(1, "no")))
    assert script.state.abandoned == 1
    assert dict(script.state.releases) == {"a": 2, "b": 2}, "of round 1, and of round 2, which is open"


def test_who_has_used_its_budget_does_not_count_as_eligible(begin: Begin) -> None:
    script = private(begin, releases=1, zeroth_order=9, minimum=3)
    for name in ("a", "b", "c", "d", "e"):
        script.join(name)
    first = take_part(script)
    second = tuple(script.state.current.seeds)
    assert not {*first} & {*second}
    assert {name for names in script.state.eligible for name in names} == {*"abcde"} - {*first} - {*second}
    assert script.state.eligible_count == 1
    take_part(script)
    assert script.events[-1].reason.endswith("a round needs 3 clients, and 1 of 5 may release more")


def test_a_run_without_privacy_counts_nothing(begin: Begin) -> None:
    script = begin(warmup=0, zeroth_order=3)
    script.join("a")
    script.join("b")
    take_part(script)
    assert script.state.budget is None
    assert not script.state.releases
    assert not waiting(script.state, script.now)


def test_a_replay_counts_the_same(begin: Begin) -> None:
    """What is spent follows from who was drawn, which the ledger has."""
    script = private(begin, releases=3)
    for name in ("a", "b", "c"):
        script.join(name)
    take_part(script)
    replayed = script.state
    again = fold(None, [script.created, *script.events])
    assert again is not None
    assert again.releases == replayed.releases
    assert again.budget == replayed.budget
