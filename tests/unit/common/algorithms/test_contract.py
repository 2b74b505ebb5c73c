"""What holds of every algorithm: the built-in ones and the one in examples/plugins."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.faults.small import CUT, LAYOUT, Bowl
from zowarmup.common.algorithms import SECTIONS, settings_class
from zowarmup.common.algorithms.probing import ProbingSettings
from zowarmup.common.algorithms.protocol import (
    Aggregate,
    Algorithm,
    ClientScalars,
    CutForward,
    LossAndGradient,
    Start,
    Trained,
)
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.codec import scalars_to_wire
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Computation, Contribution, Delta, Phase, Scalars, Tier, Work

PLUGIN = "majority_vote:MajorityVote"
NAMES = [(section, name) for section in SECTIONS for name in SECTIONS[section]] + [("zeroth_order", PLUGIN)]
VARIANTS: dict[str, dict[str, Any]] = {
    "zowarmup with gradients": {"gradient_projections": 3},
    "zowarmup with the head": {"train": "head"},
    "zowarmup with gradients of the head": {"train": "head", "gradient_projections": 3},
    "decomfl with local steps": {"local_steps": 3},
    "zowarmup with bytes": {"scalars": "byte"},
    "decomfl with nibbles": {"scalars": "nibble"},
    "fedkseed with bytes": {"scalars": "byte"},
    "mixed with nibbles": {"scalars": "nibble"},
    "fedspzo with nests": {"split": "nested"},
    "fedspzo with nests on everything": {"split": "nested", "slices": "whole"},
    "fedspzo with bytes, on everything": {"scalars": "byte", "slices": "whole"},
    "fedspzo with Gaussian directions": {"directions": "gaussian"},
    "zowarmup with nibbles for gradients": {"scalars": "nibble", "gradient_projections": 3},
}
EXAMPLES, GRID, SEED = 12, Grid(18), 99
NEEDED: dict[str, dict[str, Any]] = {
    "fedspzo": {"cut": 1, "probes": (3, 4), "train": "all"},
    "fedkseed": {"pool": 6},
    "fedadam": {"server_rate": 0.1},
    "fedyogi": {"server_rate": 0.1},
}
"""Settings that have no default, or not one that suits the algorithm."""
WEIGHTS = GRID.quantise(np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32))


@dataclass(frozen=True)
class Subject:
    """An algorithm with small settings, and what its clients make of a model."""

    phase: Phase
    spec: Any
    algorithm: Algorithm
    layout: Layout

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return tuple(self.spec.tiers)

    def work(self, client: int = 0) -> Work:
        return Work(3, self.phase, 2, SEED if self.spec.shared_directions else SEED + client, 60.0)

    def made(self, tier: Tier, client: int = 0, examples: int = EXAMPLES) -> Contribution:
        """What a client gives: of a delta, its announcement."""
        work, computation = self.work(client), self.spec.computation(tier)
        if computation is Computation.TRAINING:
            return Delta(work.round, "0" * 32, examples, 1.0)
        if computation is Computation.GRADIENT:
            return self.algorithm.project(np.arange(LAYOUT.trainable, dtype=np.float64) / LAYOUT.trainable, work)
        weights = WEIGHTS.copy()
        return self.algorithm.contribute(weights, GRID, Bowl(weights, np.full_like(weights, client)), examples, work)

    def values(self, tier: Tier) -> int:
        """How many values a client sends, or trains."""
        made = self.made(tier)
        if isinstance(made, Scalars):
            return len(made.probes) + len(made.projections)
        part = self.algorithm.submodel(tier)
        return (part.layout if part else LAYOUT).size

    def round(self) -> list[ClientScalars | Trained]:
        """The contributions of three clients of each tier."""
        found: list[ClientScalars | Trained] = []
        for number, tier in enumerate(self.tiers * 3):
            made = self.made(tier, number)
            if isinstance(made, Scalars):
                found.append(ClientScalars(self.work(number).seed, EXAMPLES + number, made, tier))
            else:
                size = self.values(tier)
                delta = np.random.default_rng(number).normal(0, 1e-2, size).astype(np.float32)
                found.append(Trained(EXAMPLES + number, delta, f"client-{number}"))
        return found


@pytest.fixture(
    params=[*NAMES, *(("zeroth_order", name) for name in VARIANTS)], ids=lambda name: name[1].split(":")[-1]
)
def subject(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "examples/plugins"))
    section, name = request.param
    variant = VARIANTS.get(name, {})
    name, _, _ = name.partition(" with ")
    few = {"probes": 4} if section == "zeroth_order" else {}
    cls: Any = settings_class(section, name)
    spec = cls(algorithm=name, rounds=10, clients_per_round=6, **{**few, **NEEDED.get(name, {})})
    spec = replace(spec, **variant)
    phase = Phase.WARM_UP if section == "warmup" else Phase.ZEROTH_ORDER
    layout = CUT if name == "fedspzo" else LAYOUT
    layout = replace(LAYOUT, frozen=LAYOUT.block("head").start) if variant.get("train") == "head" else layout
    return Subject(phase, spec, spec.build(layout, pool_seed=7), layout)


def carried(made: Contribution, values: int) -> int:
    """The bytes of what a contribution carries: in the message, or of the delta that it announces."""
    if not isinstance(made, Scalars):
        return 4 * values
    sent = scalars_to_wire(made)
    packed = (sent.probe_bytes, sent.projection_bytes, sent.probe_nibbles, sent.projection_nibbles)
    return 4 * (len(sent.probes) + len(sent.projections)) + sum(map(len, packed))


def outcome(found: Aggregate, start: Start) -> tuple[Any, ...]:
    """Everything that an aggregate says, to be compared bit for bit."""
    weights, kept = None, []
    if found.update:
        whole = np.empty_like(start.weights)
        for begin in range(0, whole.size, 100):
            place = slice(begin, min(begin + 100, whole.size))
            kept += [(at, values.tobytes()) for at, values in found.update.piece(place, whole[place])]
        weights = whole.tobytes()
    return (
        found.steps(start.grid),
        found.turn,
        found.optimizer_state,
        found.clipped_scalars,
        found.clipped_deltas,
        weights,
        kept,
    )


def test_aggregate_answers_the_same_whatever_it_was_asked_before(subject: Subject) -> None:
    start, given = Start(WEIGHTS.copy(), GRID, 2), subject.round()
    first = outcome(subject.algorithm.aggregate(start, given), start)
    other = Start(WEIGHTS + np.float32(GRID.tick), GRID, 5)
    outcome(subject.algorithm.aggregate(other, given[:1]), other)
    assert outcome(subject.algorithm.aggregate(start, given), start) == first
    again = subject.spec.build(subject.layout, pool_seed=7)
    assert outcome(again.aggregate(start, subject.round()), start) == first
    assert start.weights.tobytes() == WEIGHTS.tobytes()


def test_aggregate_refuses_no_contributions(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"."):
        subject.algorithm.aggregate(Start(WEIGHTS, GRID), [])


def test_it_costs_what_is_said(subject: Subject) -> None:
    algorithm = subject.algorithm
    for tier in subject.tiers:
        values = subject.values(tier)
        assert algorithm.uplink_values(tier, EXAMPLES) == values
        made = subject.made(tier)
        assert algorithm.uplink_bytes(tier, EXAMPLES) == carried(made, values)
        sent = (len(made.probes), len(made.projections)) if isinstance(made, Scalars) else None
        assert sent in (None, algorithm.counts(tier, EXAMPLES))
        assert algorithm.forwards(tier, EXAMPLES) > 0
        assert algorithm.forwards(tier, 2 * EXAMPLES) == 2 * algorithm.forwards(tier, EXAMPLES)
        walks = algorithm.walks(tier, EXAMPLES)
        trains = subject.spec.computation(tier) is Computation.TRAINING
        assert (walks == 0) is (trains or algorithm.counts(tier, EXAMPLES)[0] == 0)
        assert algorithm.commit_cost((tier,), EXAMPLES, GRID).bytes > 0
        assert (algorithm.training is not None) is any(subject.spec.trains(tier) for tier in Tier)


class Failing:
    """A forward pass that raises at the nth time."""

    def __init__(self, inner: CutForward, count: int) -> None:
        self._inner, self._left = inner, count

    def _pass(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("out of memory")

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        self._pass()
        return self._inner.evaluate(examples, head_gradient)

    def features(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        return self._inner.features(examples)

    def pieces(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        return self._inner.pieces(examples)

    def lower(self, examples: NDArray[np.int64]) -> Any:
        self._pass()
        return self._inner.lower(examples)

    def upper(self, held: Any, head_gradient: bool) -> LossAndGradient:
        self._pass()
        return self._inner.upper(held, head_gradient)


def test_contribute_restores_the_weights(subject: Subject) -> None:
    if Computation.FORWARD not in map(subject.spec.computation, subject.tiers):
        with pytest.raises(ValueError, match="asks for no forward passes"):
            subject.algorithm.contribute(WEIGHTS, GRID, Bowl(WEIGHTS, WEIGHTS), EXAMPLES, subject.work())
        return
    whole = False
    for count in range(1000):
        weights = WEIGHTS.copy()
        failing = Failing(Bowl(weights, np.zeros_like(weights)), count)
        try:
            subject.algorithm.contribute(weights, GRID, failing, EXAMPLES, subject.work())
            whole = True
        except RuntimeError as error:
            assert str(error) == "out of memory"  # noqa: PT017
        assert weights.tobytes() == WEIGHTS.tobytes(), f"after {count} forward passes"
        if whole:
            break
    assert whole and count >= (2 * subject.algorithm.counts(Tier.LOW, EXAMPLES)[0] or 1)


def test_check_takes_what_the_work_was_for_and_refuses_all_else(subject: Subject) -> None:
    work = subject.work()
    for tier in subject.tiers:
        for examples in (1, 3, EXAMPLES):
            made = subject.made(tier, examples=examples)
            subject.algorithm.check(work, tier, examples, made)
        wrong: list[Contribution] = [replace(made, round=work.round + 1)]
        if isinstance(made, Scalars):
            wrong += [
                Delta(work.round, "0" * 32, EXAMPLES, 1.0),
                *([replace(made, probes=made.probes[1:])] if made.probes else []),
                replace(made, probes=(*made.probes, 0.0)),
                replace(made, projections=(*made.projections, 0.0)),
            ]
            if isinstance(subject.spec, ProbingSettings):
                ones = replace(made, probes=(1.0,) * len(made.probes), projections=(1.0,) * len(made.projections))
                wrong += [replace(ones, precision=other) for other in Precision if other != made.precision]
        else:
            wrong += [Scalars(work.round, (1.0,), ()), replace(made, examples=EXAMPLES + 1)]
        for one in wrong:
            with pytest.raises(ValueError, match=r"."):
                subject.algorithm.check(work, tier, EXAMPLES, one)


def test_slowed_lowers_the_learning_rates_alone(subject: Subject) -> None:
    slowed, rates = subject.spec.slowed(0.5), {"rate", "server_rate", "local_rate"}
    changed = {
        name for name in subject.spec.__dataclass_fields__ if getattr(slowed, name) != getattr(subject.spec, name)
    }
    assert changed and changed <= rates
    assert all(getattr(slowed, name) == getattr(subject.spec, name) / 2 for name in changed)
    assert subject.spec.slowed(1) == subject.spec
