"""Makes the data of this project: `python make_data.py`.

    data/held-out.tsv      what the coordinator tries the model on
    data/client-1.tsv ...  what each device has
    model/                 a tiny language model to begin with, unless there is one (model.py)

The texts are made up here, so that the project works at once: what customers write. With texts of your own, write them in the
place of `written`, and keep `main`: a text, a tab and its label a line. In a real fleet no such script cuts data up: each device
has its own file.
"""

import re
from pathlib import Path

import numpy as np
from model import write

CLIENTS = 5
EACH, HELD_OUT = 120, 300  # texts
MIX = 0.3  # small: each device has mostly one of the labels; large: all have the same mix
LABELS = ("complaint", "praise", "question")
BEGINNINGS = {
    "complaint": ("i am not happy with", "there is a fault in", "please take back", "i am tired of", "nobody repairs"),
    "praise": ("i really like", "many thanks for", "we are delighted with", "everybody here loves", "well done with"),
    "question": ("how do i start", "where can i buy", "when will you send", "is there a manual for", "who repairs"),
}
THINGS = (
    "the lamp",
    "my new bicycle",
    "this radio",
    "the kettle",
    "your app",
    "the blue chair",
    "our order",
    "the printer",
)
ENDS = {
    "complaint": ("it broke on the first day", "it is late again", "this is the second time", "i want my money"),
    "praise": ("it works like a charm", "it came a day early", "the children are happy", "i would buy it again"),
    "question": ("could you tell me ?", "i cannot find it", "do you know ?", "it does not say on the box"),
}
ANYTHING = ("as i said on monday", "by the way", "as you know", "in any case", "")


def written(label: str, random: np.random.Generator) -> str:
    """What somebody might write."""
    words = (random.choice(some) for some in (BEGINNINGS[label], THINGS, ANYTHING, ENDS[label]))
    kept = [part for part in words if part and random.random() < 0.85]
    return " ".join(kept) or str(random.choice(THINGS))


def main() -> None:
    random = np.random.default_rng(0)
    here = Path(__file__).parent
    (here / "data").mkdir(exist_ok=True)
    parts = {"held-out": random.choice(LABELS, HELD_OUT)}
    for number in range(1, CLIENTS + 1):
        parts[f"client-{number}"] = random.choice(LABELS, EACH, p=random.dirichlet(np.full(len(LABELS), MIX)))
    words: set[str] = set()
    for name, labels in parts.items():
        texts = [written(label, random) for label in labels]
        words.update(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text))
        lines = [f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)]
        (here / "data" / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
        print(f"{here / 'data' / name}.tsv: {len(texts)} texts")
    if not (here / "model").exists():
        write(here / "model", words)
        print(f"{here / 'model'}: a tiny language model")


if __name__ == "__main__":
    main()
