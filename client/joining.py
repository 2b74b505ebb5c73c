"""Becoming a member of a run: ask what is trained, see whether this device's data fits, choose the tier, enrol."""

import logging

from zowarmup.client.capability import Needs, decide_tier, has_torch, memory_here
from zowarmup.client.faults import Final
from zowarmup.client.messages import Offer
from zowarmup.client.presence import patiently
from zowarmup.client.session import Connection
from zowarmup.client.state import Identity, StateDirectory
from zowarmup.common.work import Tier
from zowarmup.data import Dataset

log = logging.getLogger(__name__)


async def ask(server: str) -> Offer:
    """What the coordinator at HOST:PORT trains, however long it takes to answer."""

    async def once() -> Offer:
        async with Connection(server) as connection:
            return await connection.get_run()

    return await patiently(server, once)


def check_data(spec: str, dataset: Dataset, offer: Offer) -> None:
    """Raises Final where the data does not fit the run's model."""
    wanted = offer.spec
    if dataset.shape != wanted.input_shape:
        raise Final(
            f"the examples of {spec} have shape {dataset.shape} and the run {offer.name} trains on "
            f"{wanted.input_shape}: give --data of that shape"
        )
    # A folder of class folders numbers its classes by their names, so all of them must be there; elsewhere a device
    # need not hold every class.
    exact = spec.startswith("folder:")
    if dataset.classes > wanted.classes or (exact and dataset.classes != wanted.classes):
        raise Final(
            f"{spec} has {dataset.classes} classes and the run {offer.name} {wanted.classes}: "
            + ("make one folder for each of them, empty ones too" if exact else "give --data of the run's classes")
        )


def choose_tier(asked: str, known: Identity | None, offer: Offer) -> tuple[Tier, str]:
    """The tier to take and why: `asked` is auto, high or low, `known` an earlier enrolment. Raises Final where it
    cannot be."""
    if known is not None:
        if asked not in ("auto", known.tier):
            raise Final(
                f"this device is enrolled as {known.client} in the {known.tier} tier: leave --tier out, or give another "
                "--state-dir to enrol anew"
            )
        tier, reason = known.tier, "as it enrolled"
    else:
        decision = decide_tier(
            memory_here(), Needs(offer.high_memory_bytes, offer.low_memory_bytes), torch_here := has_torch()
        )
        if asked == "auto":
            if decision.tier is None:
                raise Final(f"this device cannot take part: {decision.reason}; --tier low tries all the same")
            return decision.tier, decision.reason
        tier, reason = Tier(asked), "as asked"
        if decision.tier is None or (tier is Tier.HIGH and decision.tier is Tier.LOW and torch_here):
            log.warning("tier %s as asked, though %s", tier, decision.reason)
    if tier is Tier.HIGH and not has_torch():
        raise Final(
            "the high tier needs torch, which is not installed: pip install 'zowarmup[torch]', or use --tier low"
        )
    return tier, reason


async def enrol(server: str, offer: Offer, name: str, tier: Tier, examples: int, state: StateDirectory) -> Identity:
    """Become a member and keep the identity on disk."""

    async def once() -> tuple[str, str]:
        async with Connection(server) as connection:
            return await connection.enrol(offer.run_id, name, tier, examples)

    client, credential = await patiently(server, once)
    identity = Identity(client, credential, offer.run_id, tier, name)
    state.keep(identity)
    return identity
