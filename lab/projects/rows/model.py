"""The model: two layers for rows of numbers. Change it as you like.

Any torch module will do that maps a batch of rows, float32 (n, features), to logits (n, classes). What comes in is
standardised: the coordinator measures mean and deviation of each column on the held-out set. Let the model end in a linear
layer: the gradient of that one is exact on every device, and nothing else is as quick to train.
"""

from torch import nn

WIDTH = 48


def build(input_shape: tuple[int], classes: int) -> nn.Module:
    """An untrained model.

    Args:
        input_shape: (features,), how many columns there are beside the label.
        classes: How many there are to tell apart.
    """
    (features,) = input_shape
    return nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))
