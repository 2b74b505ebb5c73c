"""A low-tier client through the zeroth-order phase, against a scripted coordinator."""

import asyncio
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import aggregating
from tests.algorithms import changed
from tests.client.conftest import DATA, Client, Run, Scripted, Start, Talk, enrolled_as, prepared
from tests.tasks import classification
from zowarmup.client.work.probing import Prober
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.replica import Commit, Replica
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase, Scalars, Tier, Work
from zowarmup.common.models.program import Program
from zowarmup.common.settings.run import Model
from zowarmup.data import load

ANONYMOUS_BYTES = 45_000_000
# With the pages of files: some 35 MB, or 20 MB more where the files have just been written, because the kernel then has
# them in larger pieces, of which it maps each whole.
LOW_TIER_BYTES = 105_000_000
ZO = Phase.ZEROTH_ORDER


class Reference:
    """What a correct client holds and answers, computed in this process by the shared code."""

    def __init__(self, run: Run) -> None:
        self.run, self.data = run, load(DATA)
        self.replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
        self.algorithm = run.spec.zeroth_order.build(run.layout)
        program = Program(run.program, run.layout, self.replica.weights)
        self.prober = Prober(
            run.spec.zeroth_order, self.replica, program, classification(), self.data, threading.Event()
        )

    def scalars(self, work: Work) -> Scalars:
        return self.prober.contribute(self.replica, work)

    def commit(self, work: Work, scalars: Scalars) -> Commit:
        steps = aggregating.steps(
            self.algorithm, self.run.grid, work.round - 1, [ClientScalars(work.seed, len(self.data), scalars)]
        )
        apply_steps(self.replica.weights, self.run.grid, steps)
        self.replica.version += 1
        return Commit(self.replica.version, self.replica.digest(), steps)


def test_work_at_a_lower_rate_is_probed_as_if_the_run_file_said_so(run: Run) -> None:
    """Where a client moves its own replica between probes, it has to know."""
    stepping = changed(run.spec.zeroth_order, local_steps=2, rate=0.4)
    slow = replace(stepping, rate=0.1)
    made = []
    for spec, factor in ((stepping, 0.25), (slow, 1.0), (stepping, 1.0)):
        replica = Replica(run.layout, run.grid, run.weights.copy(), 1)
        program = Program(run.program, run.layout, replica.weights)
        prober = Prober(spec, replica, program, classification(), load(DATA), threading.Event())
        made.append(prober.contribute(replica, replace(work(1, 1), rate_factor=factor)))
    assert made[0] == made[1] != made[2]


def work(number: int, version: int) -> Work:
    return Work(number, ZO, version, 1000 + number, 3600.0)


async def take_scalars(talk: Talk, run: Run, reference: Reference, given: Work) -> Scalars:
    """Give work, hear the scalars, check them against the reference to the bit, accept."""
    await talk.say(work=codec.work_to_wire(given))
    scalars = codec.scalars_from_wire(await talk.hear("scalars"))
    assert scalars == reference.scalars(given)
    await talk.say(accepted={"round": given.round})
    if given.round == 1:  # the first of the phase: now it is known what this takes in memory
        report = await talk.hear("report")
        assert (report.version, report.digest) == (given.version, reference.replica.digest())
        assert report.peak_memory_bytes > 30_000_000
    return scalars


async def finish(talk: Talk, run: Run, reference: Reference) -> Any:
    """End the run; the client's last report."""
    digest = reference.replica.digest()
    await talk.say(finished={"version": reference.replica.version, "digest": digest})
    report = await talk.hear("report")
    assert (report.version, report.digest) == (reference.replica.version, digest)
    await talk.end()
    return report


def welcome(version: int = 1, phase: str = "PHASE_ZEROTH_ORDER", waiting: str = "") -> dict[str, Any]:
    return {"epoch": 1, "phase": phase, "version": version, "waiting": waiting}


def mapped(client: Client) -> str:
    return Path(f"/proc/{client.process.pid}/maps").read_text()


def anonymous_bytes(client: Client) -> int:
    """Its resident memory but for the pages of files."""
    status = dict(line.split(":") for line in Path(f"/proc/{client.process.pid}/status").read_text().splitlines())
    return 1024 * int(status["RssAnon"].split()[0])


def test_a_low_tier_client_through_a_whole_phase(run: Run, scripted: Scripted, start: Start) -> None:
    reference, seen = Reference(run), dict[str, Any]()

    async def part(talk: Talk) -> None:
        hello = await talk.hear("hello")
        assert (hello.run_id, hello.version, hello.digest, hello.examples) == ("run-1", 0, b"", len(reference.data))
        await talk.say(welcome=welcome(waiting="waiting: 1 of 2 clients connected"))
        await talk.say(fetch={"version": 1, "reason": "it holds no replica"})
        for number in (1, 2, 3):
            given = work(number, number)
            commit = reference.commit(given, await take_scalars(talk, run, reference, given))
            await talk.say(commit=codec.commit_to_wire(commit, run.layout))
        seen["maps"], seen["anonymous"] = mapped(seen["client"]), anonymous_bytes(seen["client"])
        seen["report"] = await finish(talk, run, reference)

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            seen["client"] = client = await start(port)
            assert await client.ended() == 0
        log = client.log
        assert "joined digits as pi (tier low: as asked)" in log
        assert "the run waits: waiting: 1 of 2 clients connected" in log
        assert "it holds no replica" in log
        assert "round 1: contributed 8 probes and 4 projections: 56 B up" in log
        assert "round 2: contributed" not in log  # the first and every tenth
        assert reference.replica.digest().hex() in log
        assert "Traceback" not in log
        assert "WARNING" not in log

    asyncio.run(scenario())
    (enrolment,) = scripted.enrolments
    assert (enrolment.name, enrolled_as(enrolment), enrolment.examples) == ("pi", Tier.LOW, len(reference.data))
    assert scripted.fetches == [("snapshot", 1, 0), ("program", 0, 0)]
    assert "onnxruntime" in seen["maps"]
    assert "torch" not in seen["maps"]
    assert 30_000_000 < seen["report"].peak_memory_bytes <= LOW_TIER_BYTES
    assert seen["anonymous"] <= ANONYMOUS_BYTES


def test_commits_that_piled_up_are_applied_in_one_pass_and_old_work_is_left(
    run: Run, scripted: Scripted, start: Start
) -> None:
    """A client that was stopped for a while finds three rounds in its inbox, and does the last."""
    reference = Reference(run)

    async def scenario() -> None:
        async def part(talk: Talk) -> None:
            await talk.hear("hello")
            await talk.say(welcome=welcome())
            await talk.say(fetch={"version": 1, "reason": "it holds no replica"})
            await take_scalars(talk, run, reference, work(1, 1))
            client.process.send_signal(19)  # SIGSTOP
            for number in (1, 2, 3):
                given = work(number, number)
                commit = reference.commit(given, reference.scalars(given))
                await talk.say(commit=codec.commit_to_wire(commit, run.layout))
                await talk.say(work=codec.work_to_wire(work(number + 1, number + 1)))
            client.process.send_signal(18)  # SIGCONT
            scalars = codec.scalars_from_wire(await talk.hear("scalars"))
            while scalars.round < 4:  # begun before it had read on
                refusal = {"round": scalars.round, "reason": "late", "detail": "it is over"}
                await talk.say(refused=refusal)
                scalars = codec.scalars_from_wire(await talk.hear("scalars"))
            assert scalars == reference.scalars(work(4, 4))
            await finish(talk, run, reference)

        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0

    asyncio.run(scenario())


def test_a_replica_that_is_not_the_runs_is_reported_and_fetched_anew(
    run: Run, scripted: Scripted, start: Start
) -> None:
    reference = Reference(run)

    async def diverging(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=welcome())
        await talk.say(fetch={"version": 1, "reason": "it holds no replica"})
        scalars = await take_scalars(talk, run, reference, work(1, 1))
        commit = reference.commit(work(1, 1), scalars)
        wrong = Commit(commit.version, bytes(16), commit.steps)
        await talk.say(commit=codec.commit_to_wire(wrong, run.layout))
        report = await talk.hear("report")
        assert (report.version, report.digest) == (2, commit.digest)
        await talk.end()

    async def anew(talk: Talk) -> None:
        hello = await talk.hear("hello")
        assert (hello.version, hello.digest) == (0, b"")
        scripted.snapshots[2] = reference.replica.weights.tobytes()
        await talk.say(welcome=welcome(2))
        await talk.say(fetch={"version": 2, "reason": "it holds no replica"})
        await take_scalars(talk, run, reference, work(2, 2))
        await finish(talk, run, reference)

    async def scenario() -> None:
        scripted.parts = [diverging, anew]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0
        assert "THE REPLICA IS NOT THE RUN'S" in client.log

    asyncio.run(scenario())


def headless(input_shape: tuple[int, ...], classes: int) -> Any:
    """A classifier that does not end in a linear layer."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), classes), nn.Tanh())


def test_a_model_without_a_linear_classifier_is_probed_everywhere(scripted: Scripted, start: Start) -> None:
    run = prepared(Model(name=f"{__name__}:headless"))
    assert run.layout.head is None
    reference = Reference(run)

    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=welcome())
        await talk.say(fetch={"version": 1, "reason": "it holds no replica"})
        scalars = await take_scalars(talk, run, reference, work(1, 1))
        assert (len(scalars.probes), scalars.projections) == (8, ())
        await finish(talk, run, reference)

    async def scenario() -> None:
        scripted.run, scripted.parts = run, [part]
        scripted.snapshots[1] = run.weights.tobytes()
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 0
        assert (
            "this model does not end in a linear layer whose gradient is exact: probing every parameter" in client.log
        )

    asyncio.run(scenario())
