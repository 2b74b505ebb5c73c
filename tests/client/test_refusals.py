"""What cannot be taken part in is said in one sentence, with the exit code of whose fault it is, and no traceback."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.algorithms import changed
from tests.client.conftest import Run, Scripted, Start, Talk, one_sentence
from zowarmup.client.net.messages import Offer, Welcome
from zowarmup.client.work.device import Device
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import PROTOCOL

WELCOME = {"epoch": 1, "phase": "PHASE_WARM_UP", "version": 0}


async def idle(talk: Talk) -> None:
    await talk.hear("hello")
    await talk.say(welcome=WELCOME)
    await talk.end()


@pytest.mark.parametrize("call", ["GetRun", "Enrol", "Participate"])
@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
    ],
)
def test_a_refusal_is_final_and_in_the_coordinators_words(
    scripted: Scripted, start: Start, call: str, code: grpc.StatusCode
) -> None:
    async def scenario() -> None:
        scripted.refusal = (call, code, "this run is full: come back tomorrow")
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 1
        assert one_sentence(client.log) == "this run is full: come back tomorrow"

    asyncio.run(scenario())


@pytest.mark.parametrize("protocol", [PROTOCOL - 1, PROTOCOL + 1])
def test_a_coordinator_of_another_protocol_is_refused(scripted: Scripted, start: Start, protocol: int) -> None:
    async def scenario() -> None:
        scripted.protocol = protocol
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 1
        assert one_sentence(client.log) == (
            f"the coordinator speaks protocol {protocol} and this client {PROTOCOL}: install the same version of "
            "zowarmup on both"
        )

    asyncio.run(scenario())


def test_something_else_that_listens_there(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = await start(port)
        assert await client.ended() == 1
        assert "no coordinator of this kind answers there" in one_sentence(client.log)
        await server.stop(0)

    asyncio.run(scenario())


def test_a_stream_that_another_process_supersedes(scripted: Scripted, start: Start) -> None:
    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.refuse(grpc.StatusCode.ABORTED, "a newer stream of pi has superseded this one", "superseded")

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 1
        assert "another process takes part with this device's identity" in one_sentence(client.log)

    asyncio.run(scenario())


def test_the_state_directory_of_another_run_and_of_another_process(
    scripted: Scripted, start: Start, tmp_path: Path
) -> None:
    async def scenario() -> None:
        scripted.parts = [idle]
        async with scripted.listening() as port:
            client = await start(port)
            await client.printed("joined digits as pi")
            second = await start(port)
            assert await second.ended() == 1
            assert "another process takes part with the state directory" in one_sentence(second.log)
            await client.stopped()
            scripted.run_id = "run-2"
            before = sorted(path.name for path in (tmp_path / "state").iterdir())
            third = await start(port)
            assert await third.ended() == 1
            sentence = one_sentence(third.log)
            assert "belongs to another run (run-1)" in sentence
            assert str(tmp_path / "state") in sentence
            assert sorted(path.name for path in (tmp_path / "state").iterdir()) == before

    asyncio.run(scenario())


def test_the_tier_of_an_enrolled_device_does_not_change(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        scripted.parts = [idle]
        async with scripted.listening() as port:
            client = await start(port)
            await client.printed("joined digits as pi")
            await client.stopped()
            other = await start(port, tier="high")
            assert await other.ended() == 1
            assert "enrolled as pi in the low tier: leave --tier out" in one_sentence(other.log)

    asyncio.run(scenario())


def test_a_device_too_small_even_for_the_low_tier(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        scripted.low_memory_bytes = scripted.high_memory_bytes = 1 << 60
        scripted.parts = [idle]
        async with scripted.listening() as port:
            client = await start(port, tier="auto")
            assert await client.ended() == 1
            assert "this device cannot take part: even forward passes need" in one_sentence(client.log)
            forced = await start(port, tier="low")
            await forced.printed("joined digits as pi (tier low: as asked)")
            assert "WARNING tier low as asked, though even forward passes need" in forced.log
            assert await forced.stopped() == 0

    asyncio.run(scenario())


def test_a_device_without_torch_is_refused_where_its_tier_trains(
    scripted: Scripted, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HeteroFL that is the low tier, too, however it was chosen; in any other run the same device joins."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bare"))
    run = scripted.run
    trains = replace(run, spec=replace(run.spec, warmup=changed(run.spec.warmup, "heterofl")))
    sentence = (
        'with algorithm = "heterofl" the low tier trains too, which needs torch, and it is not installed: '
        "pip install 'zowarmup[torch]', or have the run use another algorithm"
    )

    async def scenario() -> None:
        scripted.parts = [idle]
        async with scripted.listening() as port:
            scripted.run = trains
            for tier in ("low", "auto"):
                client = await start(port, tier=tier)
                assert await client.ended() == 1
                assert one_sentence(client.log) == sentence
            high = await start(port, tier="high")
            assert await high.ended() == 1
            assert "or use --tier low" not in one_sentence(high.log), "which would not help"
            scripted.run = run
            client = await start(port, tier="low")
            await client.printed("joined digits as pi")
            assert await client.stopped() == 0
            scripted.run = trains
            again = await start(port, tier="low")
            assert await again.ended() == 1
            assert one_sentence(again.log) == sentence
        assert len(scripted.enrolments) == 1

    asyncio.run(scenario())


def test_a_device_cannot_choose_where_nothing_was_measured(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        scripted.low_memory_bytes = scripted.high_memory_bytes = 0
        scripted.parts = [idle]
        async with scripted.listening() as port:
            client = await start(port, tier="auto")
            assert await client.ended() == 1
            assert "has not measured what a device needs (--model-cache): say --tier low or high" in one_sentence(
                client.log
            )
            told = await start(port, tier="low")
            await told.printed("joined digits as pi (tier low: as asked)")
            assert await told.stopped() == 0

    asyncio.run(scenario())


def test_data_that_does_not_fit_the_run(scripted: Scripted, start: Start, tmp_path: Path) -> None:
    def data(name: str, shape: tuple[int, ...], classes: int) -> str:
        labels = np.arange(classes, dtype=np.int64)
        np.savez(tmp_path / name, x=np.zeros((classes, *shape), np.float32), y=labels)
        return f"npz:{tmp_path / name}.npz"

    wrong = [
        ("digits:11/10", "digits:11/10"),
        ("nonsense", "nonsense"),
        (f"npz:{tmp_path}/none.npz", "none.npz"),
        (data("wide", (1, 9, 9), 10), "are 1 x 9 x 9 and the run's 1 x 8 x 8 (channels x height x width)"),
        (data("many", (1, 8, 8), 11), "has 11 classes and the run 10"),
        (data("few", (1, 8, 8), 4), "are float32, as they are, and the run's are uint8, divided by 16"),
    ]

    async def scenario() -> None:
        async with scripted.listening() as port:
            for spec, expected in wrong:
                client = await start(port, data=spec)
                assert await client.ended() == 1
                assert expected in one_sentence(client.log)
            scripted.parts = [idle]
            fewer = await start(port, data="digits:1/200,alpha=0.01")
            await fewer.printed("joined digits as pi")
            assert await fewer.stopped() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--server", "nowhere"],
        ["--server", "host:99999"],
        ["--tier", "middle"],
        ["--threads", "0"],
        ["--name", "a/b"],
        ["--unknown"],
    ],
)
def test_a_wrong_command_line_exits_with_2(start: Start, arguments: list[str]) -> None:
    async def scenario() -> None:
        client = await start(1, *arguments)
        assert await client.ended() == 2
        assert "usage: zowarmup-client" in client.log
        assert "Traceback" not in client.log

    asyncio.run(scenario())


def test_help_names_every_form_of_data(start: Start) -> None:
    async def scenario() -> None:
        client = await start(1, "--help")
        assert await client.ended() == 0
        for form in ("digits:", "npz:", "folder:"):
            assert form in client.log

    asyncio.run(scenario())


def test_why_the_run_waits_is_logged_where_it_changes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    unused: Any = None
    offer = Offer("run", "run", run.spec, run.layout, b"", 0, 0, 0)
    device = Device(offer, unused, unused, unused, unused, "")
    with caplog.at_level("INFO"):
        for waiting in ("1 of 2", "1 of 2", "", "1 of 2", "0 of 2", "0 of 2"):
            device.welcome(Welcome(1, Phase.WARM_UP, 0, waiting))
    lines = [record.getMessage() for record in caplog.records if "the run waits" in record.getMessage()]
    assert lines == [f"the run waits: {why}" for why in ("1 of 2", "1 of 2", "0 of 2")]
