"""Mean and deviation of rows and sequences, beside NumPy's own in float64."""

import numpy as np
import pytest

from zowarmup.data import DataError, Dataset
from zowarmup.data.dataset import standardised

LABELS = np.zeros(5000, np.int64)


@pytest.mark.parametrize(
    ("shape", "axes", "along"), [((7,), (), 1), ((3, 90), ("channels", "length"), 1), ((90, 3), (), 2)]
)
def test_each_feature_or_channel_has_its_own(shape: tuple[int, ...], axes: tuple[str, ...], along: int) -> None:
    chance = np.random.default_rng(0)
    inputs = chance.standard_normal((len(LABELS), *shape)).astype(np.float32)
    size = [1] * inputs.ndim
    size[along] = -1
    inputs = inputs * np.arange(1, inputs.shape[along] + 1, dtype=np.float32).reshape(size) + np.float32(1000)
    data = standardised(Dataset(inputs, LABELS, 1, axes=axes))
    others = tuple(axis for axis in range(inputs.ndim) if axis != along)
    np.testing.assert_allclose(data.mean, inputs.mean(axis=others, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(data.deviation, inputs.std(axis=others, dtype=np.float64), rtol=1e-4)
    batch = data.batch(np.arange(len(LABELS))).inputs
    np.testing.assert_allclose(batch.mean(axis=others), 0, atol=1e-3)
    np.testing.assert_allclose(batch.std(axis=others), 1, atol=1e-3)


def test_bytes_are_divided_first() -> None:
    data = standardised(Dataset(np.array([[0], [255]], np.uint8), np.array([0, 0]), 1, 255.0))
    assert (data.mean, data.deviation) == ((0.5,), (0.5,))


def test_images_and_what_has_a_mean_stay() -> None:
    image = Dataset(np.ones((1, 1, 2, 2), np.uint8), np.array([0]), 1)
    row = Dataset(np.ones((1, 2), np.float32), np.array([0]), 1, mean=(1.0, 2.0), deviation=(1.0, 1.0))
    assert standardised(image) is image
    assert standardised(row) is row


def test_only_images_can_be_augmented() -> None:
    with pytest.raises(DataError, match=r"examples of shape \(2,\) are no images: only images can be augmented"):
        Dataset(np.ones((1, 2), np.float32), np.array([0]), 1, augmented=True)
