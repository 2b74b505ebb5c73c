"""A torch model and NumPy arrays of your own: two interleaved spirals, of which each client has a part.

python examples/own_model.py
"""

import numpy as np
import torch
from torch import nn

import zowarmup as zw


def spirals(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (examples, 2) on two spirals, and which of the two each is on."""
    random = np.random.default_rng(seed)
    labels, angle = random.integers(0, 2, examples), random.uniform(0.5, 2.5, examples) * np.pi
    points = angle[:, None] * np.stack([np.cos(angle + np.pi * labels), np.sin(angle + np.pi * labels)], axis=1)
    return (points + 0.2 * random.standard_normal(points.shape)).astype(np.float32), labels


def build(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, classes))


run = zw.simulate(
    build,
    shards=zw.divide(spirals(2000, seed=1), clients=8, alpha=1),
    held_out=spirals(500, seed=2),
    high=2,
    warmup={"rounds": 12, "epochs": 5, "batch": 32, "rate": 0.1},
    zeroth_order={"rounds": 60},
)
print(run.history)

# The weights are those of an ordinary module. The data card says how inputs were standardised.
module = build((2,), 2)
run.load_into(module)
points, labels = spirals(500, seed=2)
with torch.no_grad():
    found = module(torch.from_numpy(run.inputs(points))).argmax(dim=1).numpy()
print(f"the module alone: {np.mean(found == labels):.1%}")
