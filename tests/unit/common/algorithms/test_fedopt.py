"""FedAdam and FedYogi: the paper's algorithm 2 in float64, to the bit, over rounds, pieces and restarts."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import aggregating
from tests.algorithms import warm_up_algorithm, warmup_settings, zeroth_order_settings
from zowarmup.common.algorithms import fedavg
from zowarmup.common.algorithms.fedopt import FedAdam
from zowarmup.common.exact.grid import HeadroomExceeded
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.settings.run import Evaluation, Model, RunFile

SIZE, TRAINED = 10, 8
LAYOUT = Layout(
    tensors=(Tensor("w", (TRAINED,), 0), Tensor("running_mean", (2,), TRAINED)),
    trainable=TRAINED,
    size=SIZE,
    blocks=(Block("all", 0, TRAINED),),
)


@dataclass
class Kept:
    """Moments in memory; `after` is not a number where nothing was remembered."""

    before: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        self.after = np.full(2 * TRAINED, np.nan, np.float32)

    def put(self, start: int, values: NDArray[np.float32]) -> None:
        self.after[start : start + values.size] = values


def algorithm(name: str, **settings: Any) -> FedAdam:
    made = warm_up_algorithm(
        warmup_settings(
            rounds=5, **{"algorithm": name, "server_rate": 0.75, "most_times_median": 0, "clip": 0.0, **settings}
        ),
        LAYOUT,
    )
    assert isinstance(made, FedAdam)
    return made


def vector(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def rounds(
    optimizer: FedAdam, deltas: list[list[tuple[int, NDArray[np.float32]]]], each: Any = map
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """The weights after each round, from 0, and the last moments."""
    weights, moments, found = np.zeros(SIZE, np.float32), None, []
    for given in deltas:
        kept = Kept(moments)
        weights = aggregating.moved(optimizer, weights, given, each, kept.before, kept.put)
        moments = kept.after
        found.append(weights)
    assert moments is not None
    return found, moments


EASY = {"beta1": 0.5, "beta2": 0.5, "tau": 1.0}


def alike(value: float) -> list[tuple[int, NDArray[np.float32]]]:
    return [(3, np.full(SIZE, value, np.float32))]


def test_fedadam_in_exact_numbers() -> None:
    """v begins at tau^2 = 1. Delta 7: m = 3.5, v = 0.5 + 24.5 = 25, step 0.75 * 3.5 / (5 + 1) = 0.4375. Delta 5: m = 4.25,
    v = 12.5 + 12.5 = 25, step 0.75 * 4.25 / 6 = 0.53125. Buffers move by the mean itself."""
    (first, second), moments = rounds(algorithm("fedadam", **EASY), [alike(7), alike(5)])
    assert first.tolist() == [0.4375] * 8 + [7.0] * 2
    assert second.tolist() == [0.96875] * 8 + [12.0] * 2
    assert moments.tolist() == [4.25] * 8 + [25.0] * 8


def test_fedyogi_in_exact_numbers() -> None:
    """Delta 4: 16 is above v = 1, which grows by half of it to 9; m = 2, step 0.75 * 2 / (3 + 1) = 0.375. Delta 2: 4 is
    below 9, which falls by half of it to 7; m = 2. A square equal to v leaves it."""
    (first, second), moments = rounds(algorithm("fedyogi", **EASY), [alike(4), alike(2)])
    assert first.tolist() == [0.375] * 8 + [4.0] * 2
    step = 0.75 * 2 / (math.sqrt(7) + 1)
    assert second.tolist() == [float(np.float32(0.375 + step))] * 8 + [6.0] * 2
    assert moments.tolist() == [2.0] * 8 + [7.0] * 8
    _, still = rounds(algorithm("fedyogi", **EASY), [alike(1)])
    assert still.tolist() == [0.5] * 8 + [1.0] * 8


def second_of_adam(v: float, square: float, beta2: float) -> float:
    return beta2 * v + (1 - beta2) * square


def second_of_yogi(v: float, square: float, beta2: float) -> float:
    return v - (1 - beta2) * square * ((v > square) - (v < square))


SECOND = {"fedadam": second_of_adam, "fedyogi": second_of_yogi}


def reference(
    second: Callable[[float, float, float], float], deltas: list[list[tuple[int, NDArray[np.float32]]]]
) -> list[list[float]]:
    """Parameter by parameter, in Python's own float64, with what is kept rounded to float32."""
    weights = [0.0] * SIZE
    m, v = [0.0] * TRAINED, [1e-3**2] * TRAINED
    found = []
    for given in deltas:
        total = sum(examples for examples, _ in given)
        for place in range(SIZE):
            delta = 0.0
            for examples, values in given:
                delta += float(values[place]) * (examples / total)
            if place < TRAINED:
                first, squared = 0.9 * m[place] + (1 - 0.9) * delta, second(v[place], delta * delta, 0.999)
                m[place], v[place] = float(np.float32(first)), float(np.float32(squared))
                delta = 0.02 * first / (math.sqrt(squared) + 1e-3)
            weights[place] = float(np.float32(weights[place] + delta))
        found.append(list(weights))
    return found


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_rounds_are_those_of_the_float64_reference(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of 3 goes across from what is trained to the buffers."""
    monkeypatch.setattr(fedavg, "PIECE", piece)
    deltas = [[(1, vector(3 * n)), (2, vector(3 * n + 1)), (4, 0.1 * vector(3 * n + 2))] for n in range(12)]
    with ThreadPoolExecutor(3) as pool:
        found, moments = rounds(algorithm(name, server_rate=0.02), deltas, pool.map)
    assert [weights.tolist() for weights in found] == reference(SECOND[name], deltas)
    assert np.isfinite(moments).all()


@pytest.mark.parametrize("name", SECOND)
def test_it_descends_a_bowl_to_the_mean_of_the_clients(name: str) -> None:
    targets = [vector(1), vector(2)]
    weights, moments = np.zeros(SIZE, np.float32), None
    for _ in range(400):
        kept = Kept(moments)
        deltas = [(n, (target - weights) * np.float32(0.1)) for n, target in zip((3, 1), targets, strict=True)]
        weights = aggregating.moved(algorithm(name, server_rate=0.02), weights, deltas, map, moments, kept.put)
        moments = kept.after
    assert weights == pytest.approx(0.75 * targets[0] + 0.25 * targets[1], abs=0.02)


def test_moments_beyond_float32_are_refused() -> None:
    with pytest.raises(HeadroomExceeded, match="the optimizer's moments"):
        aggregating.moved(algorithm("fedadam"), vector(0), [(1, np.full(SIZE, 1e30, np.float32))])
    with pytest.raises(ValueError, match="nothing to keep the optimizer's state in"):
        aggregating.moved(algorithm("fedadam"), vector(0), [(1, vector(1))])


def test_only_these_remember() -> None:
    assert algorithm("fedadam").optimizer_values == 2 * TRAINED
    assert warm_up_algorithm(warmup_settings(rounds=1), LAYOUT).optimizer_values == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"algorithm": "fedadam"},
            'server_rate = 1.0: must be below 1 with algorithm "fedadam": so far does each weight move',
        ),
        ({"algorithm": "fedyogi", "server_rate": 0.1, "beta2": 1.0}, "beta2 = 1.0: must be 0 to below 1"),
        ({"algorithm": "fedyogi", "server_rate": 0.1, "tau": 0.0}, "tau = 0.0: must be 1e-12 to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        warmup_settings(rounds=1, **settings)


def test_mixed_rounds_are_fedavgs() -> None:
    warmup = warmup_settings(rounds=1, algorithm="fedadam", server_rate=0.01)
    with pytest.raises(
        ValueError, match=r'warmup\.algorithm = \'fedadam\': must be "fedavg" with zeroth_order\.algorithm'
    ):
        RunFile(
            name="x",
            model=Model(name="mlp"),
            warmup=warmup,
            zeroth_order=zeroth_order_settings("mixed", rounds=1),
            evaluation=Evaluation(data="digits:test"),
        )
