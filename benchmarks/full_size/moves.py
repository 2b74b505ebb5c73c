"""What a round after the pivot does to the model, by contribution."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.full_size.network import CHUNK, Images, Network

PROBES, PROJECTIONS, EPS = 32, 64, 5e-3
PAPER_EPS = 1e-3


class Moves:
    """Rounds of one fleet: `participants` of the clients, who hold `mine`, drawn anew for each."""

    def __init__(
        self, network: Network, train: Images, mine: list[Tensor], participants: int, seed: int, check: bool
    ) -> None:
        self.network, self.train, self.mine, self.device = network, train, mine, network.device
        self.participants, self.seed, self.check = participants, seed, check
        self.generator = torch.Generator(network.device)
        self.generator.manual_seed(seed)

    def drawn(self, number: int) -> Tensor:
        """The images of a round's participants: (participants, images of one)."""
        chance = np.random.default_rng([self.seed, 3, number])
        chosen = chance.permutation(len(self.mine))[: self.participants]
        return torch.stack([self.mine[client] for client in chosen])

    def head_gradient(self, logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        residual = torch.softmax(logits.double(), 1)
        residual[torch.arange(len(labels), device=self.device), labels] -= 1
        return torch.cat([(residual.T @ features.double()).flatten(), residual.sum(0)]) / len(labels)

    def signs(self, count: int, size: int) -> Tensor:
        return (
            torch.randint(0, 2, (count, size), generator=self.generator, device=self.device, dtype=torch.int8) * 2.0 - 1
        )

    def normalized(self, estimate: Tensor, rate: float, number: int, rounds: int) -> Tensor:
        """Down the estimate by `rate` (root mean square), annealed linearly."""
        size = estimate.square().mean().sqrt()
        return estimate * (-rate * (1 - number / rounds) / size.clamp_min(1e-20)).float()

    def projected(self, gradients: Tensor) -> Tensor:
        """The mean over clients of their gradients as K directional derivatives each give it back."""
        total = torch.zeros(gradients.shape[1], device=self.device, dtype=torch.float64)
        for gradient in gradients:
            z = self.signs(PROJECTIONS, len(gradient)).double()
            total += z.T @ (z @ gradient) / PROJECTIONS
        return total / len(gradients)

    def head_moves(self, rate: float, rounds: int) -> Callable[[int], None]:
        """The trunk is frozen, so features are computed once."""
        network, head = self.network, self.network.head
        weight_size = network.layout.head.features * 10  # type: ignore[union-attr]
        features = torch.empty((len(self.train.numbers), network.layout.head.features), device=self.device)  # type: ignore[union-attr]
        with torch.inference_mode():
            for start in range(0, len(features), CHUNK):
                indices = torch.arange(start, min(start + CHUNK, len(features)), device=self.device)
                features[indices] = network.forward(self.train.take(indices))[1]

        def move(number: int) -> None:
            mine = self.drawn(number)
            there = network.flat[head.start : head.stop]
            weight, bias = there[:weight_size].view(10, -1), there[weight_size:]
            gradients = torch.stack(
                [
                    self.head_gradient(features[one] @ weight.T + bias, features[one], self.train.labels[one])
                    for one in mine
                ]
            )
            there += self.normalized(self.projected(gradients), rate, number, rounds).float()

        return move

    def norm_moves(self, rates: tuple[float, float], rounds: int) -> Callable[[int], None]:
        """`rates`: of the head and of the normalisation parameters. One pass over all participants' images for each
        side of the probes: a slice's examples have its own scales and shifts."""
        network, head = self.network, self.network.head
        sizes = [place.size for pair in network.norm_places for place in pair]
        where = torch.cat(
            [torch.arange(p.start, p.stop, device=self.device) for pair in network.norm_places for p in pair]
        )

        def losses(vectors: Tensor, slices: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            parts = torch.split(vectors, sizes, dim=1)
            for place, norm in enumerate(network.norms):
                norm.each = parts[2 * place][slices], parts[2 * place + 1][slices]
            logits, features = network.forward(self.train.take(indices))
            for norm in network.norms:
                norm.each = None
            return functional.cross_entropy(logits, self.train.labels[indices], reduction="none"), logits, features

        def move(number: int) -> None:
            mine = self.drawn(number)
            now = network.flat[where]
            estimate = torch.zeros(len(where), device=self.device, dtype=torch.float64)
            gradients = []
            with torch.inference_mode():
                for one in mine:
                    z = self.signs(PROBES, len(where))
                    order = one[torch.randperm(len(one), generator=self.generator, device=self.device)]
                    slices = torch.arange(len(one), device=self.device) * PROBES // len(one)
                    sides, both = [], torch.zeros(head.size, device=self.device, dtype=torch.float64)
                    for sign in (1, -1):
                        loss, logits, features = losses(now + sign * EPS * z, slices, order)
                        sides.append(torch.zeros(PROBES, device=self.device).index_add_(0, slices, loss))
                        both += self.head_gradient(logits, features, self.train.labels[order]) / 2
                    derivative = (sides[0] - sides[1]).double() / (2 * EPS * len(one))
                    estimate += z.double().T @ derivative / len(mine)
                    gradients.append(both)
            if self.check and number == 0:
                self.check_norm(now, where, mine[0])
            network.flat[where] += self.normalized(estimate, rates[1], number, rounds).float()
            step = self.normalized(self.projected(torch.stack(gradients)), rates[0], number, rounds)
            network.flat[head.start : head.stop] += step.float()

        return move

    def check_norm(self, now: Tensor, where: Tensor, one: Tensor) -> None:
        """A finite difference beside the exact directional derivative, to see what TF32 leaves of it."""
        network = self.network
        z = self.signs(8, len(where))
        network.gradient.zero_()
        logits, _ = network.forward(self.train.take(one))
        torch.autograd.backward(functional.cross_entropy(logits, self.train.labels[one]))
        exact = z @ network.gradient[where]
        found = []
        with torch.inference_mode():
            for direction in z:
                sides = []
                for sign in (1, -1):
                    network.flat[where] = now + sign * EPS * direction
                    logits, _ = network.forward(self.train.take(one))
                    sides.append(float(functional.cross_entropy(logits.double(), self.train.labels[one])))
                found.append((sides[0] - sides[1]) / (2 * EPS))
        network.flat[where] = now
        print("finite differences", [round(f, 4) for f in found], "exact", [round(e, 4) for e in exact.tolist()])

    def paper_moves(self, rate: float) -> Callable[[int], None]:
        network, trainable = self.network, self.network.layout.trainable

        def loss(one: Tensor) -> Tensor:
            logits, _ = network.forward(self.train.take(one))
            return functional.cross_entropy(logits.double(), self.train.labels[one])

        def move(number: int) -> None:
            mine = self.drawn(number)
            estimate = torch.zeros(trainable, device=self.device)
            here = network.flat[:trainable].clone()
            with torch.inference_mode():
                for one in mine:
                    for _ in range(3):
                        z = self.signs(1, trainable)[0]
                        sides = []
                        for sign in (1, -1):
                            torch.add(here, z, alpha=sign * PAPER_EPS, out=network.flat[:trainable])
                            sides.append(loss(one))
                        scalar = (sides[0] - sides[1]) / (2 * PAPER_EPS)
                        estimate += z * (scalar / (3 * len(mine))).float()
                torch.add(here, estimate, alpha=-rate, out=network.flat[:trainable])

        return move

    def ceiling_moves(self, rate: float, rounds: int) -> Callable[[int], None]:
        network, trainable = self.network, self.network.layout.trainable

        def move(number: int) -> None:
            network.gradient.zero_()
            mine = self.drawn(number).flatten()
            for indices in torch.split(mine, CHUNK):
                with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
                    logits, _ = network.forward(self.train.take(indices))
                loss = functional.cross_entropy(logits.float(), self.train.labels[indices], reduction="sum")
                torch.autograd.backward(loss / len(mine))
            with torch.no_grad():
                network.flat[:trainable] += self.normalized(network.gradient, rate, number, rounds)

        return move
