"""Models for small images, rows and sequences, light enough for a microcomputer."""

import math

import torch
from torch import nn

MLP_WIDTH, CNN_FILTERS = 128, 16


def mlp(input_shape: tuple[int, ...], classes: int, width: int = MLP_WIDTH) -> nn.Module:
    """One hidden layer of `width`: 9,610 parameters on the digits with 128."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


class Cnn(nn.Module):
    """Two 3x3 convolutions of `filters` and twice as many channels, pooled to about 4x4, and a linear classifier: with 16,
    9,930 parameters on the digits, 10,218 on 3x32x32."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, filters: int = CNN_FILTERS) -> None:
        super().__init__()
        channels, height, width = input_shape
        early = 2 if min(height, width) >= 16 else 1
        late = max(1, min(height, width) // early // 4)
        self.first = nn.Conv2d(channels, filters, 3, padding=1)
        self.pool = nn.MaxPool2d(early)
        self.second = nn.Conv2d(filters, 2 * filters, 3, padding=1)
        self.late_pool = nn.MaxPool2d(late)
        features = 2 * filters * (height // early // late) * (width // early // late)
        self.classifier = nn.Linear(features, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.pool(torch.relu(self.first(inputs)))
        hidden = self.late_pool(torch.relu(self.second(hidden)))
        return self.classifier(hidden.flatten(1))  # type: ignore[no-any-return]


class Cnn1d(nn.Module):
    """Two convolutions of width 5 along a sequence, of `filters` and twice as many channels, pooled to a length of about 8,
    and a linear classifier: with 16, 4,390 parameters on sequences of 3 channels, 128 steps and 6 classes.

    Args:
        input_shape: (channels, length), a length of at least 4.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, filters: int = CNN_FILTERS) -> None:
        super().__init__()
        channels, length = input_shape
        early = 2 if length >= 16 else 1
        late = max(1, length // early // 8)
        self.first = nn.Conv1d(channels, filters, 5, padding=2)
        self.pool = nn.MaxPool1d(early)
        self.second = nn.Conv1d(filters, 2 * filters, 5, padding=2)
        self.late_pool = nn.MaxPool1d(late)
        self.classifier = nn.Linear(2 * filters * (length // early // late), classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.pool(torch.relu(self.first(inputs)))
        hidden = self.late_pool(torch.relu(self.second(hidden)))
        return self.classifier(hidden.flatten(1))  # type: ignore[no-any-return]
