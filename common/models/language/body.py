"""A language model below what stands on it, by its family."""

from torch import nn

from zowarmup.common.models.language.decoder import Decoder
from zowarmup.common.models.language.encoder import Encoder
from zowarmup.common.models.language.opt import Opt
from zowarmup.common.settings.architecture import OPT, Architecture


def body_of(made: Architecture) -> Encoder | Decoder | Opt:
    """A language model without an output layer, at random weights."""
    if made.family == OPT:
        return Opt(made)
    return Decoder(made) if made.decoder else Encoder(made)


def embedding_of(body: Encoder | Decoder | Opt) -> nn.Embedding:
    """The embedding of its tokens."""
    if isinstance(body, Encoder):
        return body.embeddings.word_embeddings
    return (body.decoder if isinstance(body, Opt) else body).embed_tokens
