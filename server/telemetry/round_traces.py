"""A round as a trace: opened, waiting for contributions, aggregated, committed; and the evaluation that follows.

An observer of the coordinator, told before the streams, which send each participant the round's span as the parent of its own. The
jobs between a round's end and its version say themselves how long they take (`part`).
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

from zowarmup.common.system.tracing import Span, Traces
from zowarmup.server.core import events as ev
from zowarmup.server.core.state import State

COMMIT = "commit"


class RoundTraces:
    """The traces of a run's rounds. `state`: with which it begins; a round that is open then has a trace from now on."""

    def __init__(self, traces: Traces, state: State) -> None:
        self._traces, self._run = traces, state.run_file.name
        self._number = self._before = 0
        self._round: Span | None = None
        self._last: Span | None = None  # of round `_before`, the last that was committed
        self._waiting: Span | None = None
        if (current := state.current) is not None:
            self._begin(current.number, current.phase, current.version, len(current.seeds), None)
            if not current.closed:
                self._wait()

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        for event in events:
            match event:
                case ev.RoundOpened():
                    took_s = max(0.0, now - event.opened_at)
                    begun_s = time.time() - took_s
                    self._begin(event.round, event.phase, event.version, len(event.participants), begun_s)
                    if self._round is not None:
                        self._round.child("open", begun_s).end()
                    self._wait()
                case ev.Contributed() if self._waiting is not None:
                    self._waiting.note("contributed", client=event.client)
                case ev.Abstained() if self._waiting is not None:
                    self._waiting.note("abstained", client=event.client, reason=event.abstention.reason)
                case ev.RoundClosed():
                    self._wait_no_longer()
                case ev.RoundAbandoned():
                    self._abandon(f"abandoned: {event.reason}")
                case ev.Committed():
                    # Its part "commit" is about to end, and with it the round; the next one may be opened already.
                    self._before, self._last, self._round = self._number, self._round, None

    def parent(self, round: int) -> bytes:
        """What a participant's spans of a round are children of; empty where nothing is traced."""
        return self._round.parent if self._round is not None and round == self._number else b""

    @contextlib.contextmanager
    def part(self, name: str, round: int) -> Iterator[None]:
        """A part of a round for as long as the block takes. The round ends with its commit; of one before this coordinator's
        start it is a trace of its own."""
        span = (self._round if round == self._number else None) or (self._last if round == self._before else None)
        if span is None:
            span = self._traces.begin(name, run=self._run, round=round)
            try:
                yield
            finally:
                span.end()
            return
        with span.part(name):
            yield
        if name == COMMIT and span is self._last:
            span.end()

    def _begin(self, number: int, phase: str, version: int, participants: int, begun_s: float | None) -> None:
        self._number = number
        self._round = self._traces.begin(
            "round",
            begun_s=begun_s,
            run=self._run,
            round=number,
            phase=str(phase),
            version=version,
            participants=participants,
        )

    def _wait(self) -> None:
        if self._round is not None:
            self._waiting = self._round.child("wait for contributions")

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.end()
        self._waiting = None

    def _abandon(self, reason: str) -> None:
        self._wait_no_longer()
        if self._round is not None:
            self._round.end(reason)
        self._round = None
