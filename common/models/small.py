"""Two models for small images, light enough for a microcomputer."""

import math

import torch
from torch import nn


def mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One hidden layer of 128: 9,610 parameters on the digits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


class Cnn(nn.Module):
    """Two 3x3 convolutions of 16 and 32 channels, pooled to about 4x4, and a linear classifier: 9,930 parameters on
    the digits, 10,218 on 3x32x32."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        early = 2 if min(height, width) >= 16 else 1
        late = max(1, min(height, width) // early // 4)
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(early)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.late_pool = nn.MaxPool2d(late)
        features = 32 * (height // early // late) * (width // early // late)
        self.classifier = nn.Linear(features, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.pool(torch.relu(self.first(inputs)))
        hidden = self.late_pool(torch.relu(self.second(hidden)))
        return self.classifier(hidden.flatten(1))  # type: ignore[no-any-return]
