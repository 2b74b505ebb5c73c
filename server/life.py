"""One life of a coordinator, from its first open port to its last answer.

Alone with its data directory it leads from the start. Where several coordinators share a store (`Serving.shared`) it begins as a
front end of whoever leads, and leads itself once the lease is its own.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from zowarmup.common.messages.values import Phase
from zowarmup.common.system.ending import GRACE_S
from zowarmup.common.system.tracing import traces_of
from zowarmup.server.cluster.front_end import FrontEnd
from zowarmup.server.cluster.node import Node
from zowarmup.server.cluster.service import RelayInterceptor
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.leadership import Leadership
from zowarmup.server.listening import Listening
from zowarmup.server.opening import Opened, open_alone, open_shared
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc.auth import Admission, operator_sha256
from zowarmup.server.rpc.limits import RateLimiter
from zowarmup.server.rpc.operator import OperatorService
from zowarmup.server.rpc.participate import CoordinatorService
from zowarmup.server.rpc.strangers import keep_room
from zowarmup.server.rpc.streams import StreamRegistry
from zowarmup.server.served import Served, Serving
from zowarmup.server.shown import figures_of, metrics_of, show
from zowarmup.server.shutdown import GIVEN_UP, leave, settle
from zowarmup.server.store.event_log import Fenced
from zowarmup.server.telemetry.event_logger import EventLogger
from zowarmup.server.telemetry.round_traces import RoundTraces
from zowarmup.server.tracking.opening import trackers_of
from zowarmup.server.websites import Site, page_of

if TYPE_CHECKING:
    from zowarmup.server.telemetry.metrics import RunMetrics

log = logging.getLogger("zowarmup.server")

TOLD_S = 0.3
"""How long a coordinator that ends exports its last spans."""


class Life:
    """A coordinator from its first open port to its last answer.

    Args:
        serving: What it serves.
        stopped: Its result ends it.
        faults: Gets what parts of it have met that ended by themselves, which is its end, too.
        stack: Is left when it is over.
        fenced: How often this process has lost the lease in lives before.
    """

    def __init__(
        self,
        serving: Serving,
        stopped: "asyncio.Future[int]",
        faults: list[BaseException],
        stack: contextlib.AsyncExitStack,
        fenced: int,
    ) -> None:
        self._serving, self._stopped, self._faults, self._stack = serving, stopped, faults, stack
        self._fenced = fenced
        self._node: Node | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._sites: list[Site] = []
        self._looked = [0.0]

    async def run(self, ready: Callable[[Served], None]) -> int:
        """Until it is over; the exit code."""
        serving, stopped, way = self._serving, self._stopped, self._serving.way
        settings, data_dir = serving.run_file.server, serving.data_dir
        trackers = trackers_of(serving.run_file.tracking)
        metrics = metrics_of(serving)
        listening = await self._listen(metrics)
        operator = operator_sha256(data_dir)
        page = page_of(settings, serving.web_address, serving.insecure, way, operator, data_dir)
        opening = asyncio.create_task(self._open(metrics))
        either: set[asyncio.Future[Any]] = {opening, stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            if not self._faults:
                serving.end_preparing()  # so that the thread, which cannot be cancelled, ends now
                log.info("stopped before the run was ready; start again with the same --data-dir")
            await asyncio.wait({opening}, timeout=GRACE_S)
            opening.add_done_callback(lambda over: over.cancelled() or over.exception())  # what it met was our doing
            return stopped.result()
        opened = opening.result()
        coordinator, history = opened.coordinator, opened.history
        traffic = Traffic(lambda: coordinator.state.phase, history.traffic.latest)
        admission = Admission(
            coordinator,
            operator,
            way.invited,
            way.guarded,
            listening.refusals,
            cluster=self._node.election.holder.secret if self._node else "",
        )
        listening.callers.knows, listening.lengths.trusts = admission.knows, admission.is_coordinator
        traces = traces_of("zowarmup-server")
        rounds = RoundTraces(traces, coordinator.state) if traces else None
        streams = self._serve_clients(opened, listening, traffic, admission, rounds)
        leadership = Leadership(coordinator, history, opened.uploads, opened.evaluator, traffic, rounds, trackers)
        figures = figures_of(coordinator, self._node, self._fenced, streams)
        self._sites += show(serving, opened, listening, page, metrics, traffic, streams.catch_ups, figures)
        await self._lead(opened, leadership, metrics, traffic, streams)
        self._begin(
            leave(
                coordinator,
                self._looked,
                stopped,
                serving.exit_when_finished,
                scraped=metrics is not None,
                pending=lambda: leadership.pending,
            )
        )
        if way.certificates is not None:
            self._begin(way.certificates.watch(self._renewed))
        watching = asyncio.create_task(keep_room(listening.port, listening.most, traffic.members))
        self._stack.callback(watching.cancel)
        ready(Served(listening.port, coordinator, history, traffic, page.url if page else ""))
        await listening.ready()
        log.info("%s", way.describe(listening.port))
        _say_that_it_is_over(coordinator)

        status = await stopped
        if coordinator.state.gave_up and not status:
            status = GIVEN_UP
        more = "" if coordinator.state.phase is Phase.FINISHED else "; start again with the same --data-dir to go on"
        log.info("stopping at version %d%s", coordinator.state.version, more)
        for site in self._sites:
            await asyncio.to_thread(site.close)
        streams.close_all()
        await asyncio.gather(leadership.end(), *([asyncio.to_thread(traces.close, TOLD_S)] if traces else ()))
        await listening.stop(GRACE_S / 2)
        for task in (*self._loops, watching):
            task.cancel()
        await asyncio.gather(*self._loops, watching, return_exceptions=True)
        if self._faults and self._node is not None and await self._node.deposed():
            self._faults.insert(0, Fenced("another coordinator leads by now"))
        return status

    async def _listen(self, metrics: "RunMetrics | None") -> Listening:
        serving, way = self._serving, self._serving.way
        # First of all: while the store is away, this is done again and again, and a port would still be held.
        store = None
        if serving.shared is not None:
            took = metrics.appended if metrics else lambda seconds: None
            store = await asyncio.to_thread(serving.shared.open, took)
        relay = RelayInterceptor()
        listening = Listening(way, serving.run_file.server, (relay,) if store is not None else ())
        way.publish(serving.data_dir)
        if serving.shared is not None and store is not None:
            holder = serving.shared.holder(way, listening.port)
            self._node = Node(store, holder, serving.shared.lease_s, relay, lambda: way.shown)
            self._stack.push_async_callback(self._node.leave)
        await listening.begin(self._stack)
        self._stack.callback(lambda: [task.cancel() for task in self._loops])
        return listening

    async def _open(self, metrics: "RunMetrics | None") -> Opened:
        if self._node is None:
            return await open_alone(self._serving, self._stack, metrics.appended if metrics else None)
        await self._node.election.begin()
        self._begin(self._node.election.run())
        return await open_shared(self._serving, self._node)

    def _serve_clients(
        self,
        opened: Opened,
        listening: Listening,
        traffic: Traffic,
        admission: Admission,
        rounds: RoundTraces | None,
    ) -> StreamRegistry:
        """Answer clients and the operator; what happened goes to the streams that it concerns."""
        coordinator, history, way = opened.coordinator, opened.history, self._serving.way
        rate_limiter = RateLimiter(self._serving.run_file.server.messages_per_second)
        first_epoch = int(coordinator.date() * 1000) << 10 if self._node else 0
        streams = StreamRegistry(history, rate_limiter, rounds.parent if rounds else lambda round: b"", first_epoch)
        coordinator.observe(lambda now, events, after: history.record(coordinator.written_at, events, now))
        if rounds is not None:
            coordinator.observe(rounds)  # before the streams, which say whose child a client's span is
        coordinator.observe(streams)
        coordinator.observe(opened.uploads)
        coordinator.observe(EventLogger())
        listening.services.add(
            CoordinatorService(
                coordinator,
                opened.blobs,
                streams,
                traffic,
                admission,
                opened.uploads,
                rate_limiter,
                listening.strangers,
            ),
            OperatorService(
                coordinator,
                history,
                traffic,
                admission,
                lambda: self._looked.__setitem__(0, asyncio.get_running_loop().time()),
                lambda: way.expires_at or 0.0,
            ),
        )
        if self._node is not None:
            self._node.relay.is_operator = admission.is_operator
            listening.services.add_cluster(self._node.service)
        return streams

    async def _lead(
        self,
        opened: Opened,
        leadership: Leadership,
        metrics: "RunMetrics | None",
        traffic: Traffic,
        streams: StreamRegistry,
    ) -> None:
        """Decide, or follow who does until this coordinator is to."""
        coordinator = opened.coordinator
        self._begin(coordinator.run())
        if self._node is None:
            if metrics is not None:
                metrics.count(coordinator)
            self._begin(*await leadership.begin(opened.blobs, opened.replica))
            return
        assert isinstance(coordinator, FrontEnd)
        coordinator.superseded, coordinator.traffic = streams.supersede, traffic.take
        node = self._node
        self._watch(node.follow(coordinator))
        self._begin(coordinator.beat())

        async def take_over() -> None:
            await node.election.took.wait()
            self._begin(await node.lead(traffic, streams.supersede))
            traffic.go_on_from(opened.history.traffic.latest)
            traffic.include(coordinator.untold)
            blobs = node.store.blobs.leading(node.election.epoch)
            if metrics is not None:
                metrics.count(coordinator)
            self._begin(*await leadership.begin(blobs))

        led = node.election.epoch
        self._begin(take_over())
        if led:  # who makes a run answers when it leads it, unless it is stopped meanwhile or loses the lease
            leading_or_over: set[asyncio.Future[Any]] = {self._loops[-1], self._stopped}
            await asyncio.wait(leading_or_over, return_when=asyncio.FIRST_COMPLETED)

    def _begin(self, *jobs: Coroutine[Any, Any, None]) -> None:
        """Run jobs until the end; one that fails is the end."""
        for job in jobs:
            self._watch(asyncio.create_task(job))

    def _watch(self, task: "asyncio.Task[None]") -> None:
        self._loops.append(task)
        task.add_done_callback(self._failed)

    def _failed(self, task: "asyncio.Task[None]") -> None:
        """A part of the coordinator that ends by itself has failed: stop, rather than go on half alive."""
        error: BaseException | None = None
        if not task.cancelled():
            error = task.exception()
        elif not self._stopped.done():
            error = RuntimeError("a part of it was cancelled")
        if error is not None:
            self._faults.append(error)
            if not (isinstance(error, Fenced) and self._node):
                log.critical("the coordinator cannot go on", exc_info=error)
            settle(self._stopped, 1)

    def _renewed(self) -> None:
        """There is a new certificate."""
        self._serving.way.publish(self._serving.data_dir)
        for site in self._sites:
            site.renew()
        if self._node is not None:
            self._node.renew()


def _say_that_it_is_over(coordinator: Coordinator) -> None:
    if coordinator.state.gave_up:
        log.error(
            "this run has given up: %s; `zowarmup export` its model and begin another run from it (model.weights), at a "
            "lower rate",
            coordinator.state.gave_up,
        )
    elif coordinator.state.phase is Phase.FINISHED:
        log.info("this run is finished: its status and versions are served until you stop the server")
