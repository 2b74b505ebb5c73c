"""What fails on a device while it works costs it the round, with the reason on both sides, and never the process."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.conftest import Run, Scripted, Start, Talk, prepared
from zowarmup.client.store.replica import LocalReplica, SnapshotHeader
from zowarmup.common.exact.layout import digest
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import LONGEST_REASON, Phase, Work
from zowarmup.common.settings.run import Model

FAILING = "tests.client.failing_models:Failing"
ALLOWED = ("--allow-model", FAILING)
WELCOME = {"epoch": 1, "phase": "PHASE_WARM_UP", "version": 1}
HOW = {
    "torch memory": "out of memory (RuntimeError)",
    "exit": "SystemExit",
    "stop": "StopIteration",
    "cancel": "CancelledError",
    "odd": "RuntimeError: ",
}


@pytest.fixture(scope="session")
def failing() -> Run:
    return prepared(Model(name=FAILING))


@pytest.mark.parametrize("how", HOW)
def test_work_that_raises_is_abstained_from_and_tried_again_later(
    failing: Run, start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    reasons: list[str] = []

    async def failed(talk: Talk, number: int) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(work=codec.work_to_wire(Work(number, Phase.WARM_UP, 1, 55, 3600.0)))
        reasons.append((await talk.hear("abstention")).reason)
        await talk.end()  # it is absent for a while, and not drawn meanwhile

    async def over(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(finished={"version": 1, "digest": b"\0" * 16})
        await talk.hear("report")
        await talk.end()

    async def scenario() -> str:
        scripted = Scripted(failing)
        scripted.snapshots[1] = failing.weights.tobytes()
        scripted.parts = [lambda talk: failed(talk, 1), over]
        async with scripted.listening() as port:
            client = await start(port, *ALLOWED, tier="high")
            assert await client.ended() == 0
        assert scripted.failures == []
        return client.log

    monkeypatch.setenv("FAILS", how)
    log = asyncio.run(scenario())
    (reason,) = reasons
    assert ("out of memory (RuntimeError) (" if how == "torch memory" else "RuntimeError (") in reason
    assert HOW[how] in log
    assert len(reason) <= LONGEST_REASON
    assert reason.isprintable()
    assert reason.startswith("model tests.client.failing_models:Failing: ")
    assert "failing_models.py, line " in reason
    assert "second line" not in reason and "red" not in reason, "the error's own words stay here"
    assert "round 1: nothing to contribute: model tests.client.failing_models:Failing: " in log
    assert "Traceback" not in log


def test_the_traceback_is_in_the_verbose_log(failing: Run, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(work=codec.work_to_wire(Work(1, Phase.WARM_UP, 1, 55, 3600.0)))
        await talk.hear("abstention")
        await talk.end()

    async def scenario() -> None:
        scripted = Scripted(failing)
        scripted.snapshots[1] = failing.weights.tobytes()
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, "--verbose", *ALLOWED, tier="high")
            await client.printed("will try again in ")
            assert await client.stopped() == 0  # also while it is absent
        assert "Traceback (most recent call last)" in client.log
        assert "KeyError: 'aux_loss'" in client.log

    monkeypatch.setenv("FAILS", "key")
    asyncio.run(scenario())


def test_a_disk_that_refuses_for_a_while_ends_no_client(scripted: Scripted, start: Start, tmp_path: Path) -> None:
    """A folder in the way of a file that is to be written: it fails as a full disk does, for root too."""
    obstacle = tmp_path / "state" / "snapshot-1.part"

    async def refused(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch={"version": 1, "reason": "the pivot"})
        await talk.end()

    async def again(talk: Talk) -> None:
        assert (await talk.hear("hello")).version == 0
        await talk.say(welcome=WELCOME)
        await talk.say(fetch={"version": 1, "reason": "the pivot"})
        await talk.say(finished={"version": 1, "digest": b"\0" * 16})
        assert (await talk.hear("report")).version == 1
        await talk.end()

    async def scenario() -> str:
        scripted.parts = [refused, again]
        async with scripted.listening() as port:
            client = await start(port)
            await client.printed("will try again in ")
            obstacle.rmdir()
            assert await client.ended() == 0
        return client.log

    obstacle.mkdir(parents=True)
    log = asyncio.run(scenario())
    assert f"cannot write {obstacle} (Is a directory): make room there; will try again in " in log
    assert "Traceback" not in log


def test_a_replica_that_was_left_half_way_is_known(run: Run, tmp_path: Path) -> None:
    replica = LocalReplica(tmp_path, run.layout)
    assert replica.intact()  # there is none
    content = run.weights.tobytes()
    replica.incoming(1).write_bytes(content)
    replica.load(SnapshotHeader(1, run.grid.exponent, digest(np.frombuffer(content, np.float32)), len(content)))
    assert replica.intact()
    replica.weights[0] += run.grid.tick
    assert not replica.intact()
    replica.weights[0] -= run.grid.tick
    held: Any = replica.held
    held.version += 1
    assert not replica.intact()
