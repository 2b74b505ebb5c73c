import ast,sys,pathlib,collections
sys.path.insert(0,".")
root=pathlib.Path(".")
tops="common data server client lab cli".split()
files=[p for r in tops for p in sorted((root/r).rglob("*.py"))]
mods={"zowarmup."+str(p).removesuffix(".py").removesuffix("/__init__").replace("/","."):str(p) for p in files}
IMP=set("asyncio concurrent datetime glob http io multiprocessing os pathlib platform queue random resource sched secrets select selectors shelve shutil signal socket socketserver sqlite3 ssl subprocess tempfile threading time urllib uuid".split())
def room(f):
    p=str(f).split("/")
    return "/".join(p[:2]) if p[0] in("common","server","client","lab") else p[0]
ext=collections.defaultdict(lambda:collections.defaultdict(list)); imp=collections.defaultdict(lambda:collections.defaultdict(set)); arrows=collections.Counter(); wire=set()
for p in files:
    def walk(n,eager):
        for c in ast.iter_child_nodes(n):
            names=[]
            if isinstance(c,ast.Import): names=[a.name for a in c.names]
            elif isinstance(c,ast.ImportFrom): names=[(c.module+"."+a.name) if (c.module+"."+a.name) in mods else c.module for a in c.names]
            for m in names:
                t=m.split(".")[0]
                if t=="zowarmup":
                    if m.startswith("zowarmup.v1"): wire.add(str(p)); continue
                    f=mods.get(m)
                    if f and room(f)!=room(p): arrows[room(p),room(f)]+=1
                elif t in sys.stdlib_module_names:
                    if t in IMP: imp[room(p)][t].add(p.name)
                else: ext[room(p)][t+("" if eager else "?")].append(p.name)
            inside=isinstance(c,(ast.FunctionDef,ast.AsyncFunctionDef,ast.Lambda))
            ty=isinstance(c,ast.If) and "TYPE_CHECKING" in ast.unparse(c.test)
            walk(c,eager and not inside and not ty)
    walk(ast.parse(p.read_text()),True)
for r in sorted(set(map(room,files))):
    print("##",r,"->",sorted({b for a,b in arrows if a==r}))
    for k,v in ext[r].items(): print("    ",k,len(set(v)),sorted(set(v))[:9])
    if imp[r] and r.startswith(("common","server/core","server/proj","lab/exp")): print("     IMPURE",{k:sorted(v)[:3] for k,v in imp[r].items()})
print("wire",sorted(wire))
