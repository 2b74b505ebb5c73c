"""Low-rank adapters (LoRA, arXiv 2106.09685): which linear layers of a language model have one, and of what rank.

An adapter adds B A x to what a linear layer gives, A of r rows and B of r columns, at the scale 1 (alpha = r in the paper's words): a probe of B then
moves what the layer gives about as far as one of its bias does, and `eps` and `rate` are those of any other parameter. Here A is drawn once and stays as it is, and B, which
begins at zero, is what moves, as in FFA-LoRA (arXiv 2403.12313): a mean of clients' B is then the mean of their adapters, which a mean of
both factors is not, and a probe finds a slope from the first round on, where with both the slope along A is zero while B is.
"""

from dataclasses import dataclass
from typing import Self

LORA = "lora:"
"""What `train` begins with where adapters move."""
MODULES = ("q", "k", "v", "o", "up", "gate", "down")
"""Queries, keys, values and output of attention; the linear layers into the wide part of a block, and out of it."""
DOWN, UP = "lora_a", "lora_b"
"""The names of A and of B in the layer that they adapt."""
MOST_RANK = 256


@dataclass(frozen=True, slots=True)
class Lora:
    """Adapters.

    Args:
        rank: r, 1 to MOST_RANK.
        modules: The layers that have one, of MODULES, each once.

    Raises:
        ValueError: A field is out of its range; the sentence says which.
    """

    rank: int
    modules: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MOST_RANK:
            raise ValueError(f"r = {self.rank}: must be 1 to {MOST_RANK}")
        named = set(self.modules)
        if not named or len(named) < len(self.modules) or not named <= set(MODULES):
            raise ValueError(f"modules = {','.join(self.modules)[:60]}: must be some of {','.join(MODULES)}")

    @classmethod
    def of(cls, train: str) -> Self | None:
        """The adapters that `train` names, as "lora:r=8,modules=q,v"; None where it names none.

        Raises:
            ValueError: It begins so, and goes on otherwise.
        """
        if not train.startswith(LORA):
            return None
        rank, _, modules = train.removeprefix(LORA).partition(",modules=")
        if not rank.startswith("r=") or not rank[2:].isascii() or not rank[2:].isdigit() or len(rank) > 6:
            raise ValueError(f'it must be as "{LORA}r=8,modules=q,v"')
        return cls(int(rank[2:]), tuple(modules.split(",")))
