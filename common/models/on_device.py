"""The forward pass by torch on any of its devices, at weights that lie there as one flat vector.

The module's parameters and buffers are views of that vector, so moving the vector moves the model, as it is with
`program.Program` and NumPy's vector. Products are computed in full float32: TF32 would round them to 10 bits, and a
probe is the small difference of two losses.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.tensors import TorchVector
from zowarmup.common.models.description import head_module, tensors_of
from zowarmup.common.tasks.protocol import Batch


class Resident:
    """Examples whose inputs are on the device in the type they were stored in.

    Args:
        inputs: Uint8 or float32 (n, *shape), or tokens, int32 (n, ..., t).
        targets: Labels, int64 (n,), or numbers, float32 (n, k); they stay where they are.
        scale: The stored value that stands for 1.0.
        device: Where the inputs go.
        mean: What is then taken off, one number for each channel or feature; none: nothing is.
        deviation: What is divided by after that; given where `mean` is.
        mean_shape: The shape in which `mean` and `deviation` broadcast to one example.
        lengths: How many tokens each example has, int64 (n,), with the padding among its choices; None where examples are no tokens.
    """

    def __init__(
        self,
        inputs: NDArray[Any],
        targets: NDArray[Any],
        scale: float,
        device: torch.device,
        mean: Sequence[float] = (),
        deviation: Sequence[float] = (),
        mean_shape: tuple[int, ...] = (),
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        self.lengths = lengths
        self._inputs, self._targets, self._scale = torch.from_numpy(inputs).to(device), targets, scale
        self._mean, self._deviation = (
            torch.tensor(values, dtype=torch.float32, device=device).view(mean_shape) if values else None
            for values in (mean, deviation)
        )

    def __len__(self) -> int:
        return len(self._targets)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The examples at `indices`: inputs on the device, float32 (len(indices), *shape), or of tokens int64
        (len(indices), ..., t) with the t of the longest."""
        chosen = self._inputs.index_select(0, torch.from_numpy(indices).to(self._inputs.device))
        if self.lengths is not None:
            texts = math.prod(self._inputs.shape[1:-1])
            longest = int(self.lengths[indices].max()) // texts
            return Batch(chosen[..., :longest].to(torch.int64), self._targets[indices])
        rows = chosen.to(torch.float32).div_(self._scale)
        if self._mean is not None and self._deviation is not None:
            rows.sub_(self._mean).div_(self._deviation)
        return Batch(rows, self._targets[indices])


class DeviceProgram:
    """The forward pass of a module on a device, at weights of zeros until some are loaded.

    Args:
        module: The model. It is in eval mode and on `device` afterwards, and belongs to this object.
        layout: Its layout.
        device: Where the weights are and the pass is computed.

    Raises:
        ModelError: The module's tensors are not those of the layout.
    """

    def __init__(self, module: nn.Module, layout: Layout, device: torch.device) -> None:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._vector = TorchVector(layout.size, device)
        self._module, self._device = module.eval().to(device), device
        tensors = tensors_of(module, layout)
        for tensor in layout.tensors:
            tensors[tensor.name].data = self._vector.tensor[tensor.start : tensor.stop].view(tensor.shape)
        self._features: list[torch.Tensor] = []
        if layout.head is not None:
            # First, so before they are whitened.
            head_module(module, layout).register_forward_pre_hook(
                lambda _, args: self._features.append(args[0]), prepend=True
            )

    def load(self, weights: NDArray[np.float32]) -> TorchVector:
        """What to move, to move the model from `weights` on: a copy of them on the device. They stay as they are."""
        self._vector.load(weights)
        return self._vector

    def forward(self, inputs: NDArray[Any] | torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Its outputs (n, outputs) and, where the layout has a head, the features (n, h), not yet whitened, for
        inputs (n, *shape), float32 or tokens, wherever they are."""
        self._features.clear()
        with torch.inference_mode():
            logits = self._module(torch.as_tensor(inputs, device=self._device))
        features = self._features.pop() if self._features else None
        return logits.cpu().numpy(), None if features is None else features.cpu().numpy()
