"""A high-tier client: it trains in the warm-up, uploads its delta, and probes like everyone else after the pivot."""

import asyncio
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.algorithms import changed
from tests.client.conftest import DATA, HEARING_S, Run, Scripted, Start, Talk, enrolled_as, one_sentence
from zowarmup.client.work.training import Trainer
from zowarmup.common.exact.layout import Tensor
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import LONGEST_REASON, Phase, Tier, Work
from zowarmup.common.tasks.training import Diverging
from zowarmup.data import load

WARM_UP = {"epoch": 1, "phase": "PHASE_WARM_UP", "version": 1}
TRAIN = Work(1, Phase.WARM_UP, 1, 55, 3600.0)
ENDLESS: dict[str, Any] = {"epochs": 10_000, "batch": 1}
"""Minutes of training, at least."""
PROBE = Work(2, Phase.ZEROTH_ORDER, 2, 56, 3600.0)


def expected_delta(run: Run) -> tuple[bytes, float]:
    trainer = Trainer(run.spec, run.layout, load(DATA), 1, threading.Event(), Tier.HIGH)
    delta, content = trainer.contribute(Replica(run.layout, run.grid, run.weights.copy(), 1), TRAIN)
    return bytes(content), delta.loss


def test_work_at_a_lower_rate_is_trained_as_if_the_run_file_said_so(run: Run) -> None:
    slow = replace(run.spec, warmup=changed(run.spec.warmup, rate=0.1 / 4))
    made = []
    for spec, work in ((run.spec, replace(TRAIN, rate_factor=0.25)), (slow, TRAIN), (run.spec, TRAIN)):
        trainer = Trainer(spec, run.layout, load(DATA), 1, threading.Event(), Tier.HIGH)
        made.append(trainer.contribute(Replica(run.layout, run.grid, run.weights.copy(), 1), work)[0].digest)
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("scale", "wrong"),
    [(1, r"a weight moves by 1\.04858e\+06 or more"), (1e25, r"the loss is (nan|inf) in local epoch 1")],
)
def test_local_training_that_diverges_names_the_rate_and_what_to_do(run: Run, scale: float, wrong: str) -> None:
    spec = replace(run.spec, warmup=changed(run.spec.warmup, rate=1000.0, batch=32))
    trainer = Trainer(spec, run.layout, load(DATA), 1, threading.Event(), Tier.HIGH)
    replica = Replica(run.layout, run.grid, run.weights * np.float32(scale), 1)
    advice = (
        rf"^local training diverges, {wrong}: warmup\.rate \(1000\) is too high; begin another run with a lower one$"
    )
    with pytest.raises(Diverging, match=advice) as raised:
        trainer.contribute(replica, TRAIN)
    assert len(str(raised.value)) <= LONGEST_REASON, "the coordinator hears all of it"


def loaded(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def processor_s(pid: int) -> float:
    """What a process has computed so far, in user mode, seconds."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]) / os.sysconf("SC_CLK_TCK")


def test_a_high_tier_client_trains_uploads_and_then_probes(run: Run, scripted: Scripted, start: Start) -> None:
    seen = dict[str, Any]()

    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WARM_UP)
        await talk.say(work=codec.work_to_wire(TRAIN))  # no Fetch: the work names the version
        seen["delta"] = await talk.hear("delta_ready")
        seen["torch"] = loaded(seen["client"].process.pid)
        await talk.say(accepted={"round": 1})
        assert (await talk.hear("report")).version == 1
        await talk.say(fetch={"version": 2, "reason": "the pivot"})
        await talk.say(work=codec.work_to_wire(PROBE))
        seen["scalars"] = codec.scalars_from_wire(await talk.hear("scalars"))
        await talk.say(finished={"version": 2, "digest": b"\0" * 16})
        await talk.hear("report")
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [part]
        scripted.snapshots[2] = run.grid.quantise(run.weights * 0.5).tobytes()
        # The snapshot comes whole; the upload breaks off twice.
        scripted.breaks = [10**9, 10_000, 20_000]
        async with scripted.listening() as port:
            seen["client"] = client = await start(port, tier="auto")
            assert await client.ended() == 0
        assert "(tier high: training needs 1 B, this device has" in client.log
        assert "round 1: contributed a delta, loss" in client.log
        assert client.log.count("the upload for round 1 broke off") == 2

    asyncio.run(scenario())
    assert enrolled_as(scripted.enrolments[0]) is Tier.HIGH
    assert seen["torch"]
    content, loss = expected_delta(run)
    assert bytes(scripted.delta) == content
    assert scripted.uploads == [0, 10_000, 20_000]
    delta = seen["delta"]
    assert delta.digest == xxhash.xxh3_128_digest(content)
    assert (delta.round, delta.examples, np.float32(delta.loss)) == (1, len(load(DATA)), np.float32(loss))
    assert (len(seen["scalars"].probes), len(seen["scalars"].projections)) == (8, 4)
    assert [fetch[:2] for fetch in scripted.fetches] == [("snapshot", 1), ("snapshot", 2), ("program", 0)]


@pytest.mark.parametrize("word", ["late", "too_large"])
def test_a_delta_that_is_declined_is_dropped(run: Run, scripted: Scripted, start: Start, word: str) -> None:
    """Where its round has closed nobody waits for it; otherwise the coordinator is told not to."""

    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WARM_UP)
        await talk.say(work=codec.work_to_wire(TRAIN))
        await client_log("round 1: the delta was declined (so it is)")
        if word != "late":
            abstention = await talk.hear("abstention")
            assert (abstention.round, abstention.reason) == (1, "its delta was declined: so it is")
        scripted.refusal = None
        await talk.say(work=codec.work_to_wire(replace(TRAIN, round=2)))
        assert (await talk.hear("delta_ready")).round == 2
        await talk.say(finished={"version": 1, "digest": b"\0" * 16})
        await talk.hear("report")
        await talk.end()

    async def client_log(text: str) -> None:
        await seen["client"].printed(text)

    seen = dict[str, Any]()

    async def scenario() -> None:
        scripted.parts = [part]
        scripted.refusal, scripted.refusal_word = ("GetUpload", grpc.StatusCode.FAILED_PRECONDITION, "so it is"), word
        async with scripted.listening() as port:
            seen["client"] = client = await start(port, tier="high")
            assert await client.ended() == 0

    asyncio.run(scenario())


def test_another_model_than_the_coordinators_is_refused(run: Run, scripted: Scripted, start: Start) -> None:
    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WARM_UP)
        await talk.say(work=codec.work_to_wire(TRAIN))
        assert "is not the coordinator's" in (await talk.hear("abstention")).reason
        await talk.end()

    first, *others = run.layout.tensors
    renamed = replace(run.layout, tensors=(Tensor("other", first.shape, 0), *others))
    scripted.run = replace(run, layout=renamed)

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, tier="high")
            assert await client.ended() == 1
        sentence = one_sentence(client.log)
        assert f"tensor {first.name}" in sentence
        assert "install the coordinator's version" in sentence

    asyncio.run(scenario())


def test_training_stops_at_the_next_batch_when_the_process_is_told_to_end(
    run: Run, scripted: Scripted, start: Start
) -> None:
    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WARM_UP)
        await talk.say(work=codec.work_to_wire(TRAIN))
        await talk.end()

    scripted.run = replace(run, spec=replace(run.spec, warmup=changed(run.spec.warmup, **ENDLESS)))

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, tier="high")
            await client.printed("fetched snapshot 1")
            async with asyncio.timeout(HEARING_S):
                while not loaded(client.process.pid):
                    await asyncio.sleep(0.1)
                busy_s = processor_s(client.process.pid) + 2  # beyond what the rest of torch's import takes
                while processor_s(client.process.pid) < busy_s:
                    await asyncio.sleep(0.1)
            assert await asyncio.wait_for(client.stopped(signal.SIGTERM), 10) == 0
        assert "Traceback" not in client.log

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["deadline", "another round", "version", "end"])
def test_training_ends_when_its_round_does(run: Run, scripted: Scripted, start: Start, how: str) -> None:
    seen = dict[str, Any]()
    why = {
        "deadline": "its deadline is over",
        "another round": "round 2 is open",
        "version": "the run is at version 2",
        "end": "the run is over",
    }

    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WARM_UP)
        await talk.say(work=codec.work_to_wire(replace(TRAIN, deadline_s=5.0 if how == "deadline" else 3600.0)))
        if how != "deadline":
            await seen["client"].printed("fetched snapshot 1")
        if how == "another round":
            await talk.say(work=codec.work_to_wire(replace(TRAIN, round=2)))
        elif how == "version":
            await talk.say(fetch={"version": 2, "reason": "the pivot"})
        elif how == "end":
            await talk.say(finished={"version": 1, "digest": b"\0" * 16})
        await seen["client"].printed(f"round 1: the work on it has ended without a contribution: {why[how]}")
        if how in ("deadline", "another round"):
            await talk.say(finished={"version": 1, "digest": b"\0" * 16})
        elif how == "version":
            await talk.say(finished={"version": 2, "digest": b"\0" * 16})
        await talk.hear("report")
        await talk.end()

    scripted.run = replace(run, spec=replace(run.spec, warmup=changed(run.spec.warmup, **ENDLESS)))
    scripted.snapshots[2] = run.weights.tobytes()

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            seen["client"] = client = await start(port, tier="high")
            assert await client.ended() == 0
        assert "will try again" not in client.log

    asyncio.run(scenario())
