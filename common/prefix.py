"""Prefixes (Li, Liang, arXiv 2101.00190): keys and values of their own in front of those of a text, in every layer of a language model.

They are what moves, and all else stays as it is.
"""

PREFIX = "prefix:"
"""What `train` begins with where prefixes move."""
LONGEST_PREFIX = 256
PREFIX_ENDS = (".prefix.keys", ".prefix.values")
"""How the names of their tensors end."""


def prefix_length(train: str) -> int:
    """How many keys and values `train` names, as "prefix:5"; 0 where it names none.

    Raises:
        ValueError: It begins so, and goes on otherwise.
    """
    if not train.startswith(PREFIX):
        return 0
    said = train.removeprefix(PREFIX)
    if not (said.isascii() and said.isdigit() and len(said) < 6 and 1 <= int(said) <= LONGEST_PREFIX):
        raise ValueError(f'it must be as "{PREFIX}5", with 1 to {LONGEST_PREFIX}')
    return int(said)
