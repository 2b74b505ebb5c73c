"""Whitening against float64 references, and the first round of a run that whitens (`whitening_round`): what is sent, checked and
made of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_algorithm, zeroth_order_settings
from zowarmup.common.algorithms.protocol import ClientScalars, LossAndGradient, Start
from zowarmup.common.algorithms.whitening import (
    DAMPING,
    Moments,
    applied,
    covariance,
    folded,
    head_on_features,
    head_on_whitened,
    moments_of,
    sign_vectors,
    value_count,
    whitened,
    whitening,
)
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor, no_whitening
from zowarmup.common.exact.steps import Direction, perturb
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Phase, Scalars, Tier, Work

HIDDEN, CLASSES, RANK, START = 12, 3, 4, 20
BUFFER = START + CLASSES * HIDDEN + CLASSES
LAYOUT = Layout(
    tensors=(
        Tensor("in.weight", (START,), 0),
        Tensor("out.weight", (CLASSES, HIDDEN), START),
        Tensor("out.bias", (CLASSES,), BUFFER - CLASSES),
        Tensor("out.whitening", (RANK + 2, HIDDEN), BUFFER),
    ),
    trainable=BUFFER,
    size=BUFFER + (RANK + 2) * HIDDEN,
    blocks=(Block("all", 0, BUFFER), Block("trunk", 0, START), Block("head", START, BUFFER)),
    head=Head("out.weight", "out.bias", HIDDEN, CLASSES),
    frozen=START,
)
GRID = Grid(18)
Wide = NDArray[np.float64]
Vector = NDArray[np.float32]


def drawn(count: int = 50, features: int = HIDDEN, seed: int = 0) -> Vector:
    """Features as a ReLU leaves them: with a mean, and of variances that lie far apart; float32 (count, features)."""
    turned, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(features, features)))
    along = np.random.default_rng(seed).normal(size=(count, features)) * np.geomspace(3, 0.05, features)
    made: Vector = np.maximum(along @ turned + 2, 0).astype(np.float32)
    return made


def second_moment(features: Vector) -> Wide:
    wide = features.astype(np.float64)
    return wide.T @ wide / len(wide)


def found(features: Vector, rank: int, seed: int = 3) -> tuple[Wide, Wide]:
    """The mean and the covariance that one client's sketch tells."""
    signs = sign_vectors(seed, START, features.shape[1], rank)
    return covariance([(1.0, moments_of([features], signs), signs)])


def model(seed: int = 0) -> Vector:
    weights: Vector = GRID.quantise(np.random.default_rng(seed).normal(0, 0.5, LAYOUT.size).astype(np.float32))
    LAYOUT.views(weights)["out.whitening"][...] = no_whitening(RANK, HIDDEN)
    return weights


def outputs(weights: Vector, features: Vector) -> Wide:
    views = LAYOUT.views(weights)
    read = applied(features.astype(np.float64), views["out.whitening"])
    return read @ views["out.weight"].astype(np.float64).T + views["out.bias"]


def test_a_sketch_of_all_directions_is_the_covariance() -> None:
    features = drawn()
    mean, about = found(features, 64)  # sign vectors that surely span the space
    assert mean == pytest.approx(features.astype(np.float64).mean(0), rel=1e-12)
    wanted = np.cov(features.astype(np.float64).T, bias=True)
    np.testing.assert_allclose(about, wanted, atol=1e-6 * np.trace(wanted))


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_a_sketch_errs_by_no_more_than_what_lies_beyond_its_directions(rank: int) -> None:
    """Nystroem's is never above the second moment, and misses no more than there is; the trace is right at any rank."""
    features = drawn()
    signs = sign_vectors(3, START, HIDDEN, rank)
    moments = moments_of([features], signs)
    mean, about = covariance([(1.0, moments, signs)])
    told, real = about + np.outer(mean, mean), second_moment(features)
    assert np.trace(told) == pytest.approx(np.trace(real), rel=1e-9)
    values = np.linalg.eigvalsh(real)
    core = moments.products @ signs.T
    nystroem = moments.products.T @ np.linalg.pinv(core, rcond=1e-9) @ moments.products
    beyond = np.trace(real) - np.trace(nystroem)
    np.testing.assert_allclose(told, nystroem + beyond / HIDDEN * np.eye(HIDDEN), atol=1e-6 * np.trace(real))
    assert values[:-rank].sum() - 1e-9 <= beyond < np.trace(real)
    assert np.linalg.norm(told - real, 2) <= beyond + 1e-9


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(np.ones((9, 3), np.float32) @ drawn(3), id="all examples alike"),
        pytest.param(drawn(40)[:, :2] @ drawn(2), id="of rank two"),
        pytest.param(drawn(1), id="one example"),
        pytest.param(np.zeros((5, HIDDEN), np.float32), id="nothing but zeros"),
        pytest.param(np.full((5, HIDDEN), 7.5, np.float32), id="constant"),
        pytest.param(drawn(20, 2), id="two features"),
        pytest.param(drawn(20) * np.float32(1e-12), id="tiny"),
        pytest.param(drawn(20) * np.float32(1e4), id="huge"),
    ],
)
def test_whatever_the_features_are_the_outputs_stay(features: Vector) -> None:
    size = features.shape[1]
    rank = min(RANK, size - 1)
    rows = whitening(*found(features, rank), rank)
    assert rows.shape == (rank + 2, size) and rows.dtype == np.float32 and np.isfinite(rows).all()
    assert (rows[1] > 0).all()
    chance = np.random.default_rng(1)
    weight, bias = (
        chance.normal(size=(CLASSES, size)).astype(np.float32),
        chance.normal(size=CLASSES).astype(np.float32),
    )
    on_whitened = head_on_whitened(weight, bias, rows)
    wide = features.astype(np.float64)
    plain = wide @ weight.T.astype(np.float64) + bias
    there = applied(wide, rows) @ on_whitened[0].T + on_whitened[1]
    np.testing.assert_allclose(there, plain, rtol=1e-6, atol=1e-6 * (1 + np.abs(plain).max()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(-3, 3))
def test_whitened_leaves_the_outputs_and_folded_is_the_way_back(seed: int, count: int, scale: float) -> None:
    features = drawn(count, seed=seed) * np.float32(10**scale)
    weights = model(seed)
    before = weights.copy()
    moved = whitened(weights, LAYOUT, whitening(*found(features, RANK, seed), RANK))
    assert weights.tobytes() == before.tobytes()
    plain = outputs(weights, features)
    size = np.abs(plain).max() + float(np.abs(features).max())
    np.testing.assert_allclose(outputs(moved, features), plain, atol=1e-4 * size)
    assert moved[:START].tobytes() == weights[:START].tobytes()
    back = folded(moved, LAYOUT)
    np.testing.assert_allclose(back[:BUFFER], weights[:BUFFER], atol=2e-4 * (1 + size))
    assert back[BUFFER:].tobytes() == weights[BUFFER:].tobytes()
    np.testing.assert_allclose(outputs(back, features), plain, atol=1e-3 * size)


def test_folded_is_the_exact_inverse_of_the_head_in_float64() -> None:
    rows = whitening(*found(drawn(), RANK), RANK)
    weight, bias = np.eye(CLASSES, HIDDEN, dtype=np.float32), np.ones(CLASSES, np.float32)
    on_whitened = head_on_whitened(weight, bias, rows)
    single = on_whitened[0].astype(np.float32), on_whitened[1].astype(np.float32)
    back = head_on_features(*single, rows)
    np.testing.assert_allclose(back[0], weight, atol=1e-4)
    np.testing.assert_allclose(back[1], bias, atol=1e-4)


def test_a_model_without_the_buffer_is_folded_already() -> None:
    weights = np.zeros(BUFFER, np.float32)
    bare = replace(LAYOUT, tensors=LAYOUT.tensors[:3], size=BUFFER)
    assert folded(weights, bare) is weights


def test_what_is_whitened_varies_alike() -> None:
    """The R largest eigenvalues come down to what the others have in the mean; without whitening they are far apart."""
    features = drawn(400)
    wanted = np.cov(features.astype(np.float64).T, bias=True)
    rows = whitening(features.astype(np.float64).mean(0), wanted, RANK)
    before = np.linalg.eigvalsh(wanted)[::-1]
    after = np.linalg.eigvalsh(np.cov(applied(features.astype(np.float64), rows).T, bias=True))[::-1]
    assert before[0] / before[RANK:].mean() > 30
    damping = DAMPING * before.mean()
    expected = np.concatenate(
        [before[:RANK] / (before[:RANK] + damping), before[RANK:] / (before[RANK:].mean() + damping)]
    )
    np.testing.assert_allclose(after, np.sort(expected)[::-1], rtol=1e-3)
    assert applied(features.astype(np.float64), rows).mean(0) == pytest.approx(np.zeros(HIDDEN), abs=1e-5)


def test_moments_are_those_of_all_batches_and_come_through_what_is_sent() -> None:
    features, signs = drawn(), sign_vectors(3, START, HIDDEN, RANK)
    whole = moments_of([features], signs)
    wide = features.astype(np.float64)
    for index, sign in enumerate(signs):
        assert whole.products[index] == pytest.approx(((wide @ sign)[:, None] * wide).mean(0), rel=1e-9)
    assert whole.square == pytest.approx((wide * wide).sum(1).mean(), rel=1e-12)
    apart = moments_of([features[:7], features[7:8], features[8:]], signs)
    assert apart.values() == pytest.approx(whole.values(), rel=1e-9)
    values = whole.values()
    assert len(values) == value_count(RANK, HIDDEN) == (RANK + 1) * HIDDEN + 1
    assert Moments.of_values(values, HIDDEN).values() == values
    with pytest.raises(ValueError, match="reshape"):
        Moments.of_values(values[:-1], HIDDEN)


@pytest.mark.parametrize("rank", [1, 8, 11])
def test_the_sign_vectors_are_the_first_entries_of_the_clients_directions(rank: int) -> None:
    signs = sign_vectors(2**64 - 5, START, HIDDEN, rank)
    assert signs.shape == (rank, HIDDEN)
    for index in range(rank):
        weights = np.zeros(LAYOUT.size, np.float32)
        perturb(weights, GRID, Direction(2**64 - 5, index, LAYOUT.block("head")), 1)
        np.testing.assert_array_equal(weights[START : START + HIDDEN] / GRID.tick, signs[index])


hostile_floats = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**32), max_value=2.0**32)


@settings(max_examples=60, deadline=None)
@given(st.lists(hostile_floats, min_size=value_count(RANK, HIDDEN), max_size=value_count(RANK, HIDDEN)), st.booleans())
def test_no_moments_give_a_buffer_that_is_not_finite(values: list[float], alone: bool) -> None:
    honest, signs = moments_of([drawn()], sign_vectors(3, START, HIDDEN, RANK)), sign_vectors(3, START, HIDDEN, RANK)
    theirs = (1.0 if alone else 0.25, Moments.of_values(values, HIDDEN), sign_vectors(4, START, HIDDEN, RANK))
    mean, about = covariance([theirs] if alone else [(0.75, honest, signs), theirs])
    rows = whitening(mean, about, RANK)
    assert np.isfinite(rows).all() and (rows[1] > 0).all()
    moved = whitened(model(), LAYOUT, rows)
    assert np.isfinite(moved).all() and np.isfinite(folded(moved, LAYOUT)).all()


def test_a_client_is_believed_no_more_than_its_mean_square_has() -> None:
    """Products and a mean that no features have do not move the mean away, however large they are."""
    signs = sign_vectors(3, START, HIDDEN, RANK)
    honest = moments_of([drawn()], signs)
    lie = Moments(honest.products * 1e9, honest.mean * 1e9, honest.square)
    mean, about = covariance([(1.0, lie, signs)])
    assert float(mean @ mean) <= honest.square * (1 + 1e-9)
    assert np.trace(about + np.outer(mean, mean)) == pytest.approx(honest.square)
    below = Moments(honest.products, honest.mean, -1.0)
    mean, about = covariance([(1.0, below, signs)])
    assert not mean.any() and not about.any()
    assert whitening(mean, about, RANK).tobytes() == no_whitening(RANK, HIDDEN).tobytes()


# The first round.


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
