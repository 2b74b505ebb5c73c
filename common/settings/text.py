"""The settings of a run on text: what its examples become before the model reads them."""

from dataclasses import dataclass

from zowarmup.common.algorithms.settings import require

MOST_TOKENS = 8192
LONGEST_TEMPLATE = 4096
LONGEST_VERBALIZER = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """What every device does with its texts.

    Args:
        template: What the tokenizer is given, with `{text}` for the text of an example, or `{text_a}` and `{text_b}`; empty: the
            text as it is, or a pair.
        most_tokens: How many tokens an example has at most, special ones included, 1 to MOST_TOKENS; longer ones are cut, at their end
            or, where there are verbalizers, at their beginning, since what they are to follow is the end of the template.
        verbalizers: For each class the word that stands for it behind a text (Schick, Schuetze, arXiv 2001.07676), such as " great"
            with its blank; none: the classifier begins at random.

    Raises:
        ValueError: A field is out of its range; the sentence names it.
    """

    template: str = ""
    most_tokens: int = 128
    verbalizers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        some = (
            f"empty or at most {LONGEST_TEMPLATE} characters with {{text}}, or {{text_a}} and {{text_b}}, or {{prompt}}"
        )
        pair = "{text_a}" in self.template and "{text_b}" in self.template
        known = not self.template or pair or "{text}" in self.template or "{prompt}" in self.template
        require(known and len(self.template) <= LONGEST_TEMPLATE, "template", self.template[:60], some)
        require(1 <= self.most_tokens <= MOST_TOKENS, "most_tokens", self.most_tokens, f"1 to {MOST_TOKENS}")
        words = self.verbalizers
        sound = all(0 < len(word) <= LONGEST_VERBALIZER for word in words) and len(set(words)) == len(words)
        some = f"different texts of 1 to {LONGEST_VERBALIZER} characters"
        require(sound, "verbalizers", list(words[:8]), some)
