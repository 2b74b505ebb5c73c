"""A small vision transformer (Dosovitskiy et al., arXiv 2010.11929) in the size of Legate et al., arXiv 2509.03503:
6 blocks, width 512, patches of 4x4: 18,936,330 parameters at 3x32x32 and 10 classes (the paper says 18.94 M).

Positions are the fixed sine-cosine table and the classifier reads the mean over patches (Beyer et al., arXiv
2205.01580): what a classification token and learned positions would add is noise to a zeroth-order method.
"""

import torch
from torch import nn

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
    """Inputs (n, channels, H, W) with H and W multiples of 4."""

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
