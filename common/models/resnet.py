"""ResNet18 with a 3x3 stem, for small images (He et al., arXiv 1512.03385; the variant of Legate et al., arXiv
2509.03503: 11,173,962 parameters at 3 channels and 10 classes)."""

from typing import Literal

import torch
from torch import nn

Norm = Literal["group", "batch"]
_STAGES = (
    (1, 1),
    (2, 2),
    (4, 2),
    (8, 2),
)  # (channels over those of the stem, stride of the first block); two blocks each
WIDTH, GROUPS = 64, 2


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


class ResNet18(nn.Module):
    """Inputs (n, channels, H, W) of any size of at least 8. `width` channels leave the stem and eight times as many the
    last block; `groups`: of GroupNorm, in each layer."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, norm: Norm, width: int = WIDTH, groups: int = GROUPS
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False), _norm(norm, width, groups), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        before = width
        for times, stride in _STAGES:
            channels = times * width
            blocks += [
                _ResidualBlock(before, channels, stride, norm, groups),
                _ResidualBlock(channels, channels, 1, norm, groups),
            ]
            before = channels
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(before, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.stem(inputs))
        return self.classifier(hidden.mean((2, 3)))  # type: ignore[no-any-return]
