"""What decides the draws, and what a restart makes of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from tests.scenario.conftest import Script
from zowarmup.common.messages.values import Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import decide
from zowarmup.server.core.errors import Rejected

Begin = Callable[..., Script]


def run_with(script: Script, secret: str) -> Script:
    """The same run, but for what decides its draws."""
    run_file = replace(script.created.run_file, draws="secret" if secret else "seed")
    command = cmd.CreateRun("run", run_file, script.created.program, script.created.initial, secret)
    decision = decide(None, command, script.now)
    (created,) = decision.events
    assert isinstance(created, ev.RunCreated)
    return Script(created, decision.state)


def drawn(script: Script) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Who was drawn for twenty rounds in which all contribute, and with which seeds."""
    script.join("high", Tier.HIGH)
    for number in range(8):
        script.join(f"pi-{number}")
    while script.state.version < 20:
        current = script.state.current
        assert current is not None
        script.contribute(*current.seeds)
        script.commit()
    return [(event.participants, event.seeds) for event in script.events if isinstance(event, ev.RoundOpened)]


def test_two_runs_of_equal_seeds_and_clients_draw_differently(begin: Begin) -> None:
    one, other, public = (drawn(run_with(begin(zeroth_order=30), s)) for s in ("1" * 64, "2" * 64, ""))
    for first, second in ((one, other), (one, public)):
        assert sum(a[0] == b[0] for a, b in zip(first[1:], second[1:], strict=True)) < 10
        assert not {seed for _, seeds in first for seed in seeds} & {seed for _, seeds in second for seed in seeds}


@pytest.mark.parametrize("secret", ["1" * 64, ""])
def test_what_was_drawn_is_drawn_again_by_the_same_secret(begin: Begin, secret: str) -> None:
    """So a run that goes on from a backup draws as the first time."""
    one, other = run_with(begin(zeroth_order=30), secret), run_with(begin(zeroth_order=30), secret)
    assert drawn(one) == drawn(other)
    assert one.replayed().draws == one.state.draws


@pytest.mark.parametrize(("draws", "secret"), [("secret", ""), ("seed", "1" * 64)])
def test_no_run_begins_whose_draws_are_not_as_its_file_says(
    begin: Begin, draws: Literal["secret", "seed"], secret: str
) -> None:
    created = begin().created
    run_file = replace(created.run_file, draws=draws)
    with pytest.raises(Rejected, match="draws = "):
        decide(None, cmd.CreateRun("run", run_file, created.program, created.initial, secret), 0.0)
