"""What a broken network, a coordinator that is away and a killed process cost: a wait, never the work.

The stream is `zowarmup.client.net.reconnecting_stream`.
"""

import asyncio
import signal
import socket
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from tests.client.conftest import Client, Part, Run, Scripted, Start, Talk
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.settings.run import SOFTWARE

GIVEN = Work(1, Phase.ZEROTH_ORDER, 1, 77, 3600.0)
WELCOME = {"epoch": 1, "phase": "PHASE_ZEROTH_ORDER", "version": 1}
FETCH = {"version": 1, "reason": "it holds no replica"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def idle(talk: Talk) -> None:
    """Welcome, and leave the client waiting until it goes."""
    await talk.hear("hello")
    await talk.say(welcome=WELCOME)
    await talk.end()


async def over(talk: Talk, run: Run) -> None:
    await talk.say(finished={"version": 1, "digest": b"\0" * 16})
    await talk.hear("report")
    await talk.end()


def test_a_coordinator_that_is_not_there_yet_is_waited_for_and_joined(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        port = free_port()
        client = await start(port)
        await client.printed(f"waiting for 127.0.0.1:{port}")
        assert "will join when it answers" in client.log
        scripted.parts = [idle]
        async with scripted.listening(port):
            await client.printed("joined digits as pi")
            assert client.log.count("waiting for") == 1, "however often it has tried"
            assert await client.stopped() == 0

    asyncio.run(scenario())


def test_bulk_goes_on_where_it_broke_off(run: Run, scripted: Scripted, start: Start) -> None:
    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(work=codec.work_to_wire(GIVEN))
        await talk.hear("scalars")
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [part]
        scripted.breaks = [5000, 100, 10**9, 200]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0
            assert client.log.count("broke off") == 3

    asyncio.run(scenario())
    assert scripted.fetches == [
        ("snapshot", 1, 0),
        ("snapshot", 1, 5000),
        ("snapshot", 1, 5100),
        ("program", 0, 0),
        ("program", 0, 200),
    ]


def test_a_last_report_that_was_not_heard_is_made_again(run: Run, scripted: Scripted, start: Start) -> None:
    async def deaf(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(finished={"version": 1, "digest": b"\0" * 16})
        await talk.hear("report")
        await talk.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", "too_many")

    async def again(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [deaf, again]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0

    asyncio.run(scenario())
    assert scripted.parts == []


def test_a_coordinator_that_was_upgraded_is_told_of_once(run: Run, scripted: Scripted, start: Start) -> None:
    def runs(software: str, last: bool = False) -> Part:
        async def part(talk: Talk) -> None:
            await talk.hear("hello")
            await talk.say(welcome={**WELCOME, "software": software})
            if last:
                await talk.say(fetch=FETCH)
            await (over(talk, run) if last else talk.refuse(grpc.StatusCode.UNAVAILABLE, "restarting", "stopping"))

        return part

    async def scenario() -> None:
        scripted.parts = [
            runs(SOFTWARE),
            runs("zowarmup 99.1"),
            runs("zowarmup 99.1"),
            runs("zowarmup 99.1", last=True),
        ]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0
        said = f"the coordinator runs zowarmup 99.1 and this device {SOFTWARE}: install the newer wheel here"
        assert client.log.count(said) == client.log.count("99.1") == 1

    asyncio.run(scenario())


def test_a_stream_that_breaks_during_a_long_fetch_does_not_begin_it_again(
    run: Run, scripted: Scripted, start: Start
) -> None:
    async def broken(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)

    async def again(talk: Talk) -> None:
        hello = await talk.hear("hello")
        assert hello.digest == b""  # the fetch is still going on
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(work=codec.work_to_wire(GIVEN))
        scripted.gate.set()
        await talk.hear("scalars")
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [broken, again]
        scripted.gate.clear()
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0

    asyncio.run(scenario())
    assert scripted.fetches == [("snapshot", 1, 0), ("program", 0, 0)]


def test_a_snapshot_that_is_no_longer_kept_is_asked_about_again(run: Run, scripted: Scripted, start: Start) -> None:
    async def outdated(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch={"version": 9, "reason": "it holds no replica"})
        await talk.end()

    async def current(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(work=codec.work_to_wire(GIVEN))
        await talk.hear("scalars")
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [outdated, current]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0
        assert "no snapshot of version 9 is kept; saying hello again" in client.log

    asyncio.run(scenario())


def test_a_stream_that_breaks_while_working_costs_no_work(run: Run, scripted: Scripted, start: Start) -> None:
    """The same work is given again: the same scalars are said again, and computed once."""
    said = []

    async def broken(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(work=codec.work_to_wire(GIVEN))
        said.append(await talk.hear("scalars"))

    async def again(talk: Talk) -> None:
        hello = await talk.hear("hello")
        assert (hello.version, len(hello.digest)) == (1, 16)
        await talk.say(welcome=WELCOME)
        await talk.say(work=codec.work_to_wire(GIVEN))
        said.append(await talk.hear("scalars"))
        await talk.say(work=codec.work_to_wire(GIVEN))  # given twice on one stream, it is answered once
        await talk.say(accepted={"round": 1})
        await talk.hear("report")
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [broken, again]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0
        assert client.log.count(f"lost 127.0.0.1:{port}") == 1
        assert client.log.count(f"back with 127.0.0.1:{port}") == 1
        assert client.log.count("round 1: contributed") == 1

    asyncio.run(scenario())
    assert said[0] == said[1]
    assert scripted.fetches == [("snapshot", 1, 0), ("program", 0, 0)]


def test_work_that_is_given_again_after_the_stream_broke_has_its_new_deadline(
    run: Run, scripted: Scripted, start: Start
) -> None:
    """The device is at work on it all the while. The old deadline is over by then, the new one is not."""

    async def broken(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome={**WELCOME, "phase": "PHASE_WARM_UP"})
        await talk.say(work=codec.work_to_wire(replace(GIVEN, phase=Phase.WARM_UP, deadline_s=0.0)))
        while not scripted.fetches:
            await asyncio.sleep(0.05)

    async def again(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome={**WELCOME, "phase": "PHASE_WARM_UP"})
        await talk.say(work=codec.work_to_wire(replace(GIVEN, phase=Phase.WARM_UP)))
        scripted.gate.set()
        assert (await talk.hear("delta_ready")).round == 1
        await talk.say(accepted={"round": 1})
        await talk.hear("report")
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [broken, again]
        scripted.gate.clear()
        async with scripted.listening() as port:
            client = await start(port, tier="high")
            assert await client.ended() == 0
        assert "without a contribution" not in client.log

    asyncio.run(scenario())
    assert scripted.fetches == [("snapshot", 1, 0)]


@pytest.mark.parametrize("damage", [False, True])
def test_a_client_that_was_killed_comes_back_as_itself_with_its_replica(
    run: Run, scripted: Scripted, start: Start, tmp_path: Path, damage: bool
) -> None:
    async def first(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(work=codec.work_to_wire(GIVEN))
        await talk.hear("scalars")
        await talk.end()

    async def second(talk: Talk) -> None:
        hello = await talk.hear("hello")
        assert (hello.version, len(hello.digest)) == (1, 16)
        await talk.say(welcome=WELCOME)
        await talk.say(work=codec.work_to_wire(GIVEN))
        await talk.hear("scalars")
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [first, second]
        async with scripted.listening() as port:
            client = await start(port)
            await client.printed("round 1: contributed")
            assert await client.stopped(signal.SIGKILL) == -signal.SIGKILL
            if damage:
                (program,) = (tmp_path / "state").glob("program-*")
                program.write_bytes(b"torn")
            again = await start(port, tier="auto")
            assert await again.ended() == 0
        assert "joined digits as pi (tier low: as it enrolled)" in again.log

    asyncio.run(scenario())
    assert len(scripted.enrolments) == 1
    assert scripted.fetches == [("snapshot", 1, 0), ("program", 0, 0), *[("program", 0, 0)] * damage]


def test_a_coordinator_that_restarts_is_rejoined(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        port = free_port()
        scripted.parts = [idle, idle]
        async with scripted.listening(port):
            client = await start(port)
            await client.printed("joined digits as pi")
        await client.printed(f"lost 127.0.0.1:{port}")
        async with scripted.listening(port):
            await client.printed(f"back with 127.0.0.1:{port}")
            assert await client.stopped() == 0

    asyncio.run(scenario())
    # The stream that was cut off heard no end; that is the coordinator's own doing.
    scripted.failures.clear()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", ["waiting", "joined"])
def test_signals_end_it_cleanly_at_any_moment(
    scripted: Scripted, start: Start, number: int, code: int, moment: str
) -> None:
    async def ended(client: Client) -> None:
        assert await client.stopped(number) == code
        assert f"stopped by {signal.Signals(number).name}" in client.log
        assert "Traceback" not in client.log

    async def scenario() -> None:
        if moment == "waiting":
            client = await start(free_port())
            await client.printed("waiting for")
            await ended(client)
            return
        scripted.parts = [idle]
        async with scripted.listening() as port:
            client = await start(port)
            await client.printed("joined digits as pi")
            await ended(client)

    asyncio.run(scenario())


def test_after_the_end_a_coordinator_that_is_gone_is_not_waited_for_for_ever(
    run: Run, scripted: Scripted, start: Start
) -> None:
    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(work=codec.work_to_wire(GIVEN))
        await talk.hear("scalars")
        await talk.say(finished={"version": 1, "digest": b"\0" * 16})

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port)
            await client.printed("the run is over")
            await scripted.played.wait()
        assert await client.ended() == 0

    asyncio.run(scenario())
