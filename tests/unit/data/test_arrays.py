"""Arrays x and y as examples: their axes say what they are, in a file as in memory."""

import numpy as np
import pytest

from zowarmup.data import DataError
from zowarmup.data.arrays import dataset_of

LABELS = np.array([0, 2, 1])


@pytest.mark.parametrize(
    ("shape", "sequence", "example"),
    [
        ((3, 5), False, (5,)),
        ((3, 4, 6), False, (1, 4, 6)),
        ((3, 1, 4, 6), False, (1, 4, 6)),
        ((3, 5, 6, 3), False, (3, 5, 6)),
        ((3, 4, 2), True, (2, 4)),
        ((3, 4), True, (1, 4)),
    ],
)
def test_inputs_are_channels_first(shape: tuple[int, ...], sequence: bool, example: tuple[int, ...]) -> None:
    made = dataset_of("mine", np.zeros(shape, np.float32), LABELS, sequence)
    assert (made.shape, made.classes) == (example, 3)


def test_bytes_stand_for_shares_and_floats_that_are_not_whole_for_numbers() -> None:
    made = dataset_of("mine", np.full((3, 2, 2), 255, np.uint8), np.array([0.5, 1.0, 2.0]))
    assert (made.scale, made.classes, made.target_size) == (255.0, 0, 1)
    assert made.batch(np.array([0])).inputs.max() == 1.0


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (np.zeros((3, 2)), LABELS, "mine: x is float64: store it as uint8 .0 to 255. or float32"),
        (np.zeros((3, 2, 2, 2, 2), np.float32), LABELS, r"mine: x has shape \(3, 2, 2, 2, 2\): it must be"),
        (np.zeros((3, 2), np.float32), LABELS[:2], "mine: y has shape .2,.: it must be one label for each of the 3"),
        (np.full((3, 2), np.nan, np.float32), LABELS, "mine: x holds a value that is not finite"),
    ],
)
def test_what_cannot_be_is_refused(x: np.ndarray, y: np.ndarray, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        dataset_of("mine", x, y)
