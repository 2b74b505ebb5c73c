"""Releases on a device: what is measured of each example, whose noise it is, and that nothing leaves uncounted."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import changed
from tests.client.conftest import Run, prepared
from tests.tasks import classification
from zowarmup.client.errors import Final, Limit
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.client.work.masking import Masking, RosterPlace
from zowarmup.client.work.probing import Prober
from zowarmup.client.work.releasing import Releasing, alone, system_noise
from zowarmup.common.algorithms.gaussian_privacy import epsilon_of, multiplier_for
from zowarmup.common.algorithms.local_scalars import STEEP
from zowarmup.common.algorithms.private_release import STEPS, Mechanism
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Direction, perturb
from zowarmup.common.messages.masking import MaskingAsk
from zowarmup.common.messages.values import Phase, Scalars, Tier, Work
from zowarmup.common.models.program import Program
from zowarmup.common.secure_aggregation.device import Dishonest, shares_for
from zowarmup.common.secure_aggregation.primitives import verification_key
from zowarmup.common.secure_aggregation.roster import Roster, RosterMember, Stage
from zowarmup.common.settings.privacy import Budget, Privacy, noise_shares
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.data import Dataset, load

DATA = load("digits:1/10")
WORK = Work(2, Phase.ZEROTH_ORDER, 1, 56, 3600.0)
BUDGET = Budget(multiplier=4.0, releases=3, delta=1e-5, clip=1.0)


def nothing(count: int) -> NDArray[np.float64]:
    return np.zeros(count)


NO_NOISE = Mechanism(1e3, 0.01, nothing)
"""Nothing is clipped, and the grid is fine."""


@pytest.fixture(scope="module")
def run() -> Run:
    return prepared(Model(name="mlp"))


class Counted(Program):
    """Counts the examples that pass through it."""

    examples = 0

    def forward(self, inputs: Any) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        self.examples += len(inputs)
        return super().forward(inputs)


def made(run: Run, data: Dataset = DATA, **settings: Any) -> tuple[Prober, Replica]:
    spec = changed(run.spec.zeroth_order, slices="whole", whitening=0, **settings)
    frozen: dict[str, Any] = {"frozen": run.layout.block("head").start} if spec.moved == "head" else {}
    layout = replace(run.layout, **frozen)
    replica = Replica(layout, run.grid, run.weights.copy(), 1)
    program = Program(run.program, layout, replica.weights)
    return Prober(spec, replica, program, classification(), data, threading.Event()), replica


@pytest.mark.parametrize(
    "settings",
    [{"train": "head"}, {"train": "all"}, {"train": "all", "directions": "gaussian", "algorithm": "decomfl"}],
)
def test_without_noise_and_clipping_it_is_the_contribution(run: Run, settings: dict[str, Any]) -> None:
    """But for the head's gradient, which is taken in the middle and not as the mean of both sides."""
    prober, replica = made(run, **settings)
    before = replica.weights.copy()
    released, plain = prober.release(replica, WORK, NO_NOISE), prober.contribute(replica, WORK)
    assert (replica.weights == before).all()
    assert released.probes == pytest.approx(plain.probes, abs=2e-4)
    assert released.projections == pytest.approx(plain.projections, rel=1e-3, abs=1e-4)


def test_each_examples_part_is_what_the_definition_says(run: Run) -> None:
    """Each example's derivatives and its head's gradient's projections, by hand in float64, clipped together and averaged."""
    prober, replica = made(run, train="all")
    layout, program = replica.layout, Program(run.program, replica.layout, replica.weights)
    task, batch, eps = classification(), DATA.batch(np.arange(len(DATA))), 1e-3
    trunk, head = layout.block("trunk"), layout.block("head")
    unit = run.grid.over(trunk.start, trunk.stop)
    ticks = unit.whole_ticks(eps)
    columns = []
    for index in range(8):
        losses = []
        for side in (ticks, -ticks):
            perturb(replica.weights, run.grid, Direction(WORK.seed, index, trunk), side)
            losses.append(task.losses(program.forward(batch.inputs)[0], batch))
            perturb(replica.weights, run.grid, Direction(WORK.seed, index, trunk), -side)
        columns.append((losses[0] - losses[1]) / (2 * ticks * unit.tick))
    outputs, features = program.forward(batch.inputs)
    assert features is not None
    _, residual = task.loss_and_output_gradient(outputs, batch)
    for index in range(4):
        moved = np.zeros(layout.size, np.float32)
        perturb(moved, run.grid, Direction(WORK.seed, index, head), 1)
        z = moved[head.start : head.stop].astype(np.float64) * 2.0**run.grid.exponent
        weights, bias = (
            z[: residual.shape[1] * features.shape[1]].reshape(residual.shape[1], -1),
            z[-residual.shape[1] :],
        )
        columns.append(((residual @ weights) * features).sum(1) + residual @ bias)
    each = np.stack(columns, axis=1)
    clip = 1.9
    lengths = np.linalg.norm(each, axis=1)
    most = clip * np.sqrt(12)
    assert 0.1 < (lengths > most).mean() < 1, "some are clipped, and some are not"
    wanted = (each * np.minimum(1, most / lengths)[:, None]).mean(0)
    found = prober.release(replica, WORK, Mechanism(clip, 0.01, nothing))
    assert [*found.probes, *found.projections] == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("settings", [{"train": "head"}, {"train": "all"}, {"train": "all", "head_projections": 0}])
def test_the_passes_of_a_release_are_as_many_as_are_said(run: Run, settings: dict[str, Any]) -> None:
    """`zowarmup plan` goes by it. The head's gradient of each example takes a pass of its own where the rest is probed."""
    spec = changed(run.spec.zeroth_order, slices="whole", whitening=0, **settings)
    frozen: dict[str, Any] = {"frozen": run.layout.block("head").start} if spec.moved == "head" else {}
    replica = Replica(replace(run.layout, **frozen), run.grid, run.weights.copy(), 1)
    program = Counted(run.program, replica.layout, replica.weights)
    prober = Prober(spec, replica, program, classification(), DATA, threading.Event())
    prober.release(replica, WORK, NO_NOISE)
    assert program.examples == spec.build(replica.layout).release_forwards(Tier.LOW, len(DATA))


def test_another_example_moves_what_is_released_by_the_bound_at_most(run: Run) -> None:
    """The whole way from the data to the numbers, without noise: inputs of any size in the place of one example's."""
    generator, clip = np.random.default_rng(3), 0.05
    bound = 2 * clip * np.sqrt(12) / len(DATA)
    quiet, largest = Mechanism(clip, 0.01, nothing), 0.0

    def numbers(data: Dataset) -> NDArray[np.float64]:
        prober, replica = made(run, data, train="all")
        found = prober.release(replica, WORK, quiet)
        return np.array([*found.probes, *found.projections])

    plain = numbers(DATA)
    for size in (0.0, 1.0, 1e3, 1e30):
        inputs, targets = DATA.inputs.astype(np.float32) / 16, DATA.targets.copy()
        same = numbers(replace(DATA, inputs=inputs, targets=targets, scale=1.0))
        assert same == pytest.approx(plain, abs=2e-4)
        place = int(generator.integers(len(DATA)))
        inputs[place] = size * generator.normal(size=inputs.shape[1:])
        targets[place] = 9 - targets[place]
        moved = float(np.linalg.norm(numbers(replace(DATA, inputs=inputs, targets=targets, scale=1.0)) - same))
        assert moved <= bound * (1 + 1e-6)
        largest = max(largest, moved)
    assert largest > bound / 4, "the examples do move it"


def test_two_clients_with_one_seed_and_one_data_set_draw_different_noise(run: Run, tmp_path: Path) -> None:
    answers = []
    for name in ("one", "two"):
        prober, replica = made(run, train="head")
        releasing = Releasing(BUDGET, ReleaseFile(tmp_path / name))
        answers.append(np.array(releasing.answer(prober, replica, WORK, lambda: None).projections))
    prober, replica = made(run, train="head")
    plain = np.array(prober.release(replica, WORK, Mechanism(1.0, 4.0, nothing)).projections)
    first, second = answers[0] - plain, answers[1] - plain
    std = 4.0 * 2 * np.sqrt(len(plain)) / len(DATA)
    assert (first != second).all()
    assert np.sqrt((first**2).mean()) < 4 * std
    assert np.sqrt(((first - second) ** 2).mean()) > std / 4


SHARED = Privacy(mode="aggregate", noise_multiplier=4.0, releases=3, secure_aggregation=True)
ROUNDS: dict[str, Any] = {"algorithm": "decomfl", "clients_per_round": 6, "train": "all"}


def shared(run: Run) -> ClientSpec:
    """Of a run whose devices share the noise."""
    rounds = changed(run.spec.zeroth_order, slices="whole", whitening=0, **ROUNDS)
    return replace(run.spec, zeroth_order=rounds, warmup=changed(run.spec.warmup, rounds=0), privacy=SHARED)


def roster(members: int) -> RosterPlace:
    """All of whom hold what this one does, which is the first."""
    each = (RosterMember(f"pi-{number}", len(DATA), b"", b"") for number in range(members))
    return RosterPlace(Roster("run", 2, tuple(each)), (len(DATA),) * members, 0)


def test_two_devices_with_one_seed_and_one_data_set_add_different_shares_of_the_noise(run: Run, tmp_path: Path) -> None:
    """Each as much as it takes together, and the sum without noise is that of the clipped examples."""
    spec = shared(run)
    shares = noise_shares(SHARED, spec.zeroth_order.rounds, 6)
    assert shares.fewest == 4
    noises = []
    for name in ("one", "two"):
        prober, replica = made(run, **ROUNDS)
        releasing = Releasing(SHARED.budget(3), ReleaseFile(tmp_path / name))
        clipped = releasing.clipped(prober, replica, WORK, lambda: None)
        assert not (tmp_path / name).exists(), "nothing has left"
        given = releasing.share(spec, clipped, WORK, len(DATA), roster(6))
        kept = {"count": 1, "seed": WORK.seed, "version": WORK.version, "told": 1 / 16, "told_alone": 1 / 16}
        assert json.loads((tmp_path / name).read_text()) == kept
        plain = shares.added(clipped, len(DATA), len(DATA), np.zeros(clipped.size))
        noises.append((given - plain).view(np.int64) / STEPS)
        assert alone(spec).startswith(", with the other devices' noise; up to ")
    first, second = noises
    assert (first != second).all()
    for noise in (*noises, (first - second) / math.sqrt(2)):
        assert 0.5 < math.sqrt((noise**2).mean()) < 1.6


def test_a_share_is_counted_refused_in_too_large_a_round_and_not_given_beyond_the_budget(
    run: Run, tmp_path: Path
) -> None:
    spec = shared(run)
    prober, replica = made(run, **ROUNDS)

    def releasing() -> Releasing:
        return Releasing(SHARED.budget(3), ReleaseFile(tmp_path / "releases"))

    clipped = releasing().clipped(prober, replica, WORK, lambda: None)
    with pytest.raises(Dishonest, match="the roster has 7 members, and a round of this run 6 at most"):
        releasing().share(spec, clipped, WORK, len(DATA), roster(7))
    with pytest.raises(ValueError, match="2 devices are too few to add noise together"):
        releasing().share(spec, clipped, WORK, len(DATA), roster(2))
    assert not (tmp_path / "releases").exists()
    given = [releasing().share(spec, clipped, WORK, len(DATA), roster(6)) for _ in range(3)]
    assert (given[0] != given[1]).all() and (given[1] != given[2]).all(), "each is another release"
    for refused in (
        lambda: releasing().clipped(prober, replica, WORK, lambda: None),
        lambda: releasing().share(spec, clipped, WORK, len(DATA), roster(6)),
    ):
        with pytest.raises(Final, match="this device has used its privacy budget: epsilon"):
            refused()


def test_the_noise_is_normal() -> None:
    found = np.sort(system_noise(20_000))
    assert abs(found.mean()) < 0.04
    assert found.std() == pytest.approx(1, abs=0.03)
    assert (np.abs(found) > 2).mean() == pytest.approx(0.0455, abs=0.01)
    assert not np.isin(system_noise(1000), found).any()


def test_the_same_work_gets_the_same_answer_also_after_a_restart(run: Run, tmp_path: Path) -> None:
    prober, replica = made(run, train="head")

    def answer(work: Work) -> Scalars:
        return Releasing(BUDGET, ReleaseFile(tmp_path / "releases")).answer(prober, replica, work, lambda: None)

    first = answer(WORK)
    assert answer(WORK) == answer(replace(WORK, deadline_s=1.0)) == first
    assert json.loads((tmp_path / "releases").read_text())["count"] == 1
    assert answer(replace(WORK, seed=57)) != first
    assert answer(replace(WORK, seed=56)) != first, "another release, which is counted"
    assert json.loads((tmp_path / "releases").read_text())["count"] == 3
    with pytest.raises(Final, match="this device has used its privacy budget: epsilon"):
        answer(replace(WORK, round=3))


def test_what_cannot_be_kept_does_not_leave(run: Run, tmp_path: Path) -> None:
    prober, replica = made(run, train="head")
    releasing = Releasing(BUDGET, ReleaseFile(tmp_path / "missing" / "releases"))
    with pytest.raises(Final, match="cannot write"):
        releasing.answer(prober, replica, WORK, lambda: None)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"count": -1}', '{"count": 1, "seed": 0}'])
def test_a_damaged_count_is_no_count(content: str, tmp_path: Path) -> None:
    (tmp_path / "releases").write_text(content)
    with pytest.raises(Final, match="is damaged"):
        ReleaseFile(tmp_path / "releases")


def test_a_release_that_is_steeper_than_any_loss_leaves_as_the_steepest_and_is_counted(
    run: Run, tmp_path: Path
) -> None:
    """By its noise, or by weights that a coordinator has made up. Were it refused, the same work would be noised anew, uncounted."""
    prober, replica = made(run, train="head", weight_decay=0.01)
    loud = Budget(multiplier=1e9, releases=3, delta=1e-5, clip=1e6)
    scalars = Releasing(loud, ReleaseFile(tmp_path / "loud")).answer(prober, replica, WORK, lambda: None)
    assert {abs(value) for value in scalars.projections} == {STEEP}
    assert json.loads((tmp_path / "loud").read_text())["count"] == 1
    head = replica.layout.block("head")
    replica.weights[head.start : head.stop] = 1e30
    scalars = Releasing(BUDGET, ReleaseFile(tmp_path / "made")).answer(prober, replica, WORK, lambda: None)
    assert max(map(abs, scalars.projections)) == STEEP
    assert json.loads((tmp_path / "made").read_text())["count"] == 1


def test_a_share_is_given_only_once_the_others_shares_are_what_they_must_be(run: Run, tmp_path: Path) -> None:
    """One peer that seals nonsense, or a coordinator that names too few, costs no release."""
    spec, members = shared(run), 6
    prober, replica = made(run, **ROUNDS)
    releasing = Releasing(SHARED.budget(3), ReleaseFile(tmp_path / "releases"))
    clipped = releasing.clipped(prober, replica, WORK, lambda: None)
    identities = [bytes([number]) * 32 for number in range(members)]
    devices = [Masking("run", f"pi-{n}", identity, spec.zeroth_order, b"") for n, identity in enumerate(identities)]

    def give(place: RosterPlace) -> NDArray[np.uint64]:
        return releasing.share(spec, clipped, WORK, len(DATA), place)

    keys = [device.hold(WORK, len(DATA), give).keys for device in devices]
    who = tuple(
        RosterMember(f"pi-{n}", len(DATA), verification_key(identities[n]), bytes.fromhex(key))
        for n, key in enumerate(keys)
    )
    sent = [device.answer(MaskingAsk(WORK.round, Stage.SHARES, members=who)).body for device in devices]
    honest = shares_for(0, dict(enumerate(sent)))

    def ask(present: tuple[int, ...], body: bytes) -> MaskingAsk:
        return MaskingAsk(WORK.round, Stage.MASKED, present=present, body=body)

    every, few = tuple(range(members)), honest[: len(honest) // 5]
    for present, body in ((every, honest[:-1] + b"x"), ((0, 1), few)):
        with pytest.raises(Dishonest):
            devices[0].answer(ask(present, body))
        assert not (tmp_path / "releases").exists()
    assert devices[0].answer(ask(every, honest)) == devices[0].answer(ask(every, honest))
    assert json.loads((tmp_path / "releases").read_text())["count"] == 1


def test_what_was_told_with_less_noise_counts_as_what_it_told(run: Run, tmp_path: Path) -> None:
    """Each start says "epsilon 8 in all" of one, two, four and more releases, and the half that is left is no budget of its own."""
    prober, replica = made(run, train="head")

    def releasing(releases: int, epsilon: float = 8.0) -> Releasing:
        budget = Budget(multiplier_for(epsilon, 1e-5, releases), releases, 1e-5, 1.0)
        return Releasing(budget, ReleaseFile(tmp_path / "releases"))

    releasing(1).answer(prober, replica, WORK, lambda: None)
    for releases in (2, 4, 8):
        assert releasing(releases).answer(prober, replica, WORK, lambda: None), "the same again tells nothing"
        with pytest.raises(
            Limit, match="told up to epsilon 8 at delta 1e-05 in 1 releases, some of them with less noise"
        ):
            releasing(releases).answer(prober, replica, replace(WORK, seed=releases), lambda: None)
    assert json.loads((tmp_path / "releases").read_text())["count"] == 1
    for seed in range(2):
        releasing(4, epsilon=16.0).answer(prober, replica, replace(WORK, seed=seed), lambda: None)
    told = json.loads((tmp_path / "releases").read_text())["told"]
    assert 8.0 < epsilon_of(told**-0.5, 1, 1e-5) < 16.0
