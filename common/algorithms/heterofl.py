"""HeteroFL: both tiers train in the warm-up, the low tier a half-width submodel.

Diao, Ding, Tarokh, "HeteroFL", arXiv 2010.01264, with two levels: clients of the high tier train the whole model, those
of the low tier its half-width part (`layout.Submodel`), and upload deltas of what they have trained. Each parameter
moves by the example-weighted mean of those who hold it,

    w_p  <-  w_p + server_rate * sum_{i holds p} n_i delta_ip / sum_{i holds p} n_i

and stays where nobody in the round does. A trimmed mean and a median are taken among those who hold it, too. A
half-width model sums over half as many units, so its client scales what each layer reads from such by the width that is
missing (`models.description.build_part`), and the global model is evaluated without. As there, every client trains on
all the classes it has; its masked loss is not built, and its static BatchNorm is refused by `check_model`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.fedavg import FedAvg, FedAvgSettings, Given
from zowarmup.common.algorithms.robust_aggregation import clip_factors, none_clipped
from zowarmup.common.algorithms.settings import WarmUp, require
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.submodel import Submodel, half_width
from zowarmup.common.messages.values import Computation, Tier


@dataclass(frozen=True, kw_only=True, slots=True)
class HeteroFLSettings(FedAvgSettings):
    """As FedAvg's; the low tier trains too, a half-width part of the model."""

    algorithm: Literal["heterofl"] = "heterofl"  # type: ignore[assignment]

    def computation(self, tier: Tier) -> Computation | None:
        return Computation.TRAINING

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "HeteroFL":
        return HeteroFL(self, layout)

    def check_model(self, name: str, norm: str) -> None:
        """As `Rounds.check_model`. Refuses models of which no half-width part is known."""
        only = 'with warmup.algorithm = "heterofl"'
        residual = name in ("resnet8", "resnet18")
        known = name in ("mlp", "cnn", "cnn1d") or residual
        allowed = f'"mlp", "cnn", "cnn1d", "resnet8" or "resnet18" {only}: of no other is a half-width part known'
        require(known, "model.name", name, allowed)
        static = not residual or norm == "group"
        require(static, "model.norm", norm, f'"group" {only}: the two widths would not share BatchNorm\'s statistics')


@dataclass(frozen=True, slots=True)
class HeteroFL(FedAvg):
    """The warm-up by deltas of two sizes; what a round of whole deltas makes is FedAvg's, to the bit."""

    def submodel(self, tier: Tier) -> Submodel | None:
        """As `Algorithm.submodel`: the half-width part for the low tier.

        Raises:
            ValueError: The model has none.
        """
        return half_width(self.layout) if tier is Tier.LOW else None

    def scales(self, norms: Sequence[float], sizes: Sequence[int], model: float) -> tuple[float, ...]:
        """As FedAvg's, by the root mean square of a delta's values instead of its norm, which grows with their
        number."""
        means = [n / math.sqrt(size) for n, size in zip(norms, sizes, strict=True)]
        return clip_factors(means, self.spec.clip, most=self._most(model))

    def takes_whole(self, norms: Sequence[float | None], sizes: Sequence[int], model: float) -> bool:
        means = [n and n / math.sqrt(size) for n, size in zip(norms, sizes, strict=True)]
        return none_clipped(means, self.spec.clip, self._most(model))

    def mean_of(self, piece: slice, given: Sequence[Given]) -> NDArray[np.float64]:
        """As FedAvg's, of each parameter among those who hold it; 0 where nobody does."""
        if self.spec.aggregate == "mean":
            return self.mean(piece, given)
        narrow, size = half_width(self.layout), self.layout.size
        held = narrow.held(piece.start, piece.stop)
        part = slice(narrow.before(piece.start), narrow.before(piece.stop))
        whole = [(delta[piece], scale) for (_, delta), scale in given if delta.shape == (size,)]
        narrower = [(delta[part], scale) for (_, delta), scale in given if delta.shape != (size,)]
        moved = np.zeros(held.size)
        moved[held] = self.trimmed([*((delta[held], scale) for delta, scale in whole), *narrower])
        if whole:
            moved[~held] = self.trimmed([(delta[~held], scale) for delta, scale in whole])
        return moved

    def mean(self, piece: slice, given: Sequence[Given]) -> NDArray[np.float64]:
        """The mean delta in a piece of the weights among those who hold a parameter; 0 where nobody does."""
        narrow, size = half_width(self.layout), self.layout.size
        held = narrow.held(piece.start, piece.stop)
        part = slice(narrow.before(piece.start), narrow.before(piece.stop))
        everyone = sum(examples for (examples, _), _ in given)
        whole = sum(examples for (examples, delta), _ in given if delta.shape == (size,))
        mean = np.zeros(piece.stop - piece.start)
        for (examples, delta), scale in given:
            if delta.shape == (size,):
                share = np.where(held, scale * (examples / everyone), scale * (examples / whole))
                mean += np.multiply(delta[piece], share, out=share, dtype=np.float64)
            else:
                mean[held] += np.multiply(delta[part], scale * (examples / everyone), dtype=np.float64)
        return mean
