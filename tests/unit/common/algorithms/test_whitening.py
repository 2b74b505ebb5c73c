"""Whitening against float64 references."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
