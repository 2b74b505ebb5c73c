"""FedAdam and FedYogi: the warm-up's mean delta is the gradient of an adaptive server optimizer.

Reddi et al., arXiv 2003.00295, algorithm 2. With Delta the example-weighted mean of the deltas, for each parameter,

    m  <-  beta1 m + (1 - beta1) Delta
    v  <-  beta2 v + (1 - beta2) Delta^2                        FedAdam
    v  <-  v - (1 - beta2) Delta^2 sign(v - Delta^2)            FedYogi
    w  <-  w + server_rate * m / (sqrt(v) + tau)

beginning with m = 0 and v = tau^2, without a correction for that, as there. Buffers are averaged as FedAvg does. The
sums are float64, the moments are kept as float32.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.fedavg import FedAvg, FedAvgSettings
from zowarmup.common.algorithms.protocol import Vectors
from zowarmup.common.algorithms.settings import WarmUp, require
from zowarmup.common.algorithms.vectors import LazyVector
from zowarmup.common.exact.grid import HeadroomExceeded
from zowarmup.common.exact.layout import Layout

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FedOptSettings(FedAvgSettings):
    """As FedAvg's, but the aggregate is the gradient which Adam or Yogi follows on the server, at `server_rate`.

    Args:
        algorithm: Adam ("fedadam") or Yogi ("fedyogi").
        beta1: Of the first moment, 0 to below 1.
        beta2: Of the second moment, 0 to below 1.
        tau: What is added to the root of the second moment (Adam's epsilon), 1e-12 to 1.

    Raises:
        ValueError: A setting is out of its range; the sentence names it.
    """

    algorithm: Literal["fedadam", "fedyogi"]  # type: ignore[assignment]
    beta1: float = 0.9
    beta2: float = 0.999
    tau: float = 1e-3

    def __post_init__(self) -> None:
        FedAvgSettings.__post_init__(self)
        rate = self.server_rate
        require(
            rate < 1, "server_rate", rate, f'below 1 with algorithm "{self.algorithm}": so far does each weight move'
        )
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= value < 1, name, value, "0 to below 1")
        require(1e-12 <= self.tau <= 1, "tau", self.tau, "1e-12 to 1")

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "FedAdam":
        return (FedAdam if self.algorithm == "fedadam" else FedYogi)(self, layout)

    def slowed(self, factor: float) -> Self:
        """As `Rounds.slowed`, by `server_rate`: the length of such a step does not depend on the clients' rate."""
        return self if factor == 1 else replace(self, server_rate=self.server_rate * factor)


@dataclass(frozen=True, slots=True)
class FedAdam(FedAvg):
    """The warm-up by Adam on the server. Its optimizer state: m of all that is trained, and then v."""

    spec: FedOptSettings

    @property
    def optimizer_values(self) -> int:
        return 2 * self.layout.trainable

    def step(self, piece: slice, mean: Doubles, before: LazyVector | None) -> tuple[Doubles, Vectors]:
        """As `FedAvg.step`.

        Raises:
            HeadroomExceeded: Float32 does not hold the moments.
        """
        stop = min(piece.stop, self.layout.trainable)
        delta = mean[: max(0, stop - piece.start)]
        if not delta.size:
            return mean, ()
        delta[:], kept = self._moved_by(piece.start, delta, before)
        return mean, kept

    def _moved_by(self, start: int, delta: Doubles, before: LazyVector | None) -> tuple[Doubles, Vectors]:
        spec, second = self.spec, self.layout.trainable + start
        if before is None:
            m, v = np.zeros_like(delta), np.full_like(delta, spec.tau**2)
        else:
            m = before[start : start + delta.size].astype(np.float64)
            v = before[second : second + delta.size].astype(np.float64)
        m *= spec.beta1
        m += (1 - spec.beta1) * delta
        v = self._second(v, delta * delta)
        with np.errstate(over="ignore"):
            kept = [moment.astype("<f4") for moment in (m, v)]
        if not all(np.isfinite(moment).all() for moment in kept):
            raise HeadroomExceeded("the optimizer's moments are beyond what float32 holds")
        m *= spec.server_rate
        m /= np.sqrt(v) + spec.tau
        return m, tuple(zip((start, second), kept, strict=True))

    def _second(self, v: Doubles, square: Doubles) -> Doubles:
        return self.spec.beta2 * v + (1 - self.spec.beta2) * square


@dataclass(frozen=True, slots=True)
class FedYogi(FedAdam):
    """The same by Yogi, whose second moment falls no faster than it grows."""

    def _second(self, v: Doubles, square: Doubles) -> Doubles:
        return v - (1 - self.spec.beta2) * square * np.sign(v - square)
