"""What a front end and the leader say to each other, as values: commands forwarded, streams told of, and the answer.

Commands travel as JSON, as events do in the ledger, so that their numbers are the same bits on both sides. Only those of
`FORWARDED` and `NEWS` are read: what else a command can do is the leader's own.
"""

import json
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from zowarmup.server.core import commands as cmd
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.store import schemas  # noqa: F401  (how algorithms' settings are read)

News = cmd.ConnectClient | cmd.DisconnectClient | cmd.RecordReport
"""About who is connected: nobody waits for an answer."""
Forwarded = cmd.Enrol | cmd.Contribute | cmd.TakeStep | cmd.Abstain
"""Decided by the leader. Each has the effect of one, however often it is asked for."""

_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    cls.__name__: TypeAdapter(with_config(ConfigDict(ser_json_inf_nan="strings"))(cls))
    for cls in (*get_args(News), *get_args(Forwarded))
}


@dataclass(frozen=True, slots=True)
class Request:
    """From a front end.

    Attributes:
        front_end: Its name in the cluster.
        epoch: Of the lease whose holder it asks.
        anew: Whether `news` has every stream that it holds.
        news: What has changed about its clients' streams since the last request that was answered, in order.
        commands: Of its clients.
        traffic: What has been carried since what was last taken.
        more: Another request follows with the rest of the news.
        traffic_number: Of `traffic`; the same where it is sent again.
    """

    front_end: str
    epoch: int
    anew: bool
    news: tuple[News, ...] = ()
    commands: tuple[Forwarded, ...] = ()
    traffic: tuple[TrafficCount, ...] = ()
    more: bool = False
    traffic_number: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """From the leader.

    Attributes:
        outcomes: One for each command: why it was rejected, or None.
        end: The number of the log's last event; what the commands have caused is not behind it.
        waiting: What the run waits for, as a sentence; empty for nothing.
        superseded: Streams of the front end, by client and epoch, whose clients have newer ones elsewhere.
        unknown: The leader does not know the front end; nothing was taken, and the next request must be `anew`.
        now_s: The leader's clock.
    """

    outcomes: tuple[Rejected | None, ...] = ()
    end: int = 0
    waiting: str = ""
    superseded: tuple[tuple[str, int], ...] = ()
    unknown: bool = False
    now_s: float = 0.0


class Leader(Protocol):
    """The coordinator that leads, as a front end knows it."""

    async def forward(self, request: Request) -> Answer:
        """Ask it. Raises Unavailable where it cannot be reached, does not lead any more, or cannot write: nothing is known
        of what became of the request."""
        ...


def encode(command: News | Forwarded) -> bytes:
    """A command as JSON."""
    kind = type(command).__name__
    return json.dumps({"kind": kind, "body": _ADAPTERS[kind].dump_python(command)}, separators=(",", ":")).encode()


def decode(data: bytes) -> News | Forwarded:
    """Raises ValueError where it is no command of these."""
    try:
        read = json.loads(data)
        adapter = _ADAPTERS[read["kind"]]
        command: News | Forwarded = adapter.validate_json(json.dumps(read["body"]))
    except (ValidationError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"no command that can be forwarded: {type(error).__name__}") from error
    return command
