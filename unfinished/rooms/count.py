"""Counts: python count.py ROOT"""
import ast, sys, pathlib, collections
root = pathlib.Path(sys.argv[1]); tops = "common data server client lab cli".split()
files = [p for t in tops for p in sorted((root / t).rglob("*.py"))]
rel = lambda p: str(p.relative_to(root))
mods = {"zowarmup." + rel(p).removesuffix(".py").removesuffix("/__init__").replace("/", "."): rel(p) for p in files}
lines = sum(len(p.read_text().splitlines()) for p in files)
classes = collections.defaultdict(list); fa = set(); imports = 0
for p in files:
    tree = ast.parse(p.read_text())
    for n in tree.body:
        if isinstance(n, ast.ClassDef): classes[n.name].append(rel(p))
    for n in ast.walk(tree):
        if isinstance(n, (ast.Import, ast.ImportFrom)):
            imports += n.end_lineno - n.lineno + 1
            names = [a.name for a in n.names] if isinstance(n, ast.Import) else [f"{n.module}.{a.name}" if f"{n.module}.{a.name}" in mods else n.module for a in n.names]
            fa |= {(rel(p), mods[m]) for m in names if m in mods and mods[m] != rel(p)}
def room(f):
    parts = f.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 or parts[1] in ("coordinator.py", "clock.py") else parts[0]
print("modules", len(files), "without __init__", sum(p.name != "__init__.py" for p in files), "lines", lines, "import lines", imports)
s = {(a, b) for a, b in fa if a.startswith("server/") and b.startswith("server/")}
print("arrows between files of server/", len(s))
r = collections.Counter((room(a), room(b)) for a, b in s if room(a) != room(b))
print("arrows between rooms of server/", len(r), sorted(r))
allr = {(room(a), room(b)) for a, b in fa if room(a) != room(b)}
print("arrows between rooms of the package", len(allr))
g = collections.defaultdict(set)
for a, b in allr: g[a].add(b)
def cyc():
    done = set(); out = []
    def visit(n, path):
        if n in path: out.append(path[path.index(n):] + [n]); return
        if n in done: return
        for m in sorted(g[n]): visit(m, path + [n])
        done.add(n)
    for n in sorted(g): visit(n, [])
    return out
print("circles between rooms", cyc())
print("class names twice", {k: v for k, v in classes.items() if len(v) > 1})
