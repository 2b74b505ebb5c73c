"""The first round of a run that whitens: what is sent, checked and made of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_algorithm, zeroth_order_settings
from tests.unit.common.algorithms.test_whitening import (
    BUFFER,
    GRID,
    HIDDEN,
    LAYOUT,
    RANK,
    START,
    Vector,
    drawn,
    model,
    outputs,
)
from zowarmup.common.algorithms.protocol import ClientScalars, LossAndGradient, Start
from zowarmup.common.algorithms.whitening import applied, value_count
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Phase, Scalars, Tier, Work


class Local:
    """A client's examples: it is asked for what the head reads, and for nothing else before that."""

    def __init__(self, features: Vector) -> None:
        self._features = features

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        return LossAndGradient(1.0, np.ones(BUFFER - START) if head_gradient else None)

    def features(self, examples: NDArray[np.int64]) -> Iterator[Vector]:
        yield from np.array_split(self._features[examples], 3)


def algorithm(name: str = "zowarmup", **others: Any) -> Any:
    spec = zeroth_order_settings(name, **{"rounds": 10, "head_projections": 5, "whitening": RANK, **others})
    return zeroth_order_algorithm(spec, LAYOUT)


def first(name: str, client: int, done: int = 0) -> Work:
    return Work(3, Phase.ZEROTH_ORDER, 2, 99 if name == "decomfl" else 99 + client, 60.0, done)


def given_by(made: Any, name: str, clients: Sequence[int], done: int = 0) -> list[ClientScalars]:
    weights = model()
    parts = []
    for client in clients:
        work, examples = first(name, client, done), 20 + client
        scalars = made.contribute(weights, GRID, Local(drawn(examples, seed=client)), examples, work)
        made.check(work, Tier.LOW, examples, scalars)
        parts.append(ClientScalars(work.seed, examples, scalars))
    assert weights.tobytes() == model().tobytes()
    return parts


def carried_out(made: Any, parts: list[ClientScalars], piece: int = 50) -> Vector:
    weights = model()
    found = made.aggregate(Start(weights, GRID, 0), parts)
    assert found.moves == () and found.update is not None
    moved = np.empty_like(weights)
    for begin in range(0, moved.size, piece):
        place = slice(begin, min(begin + piece, moved.size))
        assert not list(found.update.piece(place, moved[place]))
    return moved


@pytest.mark.parametrize("name", ["zowarmup", "decomfl"])
def test_the_first_round_whitens_and_leaves_the_outputs(name: str) -> None:
    made = algorithm(name)
    parts = given_by(made, name, range(3))
    assert all(len(part.scalars.projections) == value_count(RANK, HIDDEN) for part in parts)
    moved = carried_out(made, parts)
    everyone = np.concatenate([drawn(20 + client, seed=client) for client in range(3)])
    plain = outputs(model(), everyone)
    np.testing.assert_allclose(outputs(moved, everyone), plain, atol=1e-4 * np.abs(plain).max())
    views = LAYOUT.views(moved)
    mean = everyone.astype(np.float64).mean(0)
    assert views["out.whitening"][0] == pytest.approx(mean, rel=1e-5), "clients count by their examples"
    apart = np.linalg.eigvalsh(np.cov(everyone.astype(np.float64).T))
    whiter = np.linalg.eigvalsh(np.cov(applied(everyone.astype(np.float64), views["out.whitening"]).T))
    assert whiter[-1] / whiter.mean() < 0.6 * apart[-1] / apart.mean()
    assert moved.tobytes() == carried_out(made, parts, piece=7).tobytes()


def test_the_first_rounds_order_and_repetition_play_no_part() -> None:
    """The coordinator gives contributions in ascending order of client; a round that is abandoned leaves nothing behind."""
    made = algorithm()
    parts = given_by(made, "zowarmup", range(4))
    moved = carried_out(made, parts)
    carried_out(made, given_by(made, "zowarmup", (2, 3)))
    again = algorithm()
    assert carried_out(again, given_by(again, "zowarmup", (3, 0, 2, 1))[::-1][1::-1] + parts[2:]).size == moved.size
    shuffled = sorted(given_by(again, "zowarmup", (3, 0, 2, 1)), key=lambda part: part.seed)
    assert carried_out(again, shuffled).tobytes() == moved.tobytes()


def test_the_first_round_says_how_many_scalars_it_asks_for() -> None:
    made, work = algorithm(), first("zowarmup", 0)
    ((_, _, scalars, *_),) = given_by(made, "zowarmup", (0,))
    for wrong in (scalars.projections[1:], (*scalars.projections, 0.0), (1.0,) * 5):
        with pytest.raises(ValueError, match=rf"{len(wrong)} projections, {value_count(RANK, HIDDEN)} were asked for"):
            made.check(work, Tier.LOW, 20, replace(scalars, projections=wrong))
    with pytest.raises(ValueError, match=r"1 probes, 0 were asked for"):
        made.check(work, Tier.LOW, 20, replace(scalars, probes=(1.0,)))
    with pytest.raises(ValueError, match="finite"):
        Scalars(3, (), (math.nan,) * value_count(RANK, HIDDEN))
    with pytest.raises(ValueError, match=r"projections, 5 were asked for"):
        made.check(first("zowarmup", 0, done=1), Tier.LOW, 20, scalars)


@pytest.mark.parametrize("scalars", ["byte", "nibble"])
def test_the_first_rounds_scalars_are_float32_whatever_the_others_are(scalars: str) -> None:
    made = algorithm(scalars=scalars)
    (part,) = given_by(made, "zowarmup", (0,))
    assert part.scalars.precision is Precision.FLOAT32
    (later,) = given_by(made, "zowarmup", (0,), done=1)
    assert later.scalars.precision == scalars


@pytest.mark.parametrize("name", ["zowarmup", "decomfl"])
def test_later_rounds_are_ordinary(name: str) -> None:
    made = algorithm(name)
    parts = given_by(made, name, range(2), done=1)
    assert all(len(part.scalars.projections) == 5 for part in parts)
    found = made.aggregate(Start(model(), GRID, 1), parts)
    assert found.update is None
    assert {step.block.name for step in found.steps(GRID)} == {"head"}


@pytest.mark.parametrize("others", [{"whitening": 0}, {"gradient_projections": 3}, {"head_projections": 0}])
def test_runs_that_do_not_whiten(others: dict[str, Any]) -> None:
    assert zeroth_order_settings(rounds=10, **others).whitens == 0


def test_large_features_are_no_steep_loss() -> None:
    made, work = algorithm(), first("zowarmup", 1)
    scalars = made.contribute(model(), GRID, Local(drawn(20) * np.float32(1e6)), 20, work)
    made.check(work, Tier.LOW, 20, scalars)
    assert max(scalars.projections) > 2**32
