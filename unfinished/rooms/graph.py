import ast,sys,pathlib,collections
sys.path.insert(0,"rooms-script")
from table import MOVES
root=pathlib.Path(sys.argv[1])
tops="common data server client cli lab".split()
files={str(p.relative_to(root)) for r in tops for p in (root/r).rglob("*.py")}
mod=lambda f:"zowarmup."+f.removesuffix(".py").removesuffix("/__init__").replace("/",".")
mods={mod(f):f for f in files}
edges=set()
for f in files:
    for n in ast.walk(ast.parse((root/f).read_text())):
        if isinstance(n,ast.ImportFrom) and n.module and n.module.startswith("zowarmup"):
            for a in n.names:
                m=n.module+"."+a.name
                t=mods.get(m) or mods.get(n.module)
                if t: edges.add((f,t,a.name))
        elif isinstance(n,ast.Import):
            for a in n.names:
                if a.name in mods: edges.add((f,mods[a.name],""))
new=lambda f:MOVES.get(f,f)
def room(f):
    p=new(f).split("/")
    return "/".join(p[:2]) if len(p)>2 else (p[0]+"/*" if p[0] in("server","client","cli","lab","common") else p[0])
by=collections.defaultdict(list)
for a,b,n in edges:
    if room(a)!=room(b): by[room(a),room(b)].append(f"{new(a)} -> {new(b)}:{n}")
for (a,b),l in sorted(by.items()):
    print(a,"->",b,len(l))
    if len(sys.argv)>2 and (sys.argv[2]=="all" or a.startswith(sys.argv[2])):
        for x in sorted(l): print("      ",x)
un=[f for f in sorted(files) if f not in MOVES and new(f)==f]
print("unmoved",un)
print("=====")
ALLOW={
"common/exact":"",
"common/settings":"common/exact",
"common/messages":"common/exact common/settings",
"common/system":"",
"common/tasks":"common/exact",
"common/models":"common/exact common/settings common/system",
"common/algorithms":"common/exact common/settings common/messages common/tasks",
"data":"common/exact common/settings common/system",
}
C="common/exact common/algorithms common/tasks common/models common/messages common/settings common/system"
CP="common/exact common/algorithms common/messages common/settings"
ALLOW.update({
"server/core":CP,
"server/projections":CP+" server/core",
"server/store":CP+" common/system server/core server/projections",
"server/aggregation":C+" data server/core server/projections server/store server/coordinator.py",
"server/rpc":C+" data server/core server/projections server/store server/coordinator.py",
"server/telemetry":C+" data server/core server/projections server/store server/coordinator.py",
"server/setup":C+" data server/core server/projections server/store server/coordinator.py",
"client/store":C,
"client/net":C+" data client/store",
"client/work":C+" data client/store client/net",
"client/diagnostics":C+" data client/store client/net client/work",
})
def pr(f):
    return new(f)
for a,b,n in sorted(edges,key=lambda e:(new(e[0]),new(e[1]))):
    ra,rb=room(a),room(b)
    if ra==rb or ra not in ALLOW: continue
    al=ALLOW[ra].split()
    if rb in al or new(b) in al: continue
    print(new(a),"->",new(b),n)
print("-- single server modules")
for a,b,n in sorted(edges):
    if room(a)=="server/*" and room(b).startswith("server") and new(a) not in("server/main.py",) or room(b)=="server/*" and room(a)!="server/*": print(new(a),"->",new(b),n)
