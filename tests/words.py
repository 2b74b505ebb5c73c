"""A tokenizer for tests: words between blanks, with BERT's special tokens about them, or the first alone before them."""

import json

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tokenizer(words: str, ends: bool = True) -> bytes:
    """A tokenizer.json that knows these words, in their order after the special ones.

    Args:
        words: With blanks between them.
        ends: Whether a special token stands behind each text.
    """
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *dict.fromkeys(words.split())])}

    def piece(kind: str, name: str, type_id: int) -> dict[str, object]:
        return {kind: {"id": name, "type_id": type_id}}

    special = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    begin, end = piece("SpecialToken", "[CLS]", 0), [piece("SpecialToken", "[SEP]", 0)] if ends else []
    one = [begin, piece("Sequence", "A", 0), *end]
    made: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": one,
            "pair": [*one, piece("Sequence", "B", 1), *end],
            "special_tokens": special,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    return json.dumps(made).encode()
