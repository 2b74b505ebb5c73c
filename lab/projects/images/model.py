"""The model: a small convolutional network for images of any size. Change it as you like.

Any torch module will do that maps a batch of images, float32 (n, channels, height, width), to logits (n, classes). Let it end in
a linear layer: the gradient of that one is exact on every device, and nothing else is as quick to train.
"""

from torch import nn


def build(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """An untrained model.

    Args:
        input_shape: (channels, height, width) of the run's images.
        classes: How many there are to tell apart.
    """
    channels, _, _ = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, classes),
    )
