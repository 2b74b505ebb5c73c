"""The rooms of the package and their files, as their docstrings describe them.

python docs/files.py [FOLDER ...]        every room with its files: `make files`
python -m docs.files --write             the table of rooms in docs/structure.md, made anew: `make docs`
"""

import ast
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
TOPS = ("common", "data", "server", "client", "cli", "lab", "api")
STRUCTURE = REPOSITORY / "docs/structure.md"
BEGIN, END = "<!-- make docs writes from here -->\n", "<!-- to here -->\n"


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


def room_table() -> str:
    """The rooms of tests/test_layering.py in its order, a row each: what is in it, and what it may import; and who knows
    generated code."""
    from tests.test_layering import ROOMS, WIRE_FILES

    rows = ["| room | what is in it | may import, of the package | packages |", "|---|---|---|---|"]
    for room, rule in ROOMS.items():
        is_file = room.endswith(".py")
        about = summary(REPOSITORY / room / ("" if is_file else "__init__.py"))
        packages = [f"`{name}`" for name in sorted(rule.anywhere)]
        packages += [f"`{name}` inside functions" for name in sorted(rule.lazily)]
        name = f"`{room}`" if is_file else f"`{room}/`"
        pure = " **Pure.**" if rule.pure else ""
        rows.append(f"| {name} | {about}{pure} | {_listed(rule.rooms, ROOMS)} | {', '.join(packages)} |")
    wire = ", ".join(f"`{place}`" if place.endswith(".py") else f"`{place}/`" for place in sorted(WIRE_FILES))
    return "\n".join(rows) + f"\n\nOnly these import generated protobuf code: {wire}.\n"


def _listed(allowed: Collection[str], known: Collection[str]) -> str:
    """Rooms in words: for each folder at the top, what of it is allowed."""
    found = []
    for top in TOPS:
        inside = [room for room in known if room.split("/")[0] == top]
        here = [room for room in inside if room in allowed]
        below = [room for room in inside if room not in here and room != top]
        if not here:
            continue
        if here == [top]:
            found.append(f"`{top}/` itself" if below else f"`{top}/`")
        elif not below and top in here:
            found.append(f"all of `{top}/`")
        else:
            names = [f"`{room.removeprefix(f'{top}/')}`" for room in here if room != top]
            found.append(f"`{top}/`: " + ", ".join([*(["itself"] if top in here else []), *names]))
    return "; ".join(found)


def with_table(text: str) -> str:
    """A document with the table of rooms between the marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{room_table()}{END}{after}"


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        STRUCTURE.write_text(with_table(STRUCTURE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for room, what, files in rooms(*sys.argv[1:]):
        print(f"\n{room}/  {what}")
        width = max((len(name) for name, _ in files), default=0)
        for name, about in files:
            print(f"  {name:{width}}  {about}")


if __name__ == "__main__":
    main()
