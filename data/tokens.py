"""Tokens of texts: what a language model reads, by the run's template and tokenizer, the same on every device.

The tokenizer is a tokenizer.json of Hugging Face's, which the coordinator sends under its sha256; the `tokenizers` package carries it out. It says
itself where special tokens go. With verbalizers there is none at the end: what follows the template's last token is asked of that one. An example is int32 (most_tokens,), its tokens and then PADDING, which is no token of any
vocabulary, so a model needs no mask beside it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.text import Text
from zowarmup.common.text import in_words, listed
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.texts import COMPLETED, PAIR, TEXT

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_AT_A_TIME = 256


def tokenised(data: Dataset, text: Text, tokenizer_json: bytes, every: bool = False) -> Dataset:
    """The tokens of a data set of texts.

    Args:
        data: Its inputs are texts.
        text: The run's template, and how many tokens an example has at most.
        tokenizer_json: The tokenizer.
        every: Whether each example has tokens whatever it says: where there are none, the vocabulary's first one stands in their place. So
            whether a device contributes does not depend on one example (differential privacy).

    Returns:
        The same examples; inputs int32 (n, text.most_tokens), or (n, choices, text.most_tokens).

    Raises:
        DataError: The template does not suit the data, an example has no token and that is not allowed for, or the tokenizer cannot be used.
    """
    tokenizer = _tokenizer(text, tokenizer_json)
    if not data.classes or data.has_choices:
        return _completed(data, text, tokenizer, every)
    names = TEXT if len(data.inputs[0]) == 1 else PAIR
    require_template(text.template, names)
    rows = np.full((len(data), text.most_tokens), PADDING, np.int32)
    for start in range(0, len(data), _AT_A_TIME):
        written = [_filled(text.template, names, texts) for texts in data.inputs[start : start + _AT_A_TIME]]
        for place, encoding in enumerate(_encoded(tokenizer, written, every), start):
            ids = encoding.ids[: text.most_tokens] if encoding else []
            if not ids and not every:
                raise DataError(f"example {place + 1} has no token: {' '.join(data.inputs[place])[:60]!r}")
            rows[place, : max(1, len(ids))] = ids or [0]
    return data.with_tokens(rows)


def _completed(data: Dataset, text: Text, tokenizer: "Tokenizer", every: bool) -> Dataset:
    """The tokens of prompts and of what follows, each of the latter with PREDICTED added; of each choice with its prompt before it, where there
    are some. Special tokens that the tokenizer puts behind a text are left out. What is too long is cut at the beginning of the prompt, but
    for special tokens there, and then at the end of the completion."""
    prompt = COMPLETED[:1]
    require_template(text.template, prompt)
    tokenizer.no_truncation()
    rows = np.full((len(data), data.classes or 1, text.most_tokens), PADDING, np.int32)
    for start in range(0, len(data), _AT_A_TIME):
        some = data.inputs[start : start + _AT_A_TIME]
        places = [(place, which) for place, texts in enumerate(some) for which in range(1, len(texts))]
        prompts = _encoded(tokenizer, [_filled(text.template, prompt, texts[:1]) for texts in some], every)
        written = [some[place][which] for place, which in places]
        completions = _encoded(tokenizer, written, every, add_special_tokens=False)
        for (place, which), after in zip(places, completions, strict=True):
            before, predicted = prompts[place], after.ids if after else []
            if not predicted and not every:
                raise DataError(f"example {start + place + 1} has no token to predict: {some[place][which][:60]!r}")
            first, stop = _text_within(before) if before else (0, 0)
            if before and predicted and not stop:  # of an empty prompt there is what the tokenizer puts before any text
                (whole,) = _encoded(tokenizer, [some[place][which]], every)
                first = stop = _text_within(whole)[0] if whole else 0
            over = max(0, stop + len(predicted) - text.most_tokens)
            begun = before.ids[:first] + before.ids[first + over : stop] if before else []
            ids = (begun + [PREDICTED + token for token in predicted])[: text.most_tokens]
            if every and all(token < PREDICTED for token in ids[1:]):
                ids = [0, PREDICTED][: text.most_tokens]
            rows[start + place, which - 1, : len(ids)] = ids
    nothing = (rows[..., 0] >= 0) & (rows[..., 1:] < PREDICTED).all(axis=2)
    if nothing.any() and not every:
        raise DataError(
            f"example {int(np.argwhere(nothing)[0, 0]) + 1}: nothing is before the only token of its completion, which nothing predicts: "
            "give it a prompt"
        )
    return data.with_tokens(rows if data.has_choices else rows[:, 0])


def _encoded(
    tokenizer: "Tokenizer", written: Sequence[str | tuple[str, ...]], every: bool, add_special_tokens: bool = True
) -> list["Encoding | None"]:
    """What the tokenizer makes of each text. With `every` None of one that it fails on, whatever with; else that is raised."""
    try:
        return list(tokenizer.encode_batch(list(written), add_special_tokens=add_special_tokens))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library's is no Exception
        if not every:
            raise DataError(f"the run's tokenizer fails on this data: {in_words(error)}") from error
        if len(written) == 1:
            return [None]
    return [_encoded(tokenizer, [text], every, add_special_tokens)[0] for text in written]


def _text_within(encoding: "Encoding") -> tuple[int, int]:
    """Where a text begins and ends between the special tokens that the tokenizer adds; (0, 0) where there is no text."""
    places = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    return (places[0], places[-1] + 1) if places else (0, 0)


def verbalizer_tokens(text: Text, tokenizer_json: bytes) -> tuple[int, ...]:
    """The token of each verbalizer.

    Args:
        text: The run's verbalizers.
        tokenizer_json: The tokenizer.

    Raises:
        DataError: One is several tokens, or none that the tokenizer knows, or two are the same; or the tokenizer ends every text with
            a special token, or cannot be used.
    """
    tokenizer = _tokenizer(text, tokenizer_json)
    tokenizer.no_truncation()
    unknown, found = getattr(tokenizer.model, "unk_token", None), dict[int, str]()
    for word in text.verbalizers:
        encoding = tokenizer.encode(word, add_special_tokens=False)
        if len(encoding.ids) != 1 or encoding.tokens[0] == unknown:
            made = listed([repr(token) for token in encoding.tokens]) or "nothing"
            raise DataError(
                f"text.verbalizers: {word!r} is {made} in the run's tokenizer, and must be one token that it knows: use another word, "
                "or see whether the blank before it belongs there"
            )
        if encoding.ids[0] in found:
            raise DataError(
                f"text.verbalizers: {found[encoding.ids[0]]!r} and {word!r} are the same token, {encoding.tokens[0]!r}: "
                "each class needs one of its own"
            )
        found[encoding.ids[0]] = word
    ending = tokenizer.encode(text.verbalizers[0])
    if ending.special_tokens_mask[-1:] == [1]:
        raise DataError(
            f"text.verbalizers: the run's tokenizer ends every text with {ending.tokens[-1]!r}, and verbalizers are to follow the "
            "template: take it out of tokenizer.json's post_processor"
        )
    return tuple(found)


def _tokenizer(text: Text, tokenizer_json: bytes) -> "Tokenizer":
    """The run's tokenizer, which cuts what is too long. Raises DataError."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise DataError("a run on text needs the tokenizers package: pip install 'zowarmup[text]'") from None
    try:
        tokenizer = Tokenizer.from_buffer(tokenizer_json)
        tokenizer.no_padding()
        tokenizer.enable_truncation(text.most_tokens, direction="left" if text.verbalizers else "right")
    except Exception as error:  # the library's own errors are plain exceptions
        raise DataError(f"the run's tokenizer cannot be used: {in_words(error)}") from error
    return tokenizer


def require_template(template: str, names: tuple[str, ...]) -> None:
    """Refuse a template that does not suit examples of these texts.

    Args:
        template: The run's; empty: none.
        names: TEXT, PAIR, or the prompt's.

    Raises:
        DataError: It names another text, or not all of them.
    """
    named = {name for name in (*TEXT, *PAIR, *COMPLETED) if f"{{{name}}}" in template}
    if template and named != set(names):
        raise DataError(
            f"text.template = {template!r} does not suit examples of {' and '.join(names)}: it must have "
            f"{' and '.join(f'{{{name}}}' for name in names)}"
        )


def _filled(template: str, names: tuple[str, ...], texts: tuple[str, ...]) -> str | tuple[str, ...]:
    """What the tokenizer gets: the template with the texts in it or, without one, a text or a pair of them."""
    if not template:
        return texts[0] if len(texts) == 1 else texts
    pieces = template.split("{")
    filled = pieces[0]
    for piece in pieces[1:]:
        name, brace, rest = piece.partition("}")
        filled += texts[names.index(name)] + rest if brace and name in names else "{" + piece
    return filled
