"""Mixed rounds: the high tier's FedAvg and everyone else's scalars in one version."""

import numpy as np
import pytest

from zowarmup.common.methods.mixed import mixed, share_of_trained
from zowarmup.common.run import ZerothOrder


def test_the_kinds_weigh_as_their_clients_do() -> None:
    by_examples, uniform = ZerothOrder(rounds=1), ZerothOrder(rounds=1, weighting="uniform")
    assert share_of_trained([30, 10], [30, 50], by_examples) == 40 / 120
    assert share_of_trained([30, 10], [60, 100, 7], uniform) == 0.4
    assert share_of_trained([30], [], by_examples) == 1.0


def test_a_claim_moves_the_share_by_two_medians_at_most() -> None:
    assert share_of_trained([1 << 47], [10, 20, 20], ZerothOrder(rounds=1)) == 40 / 90


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_the_mean_is_taken_in_float64(piece: int) -> None:
    chance = np.random.default_rng(0)
    trained, probed = chance.normal(size=(2, 20)).astype(np.float32)
    found = mixed(trained, probed, 0.3, piece)
    assert found.dtype == np.float32
    assert np.array_equal(
        found, (0.3 * trained.astype(np.float64) + 0.7 * probed.astype(np.float64)).astype(np.float32)
    )
    assert np.array_equal(mixed(trained, probed, 1.0, piece), trained)


def test_exact_projections_do_not_go_together_with_training() -> None:
    with pytest.raises(ValueError, match='gradient_projections = 8: must be 0 with high_tier = "fedavg"'):
        ZerothOrder(rounds=1, high_tier="fedavg", gradient_projections=8)
