"""Moves the tree in the current folder into its rooms: `python move.py` in the root of a clean worktree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import ast
import functools
import io
import tokenize

import hand
from docstrings import DOCSTRINGS
from rewrite import dotted, in_prose, move_symbols, rewrite
from table import ATTRIBUTES, DEFINED, MOVES, NAMES, NEW_FILES, RULES, SCOPED, SYMBOLS, TEXTS, WORDS

ROOT = Path.cwd()
ROOMS = ("common", "data", "server", "client", "cli", "lab")


def git(*args: str) -> str:
    return subprocess.run(["git", *args], check=True, capture_output=True, text=True).stdout


def say(text: str) -> None:
    print("move:", text)


def by_subject(path: str) -> str | None:
    """For a test that the table does not name: beside the others of the module that it is called after."""
    leaf = path.removeprefix("tests/unit/test_").removesuffix(".py")
    for prefix, tops in (("client_", ("client/",)), ("cli_", ("cli/", "lab/")), ("data_", ("data/",)), ("", ("common/", "server/", "client/", "cli/", "data/"))):
        if leaf.startswith(prefix):
            short = leaf.removeprefix(prefix)
            found = [MOVES.get(p, p) for p in tracked() if p.startswith(tops) and p.endswith(f"/{short}.py")]
            if len(found) == 1:
                folder, _, name = found[0].rpartition("/")
                return f"tests/unit/{folder}/test_{name}"
    return None


def place(path: str) -> str:
    """Where a file goes."""
    if path in MOVES:
        return MOVES[path]
    if path.startswith("tests/unit/test_"):
        if "grpc.aio.server(" in (text := Path(path).read_text(encoding="utf-8")) or "insecure_channel(" in text:
            return path.replace("tests/unit/", "tests/integration/")
        return by_subject(path) or path
    for old, new in RULES.items():
        if path.startswith(old):
            return new + path.removeprefix(old)
    return path


def unplaced(path: str) -> bool:
    """Whether a file that nothing places should have a place."""
    folder, _, name = path.rpartition("/")
    if name == "__init__.py":
        return False
    known = {"server": "coordinator clock main command shutdown runtime", "client": "main errors policy", "common": "strict raised bounds units", "tests/unit": "test_documents test_packaging test_bombs"}
    return folder in known and name.removesuffix(".py") not in known[folder].split()


@functools.cache
def tracked() -> list[str]:
    return git("ls-files").splitlines()


def rename_tokens(path: str, text: str) -> str:
    """WORDS and ATTRIBUTES in one file."""
    words = {**WORDS, **{old: new for old, (new, under) in SCOPED.items() if path.startswith(under)}}
    wanted = {**words, **{f"_{old}": f"_{new}" for old, new in words.items()}}
    if not any(word in text for word in (*wanted, *ATTRIBUTES)):
        return text
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    out, last, before = [], 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        new = None
        if token.type == tokenize.NAME:
            new = wanted.get(token.string)
            if token.string in ATTRIBUTES and (before == "." or (before == "def" and path in DEFINED)):
                new = ATTRIBUTES[token.string]
        elif token.type == tokenize.STRING and re.match(r"[rR]?[fF]", token.string):
            changed = re.sub(
                r"\{[^{}]*\}",
                lambda m: re.sub(r"\b(_?)(" + "|".join(words) + r")\b", lambda w: w[1] + words[w[2]], m[0]),
                token.string,
            )
            new = changed if changed != token.string else None
        if new is not None:
            start, end = starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1]
            out += [text[last:start], new]
            last = end
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.string
    made = "".join([*out, text[last:]])
    return in_prose(made, lambda prose: re.sub(r"`(" + "|".join(words) + r")\b", lambda m: "`" + words[m[1]], prose))


def main() -> None:
    if git("status", "--porcelain", "--untracked-files=no").strip():
        sys.exit("move: the tree has changes; commit them first\n" + git("status", "--porcelain", "--untracked-files=no")[:500])
    all_files = [p for p in tracked() if Path(p).is_file() and not Path(p).is_symlink()]
    python = {p: Path(p).read_text(encoding="utf-8") for p in all_files if p.endswith(".py")}
    before = set(python)
    warnings: list[str] = []
    for path in sorted(before):
        if unplaced(place(path)):
            warnings.append(f"{path} has no place: it stays (or goes by a rule to {place(path)})")
    for change in hand.BEFORE:
        change(python, warnings)

    say("moving definitions")
    python, more = move_symbols(python, SYMBOLS, NEW_FILES, {"server/rejection.py", "server/combining.py"})
    warnings += more

    say("renaming modules, classes and functions")
    moves = {path: place(path) for path in python}
    modules = {dotted(old): dotted(new) for old, new in moves.items() if old != new}
    packages = {
        "zowarmup.common.methods": "zowarmup.common.algorithms",
        "zowarmup.server.service": "zowarmup.server.rpc",
        "zowarmup.client.fleet": "zowarmup.lab.simulation",
        "zowarmup.cli.experiment": "zowarmup.lab.experiments",
    }
    names = {}
    for (path, old), new in NAMES.items():
        if path not in python:
            warnings.append(f"{path} is not there: {old} keeps its name")
        elif not re.search(rf"^(?:class|def|async def)\s+{old}\b|^{old}\b.*=", python[path], re.MULTILINE):
            warnings.append(f"{path} has no {old}")
        else:
            names[dotted(path), old] = (dotted(moves[path]), new)
    python, more = rewrite(python, modules, names)
    warnings += more
    for path, text in python.items():
        tokens = set(re.findall(r"[A-Za-z_]\w*", text))
        for old, new in {**WORDS, **{o: n for o, (n, u) in SCOPED.items() if moves[path].startswith(u)}}.items():
            if tokens & {old, f"_{old}"} and new in tokens and re.search(rf"(?<![\w.`]){new}\b\s*[=:,)]", text):
                warnings.append(f"{path}: {old} becomes {new}, which is there already")
    python = {path: rename_tokens(moves[path], text) for path, text in python.items()}

    say("rewriting paths in text")
    folders = {
        "common/methods/": "common/algorithms/",
        "server/service/": "server/rpc/",
        "client/fleet/": "lab/simulation/",
        "cli/experiment/": "lab/experiments/",
    }
    dots = sorted({**modules, **packages}.items(), key=lambda item: -len(item[0]))
    dotted_of = dict(dots)
    paths = {old: new for old, new in moves.items() if old != new}
    by_module = {}
    for (module, old), (new_module, new) in names.items():
        by_module[modules.get(module, module), old] = new

    def dotted_path(match: re.Match[str]) -> str:
        parts = match[0].split(".")
        for length in range(len(parts), 1, -1):
            head = ".".join(parts[:length])
            if head in dotted_of or length == 2:
                module, tail = dotted_of.get(head, head), parts[length:]
                if tail and (module, tail[0]) in by_module:
                    tail[0] = by_module[module, tail[0]]
                return ".".join([module, *tail])
        return match[0]

    quoted = re.compile(r"from (zowarmup[.\w]*) import (\w+(?: as \w+)?(?:, ?\w+(?: as \w+)?)*)")
    slash = re.compile(r"(?<![\w./-])((?:common|data|server|client|cli|tests)/[\w/]*\.py)\b")
    folder = re.compile(r"(?<![\w./-])(" + "|".join(map(re.escape, folders)) + ")")

    symbols = {(dotted(old), name): dotted(to) for (old, name), to in SYMBOLS.items()}

    def quoted_import(match: re.Match[str]) -> str:
        """An import in a string, which the syntax tree does not show: the code of a child process."""
        found: dict[str, list[str]] = {}
        for item in match[2].split(","):
            name, _, alias = item.strip().partition(" as ")
            module, at = match[1], match[1]
            if f"{module}.{name}" in modules:
                at, _, name = modules[f"{module}.{name}"].rpartition(".")
            else:
                module = symbols.get((module, name), module)
                at, name = names.get((module, name), (modules.get(module, module), name))
            found.setdefault(at, []).append(f"{name} as {alias}" if alias else name)
        return "; ".join(f"from {at} import {', '.join(items)}" for at, items in found.items())

    def in_text(text: str) -> str:
        if quoted.search(text):
            text = quoted.sub(quoted_import, text)
        text = re.sub(r"\b(?:zowarmup|tests)(?:\.[a-z_]\w*)+(?:\.[A-Z]\w*)?", dotted_path, text)
        text = slash.sub(lambda m: paths.get(m[1], m[1]), text)
        text = re.sub(  # as documents name tests, from tests/ on
            r"(?<![\w./-])unit/test_\w+\.py",
            lambda m: paths.get(f"tests/{m[0]}", f"tests/{m[0]}").removeprefix("tests/"),
            text,
        )
        text = re.sub(  # modules without the package's name, as child processes are called
            r'"((?:server|client|common|cli)(?:\.[a-z_]+)+)"',
            lambda m: f'"{dotted_of.get("zowarmup." + m[1], "zowarmup." + m[1]).removeprefix("zowarmup.")}"',
            text,
        )
        for old, new in TEXTS.items():
            text = text.replace(old, new)
        return folder.sub(lambda m: folders[m[1]], text)

    final: dict[str, str] = {}
    for path, text in python.items():
        to = moves[path]
        text = in_text(text)
        if to != path and path.startswith("tests/"):
            deeper = to.count("/") - path.count("/")
            if deeper:
                text = re.sub(
                    r"Path\(__file__\)(\.parents\[(\d+)\]|(?:\.parent\b)+)",
                    lambda m: f"Path(__file__).parents[{(int(m[2]) if m[2] else m[1].count('.parent') - 1) + deeper}]",
                    text,
                )
        final[to] = text
    for path in all_files:
        if path.endswith((".md", ".toml", ".proto", ".sh", ".yml", ".yaml", ".json", ".cfg", ".ini", "Makefile", ".service", ".txt")) or "." not in path:
            if path.startswith(("benchmarks/results/", "requirements/", "docs/pictures/")):
                continue
            try:
                text = Path(path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            new = in_text(text)
            if new != text:
                final[path] = new

    say("docstrings")
    raw = "MOVE_RAW" in os.environ  # to see the docstrings as they are (mkdoc.py)
    for path, (old, new) in () if raw else DOCSTRINGS.items():
        if path not in final:
            warnings.append(f"docstring: {path} is not there")
            continue
        text = final[path]
        docstring = ast.get_docstring(ast.parse(text), clean=False)
        if docstring is None:
            if old:
                warnings.append(f"docstring: {path} has none")
            else:
                final[path] = f'"""{new}"""\n\n{text}' if text.strip() else f'"""{new}"""\n'
            continue
        first, gap, rest = docstring.partition("\n\n")
        if " ".join(first.split()) != " ".join(old.split()):
            warnings.append(f"docstring: {path} has changed: {' '.join(first.split())[:100]}")
            continue
        if len(new) > 115:
            import textwrap

            new = "\n".join(textwrap.wrap(new, 117, break_long_words=False, break_on_hyphens=False))
        final[path] = text.replace('"""' + docstring + '"""', '"""' + new + gap + rest + '"""', 1)
    for path, text in list(final.items()):
        if path.endswith(".py") and path.split("/")[0] in ROOMS:
            docstring = ast.get_docstring(ast.parse(text), clean=False)
            if docstring and not raw:
                new = docstring
                for old_word, new_word in hand.PROSE.items():
                    new = new.replace(old_word, new_word)
                final[path] = text.replace(docstring, new, 1)
    for change in hand.AFTER:
        change(final, warnings)

    say("writing")
    written: set[str] = set()
    for path in before:
        if moves.get(path, path) != path:
            Path(path).unlink()
    for path, text in final.items():
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.add(path)
    for top in ROOMS:
        for room in [Path(top), *sorted(p for p in Path(top).rglob("*") if p.is_dir() and any(p.glob("*.py")))]:
            init = room / "__init__.py"
            if not init.exists():
                written.add(str(init))
                init.write_text(f'"""{hand.ROOM_DOCSTRINGS[str(room)]}"""\n', encoding="utf-8")
    for source in sorted((HERE / "files").rglob("*")):
        if source.is_file() and "__pycache__" not in source.parts:
            target = ROOT / source.relative_to(HERE / "files")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            written.add(str(source.relative_to(HERE / "files")))
    for pattern in ("**/__pycache__",):
        for cache in list(ROOT.glob("*/" + pattern)):
            if ".venv" not in cache.parts:
                shutil.rmtree(cache, ignore_errors=True)
    for old in folders:
        if Path(old).is_dir() and not any(Path(old).iterdir()):
            Path(old).rmdir()

    say("formatting")
    ruff = str(ROOT / ".venv/bin/ruff")
    subprocess.run([ruff, "check", "-q", "--select", "I,F401", "--fix"], check=False, capture_output=True)
    subprocess.run([ruff, "format", "-q"], check=False)
    subprocess.run([ruff, "check", "-q", "--select", "I,F401", "--fix"], check=False, capture_output=True)
    git("add", "-u")
    git("add", *sorted(written))
    if (ROOT / ".build").is_dir():
        subprocess.run([str(ROOT / ".venv/bin/python"), "hatch_build.py"], check=True)
        (ROOT / ".venv/ready").touch()
        (ROOT / ".build/ready").touch()
    classes: dict[str, list[str]] = {}
    for path, text in final.items():
        if path.endswith(".py") and path.split("/")[0] in ROOMS:
            for name in re.findall(r"^class (\w+)", text, re.MULTILINE):
                classes.setdefault(name, []).append(path)
    warnings += [f"class {name} is in {' and '.join(where)}" for name, where in classes.items() if len(where) > 1]
    for line in dict.fromkeys(warnings):
        print("  warning:", line)
    say("done")


if __name__ == "__main__":
    main()
