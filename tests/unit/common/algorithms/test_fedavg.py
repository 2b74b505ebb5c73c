"""FedAvg: the mean by examples, over the whole vector, in float64."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import aggregating
from tests.algorithms import warmup_settings
from zowarmup.common.algorithms import fedavg, vectors
from zowarmup.common.algorithms.fedavg import FedAvg
from zowarmup.common.algorithms.vectors import Norm, norm
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages.values import Delta, Phase, Tier, Work

SIZE = 10
LAYOUT = Layout(
    tensors=(Tensor("w", (8,), 0), Tensor("running_mean", (2,), 8)),
    trainable=8,
    size=SIZE,
    blocks=(Block("all", 0, 8),),
)


def algorithm(server_rate: float = 1.0) -> FedAvg:
    """Unbounded: what bounds deltas and claims is in test_robust and test_aggregation."""
    return FedAvg(warmup_settings(rounds=5, server_rate=server_rate, clip=0, most_times_median=0), LAYOUT)


def vector(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def test_exact_numbers() -> None:
    weights = np.arange(SIZE, dtype=np.float32)
    deltas = [(3, np.full(SIZE, 1, dtype=np.float32)), (1, np.full(SIZE, -3, dtype=np.float32))]
    assert aggregating.moved(algorithm(), weights, deltas).tolist() == list(range(SIZE))
    assert aggregating.moved(algorithm(), weights, deltas[:1]).tolist() == list(range(1, SIZE + 1))
    deltas = [(3, np.full(SIZE, 4, dtype=np.float32)), (1, np.full(SIZE, 8, dtype=np.float32))]
    assert aggregating.moved(algorithm(0.5), weights, deltas).tolist() == [2.5 + w for w in range(SIZE)]


def test_buffers_are_averaged_too() -> None:
    weights, delta = vector(0), np.zeros(SIZE, dtype=np.float32)
    delta[8:] = 1
    moved = aggregating.moved(algorithm(), weights, [(7, delta)])
    assert np.array_equal(moved[:8], weights[:8])
    assert np.array_equal(moved[8:], weights[8:] + 1)


def test_one_clients_weights_are_met() -> None:
    """A delta is a difference in float32; what it is added to is rounded once."""
    start, trained = vector(0), vector(1)
    moved = aggregating.moved(algorithm(), start, [(143, trained - start)])
    assert moved == pytest.approx(trained, rel=1e-6)


@pytest.mark.parametrize("piece", [1, 3, 10, 1000])
def test_pieces_do_not_show(piece: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fedavg, "PIECE", piece)
    weights, deltas = vector(0), [(1, vector(1)), (2, vector(2)), (4, vector(3))]
    for number, (_, delta) in enumerate(deltas):
        delta.tofile(tmp_path / str(number))
    on_disk = [
        (examples, np.memmap(tmp_path / str(number), dtype=np.float32, mode="r"))
        for number, (examples, _) in enumerate(deltas)
    ]
    mean = np.zeros(SIZE)
    for examples, delta in deltas:
        mean += delta.astype(np.float64) * (examples / 7)
    expected = (weights + 0.25 * mean).astype(np.float32)
    kept = weights.copy()
    found = aggregating.moved(algorithm(0.25), weights, on_disk)
    assert found.tobytes() == expected.tobytes()
    assert found.dtype == np.float32
    assert np.array_equal(weights, kept)


@pytest.mark.parametrize("parts", [[10], [1] * 10, [4, 5, 1], [0, 9, 1]])
def test_a_norm_is_the_same_however_its_vector_comes(parts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "PIECE", 3)
    whole, coming, start = vector(1) * 1e5, Norm(), 0
    for size in parts:
        coming.add(whole[start : start + size])
        start += size
    assert coming.value == norm(whole)
    assert coming.value == pytest.approx(float(np.linalg.norm(whole.astype(np.float64))), rel=1e-12)


def test_pieces_may_be_gone_through_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedavg, "PIECE", 3)
    weights, deltas = vector(0), [(1, vector(1)), (2, vector(2)), (4, vector(3))]
    with ThreadPoolExecutor(2) as pool:
        moved = aggregating.moved(algorithm(), weights, deltas, each=pool.map)
    assert moved.tobytes() == aggregating.moved(algorithm(), weights, deltas).tobytes()


def test_sums_are_float64() -> None:
    """A hundred deltas of 2^-24, each lost beside a weight of 1 in float32, count together."""
    weights = np.ones(SIZE, dtype=np.float32)
    deltas = [(1, np.full(SIZE, 100 * 2.0**-24, dtype=np.float32))] * 100
    moved = aggregating.moved(algorithm(0.25), weights, deltas)
    assert moved.tolist() == [float(np.float32(1 + 25 * 2.0**-24))] * SIZE


def test_aggregate_refuses() -> None:
    with pytest.raises(ValueError, match="without deltas"):
        aggregating.moved(algorithm(), vector(0), [])
    with pytest.raises(ValueError, match=r"float32 \(9,\), not float32 \(10,\)"):
        aggregating.moved(algorithm(), vector(0), [(1, vector(1)[:9])])
    with pytest.raises(ValueError, match="a vector is float64"):
        aggregating.moved(algorithm(), vector(0), [(1, vector(1).astype(np.float64))])


def test_check() -> None:
    work = Work(2, Phase.WARM_UP, 1, 7, 60.0)
    algorithm().check(work, Tier.HIGH, 143, Delta(2, "0" * 32, 143, 0.5))
    with pytest.raises(ValueError, match="for round 1, the work was for round 2"):
        algorithm().check(work, Tier.HIGH, 143, Delta(1, "0" * 32, 143, 0.5))
    with pytest.raises(ValueError, match="trained on 9999 examples, the client said that it holds 143"):
        algorithm().check(work, Tier.HIGH, 143, Delta(2, "0" * 32, 9999, 0.5))
