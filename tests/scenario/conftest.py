"""A run without a network or a clock: commands in, events out, time by hand. What happened is in an event log: in memory, unless
the option --backend says otherwise."""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.faults.backends import Backend
from tests.tasks import scored
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.messages.values import Contribution, Delta, Phase, Scalars, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import decide
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.state import State
from zowarmup.server.store.event_log import EventLog, MemoryEventLog

LAYOUT = Layout(
    tensors=(Tensor("body", (4, 3), 0), Tensor("head.weight", (2, 3), 12), Tensor("head.bias", (2,), 18)),
    trainable=20,
    size=20,
    blocks=(Block("all", 0, 20), Block("trunk", 0, 12), Block("head", 12, 20)),
    head=Head("head.weight", "head.bias", 3, 2),
)
WHITENED = replace(LAYOUT, tensors=(*LAYOUT.tensors, Tensor("head.whitening", (3, 3), 20)), size=29)
# Phases then end without an evaluation, which few scenarios are about.
UNGUARDED = Guard(factor=0)


@dataclass
class Script:
    """`events` is all that has happened, of which `log` keeps what is durable; `do` and `advance` return what just did, but for who failed a round. `set_back_s`: how far the calendar's clock
    is behind the one that never jumps."""

    created: ev.RunCreated
    state: State
    log: EventLog = field(default_factory=MemoryEventLog)
    now: float = 1000.0
    events: list[ev.Event] = field(default_factory=list)
    epoch: int = 0
    set_back_s: float = 0.0
    end: int = 0

    def __post_init__(self) -> None:
        self.end = self.log.append([self.created], self.now, self.end)

    def do(self, command: cmd.Command) -> list[ev.Event]:
        if isinstance(command, cmd.Invite | cmd.Enrol):
            command = replace(command, date=self.now - self.set_back_s)
        decision = decide(self.state, command, self.now)
        assert decision.state == fold(self.state, decision.events)
        self.end = self.log.append(decision.events, self.now, self.end)
        self.state = decision.state
        self.events += decision.events
        return [event for event in decision.events if not isinstance(event, ev.ParticipantsFailed)]

    def advance(self, seconds: float) -> list[ev.Event]:
        self.now += seconds
        return self.do(cmd.Tick())

    def join(self, name: str, tier: Tier = Tier.LOW, examples: int = 100) -> list[ev.Event]:
        """Enrol and connect."""
        credential = hashlib.sha256(f"{name} {len(self.state.clients)}".encode()).hexdigest()
        return self.do(cmd.Enrol(name, tier, examples, credential)) + self.hello(name, examples)

    def hello(self, name: str, examples: int = 100) -> list[ev.Event]:
        self.epoch += 1
        return self.do(cmd.ConnectClient(name, self.epoch, examples))

    def lose(self, name: str) -> list[ev.Event]:
        return self.do(cmd.DisconnectClient(name, self.state.presence[name].epoch))

    def contribution(self, name: str) -> Contribution:
        current = self.state.current
        assert current is not None
        if current.phase is Phase.WARM_UP:
            return Delta(current.number, "a" * 32, current.examples[name], 1.5)
        return Scalars(current.number, (0.5, -0.25), (1.0,))

    def contribute(self, *names: str) -> list[ev.Event]:
        return [event for name in names for event in self.do(cmd.Contribute(name, self.contribution(name)))]

    def commit(self) -> list[ev.Event]:
        """What the round jobs would hand back for a closed round."""
        current, version = self.state.current, self.state.version + 1
        assert current is not None
        snapshot = None
        if current.phase is Phase.WARM_UP:
            snapshot = ev.Snapshot(version, f"{version:064x}", 20, f"{version:032x}")
        return self.do(cmd.CommitRound(ev.Committed(version, current.number, f"{version:032x}", (), snapshot, ())))

    def replayed(self) -> State:
        """The state after a restart: the fold over what the event log holds."""
        state = fold(None, (event for _, event in self.log.read()))
        assert state is not None
        return state


def eligible(state: State) -> list[str]:
    """By looking at everybody: who is connected, of the phase's tiers, and may release more; by tier, then in ascending order."""
    here = {name for name, presence in state.presence.items() if presence.connected and not state.used_up(name)}
    return [name for tier in state.tiers for name in sorted(here) if state.clients[name].tier is tier]


@pytest.fixture
def begin(backend: Backend, tmp_path: Path) -> Iterator[Callable[..., Script]]:
    logs = contextlib.ExitStack()
    numbers = itertools.count()

    def begin(
        *,
        warmup: int = 1,
        zeroth_order: int = 2,
        clients: int = 2,
        minimum: int = 0,
        quorum: float = 0.5,
        deadline_s: float = 10.0,
        learn_deadline: bool = True,
        over_selection: float = 0.0,
        guard: Guard = UNGUARDED,
        layout: Layout = LAYOUT,
        otherwise: Callable[[RunFile], RunFile] = lambda run_file: run_file,
    ) -> Script:
        run_file = RunFile(
            name="scenario",
            seed=7,
            draws="seed",
            model=Model(name="mlp"),
            warmup=warmup_settings(rounds=warmup, clients_per_round=1, quorum=1.0, deadline_s=60.0),
            zeroth_order=zeroth_order_settings(
                rounds=zeroth_order,
                clients_per_round=clients,
                minimum_clients=minimum,
                quorum=quorum,
                deadline_s=deadline_s,
                learn_deadline=learn_deadline,
                over_selection=over_selection,
                probes=2,
                head_projections=1,
            ),
            guard=guard,
            server=Server(abandoned_limit=3),
            evaluation=Evaluation(data="digits:test"),
        )
        run_file = otherwise(run_file)
        program = ev.ProgramRecord("b" * 64, 10, layout.to_json(), DataCard(shape=(3,), classes=2), 1, 1, *scored(2))
        decision = decide(None, cmd.CreateRun("run", run_file, program, ev.Snapshot(0, "c" * 64, 20, "d" * 32)), 1000.0)
        (created,) = decision.events
        assert isinstance(created, ev.RunCreated)
        folder = tmp_path / f"run-{next(numbers)}"
        folder.mkdir()
        log = logs.enter_context(contextlib.closing(backend.open(folder).log))
        return Script(created, decision.state, log)

    with logs:
        yield begin
