"""Rewrites a set of Python files: modules that move, names that move or change. Names are resolved by scope, so that
only what is bound by an import of the module, or defined in it, is renamed."""

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field

Modules = dict[str, str]  # old dotted -> new dotted
Names = dict[tuple[str, str], tuple[str, str]]  # (old dotted, name) -> (new dotted, new name)


def dotted(path: str) -> str:
    stem = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return stem if path.split("/")[0] in ("tests", "benchmarks", "deploy", "docs") else "zowarmup." + stem


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Scope:
    kind: str
    names: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    outer: set[str] = field(default_factory=set)

    def bind(self, name: str, what: tuple[str, ...] = ("other",)) -> None:
        self.names.setdefault(name, []).append(what)


class Rewriter:
    def __init__(self, path: str, text: str, known: set[str], modules: Modules, names: Names, origins) -> None:
        self.path, self.text = path, text
        self.module = dotted(path)
        self.data = text.encode()
        self.tree = ast.parse(text)
        self.known, self.modules, self.names, self.origins = known, modules, names, origins
        self.edits: list[tuple[int, int, str]] = []
        self.warnings: list[str] = []
        self.local: dict[str, str] = {}  # old -> new, as renamed anywhere in this file
        self.fstrings: list[tuple[ast.JoinedStr, str, str]] = []
        starts = [0]
        for line in self.data.split(b"\n"):
            starts.append(starts[-1] + len(line) + 1)
        self.starts = starts
        self.joined: list[ast.JoinedStr] = []

    def at(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def warn(self, node: ast.AST, text: str) -> None:
        self.warnings.append(f"{self.path}:{getattr(node, 'lineno', 0)}: {text}")

    # What an import binds

    def target(self, module: str, name: str) -> tuple[str, str] | None:
        """Where a name that is imported from a module comes from now: (module, name), None where nothing changes."""
        seen = set()
        at = module
        while (at, name) not in seen:
            seen.add((at, name))
            if (at, name) in self.names:
                new_module, new_name = self.names[at, name]
                if at != module and new_module == self.modules.get(at, at):
                    return (self.modules.get(module, module), new_name)  # renamed, and still handed on
                return (new_module, new_name)
            step = self.origins.get((at, name))
            if step is None:
                break
            at, name = step
        return None

    def collect(self, body: list[ast.AST], scope: Scope) -> None:
        for node in body:
            self._collect(node, scope)

    def _collect(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            scope.bind(node.name, ("def", self.module, node.name) if scope.kind == "module" else ("other",))
            return
        if isinstance(node, (ast.Lambda, *COMPREHENSIONS)):
            return
        if isinstance(node, ast.Global):
            scope.outer |= set(node.names)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                bound = alias.asname or alias.name
                if full in self.known:
                    scope.bind(bound, ("module", full, "as" if alias.asname else ""))
                else:
                    scope.bind(bound, ("name", node.module, alias.name, "as" if alias.asname else ""))
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and alias.name in self.known:
                    scope.bind(alias.asname, ("module", alias.name, "as"))
                else:
                    scope.bind(alias.asname or alias.name.split(".")[0])
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            scope.bind(node.id, ("def", self.module, node.id) if scope.kind == "module" else ("other",))
        if isinstance(node, ast.ExceptHandler) and node.name:
            scope.bind(node.name)
        if isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            scope.bind(node.name)
        for child in ast.iter_child_nodes(node):
            self._collect(child, scope)

    # Walk

    def run(self) -> str:
        self.docstrings: set[int] = set()
        root = Scope("module")
        self.collect(self.tree.body, root)
        self.walk_body(self.tree.body, [root])
        bound = {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name)}
        bound |= {n.arg for n in ast.walk(self.tree) if isinstance(n, ast.arg)}
        for old, new in self.local.items():
            if new in bound:
                self.warnings.append(f"{self.path}: {old} is {new} now, a name that is used here already")
        text = self.apply()
        return self.comments(text)

    def walk_body(self, body, scopes) -> None:
        for node in body:
            self.visit(node, scopes)

    def visit(self, node, scopes, annotation=False) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for item in node.decorator_list:
                self.visit(item, scopes)
            self.arguments(node.args, scopes)
            if node.returns:
                self.visit(node.returns, scopes, True)
            self.define(node, scopes)
            inner = Scope("function")
            self.parameters(node.args, inner)
            self.collect(node.body, inner)
            self.walk_body(node.body, [*scopes, inner])
        elif isinstance(node, ast.Lambda):
            self.arguments(node.args, scopes)
            inner = Scope("function")
            self.parameters(node.args, inner)
            self._collect(node.body, inner)
            self.visit(node.body, [*scopes, inner])
        elif isinstance(node, ast.ClassDef):
            for item in [*node.decorator_list, *node.bases, *[k.value for k in node.keywords]]:
                self.visit(item, scopes)
            self.define(node, scopes)
            inner = Scope("class")
            self.collect(node.body, inner)
            self.walk_body(node.body, [*scopes, inner])
        elif isinstance(node, COMPREHENSIONS):
            inner = Scope("function")
            for generator in node.generators:
                self._collect(generator.target, inner)
            for child in ast.iter_child_nodes(node):
                self.visit(child, [*scopes, inner])
        elif isinstance(node, ast.ImportFrom):
            self.import_from(node, scopes)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            for item in node.value.elts:
                new = self.renamed(item.value, scopes)
                if new:
                    self.edit(self.at(item.lineno, item.col_offset) + 1, item.value, new, item)
        elif isinstance(node, ast.Name):
            self.name(node, scopes)
        elif isinstance(node, ast.Attribute):
            self.attribute(node, scopes)
            self.visit(node.value, scopes)
        elif isinstance(node, ast.AnnAssign):
            self.visit(node.target, scopes)
            self.visit(node.annotation, scopes, True)
            if node.value:
                self.visit(node.value, scopes)
        elif isinstance(node, ast.JoinedStr):
            self.joined.append(node)
            for child in ast.iter_child_nodes(node):
                self.visit(child, scopes)
            self.joined.pop()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and annotation:
            self.quoted(node, scopes)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast":
            self.visit(node.func, scopes)
            for index, child in enumerate(node.args):
                self.visit(child, scopes, index == 0)
        else:
            for child in ast.iter_child_nodes(node):
                self.visit(child, scopes, annotation)

    def arguments(self, args: ast.arguments, scopes) -> None:
        for item in [*args.defaults, *[d for d in args.kw_defaults if d]]:
            self.visit(item, scopes)
        for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
            if arg and arg.annotation:
                self.visit(arg.annotation, scopes, True)

    def parameters(self, args: ast.arguments, scope: Scope) -> None:
        for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
            if arg:
                scope.bind(arg.arg)

    def resolve(self, name: str, scopes) -> tuple[Scope, list[tuple[str, ...]]] | None:
        for index in range(len(scopes) - 1, -1, -1):
            scope = scopes[index]
            if scope.kind == "class" and index != len(scopes) - 1:
                continue
            if name in scope.outer:
                continue
            if name in scope.names:
                return scope, scope.names[name]
        return None

    def renamed(self, name: str, scopes) -> str | None:
        """What a name is called from now on, None where it stays."""
        found = self.resolve(name, scopes)
        if found is None:
            return None
        answers = set()
        for what in found[1]:
            new = None
            if what[0] == "module" and not what[2]:
                new = self.modules.get(what[1], what[1]).rpartition(".")[2]
            elif what[0] == "name" and not what[3]:
                target = self.target(what[1], what[2])
                new = target[1] if target else what[2]
            elif what[0] == "def":
                target = self.names.get((what[1], what[2]))
                new = target[1] if target else what[2]
            answers.add(new or name)
        if len(answers) > 1:
            self.warnings.append(f"{self.path}: {name} is bound in several ways: {answers}")
            return None
        new = answers.pop()
        return new if new != name else None

    def edit(self, start: int, old: str, new: str, node) -> None:
        end = start + len(old.encode())
        if self.data[start:end] == old.encode():
            self.edits.append((start, end, new))
            self.local[old] = new
        elif self.joined:
            self.fstrings.append((self.joined[0], old, new))
            self.local[old] = new
        else:
            self.warn(node, f"{old} not found where it should be")

    def name(self, node: ast.Name, scopes) -> None:
        new = self.renamed(node.id, scopes)
        if new:
            self.edit(self.at(node.lineno, node.col_offset), node.id, new, node)

    def quoted(self, node: ast.Constant, scopes) -> None:
        start = self.at(node.lineno, node.col_offset)
        for match in re.finditer(r"(?<![\w.])[A-Za-z_]\w*", node.value):
            new = self.renamed(match[0], scopes)
            if new:
                self.edit(start + 1 + match.start(), match[0], new, node)

    def define(self, node, scopes) -> None:
        new = self.renamed(node.name, scopes) if scopes[-1].kind == "module" else None
        if new:
            start = self.at(node.lineno, node.col_offset)
            word = re.compile(rb"\b(?:def|class)\s+(" + node.name.encode() + rb")\b")
            match = word.search(self.data, start)
            assert match
            self.edit(match.start(1), node.name, new, node)

    def attribute(self, node: ast.Attribute, scopes) -> None:
        if not isinstance(node.value, ast.Name):
            return
        found = self.resolve(node.value.id, scopes)
        if found is None or len(found[1]) != 1 or found[1][0][0] != "module":
            return
        module = found[1][0][1]
        target = self.target(module, node.attr)
        if target is None:
            return
        if target[0] != self.modules.get(module, module):
            self.warn(node, f"{node.value.id}.{node.attr} is in {target[0]} now")
        if target[1] != node.attr:
            end = self.at(node.end_lineno, node.end_col_offset)
            self.edit(end - len(node.attr.encode()), node.attr, target[1], node)

    def import_from(self, node: ast.ImportFrom, scopes) -> None:
        if not node.module or node.level:
            return
        lines: dict[str, list[str]] = {}
        changed = False
        here = self.modules.get(self.module, self.module)
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            if full in self.known:
                new = self.modules.get(full, full)
                parent, _, leaf = new.rpartition(".")
            else:
                parent, leaf = self.target(node.module, alias.name) or (
                    self.modules.get(node.module, node.module),
                    alias.name,
                )
                if parent == here and leaf:
                    changed = True
                    continue
            changed = changed or (parent, leaf) != (node.module, alias.name)
            if leaf != alias.name:
                self.local[alias.name] = leaf
            lines.setdefault(parent, []).append(leaf + (f" as {alias.asname}" if alias.asname not in (None, leaf) else ""))
        if not changed:
            return
        start, end = self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)
        if b"#" in self.data[start:end]:
            self.warn(node, "a comment inside an import is lost")
        indent = " " * node.col_offset
        made = ("\n" + indent).join(f"from {parent} import {', '.join(items)}" for parent, items in lines.items())
        if not made and not node.col_offset:
            end += 1  # with its line
        self.edits.append((start, end, made or ("pass" if node.col_offset else "")))

    def apply(self) -> str:
        data = self.data
        for joined, old, new in self.fstrings:
            start, end = self.at(joined.lineno, joined.col_offset), self.at(joined.end_lineno, joined.end_col_offset)
            for match in re.finditer(rb"\{[^{}]*\}", data[start:end]):
                for word in re.finditer(rb"(?<![\w.'\"])" + old.encode() + rb"\b(?!\s*=[^=])", match[0]):
                    at = start + match.start() + word.start()
                    self.edits.append((at, at + len(old.encode()), new))
        out, last = [], 0
        for start, end, new in sorted(set(self.edits)):
            if start < last:
                self.warnings.append(f"{self.path}: edits overlap at {data[start:end]!r}")
                continue
            out += [data[last:start], new.encode()]
            last = end
        return b"".join([*out, data[last:]]).decode()

    def comments(self, text: str) -> str:
        """In comments and docstrings of the file: `Old` in backticks follows."""
        if not self.local:
            return text
        words = re.compile(r"`(" + "|".join(map(re.escape, sorted(self.local, key=len, reverse=True))) + r")\b")
        plain = re.compile(r"\b(" + "|".join(map(re.escape, self.local)) + r")\b")
        raised = re.compile(r"(?<=Raises )[A-Z]\w+(?:(?:, | or | and )[A-Z]\w+)*|^ +[A-Z]\w+(?=: )", re.MULTILINE)

        def change(prose: str) -> str:
            prose = words.sub(lambda m: "`" + self.local[m[1]], prose)
            return raised.sub(lambda m: plain.sub(lambda w: self.local[w[1]], m[0]), prose)

        return in_prose(text, change)


def in_prose(text: str, change) -> str:
    """The text with its comments and triple-quoted strings changed."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    out, last = [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            start = starts[token.start[0] - 1] + token.start[1]
            end = starts[token.end[0] - 1] + token.end[1]
            out += [text[last:start], change(text[start:end])]
            last = end
    return "".join([*out, text[last:]])


def origins_of(files: dict[str, str], known: set[str]) -> dict[tuple[str, str], tuple[str, str]]:
    """(module, name) -> where the module has imported it from."""
    found = {}
    for path, text in files.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module in known:
                for alias in node.names:
                    if f"{node.module}.{alias.name}" not in known:
                        found[dotted(path), alias.asname or alias.name] = (node.module, alias.name)
    return found


def rewrite(files: dict[str, str], modules: Modules, names: Names) -> tuple[dict[str, str], list[str]]:
    """All files with imports and names changed; the files stay under their old paths."""
    known = {dotted(path) for path in files}
    known |= {module.rpartition(".")[0] for module in known}
    origins = origins_of(files, known)
    made, warnings = {}, []
    for path, text in files.items():
        worker = Rewriter(path, text, known, modules, names, origins)
        made[path] = worker.run()
        warnings += worker.warnings
    return made, warnings


def move_symbols(files: dict[str, str], moves: dict[tuple[str, str], str], docs: dict[str, str], at_end: set[str] = frozenset()) -> tuple[dict[str, str], list[str]]:
    """Definitions taken out of one file and put into another, {(path, name): path}; imports everywhere follow. `docs`: the
    docstring of a file that is not there yet."""
    files = dict(files)
    warnings: list[str] = []
    names: Names = {}
    additions: dict[str, list[str]] = {}
    imports: dict[str, list[str]] = {}
    for (path, name), to in moves.items():
        if path not in files:
            warnings.append(f"{path} is not there: {name} stays")
            continue
        text = files[path]
        tree = ast.parse(text)
        lines = text.splitlines(keepends=True)
        node = next(
            (
                n
                for n in tree.body
                if getattr(n, "name", None) == name
                or (isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id == name)
                or (isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id == name)
            ),
            None,
        )
        if node is None:
            warnings.append(f"{path} does not define {name}")
            continue
        first = min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", [])]]) - 1
        last = node.end_lineno
        while first and lines[first - 1].startswith("#"):
            first -= 1
        following = tree.body[tree.body.index(node) + 1] if node is not tree.body[-1] else None
        if following is not None and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            last = following.end_lineno  # the docstring of a constant
        additions.setdefault(to, []).append("".join(lines[first:last]).strip("\n"))
        needed = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        needed |= {
            word
            for n in ast.walk(node)
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
            for word in re.findall(r"[A-Za-z_]\w*", n.value)
            if n.value.isidentifier()
        }
        for statement in tree.body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                for alias in statement.names:
                    bound = alias.asname or alias.name.split(".")[0]
                    if bound in needed:
                        where = f"from {statement.module} " if isinstance(statement, ast.ImportFrom) else ""
                        suffix = f" as {alias.asname}" if alias.asname else ""
                        imports.setdefault(to, []).append(f"{where}import {alias.name}{suffix}")
        remaining = lines[:first] + lines[last:]
        rest = "".join(remaining)
        used = re.search(rf"(?<![\w.]){name}\b", re.sub(r'"""[\s\S]*?"""', "", rest))
        files[path] = rest if not used else insert_imports(rest, [f"from {dotted(to)} import {name}"])
        names[dotted(path), name] = (dotted(to), name)
        for other in {n.name for n in tree.body if hasattr(n, "name")} & needed - {name}:
            if (path, other) not in moves:
                warnings.append(f"{path}: {name} needs {other}, which stays")
    for to, texts in additions.items():
        base = files.get(to, f'"""{docs.get(to, "")}"""\n')
        base = insert_imports(base, imports.get(to, []))
        files[to] = insert_definitions(base, texts, to in at_end)
    made, more = rewrite(files, {}, names)
    return made, warnings + more


def insert_imports(text: str, statements: list[str]) -> str:
    if not statements:
        return text
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    at = 0
    if tree.body and isinstance(tree.body[0], ast.Expr):
        at = tree.body[0].end_lineno
    have = {ast.unparse(n) for n in tree.body}
    new = [s for s in dict.fromkeys(statements) if s not in have]
    return "".join([*lines[:at], "\n", *[s + "\n" for s in new], *lines[at:]])


def insert_definitions(text: str, texts: list[str], at_end: bool) -> str:
    """After the imports and the constants that stand right behind them."""
    between = "\n" if all(re.match(r"[A-Z_]+ = ", t) for t in texts) else "\n\n\n"
    if at_end:
        return text.rstrip("\n") + "\n\n\n" + between.join(texts) + "\n"
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    at = 0
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)) or (isinstance(node, ast.Expr) and at == 0):
            at = node.end_lineno
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            at = node.end_lineno
        else:
            break
    return "".join([*lines[:at], "\n\n", between.join(texts), "\n\n\n", *lines[at:]])
