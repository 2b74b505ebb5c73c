"""What the prefixes of a language model begin with.

They begin as the keys and values that the model makes of as many of its tokens. (Malladi et al., arXiv 2305.17333, found that random ones do not
learn.) A text's positions stay what they are without a prefix. Keys of a decoder with rotary positions are kept as they are after
their rotation, by places from -length to -1: so that such a decoder begins as one that has read these tokens before every text, exactly. Models with
learned positions have none for such places: there the tokens have the same positions as a text's first ones.
"""

from typing import Any

import torch
from torch import nn

from zowarmup.common.models.language.attention import Prefix, weighted
from zowarmup.common.models.language.decoder import turned
from zowarmup.common.settings.architecture import Architecture


def begin_with_tokens(body: nn.Module, made: Architecture, tokens: torch.Tensor) -> None:
    """Let prefixes begin as the keys and values that a language model makes of some tokens.

    Args:
        body: It, with prefixes, changed in place.
        made: Its architecture.
        tokens: As many as a prefix is long, int64 (length,).
    """
    before = torch.full((len(tokens),), -len(tokens), dtype=torch.float32)

    def keep(prefix: nn.Module, args: tuple[torch.Tensor, ...], _: Any) -> torch.Tensor:
        assert isinstance(prefix, Prefix)
        queries, keys, values, added = args
        turns = turned(keys, made.theta, before) if made.rotary else keys
        prefix.keys.copy_(turns[0, :: prefix.times])
        prefix.values.copy_(values[0, :: prefix.times])
        return weighted(queries, keys, values, added)  # without itself

    handles = [part.register_forward_hook(keep) for part in body.modules() if isinstance(part, Prefix)]
    try:
        with torch.no_grad():
            body(tokens[None])
    finally:
        for handle in handles:
            handle.remove()


def drawn_tokens(made: Architecture, length: int, seed: int) -> torch.Tensor:
    """Tokens of the vocabulary, int64 (length,), the same for the same seed."""
    return torch.randint(made.vocabulary, (length,), generator=torch.Generator().manual_seed(seed))
