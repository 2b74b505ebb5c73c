"""`pivot = "auto"`: on scripted losses, the exact round at which the warm-up ends, and what the run says of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.algorithms import warmup_settings
from tests.scenario.conftest import Script
from tests.tasks import accuracy_of
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev

FALLING = [2.0 * 0.9**number for number in range(1, 41)]
FLAT = [1.0] * 40
PATIENCE = 4


def started(begin: Callable[..., Script]) -> Script:
    script = begin(warmup=40)
    rules = warmup_settings(
        rounds=40, clients_per_round=1, quorum=1.0, pivot="auto", patience=PATIENCE, least_improvement=0.05
    )
    chosen = replace(script.state.run_file, warmup=rules)
    script.created = replace(script.created, run_file=chosen)
    script.state = replace(script.state, run_file=chosen)
    script.join("high", Tier.HIGH)
    return script


def round_of(script: Script) -> None:
    assert script.state.current is not None and script.state.current.phase is Phase.WARM_UP
    script.contribute("high")
    script.commit()


def evaluated(script: Script, losses: Sequence[float], every: int = 1) -> ev.Pivoted:
    """Through the warm-up, each version that is due evaluated while the next round is open, as it is in a real run."""
    script.do(cmd.RecordEvaluation(0, accuracy_of(0.1), 2.3, 10))  # of the weights it began with; it counts for nothing
    for loss in losses:
        round_of(script)
        if script.state.phase is not Phase.WARM_UP:
            break
        if script.state.version % every == 0:
            script.do(cmd.RecordEvaluation(script.state.version, accuracy_of(0.5), loss, 10))
    return pivoted(script)


def pivoted(script: Script) -> ev.Pivoted:
    (event,) = [event for event in script.events if isinstance(event, ev.Pivoted)]
    assert script.state.pivot_reason == event.reason and script.state.pivot_version == event.version
    again = script.replayed()
    assert (again.phase, again.pivot_version, again.pivot_reason) == (
        Phase.ZEROTH_ORDER,
        event.version,
        event.reason,
    )
    return event


def test_a_plateau_ends_the_warm_up_with_its_reason(begin: Callable[..., Script]) -> None:
    """The loss stays at 0.86 from round 8 on. After round 12 the last four are 0.86 and the four before have the median
    of 1.18, 1.06, 0.96 and 0.86; after round 13 that of 1.06, 0.96, 0.86 and 0.86, which is 0.91, and 0.86 is more than
    5 % less; after round 14 it is 0.86. That is known when round 15 is over."""
    event = evaluated(started(begin), FALLING[:8] + [FALLING[7]] * 32)
    assert event.version == 15
    assert event.reason == (
        "the held-out loss has not fallen by 5 %: 0.8609 nats in rounds 7 to 10, 0.8609 in rounds 11 to 14"
    )


def test_while_it_falls_the_warm_up_goes_on_to_its_last_round(begin: Callable[..., Script]) -> None:
    event = evaluated(started(begin), FALLING)
    assert (event.version, event.reason) == (40, "40 of 40 warm-up rounds are done")


def test_noise_neither_ends_it_nor_keeps_it_going(begin: Callable[..., Script]) -> None:
    """A round in six has three times the loss. It ends where it does without these."""
    spiked = [3 * loss if number % 6 == 2 else loss for number, loss in enumerate(FALLING)]
    assert evaluated(started(begin), spiked).version == 40
    level = FALLING[:8] + [FALLING[7]] * 32
    noise = 1 + 0.01 * np.random.default_rng(5).normal(size=40)
    noisy = [float(loss * factor) for loss, factor in zip(level, noise, strict=True)]
    assert evaluated(started(begin), noisy).version == 15


def test_the_first_plateau_is_after_twice_the_patience(begin: Callable[..., Script]) -> None:
    assert evaluated(started(begin), FLAT).version == 2 * PATIENCE + 1
    rising = [1.0 + number for number in range(40)]
    assert evaluated(started(begin), rising).version == 2 * PATIENCE + 1


def test_evaluations_between_rounds_end_it_at_once(begin: Callable[..., Script]) -> None:
    """Where nobody is there for another round, the evaluation is known before it opens."""
    script = started(begin)
    for number in range(1, 9):
        current = script.state.current
        assert current is not None
        script.contribute("high")
        if number == 8:
            script.lose("high")
        script.commit()
        if number == 8:
            assert script.state.current is None and script.state.phase is Phase.WARM_UP
        script.do(cmd.RecordEvaluation(number, accuracy_of(0.5), 1.0, 10))
    assert pivoted(script).version == 8


def test_versions_that_were_not_evaluated_are_left_out(begin: Callable[..., Script]) -> None:
    """Versions 4, 8, 12, ... are: the loss stays where it is from version 12 on."""
    losses = FALLING[:12] + [FALLING[11]] * 28
    event = evaluated(started(begin), losses, every=4)
    assert event.version == 17
    assert event.reason.startswith("the held-out loss has not fallen by 5 %: 0.5649 nats in rounds 9 to 12, 0.5649 in")


def test_what_clients_report_decides_nothing(begin: Callable[..., Script]) -> None:
    script = started(begin)
    for number, loss in enumerate(FALLING[:30], 1):
        round_of(script)
        script.do(cmd.RecordEvaluation(number, accuracy_of(0.5), loss, 10))
    assert script.state.phase is Phase.WARM_UP, "though each of them said 1.5"


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_model_that_has_diverged_is_no_better(begin: Callable[..., Script], lost: float) -> None:
    """Once two of the last four are lost, so is their median: after round 10."""
    assert evaluated(started(begin), FALLING[:8] + [lost] * 32).version == 11


def test_an_operator_may_still_ask_for_it(begin: Callable[..., Script]) -> None:
    script = started(begin)
    script.do(cmd.Pivot("enough"))
    event = evaluated(script, FALLING)
    assert (event.version, event.reason) == (1, "enough")


def test_nothing_is_remembered_where_nobody_asked(begin: Callable[..., Script]) -> None:
    script = begin(warmup=3)
    script.join("high", Tier.HIGH)
    for number in range(1, 3):
        script.contribute("high")
        script.commit()
        script.do(cmd.RecordEvaluation(number, accuracy_of(0.5), 1.0, 10))
    assert script.state.losses == () and script.state.phase is Phase.WARM_UP


def test_what_is_remembered_is_bounded(begin: Callable[..., Script]) -> None:
    script = started(begin)
    for number, loss in enumerate(FALLING[:30], 1):
        round_of(script)
        script.do(cmd.RecordEvaluation(number, accuracy_of(0.5), loss, 10))
    assert [version for version, _ in script.state.losses] == list(range(23, 31))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"patience": 9}, 'patience = 9: must be 5, the default, unless pivot = "auto"'),
        ({"least_improvement": 0.1}, 'least_improvement = 0.1: must be 0.02, the default, unless pivot = "auto"'),
        ({"pivot": "auto", "patience": 0}, "patience = 0: must be 1 to 100000 rounds"),
        ({"pivot": "auto", "least_improvement": 1.0}, "least_improvement = 1.0: must be 0 to below 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        warmup_settings(rounds=3, **settings)  # type: ignore[arg-type]
