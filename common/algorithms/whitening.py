"""Whitening of the features that the head reads, from a sketch of their second moments.

A step of gradient descent on a linear classifier moves fast where its features vary much and hardly at all where they vary
little. Features behind a ReLU have a large mean, and a few directions in which they vary ten to a hundred times as much as
in the others, so what a run of some hundred steps finds is far from what the head could be. Subtracting the mean and
scaling these few directions down (LeCun, Bottou, Orr, Mueller, "Efficient BackProp", 1998, section 4.3) makes the directions
alike: with features f of mean m, in the place of W f + b the model computes W' u + b' of

    u  =  c - V^T V c        c = s (f - m)

where the r rows of V are orthogonal, v_j = sqrt(1 - s_j / s) e_j, with e_j the eigenvectors of the features' covariance of
the r largest eigenvalues l_j, s_j = 1 / sqrt(l_j + d), s the same for the mean of the other eigenvalues, and d DAMPING times
the mean of all. W' and b' begin so that the outputs are what they were. m, s and V are a buffer of the model (`Layout.whitening`),
so programs, snapshots and back-propagation know nothing of it: the head is a linear layer, of whitened features.

Nobody sends features or their covariance. In the first zeroth-order round, in which the model does not move, a client draws r
sign vectors o_j from its seed and sends the products f (f . o_j) in the mean over its examples, the mean of f and that of |f|^2:
(r + 1) h + 1 numbers for h features. From these the coordinator has the second moment up to what lies beyond r directions
(the Nystroem approximation: Tropp, Yurtsever, Udell, Cevher, arXiv 1706.05736), adds up the clients', and finds V.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import DIRECTIONS_PER_GROUP, lanes
from zowarmup.common.exact.layout import Head, Layout, no_whitening

_Float = TypeVar("_Float", np.float32, np.float64)
DAMPING = 0.01
_SMALLEST = 1e-7  # of a sketch's eigenvalues, beside the largest; what is below is rounding
_MOST = 1 - 1e-4  # of 1 - s_j / s, so that there is a way back


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """What is known of the second moments of a client's features.

    Args:
        products: The mean of f (f . o_j), float64 (r, h).
        mean: Of f, float64 (h,).
        square: The mean of |f|^2.
    """

    products: NDArray[np.float64]
    mean: NDArray[np.float64]
    square: float

    def values(self) -> list[float]:
        """As they are sent: the mean square, the mean, the products one after another."""
        return [self.square, *self.mean.tolist(), *self.products.reshape(-1).tolist()]

    @classmethod
    def of_values(cls, values: Sequence[float], features: int) -> "Moments":
        """What `values` has made a sequence of. Raises ValueError where its length does not fit."""
        found = np.array(values)
        return cls(found[1 + features :].reshape(-1, features), found[1 : 1 + features], float(found[0]))


def value_count(rank: int, features: int) -> int:
    """How many numbers a client sends."""
    return (rank + 1) * features + 1


def sign_vectors(seed: int, start: int, features: int, rank: int) -> NDArray[np.float64]:
    """The vectors o_j of a client: the first entries of its directions 0 .. r - 1 in the head's block.

    Args:
        seed: Of its work.
        start: Where the head's block begins.
        features: h.
        rank: r.

    Returns:
        Float64 (r, h), +1 and -1.
    """
    groups = [lanes(seed, group, start, features) for group in range(-(-rank // DIRECTIONS_PER_GROUP))]
    bits = np.concatenate([np.unpackbits(lane[None], axis=0, bitorder="little") for lane in groups])
    return 2.0 * bits[:rank] - 1


def moments_of(batches: Iterable[NDArray[np.float32]], signs: NDArray[np.float64]) -> Moments:
    """Those of a client's features.

    Args:
        batches: All of its features, (n, h) each, at least one example in all.
        signs: o_j, float64 (r, h).
    """
    products, mean, square, count = np.zeros_like(signs), np.zeros(signs.shape[1]), 0.0, 0
    for batch in batches:
        rows = batch.astype(np.float64)
        products += (rows @ signs.T).T @ rows
        mean += rows.sum(0)
        square += float((rows * rows).sum())
        count += len(rows)
    return Moments(products / count, mean / count, square / count)


def covariance(
    parts: Sequence[tuple[float, Moments, NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of the clients' features and their covariance about it, as far as the sketches tell.

    Args:
        parts: Of each client its weight, which add up to 1, what it sent, and its sign vectors.

    Returns:
        Float64 (h,) and (h, h).
    """
    size = parts[0][1].mean.size
    second, mean = np.zeros((size, size)), np.zeros(size)
    for share, moments, signs in parts:
        second += share * _second_moment(moments, signs)
        mean += share * math.sqrt(_most(moments, float(moments.mean @ moments.mean))) * moments.mean
    return mean, second - np.outer(mean, mean)


def _second_moment(moments: Moments, signs: NDArray[np.float64]) -> NDArray[np.float64]:
    core = moments.products @ signs.T
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    kept = values > _SMALLEST * max(values[-1], 0.0)
    factor = (vectors[:, kept] / np.sqrt(values[kept])).T @ moments.products
    found: NDArray[np.float64] = factor.T @ factor
    found *= _most(moments, float(np.trace(found)))
    missing = max(0.0, moments.square - float(np.trace(found)))
    found[np.diag_indices_from(found)] += missing / len(found)
    return found


def _most(moments: Moments, square: float) -> float:
    """What a mean square is multiplied by so that it is none but what features of `moments.square` have. Neither the mean of
    features nor a Nystroem approximation ever has more than they, but for rounding, and for a client that sends anything."""
    most = max(0.0, moments.square)
    return most / square if square > most else 1.0


def whitening(mean: NDArray[np.float64], covariance: NDArray[np.float64], rank: int) -> NDArray[np.float32]:
    """The buffer that whitens features of a mean and a covariance.

    Args:
        mean: Float64 (h,).
        covariance: Float64 (h, h); where an eigenvalue is negative, as a sketch's may be, it counts as 0.
        rank: r.

    Returns:
        Float32 (r + 2, h); `no_whitening` where the features do not vary.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values[::-1], 0.0)
    rows = no_whitening(rank, mean.size)
    apart = min(rank, mean.size - 1)
    damping = DAMPING * float(values.mean())
    scale = _inverse_root(float(values[apart:].mean()) + damping)
    if not math.isfinite(scale):
        return rows
    shrunk = np.array([1 - _inverse_root(float(value) + damping) / scale for value in values[:apart]])
    rows[0], rows[1] = mean, scale
    rows[2 : 2 + apart] = np.sqrt(np.clip(shrunk, 0.0, _MOST))[:, None] * vectors[:, ::-1][:, :apart].T
    return rows


def _inverse_root(value: float) -> float:
    return 1 / math.sqrt(value) if value > 0 else math.inf


def applied(features: NDArray[_Float], rows: NDArray[np.float32]) -> NDArray[_Float]:
    """u of f.

    Args:
        features: Float32 or float64 (n, h).
        rows: The buffer, float32 (r + 2, h).

    Returns:
        (n, h), of the features' type.
    """
    alike: NDArray[_Float] = rows.astype(features.dtype, copy=False)
    centred: NDArray[_Float] = (features - alike[0]) * alike[1]
    centred -= (centred @ alike[2:].T) @ alike[2:]
    return centred


def head_on_whitened(
    weight: NDArray[np.float32], bias: NDArray[np.float32], rows: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """W' and b' of W and b, so that W' u + b' = W f + b.

    Args:
        weight: W, float32 (classes, h).
        bias: b, float32 (classes,).
        rows: The buffer, float32 (r + 2, h), as `whitening` makes it.

    Returns:
        Float64, in the same shapes.
    """
    exact, plain = rows.astype(np.float64), weight.astype(np.float64)
    directions = exact[2:]
    shrunk = (directions * directions).sum(1, keepdims=True)
    grown = directions * (1 / (1 - shrunk))  # (I - v v^T)^-1 = I + v v^T / (1 - v . v)
    scaled = plain / exact[1]
    return scaled + (scaled @ directions.T) @ grown, bias + plain @ exact[0]


def head_on_features(
    weight: NDArray[np.float32], bias: NDArray[np.float32], rows: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """W and b of W' and b': the way back from `head_on_whitened`, with the same shapes."""
    exact, on_whitened = rows.astype(np.float64), weight.astype(np.float64)
    directions = exact[2:]
    plain = (on_whitened - (on_whitened @ directions.T) @ directions) * exact[1]
    return plain, bias - plain @ exact[0]


def folded(weights: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """The weights of the same model without whitening.

    Args:
        weights: Float32 (layout.size,).
        layout: With a head.

    Returns:
        A copy in which the head reads the features themselves, and the buffer is the identity; `weights` where there is
        no such buffer.
    """
    if layout.whitening is None or layout.head is None:
        return weights
    moved = weights.copy()
    rows, weight, bias = _parts(moved, layout, layout.head)
    weight[...], bias[...] = head_on_features(weight, bias, rows)
    rows[...] = no_whitening(len(rows) - 2, rows.shape[1])
    return moved


def whitened(weights: NDArray[np.float32], layout: Layout, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights of the same model with whitened features.

    Args:
        weights: Float32 (layout.size,), whose buffer is the identity.
        layout: With a head and the buffer.
        rows: The buffer to be, float32 (r + 2, h).

    Returns:
        A copy whose outputs are the same, but for rounding.
    """
    assert layout.head is not None
    moved = weights.copy()
    buffer, weight, bias = _parts(moved, layout, layout.head)
    weight[...], bias[...] = head_on_whitened(weight, bias, rows)
    buffer[...] = rows
    return moved


def _parts(
    weights: NDArray[np.float32], layout: Layout, head: Head
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The buffer, the head's weight and its bias, as views."""
    assert layout.whitening is not None and head.bias_name is not None
    views = layout.views(weights)
    return views[layout.whitening.name], views[head.weight_name], views[head.bias_name]
