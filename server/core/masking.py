"""A round with secure aggregation: its stages, and the mean that it comes to.

It opens, waits and is given up as any other round while devices compute, but what they then contribute are keys. In the place of
closing it goes on by stages (`Stage`), each of which asks those who have done the one before: for sealed shares, for a
masked vector, for a signature of who has given one, and for the shares that unmask the sum. A stage ends

    when all who are asked have answered, or abstain  |  when so many have as the threshold says, and the streams of the others have
    broken, or the deadline is over; the last one when so many have revealed their shares

and the round is abandoned where fewer than the threshold can have. What each device sends is an event: a coordinator that
restarts goes on with the stage. Nothing in it tells one device's scalars. Pure, as `decide` is.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.robust_aggregation import counted
from zowarmup.common.messages.masking import Given, Keys, MaskingAsk
from zowarmup.common.messages.values import Scalars, Tier, Work
from zowarmup.common.secure_aggregation.device import SEALED_BYTES, shares_for
from zowarmup.common.secure_aggregation.fixed_point import decoded, whole_weights
from zowarmup.common.secure_aggregation.primitives import SIGNATURE_BYTES, is_signed
from zowarmup.common.secure_aggregation.roster import FEWEST, Roster, RosterMember, Stage, threshold_of
from zowarmup.common.secure_aggregation.shamir import SHARE_BYTES
from zowarmup.common.secure_aggregation.unmasking import unmasked
from zowarmup.common.settings.privacy import noise_shares
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.state import Round, State

STAGE_S = 30.0
"""A stage lasts so long, or as long as the run file lets a round last where that is less: what it asks for takes moments."""
_SENT = {
    Stage.KEYS: "advertised keys",
    Stage.SHARES: "sent shares",
    Stage.MASKED: "given a masked vector",
    Stage.SIGNED: "signed who has",
    Stage.REVEALED: "revealed shares",
}


def roster_of(state: State, current: Round) -> Roster:
    """Who has advertised keys for a round."""
    given = [current.contributions[client] for client in current.members]
    keys = tuple(one.keys for one in given if isinstance(one, Keys))
    examples = tuple(current.examples[client] for client in current.members)
    identities = tuple(state.clients[client].identity for client in current.members)
    return _roster(state.run_id, current.number, current.members, examples, identities, keys, state.bounds)


@lru_cache(maxsize=4)
def _roster(
    run_id: str,
    number: int,
    clients: tuple[str, ...],
    examples: tuple[int, ...],
    identities: tuple[str, ...],
    keys: tuple[str, ...],
    bounds: tuple[float, ...],
) -> Roster:
    """Every member is told it, and each of its steps is held against it."""
    each = zip(clients, examples, map(bytes.fromhex, identities), map(bytes.fromhex, keys), strict=True)
    return Roster(run_id, number, tuple(RosterMember(*one) for one in each), bounds)


def check_keys(state: State, current: Round, client: str, contribution: Given) -> None:
    """Refuse what is no signed keys. Raises ValueError."""
    if not isinstance(contribution, Keys):
        raise ValueError("this run has secure aggregation: a client contributes keys, and no scalars")  # noqa: TRY004
    identity, keys = bytes.fromhex(state.clients[client].identity), bytes.fromhex(contribution.keys)
    member = RosterMember(client, current.examples[client], identity, keys)
    if not member.is_signed(state.run_id, current.number):
        raise ValueError("keys: they are not signed by the identity that this client enrolled with")


def next_stage(
    state: State, current: Round, reason: str, now: float
) -> ev.StageBegan | ev.RoundClosed | ev.RoundAbandoned:
    """What follows the end of a stage, which `reason` says."""
    following = current.stage.following
    if following is None:
        return ev.RoundClosed(current.number, reason)
    if current.stage is Stage.KEYS:
        odd = current.asked_otherwise
        have = len(current.contributions) - len(odd)
        if odd:
            reason += f"; {odd[0]} was asked something else than most and is left out ({len(odd)} in all)"
        if have < FEWEST:
            few = f"{have} advertised keys, and with fewer than {FEWEST} a sum hides nothing"
            return ev.RoundAbandoned(current.number, few)
        privacy = state.run_file.privacy
        if privacy.shares_noise and not privacy.fewest(have):
            few = f"{have} advertised keys, too few to add noise together where {privacy.colluders} may tell theirs"
            return ev.RoundAbandoned(current.number, few)
    lasts_s = min(STAGE_S, state.rules.deadline_s)
    return ev.StageBegan(current.number, following, now + lasts_s, reason)


def end_stage(state: State, now: float) -> ev.Event | None:
    """What ends the present stage of the round in progress, any but the first, or None while it goes on."""
    current = state.current
    assert current is not None
    stage, threshold = current.stage, threshold_of(len(current.members))
    if shut_out := [client for client in current.members if client not in current.seeds]:
        return ev.RoundAbandoned(current.number, f"{shut_out[0]}, whose masks are in its sum, has been revoked")
    have, over = len(current.given), now >= current.deadline
    told = f"{have} of {len(current.members)} have {_SENT[stage]}"
    if have >= threshold:
        ends = stage is Stage.REVEALED or over or all(map(state.is_gone, current.waited_for()))
        return next_stage(state, current, told, now) if ends else None
    if not over and not state.absent and not current.abstained:
        return None  # what most steps meet
    missing = list(current.waited_for())
    lost = sum(min(state.absent.get(client, now + 1), current.deadline) <= now for client in missing)
    if have + len(missing) - (len(missing) if over else lost) < threshold:
        cause = "by the deadline" if over else "and the others are gone or abstain"
        return ev.RoundAbandoned(current.number, f"{told} {cause}; secure aggregation needs {threshold}")
    return None


def doing(current: Round) -> str:
    """What a stage has come to, as a sentence's part."""
    return f"{len(current.given)} of {len(current.due)} have {_SENT[current.stage]}"


def take_step(command: cmd.TakeStep, state: State) -> tuple[ev.Event, ...]:
    """The events of what a client sends in a stage, none where it is sent again, or is no longer asked for. Raises Rejected."""
    current, client = state.current, command.client
    if current is None or current.number != command.round or client not in current.due:
        return ()
    if current.closed or command.stage is not current.stage or client in current.given:
        return ()
    try:
        _check(state, current, client, _body(command.body))
    except ValueError as error:
        raise Rejected("malformed", str(error)) from error
    return (ev.StepTaken(client, command.round, command.stage, command.body),)


def _check(state: State, current: Round, client: str, body: bytes) -> None:
    """Raises ValueError where other devices would be misled, or the sum spoilt, by what nobody has to decrypt to see."""
    roster = roster_of(state, current)
    expected = {
        Stage.SHARES: SEALED_BYTES * (len(roster.members) - 1),
        Stage.MASKED: 8 * _values(state, current),
        Stage.SIGNED: SIGNATURE_BYTES,
        Stage.REVEALED: SHARE_BYTES * len(current.steps.get(Stage.SHARES, ())),
    }[current.stage]
    if len(body) != expected:
        raise ValueError(f"masking: {len(body)} bytes in the stage {current.stage}: must be {expected}")
    if current.stage is Stage.SIGNED:
        member = roster.members[current.members.index(client)]
        survivors = _places(current, current.steps[Stage.MASKED])
        if not is_signed(member.identity, roster.statement(survivors), body):
            raise ValueError("masking: it has signed another roster, or other survivors, than it was shown")


def ask_for(state: State, client: str) -> MaskingAsk | None:
    """What a client is asked for in the present stage; None where it is asked for nothing, or has answered."""
    current = state.current
    if current is None or current.closed or current.stage is Stage.KEYS or not current.waits_for(client):
        return None
    number, stage = current.number, current.stage
    if stage is Stage.SHARES:
        return MaskingAsk(number, stage, members=roster_of(state, current).members, bounds=state.bounds)
    before = current.due
    present = _places(current, before)
    body = b""
    if stage is Stage.MASKED:
        sealed = _bodies(tuple(before[current.members[place]] for place in present))
        body = shares_for(current.members.index(client), dict(zip(present, sealed, strict=True)))
    elif stage is Stage.REVEALED:
        body = b"".join(_bodies(tuple(before[current.members[place]] for place in present)))
    return MaskingAsk(number, stage, present=present, body=body)


def sum_of(state: State, closed: Round) -> NDArray[np.uint64]:
    """The sum of what a closed round's contributors gave, modulo 2^64, (n,). Raises ValueError where there is none."""
    masked = _by_place(closed, closed.steps[Stage.MASKED])
    revealed = _by_place(closed, closed.steps[Stage.REVEALED])
    return unmasked(roster_of(state, closed), _places(closed, closed.steps[Stage.SHARES]), masked, revealed)


def mean_of(state: State, closed: Round) -> tuple[NDArray[np.float64], Sequence[ClientScalars]]:
    """The weighted mean of what a closed round's contributors added to its sum, and these, with scalars of 0.

    Args:
        state: As the round closed.
        closed: The round.

    Raises:
        ValueError: What was sent gives no sum that can be.
    """
    roster, limits, weights = roster_of(state, closed), _limits(state, closed), _weights(state, closed)
    present, sums = _places(closed, closed.steps[Stage.MASKED]), sum_of(state, closed)
    mean = decoded(sums, limits, sum(weights), sum(weights[place] for place in present))
    algorithm, parts = state.algorithm(closed.phase), []
    for place in present:
        client, examples = closed.members[place], roster.members[place].examples
        tier = state.clients[client].tier
        blank = Scalars(closed.number, *((0.0,) * count for count in algorithm.counts(tier, examples)))
        parts.append(ClientScalars(closed.seeds[client], examples, blank, tier))
    return mean, parts


def noised_mean_of(state: State, closed: Round, weights: NDArray[np.float32]) -> ClientScalars:
    """The noised mean over the examples of all contributors of a closed round, to whose sum each has added its share of the noise, as the
    scalars of one client that holds them all.

    Args:
        state: As the round closed.
        closed: The round.
        weights: At which it was measured, float32 (layout.size,).

    Raises:
        ValueError: What was sent gives no sum that can be.
    """
    present, counts = _places(closed, closed.steps[Stage.MASKED]), _weights(state, closed)
    weight, rounds = sum(counts[place] for place in present), state.run_file.zeroth_order.rounds
    shares = noise_shares(state.run_file.privacy, rounds, len(closed.members))
    mean = shares.mean(sum_of(state, closed), weight, len(present))
    seed = closed.seeds[closed.members[present[0]]]  # all have one
    work = Work(closed.number, closed.phase, closed.version, seed, 0.0)
    return ClientScalars(seed, weight, state.algorithm(closed.phase).scalars_of_mean(weights, mean, work))


def _weights(state: State, closed: Round) -> list[int]:
    """What each member's part of the sum counts with."""
    examples = [closed.examples[client] for client in closed.members]
    return whole_weights(counted(examples, state.run_file.zeroth_order))


def _values(state: State, current: Round) -> int:
    """How many numbers a device adds to the sum."""
    if state.run_file.privacy.shares_noise:
        return sum(state.algorithm(current.phase).counts(Tier.LOW, 1))  # every tier's, and of any data
    return _limits(state, current).size


def _limits(state: State, current: Round) -> NDArray[np.float64]:
    return state.algorithm(current.phase).sum_limits(state.bounds, state.rounds_done)


def _places(current: Round, clients: Mapping[str, object]) -> tuple[int, ...]:
    return tuple(place for place, client in enumerate(current.members) if client in clients)


def _by_place(current: Round, bodies: Mapping[str, str]) -> dict[int, bytes]:
    return {place: _body(bodies[current.members[place]]) for place in _places(current, bodies)}


@lru_cache(maxsize=1)
def _bodies(texts: tuple[str, ...]) -> list[bytes]:
    """What each member is told its part of, or all of it: of 1,000, which come one after the other, 50 MB."""
    return [_body(text) for text in texts]


def _body(text: str) -> bytes:
    return base64.b64decode(text)
