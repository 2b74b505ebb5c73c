"""Images varied for training, as is usual for small ones: a random crop out of the image with a border of 4 pixels of
the mean colour around it, and every other one mirrored left to right.

What is drawn follows from a seed and a stream through raw Philox words, so training stays the same on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.permutation import words

BORDER = 4


def augment(images: NDArray[np.float32], seed: int, stream: int) -> NDArray[np.float32]:
    """A varied copy of images, float32 (n, C, H, W), 0 in the mean colour."""
    count, channels, height, width = images.shape
    drawn = words(seed, stream, count)
    places = np.uint64(2 * BORDER + 1)
    # Three draws out of each word's own digits; 2^64 is so much larger that no place is favoured.
    down, rest = (drawn % places).astype(np.int64), drawn // places
    right, mirrored = (rest % places).astype(np.int64), rest // places % np.uint64(2) == 1
    framed = np.zeros((count, channels, height + 2 * BORDER, width + 2 * BORDER), np.float32)
    framed[:, :, BORDER : BORDER + height, BORDER : BORDER + width] = images
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width))
    each = np.arange(count)[:, None, None, None]
    varied: NDArray[np.float32] = framed[
        each, np.arange(channels)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
    return varied
