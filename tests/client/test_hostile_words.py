"""A coordinator that wants a device's terminal, or lines of its own in a device's log, gets neither."""

import asyncio
import re

import grpc
import pytest

from tests.client.conftest import Scripted, Start, Talk
from zowarmup.common.system.logs import INDENT

FORGED = "\x1b[2J\x1b]0;mine\x07gone\n2026-11-27 10:00:00,000 INFO all is well\r\u202e\x9b1m"
LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ |zowarmup-client: ")


def check(log: str, *said: str) -> None:
    """Every line is the client's own, the forged one stands inside of one, and nothing is left to steer a terminal."""
    lines = log.splitlines()
    assert all(line.isprintable() for line in lines), log
    assert all(LOGGED.match(line) or line.startswith(INDENT) for line in lines), log
    assert not any(line.startswith("2026-11-27 10:00:00,000") for line in lines)
    for words in said:
        assert words in log


def test_what_is_said_on_a_stream(scripted: Scripted, start: Start) -> None:
    welcome = {"epoch": 1, "phase": "PHASE_WARM_UP", "version": 0, "waiting": FORGED, "software": FORGED}

    async def idle(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=welcome)
        await talk.say(refused={"round": 1, "reason": FORGED, "detail": FORGED})
        await talk.say(finished={"version": 0, "gave_up": FORGED})
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [idle]
        async with scripted.listening() as port:
            client = await start(port, "--verbose")
            await client.ended()
        check(client.log, "the run waits: \\x1b[2J", "was refused (", "given up: \\x1b[2J")

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["GetRun", "Enrol", "Participate"])
@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL])
def test_why_a_call_is_refused(scripted: Scripted, start: Start, call: str, code: grpc.StatusCode) -> None:
    async def scenario() -> None:
        scripted.refusal = (call, code, FORGED)
        async with scripted.listening() as port:
            client = await start(port, "--verbose", "--connect-timeout", "60")
            if code is grpc.StatusCode.INTERNAL:  # which it takes for passing, and waits
                await client.printed("gone")
                await client.stopped()
            else:
                await client.ended()
        check(client.log, "gone\\n2026")

    asyncio.run(scenario())


def test_what_a_doctor_reads(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        scripted.refusal = ("GetRun", grpc.StatusCode.PERMISSION_DENIED, FORGED)
        async with scripted.listening() as port:
            client = await start(port, "--doctor")
            await client.ended()
        assert "gone\\n2026" in client.log
        assert all(line.isprintable() for line in client.log.splitlines())
        assert not any(line.startswith("2026-11-27") for line in client.log.splitlines())

    asyncio.run(scenario())
