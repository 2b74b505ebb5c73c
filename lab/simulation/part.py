"""A process's share of a fleet and its progress, as plain values that can travel to it and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from zowarmup.client.policy import Policy
from zowarmup.client.work.executor import PROCESSOR
from zowarmup.common.messages.values import Tier
from zowarmup.common.text import amount
from zowarmup.data import Dataset, divide
from zowarmup.lab.simulation.profiles import Mix


@dataclass(frozen=True, kw_only=True)
class FleetShare:
    """Clients number `first` to `first + count - 1`, from 1, of a fleet of `clients`, of which the first `high` train.

    `data`: what all of them share, as `data.divide` takes it, or what each has, one for each of `clients`. `names`: what each is
    called, one for each; none: NAME-1, NAME-2 and so on. `state`: where the replica is kept. `secret`: 32 bytes, from
    which the members' credentials follow, so the same fleet is the same members again. `authority`, `certificate`, `key`,
    `insecure`, `threads`, `device`, `connect_timeout_s`, `policy`: as of a single client; `tokens`: the invitation's secret for each tier.
    """

    server: str
    name: str
    data: str | Sequence[Dataset]
    clients: int
    first: int
    count: int
    high: int
    state: Path
    secret: bytes = field(repr=False)
    mix: Mix = field(default_factory=Mix)
    seed: int = 0
    threads: int = 1
    device: str = PROCESSOR
    authority: bytes = b""
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    connect_timeout_s: float = math.inf
    policy: Policy = field(default_factory=Policy)
    tokens: Mapping[Tier, str] = field(default_factory=dict, repr=False)
    names: tuple[str, ...] = ()

    def tier(self, number: int) -> Tier:
        return Tier.HIGH if number <= self.high else Tier.LOW

    def name_of(self, number: int) -> str:
        """What a client is called."""
        return self.names[number - 1] if self.names else f"{self.name}-{number}"

    def shards(self) -> list[Dataset]:
        """What each client of this share has. Raises DataError."""
        wanted = range(self.first - 1, self.first - 1 + self.count)
        if isinstance(self.data, str):
            return divide(self.data, self.clients, wanted)
        return [self.data[place] for place in wanted]

    def source(self, number: int) -> str:
        """What to call a client's data in a sentence."""
        return self.data if isinstance(self.data, str) else f"the data of {self.name_of(number)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetProgress:
    """How far a part, or a fleet, is. `connected` of `clients` have a stream. `over`: how many have left a finished run;
    `agree` of them with the run's own digest. `lost`: how many could not go on, and `fault` why the first of them could not."""

    clients: int = 0
    members: int = 0
    connected: int = 0
    phase: str = ""
    round: int = 0
    version: int = 0
    contributions: int = 0
    refused: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    over: int = 0
    agree: int = 0
    lost: int = 0
    peak_bytes: int = 0
    waiting: str = ""
    fault: str = ""

    def line(self) -> str:
        """One line for people."""
        parts = [f"{self.connected:,} of {self.clients:,} clients connected"]
        if self.members < self.clients:
            parts = [f"{self.members:,} of {self.clients:,} clients enrolled"]
        if self.phase:
            parts.append(f"{self.phase} round {self.round}")
        parts.append(f"{self.contributions:,} contributions")
        if self.refused:
            parts.append(f"{self.refused:,} refused")
        parts.append(f"{amount(self.up_bytes)} up, {amount(self.down_bytes)} down")
        if self.lost:
            parts.append(f"{self.lost:,} lost")
        if self.over:
            parts.append(f"{self.over:,} finished")
        return " | ".join([*parts, *([self.waiting] if self.waiting else [])])


def together(parts: Sequence[FleetProgress]) -> FleetProgress:
    """The progress of all parts."""
    furthest = max(parts, key=lambda part: (part.round, part.version))
    rest = {field.name for field in fields(FleetProgress)} - {"phase", "round", "version", "waiting", "fault"}
    return FleetProgress(
        phase=furthest.phase,
        round=furthest.round,
        version=furthest.version,
        waiting=furthest.waiting or next((part.waiting for part in parts if part.waiting), ""),
        fault=next((part.fault for part in parts if part.fault), ""),
        **{name: sum(getattr(part, name) for part in parts) for name in rest},
    )


def parts(whole: FleetShare, workers: int) -> list[FleetShare]:
    """The fleet of `whole` in near equal parts, each with a folder of its own."""
    shortest, longer = divmod(whole.clients, workers)
    found, first = [], 1
    for index in range(workers):
        count = shortest + (index < longer)
        if count:
            state = whole.state / f"part-{index + 1}-of-{workers}"
            found.append(replace(whole, first=first, count=count, state=state))
        first += count
    return found
