"""Models with closed forms, for tests of algorithms by scalars: a quadratic, whose derivatives are exact at any eps, and a
two-layer classifier in float64."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_settings
from zowarmup.common.algorithms.protocol import LossAndGradient
from zowarmup.common.algorithms.zowarmup import ZOWarmUp
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Phase, Work

GRID = Grid(20)
ONE = 1 << 20  # ticks
INPUTS, HIDDEN, CLASSES, BUFFER = 3, 4, 3, 2
TRUNK, TRAINABLE = HIDDEN * INPUTS, HIDDEN * INPUTS + CLASSES * HIDDEN + CLASSES
LAYOUT = Layout(
    tensors=(
        Tensor("hidden", (HIDDEN, INPUTS), 0),
        Tensor("out.weight", (CLASSES, HIDDEN), TRUNK),
        Tensor("out.bias", (CLASSES,), TRUNK + CLASSES * HIDDEN),
        Tensor("buffer", (BUFFER,), TRAINABLE),
    ),
    trainable=TRAINABLE,
    size=TRAINABLE + BUFFER,
    blocks=(Block("all", 0, TRAINABLE), Block("trunk", 0, TRUNK), Block("head", TRUNK, TRAINABLE)),
    head=Head("out.weight", "out.bias", HIDDEN, CLASSES),
)
HEADLESS = replace(LAYOUT, blocks=LAYOUT.blocks[:1], head=None)
ALONE = replace(LAYOUT, frozen=TRUNK)
PART = replace(
    LAYOUT,
    tensors=(Tensor("first", (4,), 0), Tensor("hidden", (TRUNK - 4,), 4), *LAYOUT.tensors[1:]),
    blocks=(*LAYOUT.blocks, Block("probed", 4, TRUNK)),
    frozen=4,
)
Vector = NDArray[np.float32]
Wide = NDArray[np.float64]


def algorithm(layout: Layout = LAYOUT, **settings: object) -> ZOWarmUp:
    spec = zeroth_order_settings(rounds=10, probes=4, head_projections=5, eps=1e-3, rate=1.0)
    return ZOWarmUp(replace(spec, **settings), layout)


def work(seed: int = 7, round: int = 3) -> Work:
    return Work(round, Phase.ZEROTH_ORDER, 12, seed, 60.0)


def drawn(seed: int = 0) -> Vector:
    return GRID.quantise(np.random.default_rng(seed).normal(0, 0.5, LAYOUT.size))


def signs(seed: int, index: int, block: Block) -> Wide:
    """z in full, zero outside its block: float64 (size,)."""
    z = np.zeros(LAYOUT.size)
    bytes_ = lanes(seed, index // 8, block.start, block.size)
    z[block.start : block.stop] = 2.0 * (bytes_ >> np.uint8(index % 8) & 1) - 1
    return z


@dataclass
class Recorded:
    """A forward pass that notes on which examples and at which weights it was asked, and fails when it is told to."""

    weights: Vector
    fails_at: int = -1
    asked: list[tuple[list[int], Vector]] = field(default_factory=list)

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        if len(self.asked) == self.fails_at:
            raise ConnectionError("the device lost power")
        self.asked.append((examples.tolist(), self.weights.copy()))
        return self.loss(examples, head_gradient)

    def features(self, examples: NDArray[np.int64]) -> Iterator[Vector]:
        raise NotImplementedError("no head reads anything here")

    def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        return LossAndGradient(0.0, np.zeros(TRAINABLE - TRUNK) if head_gradient else None)


@dataclass
class Quadratic(Recorded):
    """Example i has the loss |w - c_i|^2 / 2, centres (n, size)."""

    centres: Wide = field(default_factory=lambda: np.random.default_rng(1).normal(size=(10, LAYOUT.size)))

    def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        return LossAndGradient(float(((self.weights.astype(np.float64) - self.centres[examples]) ** 2).sum() / 2), None)


@dataclass
class Classifier(Recorded):
    """tanh(hidden x), then a linear classifier under cross-entropy, all in float64."""

    inputs: Wide = field(default_factory=lambda: np.random.default_rng(2).normal(size=(10, INPUTS)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.random.default_rng(3).integers(0, CLASSES, 10))

    def loss(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        total, gradient = self.differentiated(self.weights, examples)
        return LossAndGradient(total, gradient[TRUNK:TRAINABLE] if head_gradient else None)

    def differentiated(self, weights: Vector, examples: NDArray[np.int64]) -> tuple[float, Wide]:
        """The summed loss and its gradient in all weights, float64 (size,)."""
        w = weights.astype(np.float64)
        hidden, out = w[:TRUNK].reshape(HIDDEN, INPUTS), w[TRUNK : TRAINABLE - CLASSES].reshape(CLASSES, HIDDEN)
        x, wanted = self.inputs[examples], np.eye(CLASSES)[self.labels[examples]]
        features = np.tanh(x @ hidden.T)
        odds = np.exp(features @ out.T + w[TRAINABLE - CLASSES : TRAINABLE])
        odds /= odds.sum(axis=1, keepdims=True)
        residual = odds - wanted
        back = (residual @ out) * (1 - features**2)
        parts = [(back.T @ x).ravel(), (residual.T @ features).ravel(), residual.sum(axis=0), np.zeros(BUFFER)]
        return float(-np.log((odds * wanted).sum(axis=1)).sum()), np.concatenate(parts)

    def gradient(self, weights: Vector) -> Wide:
        """Of the mean loss over all examples."""
        return self.differentiated(weights, np.arange(10))[1] / 10


def ticks(steps: Sequence[Step]) -> list[tuple[int, str, tuple[int, ...]]]:
    return [(step.seed, step.block.name, step.ticks) for step in steps]


def require_nearly(steps: Sequence[Step], expected: list[tuple[int, str, tuple[float, ...]]]) -> None:
    """Ticks between which the expected ones, that need not be whole, lie."""
    assert [(step.seed, step.block.name) for step in steps] == [(seed, block) for seed, block, _ in expected]
    for step, (_, _, exact) in zip(steps, expected, strict=True):
        assert all(abs(tick - length) < 1 for tick, length in zip(step.ticks, exact, strict=True))
