"""Rounds whose devices share the noise, over the pure core: what comes out of the sum, who drops out, and what a replay has."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import changed
from tests.scenario.test_secure_aggregation import LATER, Begin, Fleet, abandoned, closed
from zowarmup.client.work.masking import RosterPlace
from zowarmup.common.algorithms.private_release import Mechanism
from zowarmup.common.algorithms.robust_aggregation import counted
from zowarmup.common.exact.grid import Grid
from zowarmup.common.messages.masking import Keys
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.privacy import Privacy, noise_shares
from zowarmup.common.settings.run import RunFile
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import steps_of
from zowarmup.server.core.decide import work_for
from zowarmup.server.core.masking import noised_mean_of

SCALARS = 3
GRID = Grid(20)
WEIGHTS = GRID.quantise(np.random.default_rng(1).normal(size=20).astype(np.float32))


@dataclass
class Sharing(Fleet):
    """Devices that hold what `examples` has of each, and whose noise is what `noise` has, in standard deviations."""

    examples: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    noise: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def keys(self, name: str) -> Keys:
        state, work = self.state, work_for(self.state, name, self.script.now)
        assert work is not None
        privacy, count = state.run_file.privacy, state.clients[name].examples
        draws = np.random.default_rng([work.round, int(name[3:])])
        self.examples[name], self.noise[name] = draws.normal(size=(count, SCALARS)), draws.standard_normal(SCALARS)
        budget = privacy.budget(state.run_file.zeroth_order.rounds)
        clipped = Mechanism(budget.clip, budget.multiplier, np.zeros).clipped(self.examples[name])

        def give(place: RosterPlace) -> NDArray[np.uint64]:
            shares = noise_shares(privacy, state.run_file.zeroth_order.rounds, len(place.roster.members))
            return shares.added(clipped, place.weights[place.number], count, self.noise[name])

        return self.devices[name].hold(work, count, give)

    def mean(self, names: list[str]) -> NDArray[np.float64]:
        """By the definition, in float64: the weighted examples, clipped, and the noises of those who are in the sum."""
        state, current = self.state, self.state.current
        assert current is not None
        privacy = state.run_file.privacy
        shares = noise_shares(privacy, state.run_file.zeroth_order.rounds, len(current.members))
        sizes = [state.clients[name].examples for name in current.members]
        weights = dict(zip(current.members, counted(sizes, state.run_file.zeroth_order), strict=True))
        bound = 2 * privacy.clip * np.sqrt(SCALARS)
        total = np.zeros(SCALARS)
        for name in names:
            each = self.examples[name]
            lengths = np.linalg.norm(each, axis=1)
            kept = each * np.minimum(1, bound / 2 / lengths)[:, None]
            total += weights[name] * kept.mean(0) + self.noise[name] * shares.multiplier * bound / np.sqrt(
                shares.fewest
            )
        found: NDArray[np.float64] = total / sum(weights[name] for name in names)
        return found


Made = Callable[..., Sharing]


@pytest.fixture
def sharing(begin: Begin) -> Made:
    def made(count: int = 9, colluders: int = 1, quorum: float = 0.6) -> Sharing:
        def private(run_file: RunFile) -> RunFile:
            rounds = changed(run_file.zeroth_order, "decomfl", slices="whole", whitening=0, weight_decay=0.0)
            privacy = Privacy(
                mode="aggregate", noise_multiplier=2.0, clip=0.9, secure_aggregation=True, colluders=colluders
            )
            return replace(run_file, zeroth_order=rounds, privacy=privacy)

        options: dict[str, Any] = {"quorum": quorum, "deadline_s": 40.0, "learn_deadline": False}
        return Sharing(begin(warmup=0, clients=count, otherwise=private, **options), count)

    return made


def scalars(made: Sharing) -> NDArray[np.float64]:
    current = made.state.current
    assert current is not None and current.closed
    part = noised_mean_of(made.state, current, WEIGHTS)
    return np.array([*part.scalars.probes, *part.scalars.projections])


def test_the_sum_is_the_noised_mean_over_the_examples_of_all(sharing: Made) -> None:
    made = sharing()
    made.advertise()
    made.upto(Stage.KEYS)
    for _ in LATER:
        made.step()
    assert closed(made)
    assert scalars(made) == pytest.approx(made.mean(list(made.devices)), abs=1e-4)


@pytest.mark.parametrize("stage", LATER)
def test_who_drops_out_takes_its_noise_along_and_enough_is_left(sharing: Made, stage: Stage) -> None:
    made = sharing()
    made.advertise()
    made.upto(stage)
    leave = ["pi-02", "pi-04"]
    made.lose(*leave)
    for _ in range(12):
        made.step()
        made.script.advance(1.0)
        if made.state.current is None or made.state.current.closed:
            break
    counted_in = [name for name in made.devices if name not in leave or stage in (Stage.SIGNED, Stage.REVEALED)]
    current = made.state.current
    assert current is not None and closed(made) and sorted(current.contributors) == counted_in
    assert scalars(made) == pytest.approx(made.mean(counted_in), abs=1e-4)
    # The noise that is left, of whom one may tell its own, is no less than the sum is to have.
    fewest = made.state.run_file.privacy.fewest(len(current.members))
    assert len(counted_in) - 1 >= fewest == 6


def test_below_the_number_that_the_noise_is_made_for_there_is_no_sum(sharing: Made) -> None:
    made = sharing()
    made.advertise()
    made.upto(Stage.MASKED)
    made.lose("pi-02", "pi-04", "pi-06")
    made.step()
    made.script.advance(60.0)
    assert abandoned(made).startswith("6 of 9 have given a masked vector")
    assert abandoned(made).endswith("secure aggregation needs 7")


def test_a_round_that_is_left_too_small_to_share_the_noise_is_abandoned(sharing: Made) -> None:
    """Nine devices, of which three may be in league; without two who were asked something else these could have two sets of survivors
    signed."""
    made = sharing(9, colluders=3, quorum=1.0)
    for name in ("pi-03", "pi-06"):
        made.devices[name].measure(np.ones(3, np.float32))
    made.advertise()
    assert abandoned(made) == "7 advertised keys, too few to add noise together where 3 may tell theirs"


def test_a_replay_of_the_ledger_makes_the_same_steps_and_has_nobodys_noise(sharing: Made) -> None:
    made = sharing()
    made.advertise()
    made.upto(Stage.KEYS)
    for _ in LATER:
        made.step()
    current = made.state.current
    assert current is not None and current.closed
    steps = steps_of(made.state, current, GRID, WEIGHTS)
    replayed = made.script.replayed()
    assert replayed.current is not None
    again = steps_of(replayed, replayed.current, GRID, WEIGHTS)
    assert steps == again and any(any(step.ticks) for step in steps)
    # What each gave is masked, and the sum has all noises in it: of a device nothing can be taken off.
    taken = [event for event in made.script.events if isinstance(event, ev.StepTaken) and event.stage is Stage.MASKED]
    assert len(taken) == 9
    words = {*np.frombuffer(b"".join(base64.b64decode(event.body) for event in taken), "<u8").tolist()}
    for name in made.devices:
        noise = np.rint(made.noise[name] * 2**16).astype(np.int64).view(np.uint64).tolist()
        assert not words & {*noise}
    assert not any(
        isinstance(event, ev.Contributed) and not isinstance(event.contribution, Keys) for event in made.script.events
    )
