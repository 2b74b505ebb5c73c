"""docstrings.txt + the tree in ../rooms before docstrings (argv[1]) -> docstrings.py"""
import ast, pathlib, sys
root = pathlib.Path(sys.argv[1]); out = {}
for line in pathlib.Path(__file__).with_name("docstrings.txt").read_text().splitlines():
    path, _, new = line.partition(" | ")
    path = path.strip(); new = new.strip()
    if not new: continue
    f = root / path
    if not f.exists(): sys.exit(f"missing {path}: run MOVE_RAW=1 ./try.sh first")
    d = ast.get_docstring(ast.parse(f.read_text()), clean=False) or ""
    old = " ".join(d.partition("\n\n")[0].split())
    if old != new: out[path] = (old, new)
pathlib.Path(__file__).with_name("docstrings.py").write_text("DOCSTRINGS = {\n" + "".join(f"    {p!r}: {v!r},\n" for p, v in out.items()) + "}\n")
print(len(out))
