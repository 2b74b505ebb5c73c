"""The read model of versions: what each is, and how a client catches up.

It answers what the present state does not hold: the operator's history, and the commits that a client who was away
needs. Commits are kept as the bytes that travel, so the cost of catching up by steps is known exactly.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit, merged
from zowarmup.common.messages.codec import decode_commit, encode_commit
from zowarmup.common.messages.values import Phase
from zowarmup.server.core import events as ev
from zowarmup.server.projections.participation import Participations
from zowarmup.server.projections.traffic import TrafficLog


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of the model and how it came about; `round` is 0 for the initial weights, and for a return to earlier
    ones; of its round so many `participants` were drawn, and so many contributed."""

    version: int
    round: int
    phase: Phase
    digest: str
    contributions: int
    committed_at: float
    evaluation: ev.Evaluated | None = None
    participants: int = 0


@dataclass(frozen=True, slots=True)
class CatchUp:
    """How a client gets to the present version: `snapshot` first, if it is not None, then `commits` (serialised).
    `cost_bytes` is what that sends; `reason` says why this way."""

    snapshot: int | None
    commits: tuple[bytes, ...]
    cost_bytes: int
    reason: str


class History:
    """`versions` by number; `commits` as they travel, by the version they lead to; `traffic` as of each commit;
    `participations`: what each client did last; `disagreements`: how many replicas were seen, since the coordinator started, that are not the run's."""

    def __init__(self) -> None:
        self.versions: dict[int, VersionRecord] = {}
        self.commits: dict[int, bytes] = {}
        self.participations = Participations(self._digest_of)
        self._mergeable = False
        self.traffic = TrafficLog()
        self.disagreements = 0
        self._layout: Layout | None = None
        self._phase = Phase.WARM_UP
        self._participants = self._contributions = 0

    def record(self, at: float, events: Iterable[ev.Event], now: float | None = None) -> None:
        """Fold events, stamped `at` (unix seconds), in. `now`: the reading of the clock that waits follow, where they have
        just come about."""
        for event in events:
            self._record(at, event)
            self.participations.record(at if now is None else now, event)

    def _record(self, at: float, event: ev.Event) -> None:
        match event:
            case ev.RunCreated():
                self._layout = Layout.from_json(event.program.layout)
                self._mergeable = event.run_file.zeroth_order.commits_merge
                first = event.initial
                self.versions[first.version] = VersionRecord(first.version, 0, self._phase, first.digest, 0, at)
            case ev.RoundOpened():
                self._participants, self._contributions = len(event.participants), 0
            case ev.Contributed():
                self._contributions += 1
            case ev.Committed():
                self._commit(at, event, event.round, self._contributions, self._participants)
            case ev.RolledBack():
                self._commit(at, event, 0, 0)
                known = self.versions[event.to].evaluation
                if known is not None:
                    self._evaluate(replace(known, version=event.version))
            case ev.Pivoted():
                self._phase = Phase.ZEROTH_ORDER
            case ev.ClientReported() if event.digest:
                self.disagreements += event.digest != self._digest_of(event.version)
            case ev.Evaluated():
                self._evaluate(event)

    def _digest_of(self, version: int) -> str:
        known = self.versions.get(version)
        return known.digest if known else ""

    def _commit(
        self, at: float, event: ev.Committed | ev.RolledBack, round: int, contributions: int, participants: int = 0
    ) -> None:
        assert self._layout is not None
        version = event.version
        self.versions[version] = VersionRecord(
            version, round, self._phase, event.digest, contributions, at, participants=participants
        )
        self.traffic.record(version, event.traffic)
        if event.snapshot is None:
            commit = Commit(version, bytes.fromhex(event.digest), event.steps)
            self.commits[version] = encode_commit(commit, self._layout)

    def _evaluate(self, event: ev.Evaluated) -> None:
        self.versions[event.version] = replace(self.versions[event.version], evaluation=event)

    def since(self, version: int, present: int) -> list[Commit] | None:
        """The commits after `version` up to `present`, or None where steps alone do not lead there."""
        assert self._layout is not None
        path = self._path(version, present)
        return None if path is None else [decode_commit(data, self._layout) for data in path]

    def catch_up(self, version: int, digest: str, present: int, snapshot: int, snapshot_bytes: int) -> CatchUp:
        """The cheaper way for a replica at `version` with `digest` (hex, empty where there is none) to `present`:
        the commits since, or the newest `snapshot` and the commits since that."""
        after = self._short(snapshot, present)
        assert after is not None, f"no commits lead from snapshot {snapshot} to {present}"
        fetch_bytes = snapshot_bytes + sum(map(len, after))
        known = self.versions.get(version)
        if not digest:
            return CatchUp(snapshot, tuple(after), fetch_bytes, "it holds no replica")
        if known is None or known.digest != digest:
            return CatchUp(snapshot, tuple(after), fetch_bytes, f"its replica at version {version} is not this run's")
        path = self._short(version, present)
        if path is None:
            return CatchUp(snapshot, tuple(after), fetch_bytes, f"steps alone do not lead from version {version}")
        steps_bytes = sum(map(len, path))
        if steps_bytes <= fetch_bytes:
            reason = f"{len(path)} commits cost {steps_bytes} bytes, the snapshot {fetch_bytes}"
            return CatchUp(None, tuple(path), steps_bytes, reason)
        reason = f"the snapshot costs {fetch_bytes} bytes, {len(path)} commits {steps_bytes}"
        return CatchUp(snapshot, tuple(after), fetch_bytes, reason)

    def _short(self, version: int, present: int) -> list[bytes] | None:
        """What leads from a version to the present one; in one commit where they merge."""
        path = self._path(version, present)
        if path is None or len(path) < 2 or not self._mergeable or self._layout is None:
            return path
        commits = [decode_commit(data, self._layout) for data in path]
        steps = tuple(merged([step for commit in commits for step in commit.steps]))
        return [encode_commit(Commit(present, commits[-1].digest, steps, len(commits)), self._layout)]

    def _path(self, version: int, present: int) -> list[bytes] | None:
        try:
            return [self.commits[v] for v in range(version + 1, present + 1)] if version <= present else None
        except KeyError:
            return None
