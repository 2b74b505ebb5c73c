"""The built-in models: an MLP and convolutional networks for a microcomputer, residual networks, and a small vision transformer.

ResNet8 is for two cores: three stages of one block, with 16, 32 and 64 channels (78,042 parameters). ResNet18 has a 3x3 stem, for small images (He et al., arXiv 1512.03385; the variant of Legate et al., arXiv 2509.03503:
11,173,962 parameters at 3 channels and 10 classes). The transformer (Dosovitskiy et al., arXiv 2010.11929) has their
size, 6 blocks, width 512, patches of 4x4: 18,936,330 parameters at 3x32x32 and 10 classes (the paper says 18.94 M).
Positions are the fixed sine-cosine table and the classifier reads the mean over patches (Beyer et al., arXiv
2205.01580): what a classification token and learned positions would add is noise to a zeroth-order method.
"""

import math
from typing import Literal

import torch
from torch import nn

MLP_WIDTH, CNN_FILTERS = 128, 16


def mlp(input_shape: tuple[int, ...], classes: int, width: int = MLP_WIDTH) -> nn.Module:
    """A multi-layer perceptron with one hidden layer: 9,610 parameters on the digits with a width of 128.

    Args:
        input_shape: Of one example; it is flattened.
        classes: Number of logits.
        width: Of the hidden layer.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


class Cnn(nn.Module):
    """Two 3x3 convolutions, pooled to about 4x4, and a linear classifier.

    With 16 filters 9,930 parameters on the digits, 10,218 on 3x32x32.

    Args:
        input_shape: (channels, H, W) of an example, H and W at least 4.
        classes: Number of logits.
        filters: Channels of the first convolution; the second has twice as many.
    """

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
    """Two convolutions of width 5 along a sequence, pooled to a length of about 8, and a linear classifier.

    With 16 filters 4,390 parameters on sequences of 3 channels, 128 steps and 6 classes.

    Args:
        input_shape: (channels, length) of an example, a length of at least 4.
        classes: Number of logits.
        filters: Channels of the first convolution; the second has twice as many.
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


Norm = Literal["group", "batch"]
RESNET_WIDTHS, RESNET_GROUPS = {"resnet8": 16, "resnet18": 64}, 2
"""Channels that leave the stem."""
_STAGES = {"resnet8": (1, 1, 1), "resnet18": (2, 2, 2, 2)}
"""Blocks in each stage; from one to the next there are twice as many channels, at half the resolution."""


def _norm(kind: Norm, channels: int, groups: int) -> nn.Module:
    return nn.GroupNorm(groups, channels) if kind == "group" else nn.BatchNorm2d(channels)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int, norm: Norm, groups: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            _norm(norm, after, groups),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            _norm(norm, after, groups),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), _norm(norm, after, groups))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.residual(inputs) + self.shortcut(inputs))


class ResNet(nn.Module):
    """A residual network with a 3x3 stem (He et al., arXiv 1512.03385). Inputs are (n, channels, H, W).

    Args:
        input_shape: (channels, H, W) of an example, H and W at least 8.
        classes: Number of logits.
        norm: GroupNorm ("group") or BatchNorm ("batch").
        name: "resnet8" or "resnet18", which says the number of layers.
        width: Channels that leave the stem; 0: as many as the name says.
        groups: Of GroupNorm, in each layer.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        norm: Norm,
        name: str = "resnet18",
        width: int = 0,
        groups: int = RESNET_GROUPS,
    ) -> None:
        super().__init__()
        width = width or RESNET_WIDTHS[name]
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False), _norm(norm, width, groups), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        before = width
        for stage, count in enumerate(_STAGES[name]):
            channels = width << stage
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(_ResidualBlock(before, channels, stride, norm, groups))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(before, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.stem(inputs))
        return self.classifier(hidden.mean((2, 3)))  # type: ignore[no-any-return]


_WIDTH, _BLOCKS, _HEADS, _PATCH, _HIDDEN = 512, 6, 8, 4, 2048


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False)
        self.out = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count = tokens.shape[1]
        qkv = self.qkv(self.norm(tokens)).reshape(-1, count, 3, _HEADS, _WIDTH // _HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (n, heads, count, width of a head)
        scores = query @ key.transpose(-2, -1) * (_WIDTH // _HEADS) ** -0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, count, _WIDTH)
        return self.out(mixed)  # type: ignore[no-any-return]


class _TransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.mlp = nn.Sequential(
            nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _WIDTH)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)  # type: ignore[no-any-return]


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al., arXiv 2010.11929). Inputs are (n, channels, H, W).

    Args:
        input_shape: (channels, H, W) of an example, H and W multiples of 4.
        classes: Number of logits.
    """

    positions: torch.Tensor

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.embed = nn.Conv2d(channels, _WIDTH, _PATCH, stride=_PATCH)
        # Not persistent: it follows from the shape, so it is a constant of the program and no weight.
        self.register_buffer("positions", _positions(height // _PATCH, width // _PATCH), persistent=False)
        self.blocks = nn.Sequential(*(_TransformerBlock() for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.classifier = nn.Linear(_WIDTH, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(inputs).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.norm(self.blocks(tokens)).mean(1))  # type: ignore[no-any-return]


def _positions(rows: int, columns: int) -> torch.Tensor:
    """(rows * columns, width): a quarter of the width each for sin and cos of the row and of the column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    frequency = 10000.0 ** -(torch.arange(_WIDTH // 4) / (_WIDTH // 4 - 1))
    angles = [place.reshape(-1, 1) * frequency for place in (row, column)]
    return torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1)
