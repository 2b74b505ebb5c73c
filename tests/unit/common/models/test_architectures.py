"""The built-in architectures by themselves: sizes that their docstrings state, logits of every shape that they take."""

import pytest
import torch
from torch import nn

from zowarmup.common.models.architectures import CNN_FILTERS, MLP_WIDTH, Cnn, Cnn1d, ResNet, ViT, mlp

DIGITS, COLOUR = (1, 8, 8), (3, 32, 32)


@pytest.mark.parametrize(
    ("module", "shape", "parameters"),
    [
        (mlp(DIGITS, 10), DIGITS, 9_610),
        (mlp(DIGITS, 10, MLP_WIDTH // 2), DIGITS, 4_810),
        (Cnn(DIGITS, 10), DIGITS, 9_930),
        (Cnn(COLOUR, 10), COLOUR, 10_218),
        (ResNet(COLOUR, 10, "group", "resnet8"), COLOUR, 78_042),
        (ResNet(COLOUR, 10, "group"), COLOUR, 11_173_962),
        (ViT(COLOUR, 10), COLOUR, 18_936_330),
    ],
)
def test_sizes_and_logits(module: nn.Module, shape: tuple[int, ...], parameters: int) -> None:
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    with torch.no_grad():
        assert module.eval()(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("side", [4, 5, 8, 15, 16, 17, 32, 64])
@pytest.mark.parametrize("filters", [CNN_FILTERS, CNN_FILTERS // 2])
def test_a_convolutional_network_takes_every_side(side: int, filters: int) -> None:
    with torch.no_grad():
        assert Cnn((3, side, side), 7, filters)(torch.zeros(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize("length", [8, 100, 1000])
def test_sequences_of_every_length(length: int) -> None:
    with torch.no_grad():
        assert Cnn1d((6, length), 5)(torch.zeros(2, 6, length)).shape == (2, 5)
