"""ResNet18 on the device: images, the network over one flat vector, and its local training."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten, head_module, tensors_of
from zowarmup.common.settings.run import Model
from zowarmup.data import load

EPOCHS, BATCH = 3, 64
CHUNK = 2500


class Images:
    """Images on the device, normalised when they are taken; labels beside them."""

    def __init__(self, path: str, part: str, device: torch.device) -> None:
        data = load(f"cifar10:{path}:{part}")
        self.pixels = torch.from_numpy(np.array(data.inputs)).to(device)
        self.labels = torch.from_numpy(data.targets).to(device)
        self.numbers = data.targets
        self._mean = torch.tensor(data.mean, device=device).view(1, -1, 1, 1)
        self._deviation = torch.tensor(data.deviation, device=device).view(1, -1, 1, 1)

    def take(self, indices: Tensor) -> Tensor:
        return ((self.pixels[indices].float() / 255) - self._mean) / self._deviation


class SlicedNorm(nn.Module):
    """BatchNorm with frozen statistics whose scale and shift may differ from example to example.

    `scale` and `shift`: (channels,), or (examples, channels) while slices are probed.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.each: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.each is None:
            return self.norm(inputs)  # type: ignore[no-any-return]
        n = self.norm
        assert n.running_mean is not None and n.running_var is not None
        plain = functional.batch_norm(inputs, n.running_mean, n.running_var, None, None, False, 0.0, n.eps)
        scale, shift = self.each
        return torch.addcmul(shift[:, :, None, None], plain, scale[:, :, None, None])


class Network:
    """ResNet18 whose parameters and buffers are views of one flat vector, and what is done with it."""

    def __init__(self, device: torch.device, name: str, shape: tuple[int, ...]) -> None:
        module = build(Model(name=name, norm="batch"), shape, 10, 0)
        self.layout = describe(module, shape)
        initial = flatten(module, self.layout)
        self.device, self.module = device, module.to(device)
        self.flat = torch.from_numpy(initial).to(device)
        self.initial = self.flat.clone()
        self.gradient = torch.zeros(self.layout.trainable, device=device)
        tensors = tensors_of(module, self.layout)
        for tensor in self.layout.tensors:
            held = tensors[tensor.name]
            held.data = self.flat[tensor.start : tensor.stop].view(tensor.shape)
            if tensor.stop <= self.layout.trainable:
                held.grad = self.gradient[tensor.start : tensor.stop].view(tensor.shape)
        assert self.layout.head is not None
        self.head = self.layout.block("head")
        self.features: list[Tensor] = []
        head_module(module, self.layout).register_forward_pre_hook(lambda _, given: self.features.append(given[0]))
        self.norms = self._sliced(module)
        places = {tensor.name: tensor for tensor in self.layout.tensors}
        named = {id(parameter): name for name, parameter in tensors.items()}
        self.norm_places = [
            (places[named[id(norm.norm.weight)]], places[named[id(norm.norm.bias)]]) for norm in self.norms
        ]

    def _sliced(self, module: nn.Module) -> list[SlicedNorm]:
        found: list[SlicedNorm] = []
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d) and not isinstance(parent, SlicedNorm):
                    found.append(SlicedNorm(child))
                    setattr(parent, name, found[-1])
        return found

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the features that the head reads."""
        self.features.clear()
        logits = self.module(inputs.contiguous(memory_format=torch.channels_last))
        return logits, self.features.pop()

    def accuracy(self, images: Images, first: int, last: int) -> float:
        """Percent right of images first .. last - 1."""
        self.module.eval()
        right = 0
        with torch.inference_mode():
            for start in range(first, last, CHUNK):
                indices = torch.arange(start, min(start + CHUNK, last), device=self.device)
                right += int((self.forward(images.take(indices))[0].argmax(1) == images.labels[indices]).sum())
        return 100 * right / (last - first)


class Trainer:
    """Local SGD of one client at a time on a network of its own; on a GPU one step is a replayed graph."""

    def __init__(self, network: Network, images: Images) -> None:
        self.network, self.images = network, images
        self.indices = torch.zeros(BATCH, dtype=torch.int64, device=network.device)
        self.rate = torch.zeros((), device=network.device)
        on_gpu = network.device.type == "cuda"
        self.stream = torch.cuda.Stream() if on_gpu else None  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        if self.stream is not None:
            network.module.train()
            with torch.cuda.stream(self.stream):
                for _ in range(3):
                    self._step()
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self._step()

    def _step(self) -> None:
        network = self.network
        network.gradient.zero_()
        with torch.autocast(network.device.type, torch.bfloat16, cache_enabled=False):
            logits, _ = network.forward(self.images.take(self.indices))
        torch.autograd.backward(functional.cross_entropy(logits.float(), self.images.labels[self.indices]))
        network.flat[: network.layout.trainable] -= self.rate * network.gradient

    def steps(self, weights: Tensor, mine: Tensor, rate: float, generator: torch.Generator) -> Iterator[None]:
        """Train `EPOCHS` times over `mine` from `weights`; yields after each step, so that trainers take turns."""
        network = self.network
        network.module.train()
        with torch.cuda.stream(self.stream):
            network.flat.copy_(weights)
            self.rate.fill_(rate)
        for _ in range(EPOCHS):
            order = mine[torch.randperm(len(mine), generator=generator, device=mine.device)]
            order = torch.cat([order, order[: -len(order) % BATCH]])  # the last batch is filled up from the first
            if self.stream is not None:
                self.stream.wait_stream(torch.cuda.current_stream())
            for start in range(0, len(order), BATCH):
                with torch.cuda.stream(self.stream):
                    self.indices.copy_(order[start : start + BATCH])
                    if self.graph is None:
                        self._step()
                    else:
                        self.graph.replay()
                yield
