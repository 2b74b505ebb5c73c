"""Forecast of a run's cost: the number of each exchange times its bytes, and the duration of a round.

Everything here is arithmetic over sizes and speeds that were found elsewhere (`sample_messages`, the preparation's footprints).
Bytes are counted by the coordinator's own counter, in its own rows, so that a plan and a run can be laid side by side.
Everyone is taken to stay connected, and to be drawn as often as the others; who drops out or comes back costs more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zowarmup.cli.sample_messages import NAME, Conversation, Specimens
from zowarmup.common.algorithms.protocol import TRAINING_FORWARDS
from zowarmup.common.algorithms.settings import Rounds
from zowarmup.common.messages.values import Computation, Phase, Tier
from zowarmup.server.projections.framing import Wire
from zowarmup.server.projections.traffic import CallTraffic, CountedConnection, Traffic
from zowarmup.server.setup.prepare import DeviceFootprint

SAMPLES = 9
"""Rounds of which specimens are made: sizes change along a run, slowly."""
PING_S, PING_BYTES = 10.0, 17
"""An idle connection is pinged so often; a ping is a frame of HTTP/2, and so is its answer."""


class CostRow(NamedTuple):
    """What bytes are counted by: "up" or "down", the client's tier (None before it has one), the run's phase, the kind."""

    direction: str
    tier: Tier | None
    phase: Phase
    kind: str


class Cost(NamedTuple):
    """Payload and wire bytes, expected."""

    payload_bytes: float
    wire_bytes: float

    def times(self, count: float) -> "Cost":
        return Cost(self.payload_bytes * count, self.wire_bytes * count)


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many clients there are of each tier."""

    high: int
    low: int

    def of(self, tier: Tier) -> int:
        return self.high if tier is Tier.HIGH else self.low

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return tuple(tier for tier in Tier if self.of(tier))

    @property
    def size(self) -> int:
        return self.high + self.low


@dataclass(frozen=True, slots=True)
class PlannedLink:
    """A client's link, bits a second, and its speed at computing, where this machine's one thread is 1."""

    up_bps: float
    down_bps: float
    speed: float = 1.0

    def seconds(self, up_bytes: float, down_bytes: float) -> float:
        return 8 * (up_bytes / self.up_bps + down_bytes / self.down_bps)


class Bytes:
    """Costs by row, which add up."""

    def __init__(self) -> None:
        self.rows: dict[CostRow, Cost] = {}

    def add(self, rows: Mapping[CostRow, Cost], times: float = 1.0) -> None:
        for row, cost in rows.items():
            had = self.rows.get(row, Cost(0, 0))
            more = cost.times(times)
            self.rows[row] = Cost(had.payload_bytes + more.payload_bytes, had.wire_bytes + more.wire_bytes)

    def total(self, direction: str, tier: Tier | None, phase: Phase | None = None) -> Cost:
        """Of one tier, in one phase or all."""
        chosen = [
            cost
            for row, cost in self.rows.items()
            if (row.direction, row.tier) == (direction, tier) and phase in (None, row.phase)
        ]
        return Cost(sum(cost.payload_bytes for cost in chosen), sum(cost.wire_bytes for cost in chosen))


@dataclass(frozen=True)
class Forecast:
    """`traffic`: of the whole fleet and run. `a_round`: of one client, for one round that it takes part in. `fedavg`: of
    the whole fleet and run at equal rounds, were each one of FedAvg, whole model down and whole delta up. `participants`:
    expected in a round. `round_s`: seconds of a round; `fedavg_round_s`: of one of FedAvg on the high tier; `run_s`: of
    all rounds."""

    fleet: Fleet
    traffic: Bytes
    a_round: Bytes
    fedavg: Bytes
    participants: Mapping[tuple[Phase, Tier], float]
    round_s: Mapping[tuple[Phase, Tier], float]
    fedavg_round_s: float
    run_s: float


def drawn(rules: Rounds, eligible: int) -> int:
    """How many clients take part in a round, of so many that could."""
    return min(eligible, math.ceil(rules.clients_per_round * (1 + rules.over_selection) - 1e-9))


def counted(conversation: Conversation, tier: Tier, phase: Phase, wire: Wire) -> dict[CostRow, Cost]:
    """What the coordinator's counter makes of a conversation."""
    traffic = Traffic(lambda: phase, (), wire)
    for number, calls in enumerate(conversation.calls):
        for call in calls:
            line = traffic.call(str(number), tier if call.member else None, NAME if call.named else "")
            for said in call.said:
                (line.up if said.direction == "up" else line.down)(said.kind, said.payload_bytes)
    line = CallTraffic(traffic, CountedConnection(tier), tier)
    for said in conversation.stream:
        (line.up if said.direction == "up" else line.down)(said.kind, said.payload_bytes)
    return {
        CostRow(c.direction, Tier(c.tier) if c.tier else None, phase, c.kind): Cost(c.payload_bytes, c.wire_bytes)
        for c in traffic.counts()
    }


def sampled(rounds: int) -> list[int]:
    """Some of the numbers 0 .. rounds - 1, evenly spaced."""
    count = min(rounds, SAMPLES)
    return [(2 * index + 1) * rounds // (2 * count) for index in range(count)]


def mean(costs: Sequence[Mapping[CostRow, Cost]]) -> Mapping[CostRow, Cost]:
    total = Bytes()
    for rows in costs:
        total.add(rows, 1 / len(costs))
    return total.rows


def forecast(
    specimens: Specimens, fleet: Fleet, wire: Wire, link: PlannedLink, work: Mapping[Tier, DeviceFootprint]
) -> Forecast:
    """`work`: what each tier's work takes on this machine."""
    run = specimens.run
    rules = {Phase.WARM_UP: run.warmup, Phase.ZEROTH_ORDER: run.zeroth_order}
    everyone = drawn(run.zeroth_order, fleet.size)
    participants = {(Phase.ZEROTH_ORDER, tier): everyone * fleet.of(tier) / fleet.size for tier in fleet.tiers}
    trained = [tier for tier in fleet.tiers if tier in run.warmup.tiers]
    training = sum(map(fleet.of, trained))
    participants |= {(Phase.WARM_UP, tier): drawn(run.warmup, training) * fleet.of(tier) / training for tier in trained}
    drawn_high = round(participants.get((Phase.ZEROTH_ORDER, Tier.HIGH), 0.0))
    mix = (Tier.HIGH,) * drawn_high + (Tier.LOW,) * (everyone - drawn_high)

    # What FedAvg costs is known whether or not there is a warm-up.
    whole = _trained(specimens, Tier.HIGH, wire)
    delta_up, model_down = (_summed(whole, direction) for direction in ("up", "down"))
    fedavg_round_s = _training_s(specimens, Tier.HIGH, whole, link, work[Tier.HIGH])
    traffic, a_round, fedavg = Bytes(), Bytes(), Bytes()
    round_s: dict[tuple[Phase, Tier], float] = {}
    for tier in trained if run.warmup.rounds else ():
        taking_part, part = participants[Phase.WARM_UP, tier], _trained(specimens, tier, wire)
        traffic.add(part, run.warmup.rounds * taking_part)
        reporting = counted(specimens.reporting(1), tier, Phase.WARM_UP, wire)
        traffic.add(reporting, fleet.of(tier) * ever(taking_part / fleet.of(tier), run.warmup.rounds))
        a_round.add(part)
        round_s[Phase.WARM_UP, tier] = _training_s(specimens, tier, part, link, work[tier])
    for tier in fleet.tiers:
        _add_membership(traffic, specimens, tier, fleet.of(tier), wire)
    if run.zeroth_order.rounds:
        applying = _applying(specimens, mix)
        for tier in fleet.tiers:
            taking_part = participants[Phase.ZEROTH_ORDER, tier]
            heard = _add_zeroth_order(traffic, specimens, tier, fleet.of(tier), taking_part, mix, wire)
            a_round.add(heard)
            busy_s = _computing_s(specimens, Phase.ZEROTH_ORDER, tier, work[tier]) + applying * work[tier].apply_s
            round_s[Phase.ZEROTH_ORDER, tier] = (
                link.seconds(_summed(heard, "up").wire_bytes, _summed(heard, "down").wire_bytes)
                + busy_s / link.speed
                + applying * work[Tier.LOW].apply_s  # the coordinator's, on this machine
            )
    for (phase, tier), count in participants.items():
        for direction, cost in (("up", delta_up), ("down", model_down)):
            row = CostRow(direction, tier, phase, "delta" if direction == "up" else "snapshot")
            exact = Cost(specimens.weights_bytes, cost.wire_bytes)
            fedavg.add({row: exact}, rules[phase].rounds * count)
    run_s = 0.0
    for phase, settings in rules.items():
        lasts_s = max((seconds for (of, _), seconds in round_s.items() if of is phase), default=0.0)
        run_s += settings.rounds * lasts_s
        idle = settings.rounds * lasts_s / PING_S if lasts_s > PING_S else 0.0
        for tier in fleet.tiers:
            pings = {CostRow(direction, tier, phase, "connection"): Cost(0, PING_BYTES) for direction in ("up", "down")}
            traffic.add(pings, idle * fleet.of(tier))
    return Forecast(fleet, traffic, a_round, fedavg, participants, round_s, fedavg_round_s, run_s)


def _trained(specimens: Specimens, tier: Tier, wire: Wire) -> Mapping[CostRow, Cost]:
    """What a round of the warm-up costs a client of that tier."""
    rounds = sampled(max(1, specimens.run.warmup.rounds))
    return mean([counted(specimens.training(tier, done + 1), tier, Phase.WARM_UP, wire) for done in rounds])


def _training_s(
    specimens: Specimens, tier: Tier, part: Mapping[CostRow, Cost], link: PlannedLink, work: DeviceFootprint
) -> float:
    """How long it takes one that trains so fast."""
    carried = link.seconds(*(_summed(part, direction).wire_bytes for direction in ("up", "down")))
    return carried + _computing_s(specimens, Phase.WARM_UP, tier, work) / link.speed


def _add_membership(traffic: Bytes, specimens: Specimens, tier: Tier, count: int, wire: Wire) -> None:
    """What each client costs, however many rounds there are."""
    run = specimens.run
    begin = Phase.WARM_UP if run.warmup.rounds else Phase.ZEROTH_ORDER
    pivot = Phase.ZEROTH_ORDER if run.zeroth_order.rounds else Phase.FINISHED
    traffic.add(counted(specimens.joining(tier), tier, begin, wire), count)
    traffic.add(counted(specimens.catching_up(run.warmup.rounds), tier, pivot, wire), count)
    traffic.add(counted(specimens.leaving(), tier, Phase.FINISHED, wire), count)


def _add_zeroth_order(
    traffic: Bytes,
    specimens: Specimens,
    tier: Tier,
    count: int,
    taking_part: float,
    mix: Sequence[Tier],
    wire: Wire,
) -> Mapping[CostRow, Cost]:
    """Add the phase of `count` clients of a tier, of which so many take part in a round; what one such round costs one
    such client."""
    warm, rounds = specimens.run.warmup.rounds, specimens.run.zeroth_order.rounds
    phase, rules = Phase.ZEROTH_ORDER, specimens.run.zeroth_order
    whole = any(map(rules.trains, mix))  # each version is then a whole model

    def hearing(done: int, phase: Phase) -> Mapping[CostRow, Cost]:
        version = specimens.catching_up(warm + done + 1) if whole else specimens.committing(done, mix)
        return counted(version, tier, phase, wire)

    def working(done: int) -> Mapping[CostRow, Cost]:
        trains = rules.trains(tier)
        number = warm + done + 1
        part = specimens.training(tier, number, False, phase) if trains else specimens.probing(tier, number)
        return counted(part, tier, phase, wire)

    sometimes = count * ever(taking_part / count, rounds)
    if rules.computation(tier) is Computation.FORWARD:
        traffic.add(counted(specimens.fetching_program(), tier, phase, wire), sometimes)
    traffic.add(counted(specimens.reporting(warm), tier, phase, wire), sometimes)
    work = mean([working(done) for done in sampled(rounds)])
    news = mean([hearing(done, phase) for done in sampled(rounds)])
    traffic.add(work, rounds * taking_part)
    # The last one is heard when the run is over.
    traffic.add(news, (rounds - 1) * count)
    traffic.add(hearing(rounds - 1, Phase.FINISHED), count)
    both = Bytes()
    both.add(work)
    both.add(news)
    return both.rows


def ever(share: float, rounds: int) -> float:
    """How likely one is to be drawn at least once, where so large a share is drawn each time."""
    return 1 - (1 - min(1.0, share)) ** rounds


def _computing_s(specimens: Specimens, phase: Phase, tier: Tier, work: DeviceFootprint) -> float:
    """Seconds of a round's own computing, on this machine."""
    algorithm, examples = specimens.algorithm(phase), specimens.examples
    forwards = algorithm.forwards(tier, examples)
    rules = specimens.run.warmup if phase is Phase.WARM_UP else specimens.run.zeroth_order
    alone = rules.computation(tier) is Computation.FORWARD
    passes_s = forwards * work.forward_s if alone else forwards / TRAINING_FORWARDS * work.train_s
    return passes_s + algorithm.walks(tier, examples) * work.walk_s


def _applying(specimens: Specimens, mix: Sequence[Tier]) -> float:
    """What applying a round's commit takes, in steps of 8 directions over the whole model."""
    steps = specimens.steps(specimens.run.zeroth_order.rounds // 2, mix)
    return sum(-(-len(step.ticks) // 8) * step.block.size for step in steps) / specimens.layout.trainable


def _summed(rows: Mapping[CostRow, Cost], direction: str) -> Cost:
    chosen = [cost for row, cost in rows.items() if row.direction == direction]
    return Cost(sum(cost.payload_bytes for cost in chosen), sum(cost.wire_bytes for cost in chosen))
