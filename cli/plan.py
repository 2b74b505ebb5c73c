"""The cost of a run file, before anything is rolled out: `zowarmup plan`.

The model is built, exported and measured as when a coordinator makes the run, in the same child processes, and thrown away.
What a contribution and a commit cost is what the algorithm says of itself. The rest is counting. Everyone is taken to stay connected, and to be drawn as often as the others.
"""

import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from zowarmup.cli.message_sizes import OVERHEAD, Exchange, MessageSizes, together
from zowarmup.common.algorithms.fedavg import model_bytes
from zowarmup.common.algorithms.protocol import TRAINING_FORWARDS
from zowarmup.common.algorithms.settings import Rounds
from zowarmup.common.exact.grid import Grid
from zowarmup.common.messages.values import BASE, PROGRAM, TOKENIZER, Computation, Phase, Tier
from zowarmup.common.settings.addresses import is_loopback
from zowarmup.common.settings.run import PRETRAINED, ClientSpec, RunFile
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.data import DataError, load
from zowarmup.data.card import card_of
from zowarmup.server.core.sampling import pool_seed
from zowarmup.server.setup.language_directory import read_directory
from zowarmup.server.setup.prepare import Children, PreparationError, Prepared, prepare, task_of
from zowarmup.server.setup.run_file import RunFileError, read_run_file

_RATES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
GROWTH = 16.0
"""Headroom of the grid at the pivot, over the first weights: a warm-up about doubles the largest."""
PING_S, PING_BYTES = 10.0, 17
"""An idle connection is pinged so often; a ping is a frame of HTTP/2, and so is its answer."""
PING: Exchange = {("up", OVERHEAD): PING_BYTES, ("down", OVERHEAD): PING_BYTES}
PHASES = (Phase.WARM_UP, Phase.ZEROTH_ORDER)


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


class CostRow(NamedTuple):
    """What bytes are counted by: "up" or "down", the client's tier (None before it has one), the run's phase, the kind."""

    direction: str
    tier: Tier | None
    phase: Phase
    kind: str


class Bytes(defaultdict[CostRow, float]):
    """Bytes on the wire, expected; without the rows of OVERHEAD, payload."""

    def add(self, said: Exchange, tier: Tier | None, phase: Phase, times: float = 1.0) -> None:
        for (direction, kind), count in said.items():
            self[CostRow(direction, tier, phase, kind)] += times * count

    def total(self, direction: str, tier: Tier | None = None, phase: Phase | None = None) -> float:
        """Of one tier and phase, or of all."""
        return sum(
            count
            for row, count in self.items()
            if row.direction == direction and tier in (None, row.tier) and phase in (None, row.phase)
        )

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {**row._asdict(), "tier": row.tier or "none", "bytes": round(count)}
            for row, count in sorted(self.items(), key=lambda item: tuple(map(str, item[0])))
        ]


@dataclass(frozen=True)
class Plan:
    """What a run will cost a fleet.

    Args:
        traffic: Of the whole fleet and run.
        a_round: Of one client, for one round that it takes part in.
        participants: Expected in a round.
        round_s: Seconds of a round; `fedavg_round_s` of one of FedAvg on the high tier.
    """

    sizes: MessageSizes
    prepared: Prepared
    fleet: Fleet
    link: PlannedLink
    traffic: Bytes
    a_round: Bytes
    participants: Mapping[tuple[Phase, Tier], float]
    round_s: Mapping[tuple[Phase, Tier], float]
    fedavg_round_s: float

    @property
    def run(self) -> RunFile:
        return self.sizes.run

    @property
    def run_s(self) -> float:
        """Of all rounds, each as long as its slowest tier's."""
        return sum(self.sizes.rules(phase).rounds * longest_s(self.round_s, phase) for phase in PHASES)

    def fedavg_bytes(self, *tiers: Tier) -> float:
        """Each way, of these tiers, were each round one of FedAvg: a whole model down, a whole delta up, nothing whitened."""
        return model_bytes(self.prepared.layout.uploaded) * sum(
            self.sizes.rules(phase).rounds * count
            for (phase, tier), count in self.participants.items()
            if tier in tiers
        )

    def memory_bytes(self, tier: Tier) -> int:
        """The peak of a client of that tier in this run: one that never trains never loads torch."""
        trains = tier is Tier.HIGH and any(phase.back_propagates(tier) for phase in self.sizes.spec.phases)
        return (self.prepared.high if trains else self.prepared.low).peak_bytes

    def to_json(self) -> dict[str, Any]:
        """Everything, with the units in the names."""
        return {
            "run": self.run.name,
            "model": self.run.model.name,
            "parameters": self.prepared.layout.trainable,
            "weights_bytes": self.sizes.weights_bytes,
            "program_bytes": len(self.prepared.program),
            "assumed": {
                "high": self.fleet.high,
                "low": self.fleet.low,
                "examples": self.sizes.examples,
                "up_bits_per_second": self.link.up_bps,
                "down_bits_per_second": self.link.down_bps,
                "speed": self.link.speed,
                "tls": self.sizes.tls,
            },
            "memory_bytes": {tier: self.memory_bytes(tier) for tier in self.fleet.tiers},
            "participants": _by_phase(self.participants),
            "round_s": _by_phase(self.round_s),
            "fedavg_round_s": self.fedavg_round_s,
            "run_s": self.run_s,
            "a_round": self.a_round.to_json(),
            "traffic": self.traffic.to_json(),
            "fedavg_bytes": {tier: round(self.fedavg_bytes(tier)) for tier in self.fleet.tiers},
        }


def make_plan(path: Path, high: int | None, low: int | None, examples: int, link: PlannedLink) -> Plan:
    """Plan the run of a file for a fleet; None: as many as a round asks for. Raises CommandError, and Usage where no round
    would ever open."""
    try:
        run = read_run_file(path)
        held_out = load(run.evaluation.data)
        card = card_of(held_out, f"evaluation.data = {run.evaluation.data!r}", run.text.most_tokens)
    except RunFileError as error:
        raise Usage(str(error)) from error
    except DataError as error:
        raise CommandError(f"evaluation.data = {run.evaluation.data!r}: {error}") from error
    fleet = fleet_for(run, high, low)
    spec, artifacts = ClientSpec.of(run, card, pool_seed(run.seed)), dict[str, int]()
    try:
        task_of(spec, held_out.targets)
        if run.model.pretrained:
            directory = read_directory(Path(run.model.name.removeprefix(PRETRAINED)).expanduser())
            spec = replace(spec, architecture=directory.architecture)
            artifacts[TOKENIZER] = len(directory.tokenizer)
        with tempfile.TemporaryDirectory(prefix="zowarmup-plan-") as folder:
            prepared = prepare(spec, run.seed, Path(folder), Children(), examples)
            if prepared.base is not None:
                artifacts[BASE] = prepared.base.stat().st_size
    except PreparationError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(
            f"the model cannot be built in a temporary folder ({error.strerror or error}): free space, or name a folder "
            "with room in the environment variable TMPDIR"
        ) from error
    return plan_of(run, spec, prepared, fleet, examples, link, artifacts)


def fleet_for(run: RunFile, high: int | None, low: int | None) -> Fleet:
    """The fleet asked for, checked against the run file. Raises Usage."""
    warm, zeroth = run.warmup, run.zeroth_order
    low_trains = warm.trains(Tier.LOW)
    if high is None:
        high = warm.clients_per_round if warm.rounds else 0
    if low is None:
        asked = [rules.clients_per_round for rules, open_to in ((warm, low_trains), (zeroth, zeroth.rounds)) if open_to]
        low = max(0, max(asked, default=0) - high)
    fleet = Fleet(high, low)
    both = "--high and --low"
    for name, rules, have, option in (
        ("warmup", warm, fleet.size if low_trains else fleet.high, both if low_trains else "--high"),
        ("zeroth_order", zeroth, fleet.size, both),
    ):
        needed = rules.minimum_clients or rules.clients_per_round
        if rules.rounds and have < needed:
            raise Usage(
                f"{option}: a round of [{name}] opens with {needed} clients and there would be {have}: "
                f"give more, or lower {name}.minimum_clients"
            )
    if not fleet.size:
        raise Usage("--high and --low: there are no clients; and the run file has no rounds")
    return fleet


def plan_of(
    run: RunFile,
    spec: ClientSpec,
    prepared: Prepared,
    fleet: Fleet,
    examples: int,
    link: PlannedLink,
    artifacts: Mapping[str, int] | None = None,
) -> Plan:
    """Plan a run whose model was measured. `artifacts`: the bytes of each, beside the program."""
    layout, warm, zeroth = prepared.layout, run.warmup, run.zeroth_order
    grid = Grid.choose(prepared.weights[: layout.trainable], GROWTH if warm.rounds else 8.0, layout.edges)
    invited = run.server.enrolment == "invited" or (not run.server.enrolment and not is_loopback(run.server.address))
    sizes = MessageSizes(
        run, spec, layout, grid, {PROGRAM: len(prepared.program), **(artifacts or {})}, examples, invited
    )
    work = {Tier.HIGH: prepared.high, Tier.LOW: prepared.low}
    participants: dict[tuple[Phase, Tier], float] = {}
    for phase, tiers in ((Phase.WARM_UP, warm.tiers), (Phase.ZEROTH_ORDER, fleet.tiers)):
        eligible = sum(map(fleet.of, tiers))
        for tier in (tier for tier in tiers if fleet.of(tier)):
            participants[phase, tier] = drawn(sizes.rules(phase), eligible) * fleet.of(tier) / eligible
    # What everyone hears of a round, and how often it goes through all parameters to apply it.
    news: dict[Phase, Exchange] = {phase: {} for phase in PHASES}
    applied = dict.fromkeys(PHASES, 0.0)
    if zeroth.rounds:
        high = round(participants.get((Phase.ZEROTH_ORDER, Tier.HIGH), 0.0))
        mix = (Tier.HIGH,) * high + (Tier.LOW,) * (drawn(zeroth, fleet.size) - high)
        news[Phase.ZEROTH_ORDER], applied[Phase.ZEROTH_ORDER] = sizes.committing(mix), sizes.commit_cost(mix).walks

    def lasts_s(said: Exchange, phase: Phase, tier: Tier) -> float:
        """Seconds of a round in which a client says and hears that. The coordinator, on this machine, applies it, too."""
        algorithm, took = sizes.algorithm(phase), work[tier]
        counted = algorithm.release_forwards if run.privacy.on else algorithm.forwards
        forwards = counted(tier, examples)
        alone = sizes.rules(phase).computation(tier) is Computation.FORWARD
        busy_s = forwards * took.forward_s if alone else forwards / TRAINING_FORWARDS * took.train_s
        busy_s += algorithm.walks(tier, examples) * took.walk_s + applied[phase] * took.apply_s
        up, down = (8 * sum(count for (way, _), count in said.items() if way == of) for of in ("up", "down"))
        return up / link.up_bps + down / link.down_bps + busy_s / link.speed + applied[phase] * prepared.low.apply_s

    rounds = {
        (phase, tier): together(sizes.contributing(phase, tier), news[phase])
        for phase, tier in participants
        if sizes.rules(phase).rounds
    }
    round_s = {(phase, tier): lasts_s(said, phase, tier) for (phase, tier), said in rounds.items()}
    a_round = Bytes(float)
    for (phase, tier), said in rounds.items():
        a_round.add(said, tier, phase)
    # What FedAvg takes is known whether or not there is a warm-up.
    fedavg_round_s = lasts_s(sizes.contributing(Phase.WARM_UP, Tier.HIGH), Phase.WARM_UP, Tier.HIGH)
    traffic = _traffic(sizes, fleet, participants, news[Phase.ZEROTH_ORDER], round_s)
    return Plan(sizes, prepared, fleet, link, traffic, a_round, participants, round_s, fedavg_round_s)


def _traffic(
    sizes: MessageSizes,
    fleet: Fleet,
    participants: Mapping[tuple[Phase, Tier], float],
    news: Exchange,
    round_s: Mapping[tuple[Phase, Tier], float],
) -> Bytes:
    """Of the whole fleet and run. `news`: what everyone hears of a zeroth-order round."""
    traffic, later = Bytes(float), sizes.run.zeroth_order.rounds
    fetched = set[tuple[str, Tier]]()
    begin = Phase.WARM_UP if sizes.run.warmup.rounds else Phase.ZEROTH_ORDER
    whitens = sizes.layout.whitening is not None  # in its first zeroth-order round, which gives a snapshot
    first = sizes.catching_up() if whitens else news
    for tier in fleet.tiers:
        count = fleet.of(tier)
        traffic.add(sizes.asking(), None, begin, count)
        traffic.add(sizes.joining(), tier, begin, count)
        traffic.add(sizes.catching_up(), tier, Phase.ZEROTH_ORDER if later else Phase.FINISHED, count)
        traffic.add(first, tier, Phase.ZEROTH_ORDER if later > 1 else Phase.FINISHED, count)
        traffic.add(news, tier, Phase.ZEROTH_ORDER, max(0, later - 2) * count)
        traffic.add(news, tier, Phase.FINISHED, (later > 1) * count)  # the last one is heard when the run is over
        traffic.add(sizes.leaving(), tier, Phase.FINISHED, count)
    for phase, tier in round_s:
        rules, count, each = sizes.rules(phase), fleet.of(tier), participants[phase, tier]
        once = count * ever(each / count, rules.rounds)
        describing = int(whitens and phase is Phase.ZEROTH_ORDER)
        if describing:
            traffic.add(sizes.describing_features(), tier, phase, each)
        traffic.add(sizes.contributing(phase, tier), tier, phase, (rules.rounds - describing) * each)
        traffic.add(sizes.reporting(), tier, phase, once)
        forward = rules.computation(tier) is Computation.FORWARD
        for artifact in sizes.artifacts:
            if forward if artifact == PROGRAM else (artifact, tier) not in fetched:
                traffic.add(sizes.fetching(artifact), tier, phase, once)
                fetched.add((artifact, tier))
    for phase in PHASES:
        if (each_s := longest_s(round_s, phase)) > PING_S:
            for tier in fleet.tiers:
                traffic.add(PING, tier, phase, fleet.of(tier) * sizes.rules(phase).rounds * each_s / PING_S)
    return traffic


def longest_s(round_s: Mapping[tuple[Phase, Tier], float], phase: Phase) -> float:
    """Seconds of a phase's round; 0 where it has none."""
    return max((seconds for (of, _), seconds in round_s.items() if of is phase), default=0.0)


def ever(share: float, rounds: int) -> float:
    """How likely one is to be drawn at least once, where so large a share is drawn each time."""
    return 1 - (1 - min(1.0, share)) ** rounds


def drawn(rules: Rounds, eligible: int) -> int:
    """The number of clients that take part in a round, of those that could."""
    return min(eligible, math.ceil(rules.clients_per_round * (1 + rules.over_selection) - 1e-9))


def bits_per_second(option: str, text: str) -> float:
    """10Mbit, 250kbit, 1.5Gbit. Raises Usage."""
    matched = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([kMG]?)bit(?:/s|ps)?", text)
    if not matched or not float(matched[1]):
        raise Usage(f"{option} {text!r}: must be bits a second, such as 250kbit, 10Mbit or 1.5Gbit")
    return float(matched[1]) * _RATES[matched[2]]


def _by_phase(values: Mapping[tuple[Phase, Tier], float]) -> dict[str, dict[str, float]]:
    return {
        phase.value: {tier.value: value for (of, tier), value in values.items() if of is phase}
        for phase in PHASES
        if any(of is phase for of, _ in values)
    }
