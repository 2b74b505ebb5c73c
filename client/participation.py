"""A device's part in a run, from who it is and what it holds to the end of the run.

The command `zowarmup-client` is one of these in a process of its own; in another process there may be several beside each
other, each with a thread of its own to compute in.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from zowarmup.client.errors import Final
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.coordinators import Coordinators
from zowarmup.client.net.reconnecting_stream import ReconnectingStream
from zowarmup.client.net.stream import Meter
from zowarmup.client.net.transfer import Transfers
from zowarmup.client.policy import Allowance, Policy
from zowarmup.client.store.directory import RELEASES, USAGE, Identity, StateDirectory
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.client.store.replica import LocalReplica
from zowarmup.client.work.device import Device
from zowarmup.client.work.executor import PROCESSOR, Executor
from zowarmup.client.work.joining import ask, choose_tier, enrol, fit_data, know, require_cryptography
from zowarmup.client.work.loop import take_part
from zowarmup.client.work.offered import require_offered
from zowarmup.client.work.work_traces import WorkTraces
from zowarmup.common.exact.steps import allow_compiled
from zowarmup.common.messages.invitation import Invitation
from zowarmup.common.messages.values import Tier
from zowarmup.common.system.tracing import traces_of
from zowarmup.data import Dataset

log = logging.getLogger("zowarmup.client")
TRACES_S = 1.0
"""How long a device that leaves exports its last spans, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOptions:
    """What a device takes part with, beside its data.

    Args:
        server: The coordinator's HOST:PORT, or several of a run's coordinators, separated by commas.
        name: What it is called in the fleet.
        source: What to call its data in a sentence.
        state_dir: Where its identity and replica are.
        tier: "auto", "high" or "low".
        policy: What it allows the coordinator.
        invitation: What it came by; None: nothing.
        ca: PEM of who signs the coordinator's certificate.
        certificate: PEM of its own, where one is asked for.
        key: PEM of that one's key.
        insecure: Whether everything is sent in plain text.
        threads: How many compute.
        device: Where it probes: "cpu", or a device of torch's in the high tier.
        patience_s: How long it waits for a coordinator that does not answer, at the start.
        own_thread: Whether others share its event loop, so that it computes in a thread of its own.
    """

    server: str
    name: str
    source: str
    state_dir: Path
    tier: str = "auto"
    policy: Policy = field(default_factory=Policy)
    invitation: Invitation | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    threads: int = 1
    device: str = PROCESSOR
    patience_s: float = math.inf
    own_thread: bool = False


async def participate(
    options: DeviceOptions,
    dataset: Dataset,
    begin: Callable[[], None] = lambda: None,
    joined: Callable[[Identity, Device], None] = lambda identity, device: None,
) -> None:
    """Take part until the run is over.

    Args:
        options: Who takes part, and how.
        dataset: The device's examples.
        begin: Called before anything is waited for: a coordinator may be away for days.
        joined: Called once the device is a member.

    Raises:
        Final: The device cannot take part, or not go on.
    """
    policy, meter = options.policy, Meter()
    with StateDirectory(options.state_dir) as state, ExitStack() as stack:
        invitation = options.invitation
        authority, trusted = know(
            options.server, invitation, state, options.ca, options.certificate, options.key, options.insecure
        )
        coordinators = Coordinators(options.server, trusted, random.Random())
        allowance = Allowance(policy, state.path / USAGE, lambda: meter.up_bytes + meter.down_bytes)
        meter.require = allowance.require_bytes
        stack.callback(allowance.note)  # a restart begins where this process ends
        begin()
        await coordinators.find()
        offer = await ask(coordinators, options.patience_s, policy, meter)
        policy.require_snapshot(offer.model_bytes)
        policy.require_program(offer.program_bytes)
        if authority:
            state.keep_authority(authority)
        known = state.identity_for(offer.run_id, offer.name)
        tier, reason = choose_tier(options.tier, known, offer, policy)
        spec = offer.spec
        policy.require_privacy(spec.privacy, spec.zeroth_order, spec.warmup.trains(tier))
        if tier is Tier.HIGH:
            allow_compiled()
        elif options.device != PROCESSOR:
            raise Final(f"--device {options.device} is for the high tier, which has torch, and this is the low tier")
        require_cryptography(offer)
        # What does not follow from the data may be mended and tried again; then, before the data is looked at, as whether it suits one
        # card after the other would tell of it, the run is what it is.
        require_offered(state, offer)
        dataset = fit_data(options.source, dataset, offer)
        token = invitation.secret if invitation else ""
        identity = known or await enrol(coordinators, offer, options.name, tier, len(dataset), token, state)

        def connect(bulk: bool = False) -> Connection:
            return coordinators.connection((identity.client, identity.credential), meter, bulk)

        layout = offer.layout
        replica = LocalReplica(state.path, layout)
        await asyncio.to_thread(replica.open)
        said = f"joined {offer.name} as {identity.client} (tier {tier}: {reason}) with {len(dataset)} examples"
        transfers = Transfers(partial(connect, bulk=True), coordinators.settled)
        executor = Executor(offer, state, transfers, options.threads, options.device, policy, options.own_thread)
        traces = traces_of("zowarmup-client")
        if traces is not None:
            stack.callback(traces.close, TRACES_S)
        masking = None
        if offer.spec.privacy.secure_aggregation:
            from zowarmup.client.work.masking import Masking  # 0.6 MB that most runs have no use for

            masking = Masking(offer.run_id, identity.client, state.signing_key(), offer.spec.zeroth_order, offer.sha256)
        device = Device(
            offer,
            dataset,
            replica,
            transfers,
            executor,
            said,
            tier,
            allowance,
            WorkTraces(traces, tier, identity.client),
            ReleaseFile(state.path / RELEASES) if offer.spec.privacy.on else None,
            masking,
        )
        joined(identity, device)
        async with ReconnectingStream(coordinators, connect, layout, device.hello) as stream:
            await take_part(device, stream)
