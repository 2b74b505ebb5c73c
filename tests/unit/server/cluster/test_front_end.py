"""Front ends and their leader: the same state on all, a command is answered when it is there, and who is connected is known."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import grpc
import pytest

from tests.unit.server.test_coordinator import CREATED, enrol
from zowarmup.common.messages.masking import Keys
from zowarmup.common.messages.values import Tier
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.server.cluster.forwarding import Answer, Leader, Request, decode, encode
from zowarmup.server.cluster.front_end import FrontEnd
from zowarmup.server.cluster.service import ClusterService, RemoteLeader
from zowarmup.server.cluster.sessions import Sessions
from zowarmup.server.coordinator import Unavailable
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.core.evolve import evolve
from zowarmup.server.rpc.server import Services
from zowarmup.server.store.event_log import LedgerError, MemorySharedLog
from zowarmup.server.store.lease import Holder, MemoryLease

RUN = replace(
    CREATED,
    run_file=replace(CREATED.run_file, warmup=replace(CREATED.run_file.warmup, clients_per_round=2, minimum_clients=2)),
)


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that comes about by itself."""
    try:
        async with asyncio.timeout(60.0):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


class Direct(Leader):
    """The leader without a network. `away`: it cannot be reached; `mute`: it does what is asked, and its answers are lost."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions, self.away, self.mute = sessions, False, False
        self.asked: list[Request] = []

    async def forward(self, request: Request) -> Answer:
        if self.away:
            raise Unavailable("away")
        self.asked.append(request)
        answer = await self.sessions.forward(request)
        if self.mute:
            raise Unavailable("the answer is lost")
        return answer


class Room:
    """A log, a leader of it and front ends."""

    def __init__(self) -> None:
        self.lease = MemoryLease(time.monotonic)
        self.log = MemorySharedLog(self.lease.leading)
        self.tasks: list[asyncio.Task[None]] = []
        self.following: dict[str, asyncio.Task[None]] = {}
        self.carried: list[TrafficCount] = []

    def coordinator(self, name: str, patience_s: float = 30.0) -> FrontEnd:
        state = evolve(None, RUN)
        front_end = FrontEnd(self.log, state, name, 1, traffic=tuple, patience_s=patience_s)
        self.following[name] = asyncio.create_task(front_end.follow())
        self.tasks += [asyncio.create_task(front_end.run()), self.following[name]]
        return front_end

    async def lead(self, name: str, front_end: FrontEnd) -> Sessions:
        held = self.lease.take(Holder(name=name, address="127.0.0.1:7070", secret="0" * 64), 60.0)
        assert held is not None
        log = self.log.leading(held.epoch)
        if not list(self.log.read()):
            log.append([RUN], 0.0, 0)
        await front_end.lead(log, self.following[name])
        sessions = Sessions(front_end, held.epoch, self.carried.extend)
        front_end.observe(sessions)
        return sessions

    def run(self, script: "Callable[[Room], Awaitable[None]]") -> None:
        async def whole() -> None:
            try:
                await script(self)
            finally:
                for task in self.tasks:
                    task.cancel()
                await asyncio.gather(*self.tasks, return_exceptions=True)

        asyncio.run(whole())


def connect(client: str, epoch: int) -> cmd.ConnectClient:
    return cmd.ConnectClient(client, epoch, 1)


async def beaten(front_end: FrontEnd) -> None:
    await front_end._ask(())


async def ready(room: Room) -> tuple[FrontEnd, Sessions, FrontEnd, Direct]:
    """A leader, and a front end of it."""
    leader = room.coordinator("leader")
    sessions = await room.lead("leader", leader)
    front_end, direct = room.coordinator("front"), Direct(sessions)
    front_end.turn_to(direct, 1)
    return leader, sessions, front_end, direct


def test_a_command_is_answered_when_the_state_here_has_what_it_caused() -> None:
    async def script(room: Room) -> None:
        leader, _, front_end, _ = await ready(room)
        assert await front_end.handle(enrol("pi")) == ()
        assert "pi" in front_end.state.clients, "the caller finds here what it did"
        with pytest.raises(Rejected, match="invitation"):
            await front_end.handle(replace(enrol("stranger"), invited=True))
        assert leader.state.clients["pi"] == front_end.state.clients["pi"]
        await asyncio.gather(*(front_end.handle(enrol(f"pi-{i}")) for i in range(300)))
        assert front_end.end == leader.end and len(front_end.state.clients) == 301

    Room().run(script)


def test_who_connects_at_a_front_end_is_drawn_by_the_leader() -> None:
    async def script(room: Room) -> None:
        leader, sessions, front_end, _ = await ready(room)
        for number, name in enumerate(("a", "b")):
            await front_end.handle(replace(enrol(name), tier=Tier.HIGH))
            await front_end.handle(connect(name, 10 + number))
        assert len(front_end.state.ready[Tier.HIGH]) == 2, "at once, whatever the leader does"
        await beaten(front_end)
        await beaten(front_end)
        assert sessions.front_ends == {"front": 2}
        assert leader.state.current is not None, "a round has been opened with both"
        assert front_end.state.current == leader.state.current
        await front_end.handle(cmd.DisconnectClient("b", 11))
        await beaten(front_end)
        assert leader.state.is_gone("b") and not leader.state.is_gone("a")

    Room().run(script)


def test_a_report_goes_to_the_leader_only_where_it_tells_something() -> None:
    async def script(room: Room) -> None:
        _, _, front_end, direct = await ready(room)
        await front_end.handle(enrol("a"))
        direct.asked.clear()
        state = front_end.state
        await front_end.handle(cmd.RecordReport("a", state.version, state.digest, 1))
        await beaten(front_end)
        await front_end.handle(cmd.RecordReport("a", state.version, "e" * 32, 1))
        await beaten(front_end)
        assert [len(request.news) for request in direct.asked] == [0, 1]

    Room().run(script)


def test_a_client_that_moves_is_connected_where_it_came_last() -> None:
    async def script(room: Room) -> None:
        leader, sessions, first, _ = await ready(room)
        second = room.coordinator("second")
        second.turn_to(Direct(sessions), 1)
        severed: list[tuple[str, str, int]] = []
        first.superseded = lambda client, epoch: severed.append(("first", client, epoch))
        sessions._superseded = lambda client, epoch: severed.append(("leader", client, epoch))
        await first.handle(enrol("a"))
        await first.handle(connect("a", 10))
        await beaten(first)
        await second.caught_up()
        await second.handle(connect("a", 20))
        await beaten(second)
        await beaten(first)
        assert severed == [("first", "a", 10)]
        await first.handle(cmd.DisconnectClient("a", 10))
        await beaten(first)
        assert not leader.state.is_gone("a"), "the old stream's end says nothing of the new one"
        await leader.handle(connect("a", 30))
        await beaten(second)
        await first.handle(connect("a", 40))
        await beaten(first)
        assert severed[1:] == [("leader", "a", 30)]
        assert sessions.front_ends == {"front": 1, "second": 0}

    Room().run(script)


def test_commands_wait_while_nobody_leads_and_have_the_effect_of_one() -> None:
    async def script(room: Room) -> None:
        leader, _, front_end, direct = await ready(room)
        direct.mute = True
        waiting = asyncio.create_task(front_end.handle(enrol("a")))
        await until(lambda: "a" in leader.state.clients, "the leader to decide")
        direct.away = True
        await asyncio.sleep(0.3)
        assert not waiting.done()
        direct.away = direct.mute = False
        await waiting
        enrolled = [event for _, event in room.log.read() if isinstance(event, ev.ClientEnrolled)]
        assert len(enrolled) == 1

    Room().run(script)


def test_what_front_ends_have_carried_counts_once_though_answers_are_lost() -> None:
    async def script(room: Room) -> None:
        _, _, front_end, direct = await ready(room)
        told = [(TrafficCount("up", "low", "warm-up", "control", size, 1),) for size in (1, 20, 300, 4000)]
        waiting = iter(told)
        front_end.traffic = lambda: next(waiting, ())
        direct.mute = True
        for _ in range(3):
            with pytest.raises(Unavailable):
                await beaten(front_end)
        assert front_end.untold == told[0] and room.carried == [*told[0]]
        direct.mute = False
        for _ in range(2):
            await beaten(front_end)
        again = room.coordinator("front")  # another process of the same name
        again.traffic = front_end.traffic
        again.turn_to(direct, 1)
        await beaten(again)
        direct.away = True
        with pytest.raises(Unavailable):
            await beaten(again)
        direct.away = False
        await beaten(again)
        assert [count.payload_bytes for count in room.carried] == [1, 20, 300, 4000]
        assert not again.untold

    Room().run(script)


def test_patience_ends() -> None:
    async def script(room: Room) -> None:
        leader = room.coordinator("leader")
        await room.lead("leader", leader)
        lonely = room.coordinator("lonely", patience_s=0.2)
        with pytest.raises(Unavailable, match="no coordinator leads"):
            await lonely.handle(enrol("a"))
        assert "no coordinator leads" in lonely.waiting
        await lonely.handle(cmd.DisconnectClient("a", 1))  # what is about streams needs no leader

    Room().run(script)


def test_a_front_end_that_takes_over_has_its_streams_and_all_that_was_acknowledged() -> None:
    async def script(room: Room) -> None:
        leader, _, front_end, direct = await ready(room)
        for number, name in enumerate(("a", "b")):
            await front_end.handle(replace(enrol(name), tier=Tier.HIGH))
            await front_end.handle(connect(name, 10 + number))
        await beaten(front_end)
        opened = leader.state.current
        assert opened is not None
        direct.away = True
        front_end.turn_to(None, 0)
        pending = asyncio.create_task(front_end.handle(enrol("late")))
        room.lease.give_up(1)
        await room.lead("front", front_end)
        await front_end.handle(cmd.Restart())
        await pending
        assert "late" in front_end.state.clients, "what waited is decided here now"
        current = front_end.state.current
        assert current is not None and current.number == opened.number and current.seeds == opened.seeds
        assert not front_end.state.absent, "its participants are here"
        with pytest.raises(Unavailable):
            await leader.handle(enrol("zombie"))
        assert "zombie" not in {e.client for _, e in room.log.read() if isinstance(e, ev.ClientEnrolled)}

    Room().run(script)


def test_a_front_end_that_was_silent_says_everything_again() -> None:
    async def script(room: Room) -> None:
        leader = room.coordinator("leader")
        sessions = await room.lead("leader", leader)
        now = [0.0]
        sessions._clock = lambda: now[0]
        room.tasks.append(asyncio.create_task(sessions.watch()))
        front_end = room.coordinator("front")
        front_end.turn_to(Direct(sessions), 1)
        await front_end.handle(enrol("a"))
        await front_end.handle(connect("a", 10))
        await beaten(front_end)
        assert not leader.state.is_gone("a")
        now[0] = 60.0
        await until(lambda: leader.state.is_gone("a"), "the front end to be given up")
        with pytest.raises(Unavailable):
            await beaten(front_end)
        await beaten(front_end)
        assert not leader.state.is_gone("a") and sessions.front_ends == {"front": 1}

    Room().run(script)


@pytest.mark.parametrize(
    "command",
    [
        enrol("a"),
        connect("a", 1 << 60),
        cmd.DisconnectClient("a", 3),
        cmd.RecordReport("a", 3, "ab" * 16, 5),
        cmd.Contribute("a", Keys(1, "5" * 320)),
        cmd.TakeStep("a", 1, Stage.MASKED, "AAAA"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_commands_travel_whole(command: cmd.Enrol | cmd.ConnectClient) -> None:
    assert decode(encode(command)) == command


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"kind":"Stop","body":{"reason":"x"}}', b'{"kind":"Enrol","body":3}']
)
def test_what_is_no_command_of_these_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no command that can be forwarded"):
        decode(data)


def test_over_grpc_a_thousand_streams_and_commands_arrive_and_a_stranger_does_not() -> None:
    async def script(room: Room) -> None:
        leader = room.coordinator("leader")
        sessions = await room.lead("leader", leader)
        server = grpc.aio.server()
        service = ClusterService("0" * 64)
        service.sessions = sessions
        services = Services(server, reflected=False)
        services.add_cluster(service)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        holder = Holder(name="leader", address=f"127.0.0.1:{port}", secret="0" * 64)
        remote, stranger = RemoteLeader(holder), RemoteLeader(replace(holder, secret="1" * 64))
        front_end = room.coordinator("front")
        front_end.turn_to(remote, 1)
        names = [f"pi-{number}" for number in range(1000)]
        await asyncio.gather(*(front_end.handle(enrol(name)) for name in names))
        for number, name in enumerate(names):
            await front_end.handle(connect(name, 100 + number))
        await beaten(front_end)
        assert len(leader.state.ready[Tier.LOW]) == 1000
        with pytest.raises(Rejected) as rejected:
            await front_end.handle(replace(enrol("stranger"), invited=True))
        assert rejected.value.reason == "invitation_missing" and "invitation" in rejected.value.detail
        for wrong in (Request("x", 1, True), Request("x", 2, True)):
            with pytest.raises(Unavailable):
                await (stranger if wrong.epoch == 1 else remote).forward(wrong)
        await remote.close()
        await stranger.close()
        await server.stop(None)

    Room().run(script)


def test_a_front_end_that_cannot_read_the_log_lags_and_a_leader_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(room: Room) -> None:
        leader, _, front_end, _ = await ready(room)
        reads = room.log.read

        def refused(*_: object) -> list[tuple[float, ev.Event]]:
            raise LedgerError("away")

        monkeypatch.setattr(room.log, "read", refused)
        await until(lambda: front_end.lag_s > 1.0, "a lag, while the log is away")
        assert str(front_end.trouble) and leader.lag_s == 0.0
        monkeypatch.setattr(room.log, "read", reads)
        await until(lambda: front_end.lag_s < 1.0, "the end of it")

    Room().run(script)
