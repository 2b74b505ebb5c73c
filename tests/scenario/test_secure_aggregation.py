"""Rounds with secure aggregation: stages, who drops out of them, and restarts, with devices as they are."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import changed
from tests.scenario.conftest import Script
from zowarmup.client.work.masking import Masking
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.robust_aggregation import counted
from zowarmup.common.messages.masking import Keys, MaskingAsk, MaskingStep
from zowarmup.common.messages.values import Abstention, Phase, Scalars, Tier
from zowarmup.common.secure_aggregation.primitives import verification_key
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import RunFile
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.activity import activity
from zowarmup.server.core.decide import work_for
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.masking import ask_for, mean_of
from zowarmup.server.core.state import State

Begin = Callable[..., Script]
LATER = [Stage.SHARES, Stage.MASKED, Stage.SIGNED, Stage.REVEALED]


@dataclass
class Fleet:
    """Devices of a run, each with as many examples as its number says; `gone` answer nothing any more."""

    script: Script
    count: int
    devices: dict[str, Masking] = field(default_factory=dict)
    scalars: dict[str, Scalars] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for number in range(self.count):
            name, identity = f"pi-{number:02}", bytes([number + 1]) * 32
            credential = hashlib.sha256(name.encode()).hexdigest()
            key = verification_key(identity).hex()
            self.script.do(cmd.Enrol(name, Tier.LOW, 10 + number, credential, identity=key))
            self.devices[name] = Masking("run", name, identity, self.script.state.run_file.zeroth_order, b"offer")
        for name in self.devices:
            self.script.hello(name, 10 + int(name[3:]))

    @property
    def state(self) -> State:
        return self.script.state

    def keys(self, name: str) -> Keys:
        state = self.state
        work = work_for(state, name, self.script.now)
        assert work is not None
        examples = state.clients[name].examples
        algorithm = state.algorithm(Phase.ZEROTH_ORDER)
        counts = algorithm.counts(Tier.LOW, examples)
        draws = np.random.default_rng([work.round, int(name[3:])])
        values = [tuple(draws.normal(size=count).astype(np.float32).tolist()) for count in counts]
        self.scalars[name] = Scalars(work.round, values[0], values[1])
        return self.devices[name].begin(work, algorithm, Tier.LOW, examples, self.scalars[name])

    def advertise(self, names: Iterable[str] = ()) -> None:
        for name in list(names) or list(self.devices):
            if name not in self.gone:
                self.script.do(cmd.Contribute(name, self.keys(name)))

    def step(self) -> None:
        """Everybody who is there answers what is asked of it now."""
        assert self.state.current is not None
        stage = self.state.current.stage
        for name in self.devices:
            current = self.state.current
            if name not in self.gone and current is not None and current.stage is stage:
                self.answer(name)

    def answer(self, name: str) -> MaskingAsk | None:
        ask = ask_for(self.state, name)
        if ask is not None:
            self.script.do(cmd.TakeStep.of(name, self.devices[name].answer(ask)))
        return ask

    def lose(self, *names: str) -> None:
        for name in names:
            self.gone.add(name)
            self.script.lose(name)

    def upto(self, stage: Stage) -> None:
        while (
            self.state.current is not None and not self.state.current.closed and self.state.current.stage is not stage
        ):
            self.step()

    def expected(self, names: Iterable[str]) -> NDArray[np.float64]:
        """The weighted mean of what these had to give, in plain numbers."""
        algorithm = self.state.algorithm(Phase.ZEROTH_ORDER)
        everyone = sorted(self.state.current.members) if self.state.current else []
        examples = {name: self.state.clients[name].examples for name in everyone}
        weights = dict(zip(everyone, counted(list(examples.values()), self.state.run_file.zeroth_order), strict=True))
        summands = {
            name: algorithm.summand(ClientScalars(1, examples[name], self.scalars[name]), self.state.bounds, 0)
            for name in names
        }
        found: NDArray[np.float64] = np.sum([weights[name] * summands[name] for name in summands], axis=0)
        found /= sum(weights[name] for name in summands)
        return found


@pytest.fixture
def fleet(begin: Begin) -> Callable[..., Fleet]:
    def made(count: int = 9, algorithm: str = "decomfl", **settings: Any) -> Fleet:
        def secure(run_file: RunFile) -> RunFile:
            chosen = changed(run_file.zeroth_order, algorithm, **settings)
            return replace(run_file, zeroth_order=chosen, privacy=Privacy(secure_aggregation=True))

        options: dict[str, Any] = {"quorum": 0.6, "deadline_s": 40.0, "learn_deadline": False}
        script = begin(warmup=0, clients=count, otherwise=secure, **options)
        return Fleet(script, count)

    return made


def closed(fleet: Fleet) -> ev.RoundClosed:
    found = [event for event in fleet.script.events if isinstance(event, ev.RoundClosed)]
    assert found, fleet.script.events[-1]
    return found[-1]


def abandoned(fleet: Fleet) -> str:
    found = [event for event in fleet.script.events if isinstance(event, ev.RoundAbandoned)]
    assert found, fleet.script.events[-1]
    return found[-1].reason


def test_a_round_goes_by_its_stages_to_the_mean_of_all(fleet: Callable[..., Fleet]) -> None:
    made = fleet()
    made.advertise()
    for stage in LATER:
        current = made.state.current
        assert current is not None and current.stage is stage and not current.closed
        assert activity(made.state, made.script.now).startswith("round 1, secure aggregation: 0 of 9 have ")
        made.step()
    assert closed(made).reason == "7 of 9 have revealed shares"
    current = made.state.current
    assert current is not None and current.closed
    mean, parts = mean_of(made.state, current)
    assert mean == pytest.approx(made.expected(made.devices), abs=1e-9)
    assert [part.examples for part in parts] == [10 + number for number in range(9)]
    bounds = (2.0, 3.0)
    made.script.do(cmd.CommitRound(ev.Committed(1, 1, "1" * 32, (), None, (), bounds=bounds)))
    made.advertise()
    ask = ask_for(made.state, "pi-00")
    assert ask is not None and ask.bounds == bounds


@pytest.mark.parametrize("stage", LATER)
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_those_that_are_lost_at_a_stage_cost_a_grace_or_the_round(
    fleet: Callable[..., Fleet], stage: Stage, lost: int
) -> None:
    """7 of 9 must stay, whoever the others are; of those who have given a masked vector all are in the sum."""
    made = fleet()
    made.advertise()
    made.upto(stage)
    leave = ["pi-02", "pi-04", "pi-07"][:lost]
    made.lose(*leave)
    made.step()
    for _ in range(12):
        made.script.advance(1.0)
        if (
            made.state.current is not None
            and made.state.current.stage is not Stage.KEYS
            and not made.state.current.closed
        ):
            made.step()
    if lost == 3:
        assert abandoned(made).startswith("6 of 9 have ") and abandoned(made).endswith("secure aggregation needs 7")
        return
    counted_in = [name for name in made.devices if name not in leave or stage in (Stage.SIGNED, Stage.REVEALED)]
    current = made.state.current
    assert current is not None and closed(made) and current.closed
    assert sorted(current.contributors) == counted_in
    assert mean_of(made.state, current)[0] == pytest.approx(made.expected(counted_in), abs=1e-9)


@pytest.mark.parametrize("stage", LATER)
def test_one_that_answers_nothing_is_waited_for_until_the_deadline_of_the_stage(
    fleet: Callable[..., Fleet], stage: Stage
) -> None:
    made = fleet()
    made.advertise()
    made.upto(stage)
    made.gone.add("pi-03")  # its stream stays open
    made.step()
    if stage is Stage.REVEALED:
        assert closed(made)
        return
    assert made.script.advance(29.0) == []
    (began,) = made.script.advance(1.5)
    assert (
        isinstance(began, ev.StageBegan) and began.stage is stage.following and began.reason.startswith("8 of 9 have ")
    )


def test_after_a_restart_at_any_stage_the_round_goes_on(fleet: Callable[..., Fleet]) -> None:
    made = fleet()
    made.advertise()
    for stage in LATER:
        current = made.state.current
        assert current is not None and current.stage is stage
        before = made.state
        made.script.state = made.script.replayed()
        assert made.state.current == before.current
        made.script.do(cmd.Restart())
        for name in made.devices:
            made.script.hello(name, 10 + int(name[3:]))
        made.step()
    current = made.state.current
    assert current is not None and current.closed
    assert mean_of(made.state, current)[0] == pytest.approx(made.expected(made.devices), abs=1e-9)


def test_what_is_sent_again_or_late_changes_nothing_and_what_is_wrong_is_refused(fleet: Callable[..., Fleet]) -> None:
    made = fleet()
    made.advertise()
    ask = ask_for(made.state, "pi-00")
    assert ask is not None
    step = made.devices["pi-00"].answer(ask)
    assert len(made.script.do(cmd.TakeStep.of("pi-00", step))) == 1
    assert made.script.do(cmd.TakeStep.of("pi-00", step)) == []
    with pytest.raises(Rejected, match="5 bytes in the stage shares: must be 400"):
        made.script.do(cmd.TakeStep.of("pi-01", MaskingStep(1, Stage.SHARES, b"short")))
    assert made.script.do(cmd.TakeStep.of("pi-01", MaskingStep(1, Stage.MASKED, b"too early"))) == []
    assert made.script.do(cmd.TakeStep.of("pi-01", MaskingStep(9, Stage.SHARES, b"of no round"))) == []
    made.upto(Stage.SIGNED)
    assert made.script.do(cmd.TakeStep.of("pi-00", step)) == []
    with pytest.raises(Rejected, match="signed another roster, or other survivors"):
        made.script.do(cmd.TakeStep.of("pi-00", MaskingStep(1, Stage.SIGNED, bytes(64))))


def test_keys_are_refused_that_another_has_signed_and_scalars_are_no_keys(fleet: Callable[..., Fleet]) -> None:
    made = fleet()
    with pytest.raises(Rejected, match="not signed by the identity"):
        made.script.do(cmd.Contribute("pi-00", made.keys("pi-01")))
    with pytest.raises(Rejected, match="a client contributes keys, and no scalars"):
        made.script.do(cmd.Contribute("pi-00", Scalars(1, (0.5,) * 2, (1.0,))))
    made.advertise(list(made.devices)[:8])
    made.lose("pi-08")
    made.script.advance(1.0)
    assert made.state.current is not None and made.state.current.stage is Stage.SHARES
    made.script.hello("pi-08", 18)
    assert work_for(made.state, "pi-08", made.script.now) is None and ask_for(made.state, "pi-08") is None


def test_a_run_without_secure_aggregation_takes_no_keys_and_no_identity(begin: Begin) -> None:
    script = begin(warmup=0, clients=1)
    with pytest.raises(Rejected, match="has no use for a public key"):
        script.do(cmd.Enrol("pi", Tier.LOW, 10, "1" * 64, identity="2" * 64))
    script.join("pi")
    with pytest.raises(Rejected, match="this run has no secure aggregation"):
        script.do(cmd.Contribute("pi", Keys(1, "0" * 320)))


def test_one_that_is_revoked_in_the_midst_of_it_ends_the_round(fleet: Callable[..., Fleet]) -> None:
    made = fleet()
    made.advertise()
    made.upto(Stage.MASKED)
    made.script.do(cmd.Revoke("pi-03", "stolen"))
    assert abandoned(made) == "pi-03, whose masks are in its sum, has been revoked"


def test_one_that_abstains_is_not_waited_for_and_has_failed_the_round(fleet: Callable[..., Fleet]) -> None:
    made = fleet()
    made.advertise()
    made.upto(Stage.SIGNED)
    made.gone.add("pi-05")
    made.script.do(cmd.Abstain("pi-05", Abstention(1, "the coordinator shows two rosters")))
    made.step()
    assert made.state.current is not None and made.state.current.stage is Stage.REVEALED
    made.step()
    failed = [
        failure
        for event in made.script.events
        if isinstance(event, ev.ParticipantsFailed)
        for failure in event.failures
    ]
    assert [(one.client, one.reason) for one in failed] == [("pi-05", "abstains: the coordinator shows two rosters")]


def test_one_that_was_asked_something_else_is_left_out_before_the_others_see_it(fleet: Callable[..., Fleet]) -> None:
    """As a device is whose replica is not the run's, or that has not heard what the run is since its coordinator was upgraded."""
    made = fleet()
    made.devices["pi-06"].measure(np.ones(3, np.float32))
    made.advertise()
    current = made.state.current
    assert current is not None and current.stage is Stage.SHARES and "pi-06" not in current.members
    began = made.script.events[-1]
    assert isinstance(began, ev.StageBegan) and began.reason == (
        "all 9 participants contributed; pi-06 was asked something else than most and is left out (1 in all)"
    )
    assert ask_for(made.state, "pi-06") is None
    for _ in LATER:
        made.step()
    current = made.state.current
    assert current is not None and closed(made) and current.closed
    others = [name for name in made.devices if name != "pi-06"]
    assert sorted(current.contributors) == others
    failed = [
        failure.client
        for event in made.script.events
        if isinstance(event, ev.ParticipantsFailed)
        for failure in event.failures
    ]
    assert failed == ["pi-06"]


@pytest.mark.parametrize("algorithm", ["decomfl", "fedkseed"])
def test_each_place_of_a_sum_is_of_three_devices_at_least(fleet: Callable[..., Fleet], algorithm: str) -> None:
    """Along a direction that one device alone has measured, the sum would be what it gave. With a pool, whose directions were drawn by
    each client for itself, four of five were of one alone (10 clients, 200 probes, 4096 directions)."""
    settings = {"pool": 1024, "probes": 16, "train": "all"} if algorithm == "fedkseed" else {"probes": 16}
    made = fleet(8, algorithm=algorithm, **settings)
    made.advertise()
    current = made.state.current
    assert current is not None and len(set(current.seeds.values())) == 1
    made.step()
    built: Any = made.state.algorithm(Phase.ZEROTH_ORDER)
    given = []
    for name in made.devices:
        ask = ask_for(made.state, name)
        assert ask is not None
        held = made.devices[name]._open
        assert held is not None
        made.devices[name].answer(ask)
        given.append(made.devices[name]._summand(held)[: built.plan.width] != 0)
    # They hold 10 to 17 examples and, with so few, as many slices. Two of 8 may drop out, so 5 have the last that counts.
    assert sorted({*np.sum(given, axis=0).tolist()} - {0}) == [5, 6, 7, 8]


def test_two_who_are_left_are_too_few(fleet: Callable[..., Fleet]) -> None:
    made = fleet(3)
    made.advertise(["pi-00", "pi-01"])
    made.lose("pi-02")
    made.script.advance(1.0)
    made.script.advance(60.0)
    assert abandoned(made) == "2 advertised keys, and with fewer than 3 a sum hides nothing"


def test_nothing_that_is_recorded_of_a_round_is_a_scalar(fleet: Callable[..., Fleet]) -> None:
    """Whatever mask is guessed away of what a device gave, its values are in no event: not as numbers, nor in their fixed point."""
    made = fleet()
    made.advertise()
    made.upto(Stage.KEYS)
    for _ in LATER:
        made.step()
    text = repr(made.script.events)
    for scalars in made.scalars.values():
        for value in (*scalars.probes, *scalars.projections):
            assert repr(value) not in text
    kinds = {type(event) for event in made.script.events}
    assert ev.StepTaken in kinds and not any(
        isinstance(event, ev.Contributed) and isinstance(event.contribution, Scalars) for event in made.script.events
    )
