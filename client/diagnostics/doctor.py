"""`zowarmup-client --doctor`, also `zowarmup doctor`: what keeps this device from taking part, and the remedy.

It takes the command line that the client is started with, reads what the client would meet, in its order, and changes
nothing: beside a client that takes part it only looks. What a reading means is decided in `checks`. It needs no
package that a low-tier device does not have.
"""

import asyncio
import json
import random
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from zowarmup.client.diagnostics import checks, sensors
from zowarmup.client.diagnostics.checks import Finding, Verdict
from zowarmup.client.errors import Broken, Final, Unreached
from zowarmup.client.net.connection import CALL_S, Connection
from zowarmup.client.net.contact import Unreachable, connected, look
from zowarmup.client.net.coordinators import CoordinatorPlace, Coordinators
from zowarmup.client.net.messages import Offer
from zowarmup.client.net.tls import PLAIN, Trust
from zowarmup.client.policy import Policy, read_policy
from zowarmup.client.store.directory import LOCK, Identity, Records, default_directory, default_name
from zowarmup.client.work.joining import Needs, has_torch, invited, know, matched
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.addresses import host_and_port
from zowarmup.common.settings.run import SOFTWARE
from zowarmup.common.system.memory import memory_here
from zowarmup.common.text import printable
from zowarmup.data import DataError, load

CONNECT_S = 10.0
ASKED = 4
# Doubling twice each time until a measurement lasts long enough to be one.
FIRST_BYTES, MOST_BYTES, LONG_ENOUGH_S = 1 << 16, 1 << 22, 0.5


def examine(arguments: Namespace) -> int:
    """Print a finding a line, or all of them as JSON; exit code 1 where one of them fails."""
    findings = asyncio.run(_gather(arguments))
    if arguments.json:
        told = {"passed": checks.passed(findings), "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(told, indent=1))
    return 0 if checks.passed(findings) else 1


async def _gather(arguments: Namespace) -> list[Finding]:
    findings = []
    async for finding in _findings(arguments):
        findings.append(finding)
        if not arguments.json:
            print(printable(f"{finding.verdict:<8} {finding.check:<12} {finding.found}"), flush=True)
            if finding.remedy:
                print(printable(f"{'':<21} -> {finding.remedy}"), flush=True)
    return findings


async def _findings(arguments: Namespace) -> AsyncIterator[Finding]:
    yield checks.temperature(sensors.temperature())
    yield checks.throttling(sensors.throttling())
    yield checks.memory_limit(sensors.memory_controller())
    yield checks.wifi(sensors.power_saving())
    yield checks.time_sync(sensors.synchronised())
    folder = arguments.state_dir or default_directory(arguments.name or default_name())
    with _failing("state") as failed:
        records = Records(folder)
        own = arguments.ca, arguments.certificate, arguments.key, arguments.insecure
        _, trusted = know(arguments.server, invited(arguments.join_file), records, *own)
        known = records.identity()
        if not sensors.writable(folder):
            raise Final(f"{folder} cannot be written by this user: run the doctor as the client, or give --state-dir")
    if failed:
        yield failed[0]
        return
    coordinators = Coordinators(arguments.server, trusted, random.Random())
    await coordinators.find()
    several, answering = len(coordinators.places) > 1, list[tuple[CoordinatorPlace, Offer, float, float]]()
    found = [
        one for at in coordinators.places async for one in _reached(at, coordinators, arguments, several, answering)
    ]
    for finding in found:  # where another answers, one that does not keeps nobody from taking part
        yield replace(finding, verdict=Verdict.WARN) if answering and finding.verdict is Verdict.FAIL else finding
    if not answering:
        return
    place, offer, rtt, ahead = answering[0]
    for other, its, _, _ in answering[1:]:
        if its.run_id != offer.run_id:
            said = f"{other} trains another run than {place}: {its.name} ({its.run_id[:8]})"
            yield Finding("coordinator", Verdict.FAIL, said, "name coordinators of one run in --server")
            return
    yield checks.versions(SOFTWARE, offer.software)
    yield checks.latency(rtt)
    yield checks.clock(ahead, rtt / 2)
    member = known if known is not None and known.run_id == offer.run_id else None
    yield _membership(known, member, offer, folder)
    tier = member.tier if member else None if arguments.tier == "auto" else Tier(arguments.tier)
    needs = Needs(offer.high_memory_bytes, offer.low_memory_bytes)
    low_trains = any(phase.back_propagates(Tier.LOW) for phase in offer.spec.phases)
    yield checks.memory(memory_here(), needs, tier, has_torch(), records.in_use(), low_trains)
    once = offer.program_bytes + sum(artifact.size_bytes for artifact in offer.artifacts)
    yield checks.disk(sensors.free_bytes(folder), 4 * offer.layout.size, once, str(folder))
    yield checks.wear(sensors.written(folder, folder / LOCK))
    yield await _bandwidth(place, trusted, offer, member, rtt)
    if arguments.data:
        yield await asyncio.to_thread(_data, arguments.data, offer)


async def _reached(
    place: CoordinatorPlace,
    coordinators: Coordinators,
    arguments: Namespace,
    several: bool,
    answering: list[tuple[CoordinatorPlace, Offer, float, float]],
) -> AsyncIterator[Finding]:
    """What is found at a place, which is added to those that answer where all is well. Of `several` each is named."""
    trusted, at = coordinators.trust, f"{place}: " if several else ""
    with _failing("connection") as failed:
        took = await asyncio.to_thread(_connect, place)
    yield failed[0] if failed else Finding("connection", Verdict.OK, f"{place} in {1000 * took:.0f} ms")
    if failed:
        return
    if trusted.secure:
        shaken = await asyncio.to_thread(_shake, place, trusted)
        yield replace(shaken, found=f"{at}{shaken.found}")
        if shaken.verdict is Verdict.FAIL:
            return
    with _failing("coordinator", at) as failed:
        try:
            policy = read_policy(arguments.policy, arguments.allow_model)
            offer, rtt, ahead = await _ask(place, trusted, policy)
        except Unreached as fault:
            raise Final(await coordinators.why(place, fault.reason)) from None
    if failed:
        yield failed[0]
        return
    answering.append((place, offer, rtt, ahead))
    yield Finding("coordinator", Verdict.OK, f"{at}trains {offer.name} (run {offer.run_id[:8]})")


@contextmanager
def _failing(check: str, at: str = "") -> Iterator[list[Finding]]:
    """What goes wrong inside becomes the one finding in the list, which begins with `at`. Errors for people are a sentence with
    its remedy."""
    found: list[Finding] = []
    try:
        yield found
    except Final as fault:
        found.append(Finding(check, Verdict.FAIL, f"{at}{fault}"))
    except Broken as fault:
        found.append(Finding(check, Verdict.FAIL, f"{at}{fault.reason}", "see the coordinator's log"))


def _connect(place: CoordinatorPlace) -> float:
    """How long a connection takes, seconds. Raises Final."""
    start = time.monotonic()
    try:
        connected(place.dialled or place.address, CONNECT_S).close()
    except Unreachable:
        raise Final(f"{place}: {look(place.address, PLAIN, CONNECT_S, place.dialled).sentence}") from None
    return time.monotonic() - start


def _shake(place: CoordinatorPlace, trusted: Trust) -> Finding:
    """A handshake of Python's own: grpc's words do not say what is wrong with a certificate."""
    contact = look(place.address, trusted, CONNECT_S, place.dialled)
    return checks.tls(contact, host_and_port(place.address)[0], time.time())


async def _ask(place: CoordinatorPlace, trusted: Trust, policy: Policy) -> tuple[Offer, float, float]:
    """What is trained; the shortest of a few round trips, seconds; how far this clock is ahead, seconds."""
    best: tuple[float, float, Offer] | None = None
    async with Connection(place.address, trusted, dialled=place.dialled) as connection:
        for _ in range(ASKED):
            start, began = time.monotonic(), time.time()
            offer = await connection.get_run(policy)
            took = time.monotonic() - start
            if best is None or took < best[0]:
                best = took, began + took / 2 - offer.now_s, offer
    assert best is not None
    return best[2], best[0], best[1] if best[2].now_s else 0.0


def _membership(known: Identity | None, member: Identity | None, offer: Offer, folder: Path) -> Finding:
    if member:
        return Finding("membership", Verdict.OK, f"{member.client} of the {member.tier} tier")
    if known:
        remedy = "give another --state-dir, or remove this one if that run is over"
        return Finding("membership", Verdict.FAIL, f"{folder} belongs to another run, {known.run_id[:8]}", remedy)
    return Finding("membership", Verdict.OK, "not yet a member: it enrols when the client starts")


async def _bandwidth(
    place: CoordinatorPlace, trusted: Trust, offer: Offer, member: Identity | None, rtt: float
) -> Finding:
    if member is None:
        return Finding(
            "bandwidth", Verdict.SKIPPED, "is measured for members: run this again once the client has joined"
        )
    with _failing("bandwidth") as failed:
        who = member.client, member.credential
        async with Connection(place.address, trusted, who, bulk=True, dialled=place.dialled) as connection:
            link = await _link(connection, rtt)
    if failed:
        return failed[0]
    rules, layout, update = offer.spec.warmup, offer.layout, 0
    if rules.trains(member.tier):
        update = rules.build(layout).uplink_bytes(member.tier, 1)
    return checks.bandwidth(link, 4 * layout.size, update, rules.deadline_s)


async def _link(connection: Connection, rtt: float) -> checks.LinkSpeed:
    size = FIRST_BYTES
    while True:
        try:
            up_s, down_s = await connection.measure(size, size)
        except TimeoutError:
            return checks.LinkSpeed(size / CALL_S, size / CALL_S, timed_out=True)
        if size == MOST_BYTES or min(up_s, down_s) > LONG_ENOUGH_S:
            return checks.LinkSpeed(size / max(up_s - rtt, 1e-4), size / max(down_s, 1e-4))
        size *= 4


def _data(spec: str, offer: Offer) -> Finding:
    try:
        dataset = load(spec)
        dataset, remarks = matched(spec, dataset, offer)
    except DataError as fault:
        return Finding("data", Verdict.FAIL, str(fault))
    if remarks:
        return Finding("data", Verdict.WARN, "; ".join(remarks), "check that targets and values mean what the run's do")
    return Finding("data", Verdict.OK, f"{len(dataset)} examples")
