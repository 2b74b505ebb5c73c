"""When the process leaves by itself: by the state alone, on a clock of the test's own."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.unit.server.test_coordinator import CREATED
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.state import Presence, State
from zowarmup.server.shutdown import GIVEN_UP, LOOKED_S, REPORTS_S, SCRAPED_S, leave, settle


def state(**changed: Any) -> State:
    """A run with one client, connected at version 0."""
    joined = ev.ClientEnrolled("a", Tier.LOW, 10, "a" * 64)
    found = fold(None, [CREATED, joined, ev.ClientConnected("a", 1, 10, 0, "", "")])
    assert found is not None
    return replace(found, **changed)


EVALUATED = ev.Evaluated(0, {}, 1.0, 1)
FINISHED = {"phase": Phase.FINISHED, "finished": "all rounds are done", "evaluation": EVALUATED}
LOST = {**FINISHED, "gave_up": "the model is lost"}
HELD = {"presence": state().presence.set("a", Presence(epoch=1, version=0, digest=state().digest))}
PAUSED = {"paused": "too many rounds were abandoned", "abandoned": 10**6}


@dataclass
class Process:
    """A coordinator whose state is what is next in `then`, by second, and the clock on which `leave` waits. Nobody has asked
    for the status since second `looked`."""

    then: dict[float, State]
    looked: float = -60.0
    now: float = 0.0
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.then[0.0]

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.state = self.then[max(at for at in self.then if at <= self.now)]
        if self.now > 1000:
            raise TimeoutError

    def left(self, when_finished: bool = True, scraped: bool = False) -> tuple[int | None, float]:
        """The exit code, None where it stays, and when that was decided."""

        async def script() -> int | None:
            stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            coordinator: Any = self
            try:
                await leave(coordinator, [self.looked], stopped, when_finished, scraped, self.clock, self.sleep)
            except TimeoutError:
                return None
            return stopped.result() if stopped.done() else None

        return asyncio.run(script()), self.now


def test_it_leaves_once_the_run_is_finished_and_everybody_has_said_what_it_holds() -> None:
    assert Process({0.0: state(), 5.0: state(**FINISHED, **HELD)}).left() == (0, 5.0)


def test_it_waits_for_the_evaluation_of_the_last_version() -> None:
    finished = state(**{**FINISHED, "evaluation": None}, **HELD)
    assert Process({0.0: finished, 8.0: state(**FINISHED, **HELD)}).left() == (0, 8.0)


def test_it_does_not_wait_for_a_report_longer_than_it_takes_to_give_one() -> None:
    assert Process({0.0: state(**FINISHED)}).left() == (0, REPORTS_S)
    assert Process({0.0: state(**FINISHED), 3.0: state(**FINISHED, **HELD)}).left() == (0, 3.0)


def test_it_waits_for_who_looks_at_the_status() -> None:
    assert Process({0.0: state(**FINISHED, **HELD)}, looked=0.0).left() == (0, LOOKED_S)


@pytest.mark.parametrize("end", [FINISHED, LOST])
def test_started_again_after_the_end_it_stays_unless_it_is_to_leave(end: dict[str, Any]) -> None:
    assert Process({0.0: state(**end, **HELD)}).left(when_finished=False) == (None, 0.0)
    assert Process({0.0: state(**end, **HELD)}).left() == (0, 0.0)


def test_a_run_that_gives_up_ends_the_process_when_its_metrics_have_been_read() -> None:
    lives = {0.0: state(), 5.0: state(**LOST, **HELD)}
    assert Process(lives).left(when_finished=False) == (0, 5.0)
    assert Process(lives).left(when_finished=False, scraped=True) == (0, 5.0 + SCRAPED_S)


def test_a_run_that_pauses_itself_ends_the_process_where_nobody_is_here_to_resume_it() -> None:
    lives = {0.0: state(), 5.0: state(**PAUSED)}
    assert Process(lives).left() == (GIVEN_UP, 5.0)
    assert Process(lives).left(when_finished=False)[0] is None


def test_a_run_that_was_paused_when_it_was_started_waits_to_be_resumed() -> None:
    assert Process({0.0: state(**PAUSED)}).left()[0] is None
    assert Process({0.0: state(**PAUSED), 5.0: state(), 9.0: state(**PAUSED)}).left() == (GIVEN_UP, 9.0)


def test_the_first_exit_code_stays() -> None:
    async def script() -> int:
        stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        settle(stopped, 3)
        settle(stopped, 0)
        return stopped.result()

    assert asyncio.run(script()) == 3
