"""decide and evolve against a simple model, by whatever order of commands hypothesis thinks of."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.faults.backends import Backend
from tests.scenario import conftest
from tests.tasks import accuracy_of, scored
from zowarmup.common.messages.values import Abstention, Delta, Phase, Scalars, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import decide
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.state import quorum
from zowarmup.server.store.event_log import EventLog, MemoryEventLog

NAMES = ["high-1", "high-2", "low-1", "low-2", "low-3"]


class Run(RuleBasedStateMachine):
    """The model: what was acknowledged, by round; the seeds handed out; the versions committed."""

    open_log: ClassVar[Callable[[], EventLog]] = MemoryEventLog

    def __init__(self) -> None:
        super().__init__()
        self.log = type(self).open_log()
        self.acknowledged: dict[int, dict[str, Any]] = {}
        self.seeds: set[int] = set()
        self.versions = [0]
        self.losses: list[float] = []
        self.rounds: list[int] = []
        self.open_since: float | None = None

    def teardown(self) -> None:
        self.log.close()

    @initialize(
        warmup=st.integers(0, 3),
        rounds=st.integers(1, 6),
        clients=st.integers(1, 4),
        quorum=st.sampled_from([0.25, 0.5, 0.8, 1.0]),
        over=st.sampled_from([0.0, 0.5]),
    )
    def begin(self, warmup: int, rounds: int, clients: int, quorum: float, over: float) -> None:
        run_file = RunFile(
            name="machine",
            seed=7,
            draws="seed",
            model=Model(name="mlp"),
            warmup=warmup_settings(
                rounds=warmup, clients_per_round=1, quorum=1.0, deadline_s=60.0, over_selection=over
            ),
            zeroth_order=zeroth_order_settings(
                rounds=rounds,
                clients_per_round=clients,
                minimum_clients=1,
                quorum=quorum,
                deadline_s=10.0,
                probes=2,
                head_projections=1,
                over_selection=over,
            ),
            guard=Guard(factor=3.0, rollbacks=2),
            server=Server(abandoned_limit=3),
            evaluation=Evaluation(data="digits:test"),
        )
        program = ev.ProgramRecord(
            "b" * 64, 10, conftest.LAYOUT.to_json(), DataCard(shape=(3,), classes=2), 1, 1, *scored(2)
        )
        initial = ev.Snapshot(0, "c" * 64, 20, "d" * 32)
        decision = decide(None, cmd.CreateRun("run", run_file, program, initial), 1000.0)
        (created,) = decision.events
        assert isinstance(created, ev.RunCreated)
        self.script = conftest.Script(created, decision.state, self.log)

    def do(self, command: cmd.Command) -> list[ev.Event]:
        caused = self.script.do(command)
        for event in caused:
            if isinstance(event, ev.RoundOpened):
                assert event.round > max(self.rounds, default=0)
                assert self.open_since is None, "the round before has ended"
                assert not self.seeds & set(event.seeds) and len(set(event.seeds)) == len(event.seeds)
                assert list(event.participants) == sorted(set(event.participants))
                self.rounds.append(event.round)
                self.seeds |= set(event.seeds)
                self.open_since = self.script.now
            elif isinstance(event, ev.RoundAbandoned):
                self.open_since = None
                assert event.reason
            elif isinstance(event, ev.RoundClosed):
                assert event.reason
            elif isinstance(event, ev.Committed | ev.RolledBack):
                self.open_since = None
                assert event.version == self.versions[-1] + 1, "no version is skipped"
                self.versions.append(event.version)
        return caused

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        if name in self.script.state.clients or self.script.state.phase is Phase.FINISHED:
            return
        tier = Tier.HIGH if name.startswith("high") else Tier.LOW
        self.do(cmd.Enrol(name, tier, 100, name.encode().hex().zfill(64)))
        assert name in self.script.state.clients

    @rule(name=st.sampled_from(NAMES))
    def hello(self, name: str) -> None:
        if name in self.script.state.clients and not self.script.state.clients[name].revoked:
            self.script.epoch += 1
            self.do(cmd.ConnectClient(name, self.script.epoch, 100))

    @rule(name=st.sampled_from(NAMES), stale=st.booleans())
    def goodbye(self, name: str, stale: bool) -> None:
        presence = self.script.state.presence.get(name)
        if presence is not None:
            was = presence.connected
            self.do(cmd.DisconnectClient(name, presence.epoch - stale))
            assert self.script.state.presence[name].connected == (was and stale)

    @precondition(lambda self: self.script.state.current is not None)
    @rule(
        name=st.sampled_from(NAMES),
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        wrong=st.sampled_from([False] * 5 + [True]),
    )
    def contribute(self, name: str, off: int, wrong: bool) -> None:
        state = self.script.state
        current = state.current
        assert current is not None
        number = max(1, current.number + off)
        given = (
            Delta(number, "a" * 32, 100 + wrong, 1.5)
            if current.phase is Phase.WARM_UP
            else Scalars(number, (0.5, -0.25) + (1.0,) * wrong, (1.0,))
        )
        known = self.acknowledged.get(number, {})
        caused: list[ev.Event] = []
        refused: Rejected | None
        try:
            caused = self.do(cmd.Contribute(name, given))
        except Rejected as rejected:
            refused = rejected
        else:
            refused = None
        if refused is not None:
            assert refused.reason and refused.detail
            assert self.script.state is state, "refused means unchanged"
            assert name not in known or self.script.state.clients[name].revoked, "acknowledged once, acknowledged again"
            return
        if name in known:
            assert not any(isinstance(event, ev.Contributed) for event in caused), "it counts once"
        else:
            assert name in current.seeds and number == current.number and not wrong
            self.acknowledged.setdefault(number, {})[name] = given

    @precondition(lambda self: self.script.state.current is not None)
    @rule(name=st.sampled_from(NAMES), off=st.sampled_from([0, 0, 0, 0, -1, 1]))
    def abstain(self, name: str, off: int) -> None:
        state = self.script.state
        assert state.current is not None
        number = max(1, state.current.number + off)
        try:
            caused = self.do(cmd.Abstain(name, Abstention(number, "why")))
        except Rejected:
            return
        if any(isinstance(event, ev.Abstained) for event in caused):
            assert name in state.current.seeds and number == state.current.number
            assert name not in self.acknowledged.get(number, {}), "what is acknowledged counts"

    @precondition(lambda self: self.script.state.current is not None and self.script.state.current.closed)
    @rule()
    def commit(self) -> None:
        current = self.script.state.current
        assert current is not None
        assert len(current.contributions) >= 1
        assert dict(current.contributions) == {
            n: c for n, c in self.acknowledged[current.number].items() if n in current.seeds
        }, "what is combined is what was acknowledged"
        state, version = self.script.state, self.script.state.version + 1
        snapshot = (
            ev.Snapshot(version, f"{version:064x}", 20, f"{version:032x}") if current.phase is Phase.WARM_UP else None
        )
        self.do(cmd.CommitRound(ev.Committed(version, current.number, f"{version:032x}", (), snapshot, ())))
        assert self.script.state.version == state.version + 1

    @rule(loss=st.sampled_from([1.0, 1.0, 1.0, 2.0, 9.0, math.nan]))
    def evaluate(self, loss: float) -> None:
        state = self.script.state
        unevaluated = state.evaluation is None or state.evaluation.version != state.version
        if unevaluated and state.phase is not Phase.FINISHED:
            before = state.progress.good
            accuracy = 0.5 if loss <= 2 else 0.1
            self.do(cmd.RecordEvaluation(state.version, accuracy_of(accuracy), loss, 10))
            now = self.script.state
            lost = math.isnan(loss) or loss > 3 * min(self.losses, default=math.inf)
            assert bool(now.progress.rejected) == (lost and before is not None)
            assert bool(now.gave_up) == (lost and before is None)
            if not lost:
                self.losses.append(loss)

    @precondition(lambda self: self.script.state.progress.rejected)
    @rule()
    def go_back(self) -> None:
        state = self.script.state
        good = state.progress.good
        assert good is not None and state.current is None
        self.do(cmd.RollBack(state.version + 1, good.digest, (), None, ()))
        now = self.script.state
        assert (now.digest, now.rounds_done) == (good.digest, state.rounds_done) or now.phase is not state.phase
        assert now.progress.rate_factor == 0.5**now.progress.rollbacks
        assert bool(now.gave_up) == (now.progress.rollbacks == 3)

    @rule(seconds=st.sampled_from([0.1, 3.0, 11.0, 70.0]))
    def advance(self, seconds: float) -> None:
        self.script.now += seconds
        self.do(cmd.Tick())

    @rule()
    def restart(self) -> None:
        """All that is soft is gone; the ledger's fold is the state."""
        self.script.state = self.script.replayed()
        self.do(cmd.Restart())

    @rule(verb=st.sampled_from([cmd.Pause("why"), cmd.Resume(), cmd.Resume(), cmd.Resume()]))
    def verbs(self, verb: cmd.Command) -> None:
        self.do(verb)

    @rule(name=st.sampled_from(NAMES), dice=st.integers(0, 9))
    def revoke(self, name: str, dice: int) -> None:
        if dice == 0 and name in self.script.state.clients and not self.script.state.clients[name].revoked:
            self.do(cmd.Revoke(name, "lost"))

    @invariant()
    def contributions_are_of_participants(self) -> None:
        if hasattr(self, "script") and (current := self.script.state.current):
            assert set(current.contributions) <= set(current.seeds)
            assert set(current.abstained) <= set(current.seeds) - set(current.contributions)
            assert current.version == self.script.state.version and current.number == self.script.state.round

    @invariant()
    def no_phase_ends_in_a_model_that_is_lost(self) -> None:
        if hasattr(self, "script") and not self.script.state.gave_up:
            state = self.script.state
            if state.phase is Phase.FINISHED or state.pivot_version == state.version:
                assert state.evaluation is not None and state.evaluation.version == state.version
                assert not state.evaluation.rejected and math.isfinite(state.evaluation.loss)

    @invariant()
    def rounds_end(self) -> None:
        """An open round has time left, and fewer contributions than would close it."""
        if not hasattr(self, "script"):
            return
        state = self.script.state
        current = state.current
        if current is not None and not current.closed:
            assert self.script.now < current.deadline, "a tick past the deadline ends it"
            assert current.missing
            least = quorum(state, min(current.needed, len(current.seeds)))
            assert len(current.seeds) - len(current.abstained) >= least, "it can still have a quorum"
            may_come = [c for c in current.missing if state.absent.get(c, self.script.now + 1) > self.script.now]
            if len(current.contributions) >= least:
                assert may_come, "it waits for those who may still come, and for nobody else"
            if len(current.contributions) + len(may_come) < least - len(state.absent):
                assert state.eligible_count < state.minimum, "or for the lost, where no other round could open"

    @invariant()
    def replay_is_the_state(self) -> None:
        if hasattr(self, "script"):
            replayed, state = self.script.replayed(), self.script.state
            for name in (
                "phase",
                "version",
                "digest",
                "round",
                "current",
                "previous",
                "abandoned",
                "paused",
                "finished",
                "progress",
                "gave_up",
            ):
                assert getattr(replayed, name) == getattr(state, name), name
            assert set(replayed.clients) == set(state.clients)

    @invariant()
    def what_is_counted_is_there(self) -> None:
        if hasattr(self, "script"):
            state = self.script.state
            assert [*itertools.chain(*state.eligible)] == conftest.eligible(state)
            assert state.eligible_count == len(conftest.eligible(state))
            assert state.credentials == {client.credential_sha256: name for name, client in state.clients.items()}


def test_any_order_of_commands(backend: Backend, tmp_path: Path) -> None:
    numbers = itertools.count()

    def open_log() -> EventLog:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return backend.open(folder).log

    class Over(Run):
        pass

    Over.open_log = open_log
    run_state_machine_as_test(Over, settings=settings(max_examples=40, stateful_step_count=60))
