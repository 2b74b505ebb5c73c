"""A run for the page to show, without a network or a clock."""

import hashlib
from collections import Counter

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.tasks import scored
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import decide
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.telemetry.page.summary import PageSources
from zowarmup.server.telemetry.page.view import PageView


class Run:
    """A run that devices join; `events`: all of it. `looked`: how often its page was."""

    def __init__(self) -> None:
        layout = Layout((Tensor("w", (4,), 0),), 4, 4, (Block("all", 0, 4),))
        program = ev.ProgramRecord("b" * 64, 1, layout.to_json(), DataCard(shape=(1,), classes=2), 1, 1, *scored(2))
        run = RunFile(
            name="shown",
            draws="seed",
            model=Model(name="mlp"),
            warmup=warmup_settings(rounds=0),
            zeroth_order=zeroth_order_settings(rounds=1, clients_per_round=10**6),
            guard=Guard(factor=0),
            evaluation=Evaluation(data="digits:test"),
        )
        created = decide(None, cmd.CreateRun("run", run, program, ev.Snapshot(0, "c" * 64, 20, "0" * 32)), 0.0)
        self.state, self.history, self.looked = created.state, History(), 0
        self.events: list[ev.Event] = [*created.events]
        self.history.record(0.0, created.events)

    def join(self, *names: str) -> None:
        """At once, for whoever looks."""
        state = self.state
        for name in names:
            enrol = cmd.Enrol(name, Tier.LOW, 100, hashlib.sha256(name.encode()).hexdigest())
            for command in (enrol, cmd.ConnectClient(name, 1, 100)):
                decision = decide(state, command, 1.0)
                self.history.record(1.0, decision.events, 1.0)
                self.events += [event for event in decision.events if ev.is_durable(event)]
                state = decision.state
        self.state = state

    def view(self) -> PageView:
        def state() -> State:
            self.looked += 1
            return self.state

        return PageView(PageSources(state, lambda: 1.0, self.history, lambda: (), lambda name: (0, 0), Counter()))
