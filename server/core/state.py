"""The coordinator's state, as immutable values.

Every event makes a new state (`evolve`). That is what lets the coordinator decide on a state whose events
are not on disk yet, and drop it if the disk refuses them.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.algorithms.protocol import Algorithm
from zowarmup.common.algorithms.settings import Rounds
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.masking import Given, Keys
from zowarmup.common.messages.values import Computation, Phase, Tier
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.privacy import Budget, Privacy
from zowarmup.common.settings.run import RunFile
from zowarmup.server.core import events as ev
from zowarmup.server.core.guard import Progress
from zowarmup.server.core.persistent_map import PersistentMap
from zowarmup.server.core.plateau import Losses
from zowarmup.server.core.sampling import Draws, pool_seed
from zowarmup.server.core.sorted_names import SortedNames


@dataclass(frozen=True, slots=True)
class Client:
    """A member of the fleet, until `revoked` holds the reason why it is not. `invitation`: the hash of the token that it
    came with; empty where it came without. `identity`: its public Ed25519 key, hex; empty without secure aggregation."""

    tier: Tier
    examples: int
    credential_sha256: str
    revoked: str = ""
    invitation: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class IssuedInvitation:
    """Good for the tier from `issued_at` until `expires_at`, unix seconds by the calendar, `uses` times, of which `used` are
    gone, or until `revoked` holds the reason why it is not."""

    tier: Tier
    expires_at: float
    uses: int
    issued_at: float
    used: int = 0
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class Presence:
    """Soft: what is known of a client since the coordinator started. `gone_at` is 0 while its stream `epoch` is open."""

    epoch: int = 0
    gone_at: float = 0.0
    version: int = 0
    digest: str = ""
    peak_memory_bytes: int = 0

    @property
    def connected(self) -> bool:
        return self.epoch > 0 and not self.gone_at


_BEFORE = {stage.following: stage for stage in Stage}
REMEMBERED = 32
"""So many of each tier's last contributions set the next deadline."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round in progress: open for contributions until `closed` holds the reason why it is not. It needs `needed` of
    them. `opened_at`, as `deadline` by the coordinator's clock, is 0 where it says nothing, as after a restart in its midst. `abstained`: who has
    nothing to contribute, and why. With secure aggregation, `stage` is where it is, `members`, in ascending order, are those
    who advertised keys, and `steps` what they have sent in each later stage, in base64."""

    number: int
    phase: Phase
    version: int
    seeds: Mapping[str, int]
    examples: Mapping[str, int]
    deadline: float
    deadline_reason: str
    needed: int
    opened_at: float
    contributions: PersistentMap[str, Given] = field(default_factory=PersistentMap)
    abstained: PersistentMap[str, str] = field(default_factory=PersistentMap)
    closed: str = ""
    stage: Stage = Stage.KEYS
    members: tuple[str, ...] = ()
    steps: Mapping[Stage, PersistentMap[str, str]] = field(default_factory=dict)

    @property
    def given(self) -> Mapping[str, object]:
        """What has been sent in the present stage, by client."""
        return self.contributions if self.stage is Stage.KEYS else self.steps[self.stage]

    @property
    def due(self) -> Mapping[str, Any]:
        """Those who are asked in the present stage: who has answered in the one before."""
        if self.stage is Stage.KEYS:
            return self.seeds
        return self.contributions if self.stage is Stage.SHARES else self.steps[_BEFORE[self.stage]]

    @property
    def asked_otherwise(self) -> tuple[str, ...]:
        """Whose keys say that they were asked something else than most, of those who have advertised any; in ascending order."""
        asked = {client: keys.asked for client, keys in self.contributions.items() if isinstance(keys, Keys)}
        counts = Counter(asked.values())
        most = max(counts, key=lambda one: (counts[one], one), default="")
        return tuple(sorted(client for client in asked if asked[client] != most))

    @property
    def contributors(self) -> Mapping[str, object]:
        """Those whose scalars or deltas the version that it makes is of."""
        return self.steps.get(Stage.MASKED, self.contributions)

    @property
    def missing(self) -> tuple[str, ...]:
        """Participants that may still contribute, in ascending order."""
        return tuple(self.waited_for())

    def waited_for(self) -> Iterator[str]:
        """`missing`, one by one: the first often settles a question, and rounds may have thousands."""
        return filter(self.waits_for, self.due)

    def waits_for(self, client: str) -> bool:
        """Whether a client is one of `missing`."""
        if self.stage is not Stage.KEYS:
            return client in self.due and client not in self.given and client not in self.abstained
        return client in self.seeds and client not in self.contributions and client not in self.abstained


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is. `round` counts openings, `version` commits; a retried round has a new number, so no seed is
    ever used twice. `previous` is the round before `current`; `rounds_done` counts the commits of the present phase,
    `abandoned` the abandoned rounds in a row, and `fault` says what the algorithm's code did wrong in the last of them,
    where that is why; `bounds`: to which clients clip what they add to a round's sum; `failures`: of clients whose last round failed (`resting`); `moments`: the server optimizer's state;
    `losses`: of the warm-up's last rounds, where they decide when it ends; `progress`: what the guard knows.
    `finished`: why the run is over, and `gave_up` where that is before its time.
    `replay_signs`: the signs, one a parameter and direction, that a replay of the commits since the newest snapshot looks
    up. `took_s`: how long each tier's last contributions to the present phase took, seconds, oldest first. `credentials`:
    the client of each credential's hash; `ready`: of each tier, the connected clients that may release more (soft, as presence is). `absent`: participants of the open round
    that have no stream, and until when it waits for each, unix seconds (soft, as presence is). `secret`: of the draws, hex;
    empty where they follow from the run file's seed. `releases`: under differential privacy, how
    many zeroth-order rounds each client was drawn for, which is the most that it has released."""

    run_id: str
    run_file: RunFile
    program: ev.ProgramRecord
    layout: Layout
    phase: Phase
    digest: str
    snapshots: Mapping[int, ev.Snapshot]
    invitations: PersistentMap[str, IssuedInvitation] = field(default_factory=PersistentMap)
    clients: PersistentMap[str, Client] = field(default_factory=PersistentMap)
    credentials: PersistentMap[str, str] = field(default_factory=PersistentMap)
    presence: PersistentMap[str, Presence] = field(default_factory=PersistentMap)
    ready: Mapping[Tier, SortedNames] = field(default_factory=dict)
    absent: PersistentMap[str, float] = field(default_factory=PersistentMap)
    round: int = 0
    version: int = 0
    rounds_done: int = 0
    current: Round | None = None
    previous: Round | None = None
    abandoned: int = 0
    fault: str = ""
    failures: PersistentMap[str, ev.Failure] = field(default_factory=PersistentMap)
    moments: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()
    replay_signs: int = 0
    took_s: Mapping[Tier, tuple[float, ...]] = field(default_factory=dict)
    clipped_scalars: int = 0
    clipped_deltas: int = 0
    rounds_below_tick: int = 0
    losses: Losses = ()
    progress: Progress = field(default_factory=Progress)
    pivot_version: int | None = None
    pivot_reason: str = ""
    paused: str = ""
    pivot_requested: str = ""
    stop_requested: str = ""
    evaluation: ev.Evaluated | None = None
    finished: str = ""
    gave_up: str = ""
    secret: str = field(default="", repr=False)
    releases: PersistentMap[str, int] = field(default_factory=PersistentMap)

    @property
    def budget(self) -> Budget | None:
        """What each client may release under differential privacy; None where there is none."""
        privacy = self.run_file.privacy
        return _budget(privacy, self.run_file.zeroth_order.rounds) if privacy.on else None

    @property
    def most_released(self) -> int:
        """How many releases a client has made at most."""
        return max(self.releases.values(), default=0)

    def used_up(self, client: str) -> bool:
        """Whether a client may release nothing more."""
        budget = self.budget
        return budget is not None and self.releases.get(client, 0) >= budget.releases

    @property
    def draws(self) -> Draws:
        """How participants and seeds are drawn."""
        return Draws(self.run_file.seed, self.secret)

    @property
    def rules(self) -> Rounds:
        """How the present phase's rounds work."""
        return self.rules_of(self.phase)

    def rules_of(self, phase: Phase) -> Rounds:
        """How a phase's rounds work."""
        return self.run_file.warmup if phase is Phase.WARM_UP else self.run_file.zeroth_order

    def algorithm(self, phase: Phase) -> Algorithm:
        """The one whose rounds a phase has, at the learning rate that it has now."""
        run, factor = self.run_file, self.progress.rate_factor
        return algorithm_of(run, phase, self.layout, pool_seed(run.seed), factor)

    @property
    def minimum(self) -> int:
        """How many eligible clients must be connected for a round to open."""
        return self.rules.minimum_clients or self.rules.clients_per_round

    @property
    def sums(self) -> bool:
        """Whether the present phase's rounds have secure aggregation."""
        return self.run_file.privacy.secure_aggregation and self.phase is Phase.ZEROTH_ORDER

    def trains(self, client: str) -> bool:
        """Whether a client uploads a delta in the present phase's rounds."""
        return self.rules.computation(self.clients[client].tier) is Computation.TRAINING

    def uplink_bytes(self, client: str) -> int:
        """How many bytes the values have that a client contributes."""
        known = self.clients[client]
        return self.algorithm(self.phase).uplink_bytes(known.tier, known.examples)

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Whose clients the present phase can use."""
        return self.rules.tiers

    @property
    def eligible(self) -> tuple[SortedNames, ...]:
        """Connected clients of these tiers that may release more, by tier."""
        return tuple(self.ready[tier] for tier in self.tiers if tier in self.ready)

    @property
    def eligible_count(self) -> int:
        """How many they are."""
        return sum(map(len, self.eligible))

    @property
    def paused_itself(self) -> bool:
        """Whether the run has paused itself, after too many abandoned rounds."""
        return bool(self.paused) and self.abandoned >= self.run_file.server.abandoned_limit

    def is_gone(self, client: str) -> bool:
        """Whether its stream has been seen to close. After a restart nobody is gone: they may be on their way."""
        return client in self.presence and bool(self.presence[client].gone_at)

    @property
    def snapshot_blobs(self) -> frozenset[str]:
        """The blobs that the snapshots on disk need."""
        return frozenset(sha256 for snapshot in self.snapshots.values() for sha256 in snapshot.blobs)

    @property
    def snapshot(self) -> ev.Snapshot:
        """The newest snapshot on disk."""
        return self.snapshots[max(self.snapshots)]


@functools.cache
def _budget(privacy: Privacy, rounds: int) -> Budget:
    """Found by a bisection, and asked for each client at each message."""
    return privacy.budget(rounds)


def quorum(state: State, needed: int) -> int:
    """The quorum: how many must contribute for a round to count that closes at once with `needed`."""
    return max(1, math.ceil(state.rules.quorum * needed - 1e-9))
