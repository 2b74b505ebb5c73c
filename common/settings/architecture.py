"""The architecture of a pretrained language model: what of a config.json in Hugging Face's form says how it computes.

The coordinator reads it when a run is made, and it travels in the run's spec, so that every device builds the same model.
What a config.json asks for beyond what is carried out here is refused by the field's name, never left out.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from zowarmup.common.untrusted import strictly

BERT, ROBERTA, LLAMA, QWEN2, QWEN3, OPT = "bert", "roberta", "llama", "qwen2", "qwen3", "opt"
ENCODERS, DECODERS = (BERT, ROBERTA), (LLAMA, QWEN2, QWEN3, OPT)
FAMILIES = (*ENCODERS, *DECODERS)
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
_MOST = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A transformer.

    Args:
        family: One of FAMILIES, as `model_type` names it.
        vocabulary: How many tokens it knows.
        hidden: Extent of a hidden state.
        layers: How many.
        heads: Of attention, in each layer; of queries where there are fewer of keys.
        key_heads: Of keys and values; `heads` is a multiple of it.
        head_size: Extent of a query, key or value.
        inner: Extent between the two linear layers of a block.
        activation: One of ACTIVATIONS.
        epsilon: Added to the variance in a normalisation.
        positions: How many tokens an example may have at most.
        types: How many kinds of tokens there are (BERT: the first and the second text); 0: none.
        first_position: The row of the first token's position embedding (RoBERTa: after the row of padding; OPT: 2).
        separator: The token that stands between two texts and at their end; -1: not known, or without meaning.
        theta: Base of the rotary position embedding's wavelengths.
        tied: Whether the token embeddings are the output layer, too.

    Raises:
        ValueError: A field is out of its range; the sentence names it.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    inner: int
    activation: str
    epsilon: float
    positions: int
    types: int = 0
    first_position: int = 0
    separator: int = -1
    theta: float = 10000.0
    tied: bool = False

    def __post_init__(self) -> None:
        _require(self.family in FAMILIES, "family", self.family, ", ".join(FAMILIES))
        for name in ("vocabulary", "hidden", "layers", "heads", "key_heads", "head_size", "inner", "positions"):
            value = getattr(self, name)
            _require(1 <= value <= _MOST, name, value, f"1 to {_MOST}")
        _require(self.heads % self.key_heads == 0, "key_heads", self.key_heads, f"a divisor of heads, {self.heads}")
        _require(not self.rotary or self.head_size % 2 == 0, "head_size", self.head_size, "even")
        _require(
            self.rotary or self.heads * self.head_size == self.hidden, "head_size", self.head_size, "hidden / heads"
        )
        _require(self.activation in ACTIVATIONS, "activation", self.activation, ", ".join(ACTIVATIONS))
        _require(0 < self.epsilon < 1, "epsilon", self.epsilon, "above 0 and below 1")
        _require(0 <= self.types <= 16, "types", self.types, "0 to 16")
        _require(0 <= self.first_position <= 16, "first_position", self.first_position, "0 to 16")
        _require(-1 <= self.separator < self.vocabulary, "separator", self.separator, "a token, or -1")
        _require(1 <= self.theta <= 1e12, "theta", self.theta, "1 to 1e12")

    @property
    def decoder(self) -> bool:
        """Whether a token sees only those before it."""
        return self.family in DECODERS

    @property
    def rotary(self) -> bool:
        """Whether keys and queries are rotated by their tokens' places, in the place of positions that are learned."""
        return self.decoder and self.family != OPT

    def to_json(self) -> str:
        """One line of JSON; equal architectures give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The architecture that `to_json` has made a text of. Raises ValueError naming the field where it is another."""
        try:
            return strictly(cls, json.loads(text), "architecture")
        except RecursionError as error:
            raise ValueError(f"architecture: {error}") from error

    @classmethod
    def from_config(cls, text: str, separator: int = -1) -> Self:
        """The architecture that a config.json describes.

        Args:
            text: Its content.
            separator: The token between two texts, as the tokenizer has it; -1: not known.

        Raises:
            ValueError: It is not JSON, or asks for what is not carried out here; the sentence begins with the field.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
        if not isinstance(raw, dict):
            raise ValueError("it is not an object")  # noqa: TRY004
        config = _Config(raw)
        family = config.one("model_type", str)
        if family not in FAMILIES:
            raise ValueError(f"model_type = {family!r}: known are {', '.join(FAMILIES)}")
        if family == OPT:
            return cls(family=family, **_opt(config))
        return cls(family=family, **(_decoder if family in DECODERS else _encoder)(config, family, separator))


class _Config:
    """The fields of a config.json. Raises ValueError with the field's name."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw

    def one(self, name: str, kind: type[Any], default: Any = None) -> Any:
        value = self._raw.get(name, default)
        if value is None:
            raise ValueError(f"{name} is missing")
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise ValueError(f"{name} = {ascii(value)[:60]}: must be of type {kind.__name__}")
        return value

    def refuse(self, name: str, fine: Callable[[Any], bool]) -> None:
        """That a field is not there, or has a value that changes nothing here."""
        value = self._raw.get(name)
        if value is not None and not fine(value):
            raise ValueError(f"{name} = {ascii(value)[:60]}: is not carried out here")


def _encoder(config: _Config, family: str, separator: int) -> dict[str, Any]:
    config.refuse("position_embedding_type", lambda value: value == "absolute")
    config.refuse("is_decoder", lambda value: value is False)
    config.refuse("add_cross_attention", lambda value: value is False)
    hidden, heads = config.one("hidden_size", int), config.one("num_attention_heads", int)
    first = config.one("pad_token_id", int, 1) + 1 if family == ROBERTA else 0
    return {
        "vocabulary": config.one("vocab_size", int),
        "hidden": hidden,
        "layers": config.one("num_hidden_layers", int),
        "heads": heads,
        "key_heads": heads,
        "head_size": hidden // heads if heads > 0 else 0,
        "inner": config.one("intermediate_size", int),
        "activation": config.one("hidden_act", str, "gelu"),
        "epsilon": config.one("layer_norm_eps", float, 1e-12),
        "positions": config.one("max_position_embeddings", int) - first,
        "types": config.one("type_vocab_size", int, 2),
        "first_position": first,
        "separator": separator if family == BERT else -1,
    }


def _decoder(config: _Config, family: str, separator: int) -> dict[str, Any]:
    config.refuse("rope_scaling", lambda value: value in ({}, {"rope_type": "default"}))
    config.refuse("use_sliding_window", lambda value: value is False)
    config.refuse("attention_bias", lambda value: value is False)
    config.refuse("mlp_bias", lambda value: value is False)
    config.refuse("pretraining_tp", lambda value: value == 1)
    hidden, heads = config.one("hidden_size", int), config.one("num_attention_heads", int)
    parameters = config._raw.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or parameters.get("rope_type", "default") != "default":
        raise ValueError(f"rope_parameters = {ascii(parameters)[:60]}: is not carried out here")
    theta = parameters.get("rope_theta", config.one("rope_theta", float, 10000.0))
    return {
        "vocabulary": config.one("vocab_size", int),
        "hidden": hidden,
        "layers": config.one("num_hidden_layers", int),
        "heads": heads,
        "key_heads": config.one("num_key_value_heads", int, heads),
        "head_size": config.one("head_dim", int, hidden // heads if heads > 0 else 0),
        "inner": config.one("intermediate_size", int),
        "activation": config.one("hidden_act", str, "silu"),
        "epsilon": config.one("rms_norm_eps", float, 1e-6),
        "positions": config.one("max_position_embeddings", int),
        "theta": float(theta),
        "tied": config.one("tie_word_embeddings", bool, False),
    }


def _opt(config: _Config) -> dict[str, Any]:
    hidden, heads = config.one("hidden_size", int), config.one("num_attention_heads", int)
    config.refuse("do_layer_norm_before", lambda value: value is True)
    config.refuse("word_embed_proj_dim", lambda value: value == hidden)
    config.refuse("enable_bias", lambda value: value is True)
    config.refuse("layer_norm_elementwise_affine", lambda value: value is True)
    config.refuse("_remove_final_layer_norm", lambda value: value is False)
    return {
        "vocabulary": config.one("vocab_size", int),
        "hidden": hidden,
        "layers": config.one("num_hidden_layers", int),
        "heads": heads,
        "key_heads": heads,
        "head_size": hidden // heads if heads > 0 else 0,
        "inner": config.one("ffn_dim", int),
        "activation": config.one("activation_function", str, "relu"),
        "epsilon": 1e-5,
        "positions": config.one("max_position_embeddings", int),
        "first_position": 2,
        "tied": config.one("tie_word_embeddings", bool, True),
    }


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"architecture: {field} = {value!r}: must be {allowed}")
