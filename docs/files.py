"""Prints every room of the package and its files, each with the first sentence of its docstring: `make files`.

python docs/files.py [FOLDER ...]
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
TOPS = ("common", "data", "server", "client", "cli", "lab")


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, on one line; empty where there is none."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", first, maxsplit=1)[0]


def rooms(*under: str) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Each folder with code below `under` (all rooms, where there is none): its path, its summary, and (name, summary) of
    its files."""
    for top in under or TOPS:
        for folder in sorted({path.parent for path in (REPOSITORY / top).rglob("*.py")}):
            files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
            yield (
                str(folder.relative_to(REPOSITORY)),
                summary(folder / "__init__.py"),
                [(path.name, summary(path)) for path in files],
            )


def main() -> None:
    for room, what, files in rooms(*sys.argv[1:]):
        print(f"\n{room}/  {what}")
        width = max((len(name) for name, _ in files), default=0)
        for name, about in files:
            print(f"  {name:{width}}  {about}")


if __name__ == "__main__":
    main()
