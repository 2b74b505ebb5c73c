"""What a device does for a round as a trace, a child of the coordinator's: the work received, computed and brought back."""

import contextlib
import time
from collections.abc import Iterator

from zowarmup.common.messages.values import Tier, Work
from zowarmup.common.system.tracing import Span, Traces


class WorkTraces:
    """The traces of one client's work.

    Args:
        traces: Of the process; None: nothing is traced.
        tier: The client's.
        client: Its name; empty where it is not said.
    """

    def __init__(self, traces: Traces | None = None, tier: Tier = Tier.LOW, client: str = "") -> None:
        self._traces, self._tier, self._client = traces, tier, client

    @contextlib.contextmanager
    def of(self, work: Work, arrived_s: float) -> Iterator["WorkSpans"]:
        """The spans of one piece of work for as long as the block takes; none where the coordinator traces nothing.

        Args:
            work: What is done.
            arrived_s: When it was received, seconds since 1970.
        """
        if self._traces is None or not work.trace_parent:
            yield WorkSpans(None)
            return
        now = time.time()
        begun_s = min(arrived_s, now)
        span = self._traces.begin(
            "work",
            work.trace_parent,
            begun_s,
            client=self._client,
            tier=str(self._tier),
            round=work.round,
            phase=str(work.phase),
        )
        span.child("receive work", begun_s).end(ended_s=now)
        try:
            yield WorkSpans(span)
        except BaseException as error:
            span.end(type(error).__name__)
            raise
        span.end()


class WorkSpans:
    """The spans of one piece of work; None: none."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A part of it for as long as the block takes."""
        return contextlib.nullcontext() if self._span is None else self._span.part(name)
