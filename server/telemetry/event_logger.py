"""The coordinator's log: each event as one sentence, and what is waited for whenever that changes."""

import logging
from collections.abc import Sequence
from datetime import datetime

from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting
from zowarmup.server.core.membership import identifier
from zowarmup.server.core.state import State

log = logging.getLogger("zowarmup.run")


class EventLogger:
    """An observer of the coordinator. Routine rounds are logged at debug, every tenth at info; why a client abstains, as a
    warning when it begins to or has another reason."""

    def __init__(self) -> None:
        self._waiting = ""
        self._abstaining: dict[str, str] = {}

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        for event in events:
            self._tell(event, state)
        sentence = waiting(state, now)
        if sentence.split(" (")[0] != self._waiting.split(" (")[0]:
            self._waiting = sentence
            if sentence:
                log.info("%s", sentence)

    def _tell(self, event: ev.Event, state: State) -> None:
        match event:
            case ev.InvitationIssued():
                until = datetime.fromtimestamp(event.expires_at).astimezone()
                times = "once" if event.uses == 1 else f"{event.uses} times"
                log.info("invitation for the %s tier issued, good %s until %s", event.tier, times, f"{until:%F %H:%M}")
            case ev.InvitationRevoked():
                log.warning("invitation %s revoked: %s", identifier(event.token_sha256), event.reason)
            case ev.ClientEnrolled():
                by = " by invitation" if event.invitation else ""
                log.info("%s enrolled%s (tier %s, %d examples)", event.client, by, event.tier, event.examples)
            case ev.ExamplesChanged():
                now, before = event.examples, event.before
                log.warning("%s now claims to hold %d examples; it claimed %d before", event.client, now, before)
            case ev.ClientRevoked():
                log.warning("%s revoked: %s", event.client, event.reason)
            case ev.ClientConnected():
                log.info("%s connected (stream %d)", event.client, event.epoch)
            case ev.ClientDisconnected():
                log.info("%s disconnected", event.client)
            case ev.RoundOpened():
                text = "round %d opened: %s, %d participants of whom %d are needed, at most %.3g s (%s)"
                lasts_s = event.deadline - event.opened_at
                counts = len(event.participants), event.needed
                log.debug(text, event.round, event.phase, *counts, lasts_s, event.deadline_reason)
            case ev.DeadlineExtended():
                log.info("round %d goes on: %s", event.round, event.reason)
            case ev.Contributed():
                self._abstaining.pop(event.client, None)
            case ev.StageBegan():
                log.debug("round %d, secure aggregation: %s; next: %s", event.round, event.reason, event.stage)
            case ev.Abstained():
                number, reason = event.abstention.round, event.abstention.reason
                known = self._abstaining.get(event.client) == reason
                log.log(
                    logging.DEBUG if known else logging.WARNING,
                    "round %d: %s abstains: %s",
                    number,
                    event.client,
                    reason,
                )
                self._abstaining[event.client] = reason
            case ev.ParticipantsFailed():
                for failure in event.failures:
                    level = logging.INFO if failure.in_a_row > 1 else logging.DEBUG
                    text = "round %d: %s has failed %d in a row (%s) and rests: others are drawn first"
                    log.log(level, text, event.round, failure.client, failure.in_a_row, failure.reason)
            case ev.RoundClosed():
                log.log(_routine(event.reason.startswith("all ")), "round %d closed: %s", event.round, event.reason)
            case ev.RoundAbandoned():
                log.warning("round %d abandoned: %s", event.round, event.reason)
            case ev.Committed():
                level = _routine(event.version % 10 != 0)
                log.log(level, "version %d committed by round %d", event.version, event.round)
                if event.below_tick and str(state.rounds_below_tick).strip("0") == "1":  # 1, 10, 100, ...
                    log.warning(
                        "version %d: no direction moved by more than one tick of the grid, in %d rounds so far; if the loss "
                        "does not fall, raise zeroth_order.rate",
                        event.version,
                        state.rounds_below_tick,
                    )
            case ev.Pivoted():
                log.info("pivot at version %d: %s", event.version, event.reason)
            case ev.Evaluated():
                metrics = [(metric, event.metrics[metric.name]) for metric in state.program.metrics]
                found = ", ".join(f"{metric.title} {metric.shown(value)}" for metric, value in metrics)
                text = "version %d: %s, loss %.3f nats on %d held-out examples"
                log.info(text, event.version, found, event.loss, event.examples)
                if event.rejected:
                    log.warning("going back to the last good version: %s", event.rejected)
            case ev.RolledBack():
                log.warning(
                    "version %d has the weights of version %d, the last good one; learning rates are now %g times those "
                    "of the run file (return %d; guard.rollbacks = %d, and one more ends the run)",
                    event.version,
                    event.to,
                    event.rate_factor,
                    state.progress.rollbacks,
                    state.run_file.guard.rollbacks,
                )
            case ev.SnapshotTaken():
                log.debug("snapshot of version %d taken", event.snapshot.version)
            case ev.RunPaused():
                log.warning("paused: %s", event.reason)
            case ev.RunResumed():
                log.info("resumed")
            case ev.PivotRequested() | ev.StopRequested():
                log.info("%s: %s", type(event).__name__, event.reason)
            case ev.RunFinished():
                log.info("run finished at version %d, digest %s: %s", event.version, state.digest, event.reason)
            case ev.RunGaveUp():
                log.error("the run gave up at version %d, digest %s: %s", event.version, state.digest, event.reason)


def _routine(routine: bool) -> int:
    return logging.DEBUG if routine else logging.INFO
