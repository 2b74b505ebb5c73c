"""Joining a run: ask what is trained, check this device's data, choose the tier, enrol.

The coordinator measured, on the run's own model, the peak resident memory of one round of each tier's work. A device
that has as much, control-group limits included, and has torch installed takes the high tier; torch is only looked
for, never imported, since importing it costs more memory than a low-tier client uses in all.
"""

import importlib.util
import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from zowarmup.client.errors import Final
from zowarmup.client.net.coordinators import Coordinators
from zowarmup.client.net.messages import Offer
from zowarmup.client.net.retrying import with_retries
from zowarmup.client.net.stream import Meter
from zowarmup.client.net.tls import Trust, TrustError, read_authority, trust
from zowarmup.client.policy import Policy
from zowarmup.client.store.directory import Identity, Records, StateDirectory
from zowarmup.common.algorithms.settings import Rounds
from zowarmup.common.messages.invitation import JOIN_VARIABLE, Invitation
from zowarmup.common.messages.values import Tier
from zowarmup.common.secure_aggregation.primitives import verification_key
from zowarmup.common.system.files import read_given
from zowarmup.common.system.memory import Memory, memory_here
from zowarmup.common.text import amount
from zowarmup.data import DataError, Dataset
from zowarmup.data.card import fitted


@dataclass(frozen=True, slots=True)
class Needs:
    """Peak resident bytes of one round of each tier's work, as the coordinator measured them; 0: not measured."""

    high: int
    low: int


@dataclass(frozen=True, slots=True)
class TierDecision:
    """`tier` is None where the device can carry neither. `reason` is a sentence part for people."""

    tier: Tier | None
    reason: str


def decide_tier(memory: Memory, needs: Needs, has_torch: bool) -> TierDecision:
    """The highest tier that this device can carry, and why."""
    has = f"{amount(memory.bytes)} ({memory.source})"
    if memory.bytes < needs.low:
        return TierDecision(None, f"even forward passes need {amount(needs.low)} and this device has {has}")
    if memory.bytes < needs.high:
        return TierDecision(Tier.LOW, f"training needs {amount(needs.high)} and this device has {has}")
    if not has_torch:
        return TierDecision(Tier.LOW, f"torch is not installed; memory would do: {has}")
    return TierDecision(
        Tier.HIGH, f"training needs {amount(needs.high)}, this device has {has}, and torch is installed"
    )


def torchless(tier: Tier, *phases: Rounds) -> str:
    """Why a device without torch cannot be of that tier in a run, and the remedy; empty where it can."""
    both = [phase.algorithm for phase in phases if phase.back_propagates(Tier.LOW)]
    if tier is Tier.HIGH:
        other = "" if both else ", or use --tier low"
        return f"the high tier needs torch, which is not installed: pip install 'zowarmup[torch]'{other}"
    if not both:
        return ""
    return (
        f'with algorithm = "{both[0]}" the low tier trains too, which needs torch, and it is not installed: '
        "pip install 'zowarmup[torch]', or have the run use another algorithm"
    )


def has_torch() -> bool:
    """Whether torch could be imported, found out without importing it."""
    return importlib.util.find_spec("torch") is not None


def require_cryptography(offer: Offer) -> None:
    """Raises Final where the run has secure aggregation, and what that takes is not installed here."""
    if offer.spec.privacy.secure_aggregation and importlib.util.find_spec("cryptography") is None:
        raise Final(
            f"run {offer.name} has secure aggregation, which needs the package cryptography: pip install 'zowarmup[secure]'"
        )


log = logging.getLogger(__name__)
LOOKED_ON_S = 60.0


def patience_s(asked_s: float | None) -> float:
    """How long to wait for a coordinator that does not answer, seconds: as asked for (0: for ever), else for ever as a
    service and a minute where somebody looks on."""
    if asked_s is None:
        return LOOKED_ON_S if sys.stdin and sys.stdin.isatty() and sys.stderr.isatty() else math.inf
    return asked_s or math.inf


async def ask(
    coordinators: Coordinators, give_up_s: float, policy: Policy | None = None, meter: Meter | None = None
) -> Offer:
    """What the coordinators train, however long it takes until one answers, up to `give_up_s`. Raises Final, also where an
    algorithm's code would have to run that `policy` does not allow."""

    async def once() -> Offer:
        if meter:
            meter.require(0)
        async with coordinators.connection(meter=meter) as connection:
            return await connection.get_run(policy)

    return await with_retries(coordinators, once, give_up_s)


def invited(file: Path | None) -> Invitation | None:
    """The invitation in a file or, without one, in the environment, which then forgets it. Raises Final where it is not
    one, and does not repeat it."""
    word, place = os.environ.pop(JOIN_VARIABLE, ""), JOIN_VARIABLE
    if file is not None:
        try:
            word, place = read_given(file).decode("utf-8"), f"--join-file {file}"
        except (OSError, UnicodeDecodeError) as error:
            raise Final(f"--join-file {file} cannot be read ({getattr(error, 'strerror', 'not text')})") from None
        # As in the printed command, or the word alone.
        word = word.strip().removeprefix(f"{JOIN_VARIABLE}=").split(" ")[0].strip("'\"")
    if not word:
        return None
    try:
        return Invitation.from_word(word)
    except ValueError as error:
        raise Final(f"what {place} holds is not an invitation: {error}") from None


def know(
    server: str,
    invitation: Invitation | None,
    state: Records,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    insecure: bool = False,
) -> tuple[bytes, Trust]:
    """Who signs the coordinators' certificates (from the file `ca`, the invitation or an earlier time; may be empty), and how
    to talk to them, as of `trust`. Raises Final."""
    try:
        if ca is not None:
            authority = read_authority(ca, "--ca")
        else:
            authority = (invitation.authority if invitation else b"") or state.authority()
        return authority, trust(server, authority, certificate, key, insecure)
    except TrustError as error:
        raise Final(str(error)) from None


def matched(spec: str, dataset: Dataset, offer: Offer) -> tuple[Dataset, list[str]]:
    """The data of a spec as the run reads it, and what is worth a warning. Raises DataError where it does not fit the run's
    data card or its task."""
    data, remarks = fitted(dataset, offer.spec.card, spec)
    try:
        offer.spec.task.check(data.targets)
    except ValueError as error:
        raise DataError(f"{spec} is no data for task {offer.spec.model.task}: {error}") from None
    return data, remarks


def fit_data(spec: str, dataset: Dataset, offer: Offer) -> Dataset:
    """`matched`, with what is worth a warning in the log. Raises Final where the data does not fit."""
    try:
        data, remarks = matched(spec, dataset, offer)
    except DataError as error:
        raise Final(f"run {offer.name}: {error}") from None
    for remark in remarks:
        log.warning("%s", remark)
    return data


def choose_tier(asked: str, known: Identity | None, offer: Offer, policy: Policy) -> tuple[Tier, str]:
    """The tier to take and why: `asked` is auto, high or low, `known` an earlier enrolment. Raises Final where it
    cannot be, or where the model's code would have to run and `policy` does not let it."""
    unknown_code = policy.refused_model(offer.spec.model.name)
    if known is not None:
        if asked not in ("auto", known.tier):
            raise Final(
                f"this device is enrolled as {known.client} in the {known.tier} tier: leave --tier out, or give another "
                "--state-dir to enrol anew"
            )
        tier, reason = known.tier, "as it enrolled"
    else:
        if asked == "auto" and not offer.low_memory_bytes:
            raise Final(
                f"the coordinator of {offer.name} has not measured what a device needs (--model-cache): say --tier low or high"
            )
        decision = decide_tier(
            memory_here(), Needs(offer.high_memory_bytes, offer.low_memory_bytes), torch_here := has_torch()
        )
        if asked == "auto":
            if decision.tier is None:
                raise Final(f"this device cannot take part: {decision.reason}; --tier low tries all the same")
            tier, reason = decision.tier, decision.reason
            if tier is Tier.HIGH and unknown_code:
                tier, reason = Tier.LOW, unknown_code
        else:
            tier, reason = Tier(asked), "as asked"
            if decision.tier is None or (tier is Tier.HIGH and decision.tier is Tier.LOW and torch_here):
                log.warning("tier %s as asked, though %s", tier, decision.reason)
    if known is None and unknown_code and any(phase.back_propagates(tier) for phase in offer.spec.phases):
        raise Final(unknown_code)
    if not has_torch() and (refusal := torchless(tier, *offer.spec.phases)):
        raise Final(refusal)
    return tier, reason


async def enrol(
    coordinators: Coordinators,
    offer: Offer,
    name: str,
    tier: Tier,
    examples: int,
    token: str,
    state: StateDirectory,
) -> Identity:
    """Become a member and keep the identity on disk. The credential is there before the coordinator hears of it, so
    whatever breaks in between, asking again makes no second member and needs no second invitation."""
    proposed = state.credential_for(offer.run_id, tier)
    public = verification_key(state.signing_key()) if offer.spec.privacy.secure_aggregation else b""

    async def once() -> tuple[str, str]:
        async with coordinators.connection() as connection:
            return await connection.enrol(offer.run_id, name, tier, examples, token, proposed, public)

    client, credential = await with_retries(coordinators, once)
    identity = Identity(client, credential, offer.run_id, tier, name)
    state.keep(identity)
    return identity
