"""What a coordinator serves, and how, and what there is once it answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zowarmup.server.cluster.node import SharedStore
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.opening import RunToOpen
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc.endpoints import Endpoint
from zowarmup.server.store.lease import Holder

if TYPE_CHECKING:
    from zowarmup.server.telemetry.endpoints import HttpEndpoint


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The store that a coordinator shares with others.

    Attributes:
        open: Opens it, in a thread, given what is told the seconds of each append.
        holder: This coordinator among the others, given where it listens and the port that was opened.
        lease_s: How long a lease lasts, seconds.
    """

    open: Callable[[Callable[[float], None]], SharedStore] = field(repr=False)
    holder: Callable[[Endpoint, int], Holder] = field(repr=False)
    lease_s: float = 3.0


@dataclass(frozen=True, kw_only=True)
class Serving(RunToOpen):
    """A run that a coordinator serves, and how; this process holds its data directory (`locked`).

    Attributes:
        way: Where the coordinator listens.
        shown: Where its metrics are shown; None: nowhere.
        web_address: Where the live page is, as `Server.web_address` has it.
        insecure: Whether it may be in plain text for others to read.
        end_preparing: Ends the making of a model, from another thread, where the coordinator is stopped meanwhile.
        exit_when_finished: Whether it leaves when the run is over, or has paused itself.
        shared: The store that it shares; None where it is alone.
    """

    way: Endpoint
    shown: "HttpEndpoint | None" = None
    web_address: str = ""
    insecure: bool = False
    end_preparing: Callable[[], None] = field(default=lambda: None, repr=False)
    exit_when_finished: bool = False
    shared: Shared | None = None


@dataclass(frozen=True)
class Served:
    """A coordinator that answers, at `port`, and what it knows. `page`: the address of its live page; empty where there is
    none."""

    port: int
    coordinator: Coordinator
    history: History
    traffic: Traffic
    page: str = ""
