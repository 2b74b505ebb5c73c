"""Bits of every algorithm: what is committed, version by version, in small runs of each algorithm, step and option, and what demos end in.

    cd WORKTREE; .venv/bin/python ../bits.py OUTPUT.json [--demos]
    .venv/bin/python ../bits.py --compare BEFORE.json AFTER.json
"""
import dataclasses, hashlib, json, os, re, subprocess, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, os.getcwd())

FEDK = {"method": "fedkseed", "pool": 8, "head_projections": 0, "step": "raw", "rate": 1e-4}
Z = {  # zeroth-order rounds
    "plain": {}, "paper": {"slices": "whole", "head_projections": 0, "step": "raw", "clip": 0.0, "rate": 1e-3},
    "raw": {"step": "raw", "rate": 1e-3}, "clip 1": {"clip": 1.0}, "clip 1 adam": {"clip": 1.0, "step": "adam", "rate": 0.01},
    "uniform": {"weighting": "uniform"}, "most examples": {"most_examples": 5, "most_times_median": 1.0},
    "exact projections": {"gradient_projections": 5}, "exact projections adam": {"gradient_projections": 5, "step": "adam", "rate": 0.01},
    "exact gaussian": {"gradient_projections": 5, "directions": "gaussian"},
    "local steps": {"local_steps": 3}, "local rate": {"local_steps": 2, "local_rate": 0.01}, "local gaussian": {"local_steps": 2, "directions": "gaussian"},
    "whole": {"slices": "whole"}, "no head": {"head_projections": 0}, "tau": {"tau": 0.75, "eps": 1e-2},
    "adam": {"step": "adam", "beta2": 0.8, "rate": 0.01}, "gaussian": {"directions": "gaussian"},
    "decomfl": {"method": "decomfl"}, "decomfl local": {"method": "decomfl", "local_steps": 2},
    "decomfl median": {"method": "decomfl", "aggregate": "median", "weighting": "uniform"},
    "decomfl trimmed": {"method": "decomfl", "aggregate": "trimmed", "weighting": "uniform"},
    "decomfl adam": {"method": "decomfl", "step": "adam", "rate": 0.01}, "decomfl gaussian": {"method": "decomfl", "directions": "gaussian"},
    "decomfl median clip 1": {"method": "decomfl", "aggregate": "median", "weighting": "uniform", "clip": 1.0},
    "fedkseed": FEDK, "fedkseed normalized": {**FEDK, "step": "normalized", "rate": 0.05}, "fedkseed clip 1": {**FEDK, "clip": 1.0},
    "fedkseed trimmed": {**FEDK, "pool": 3, "aggregate": "trimmed", "weighting": "uniform"},
    "fedkseed gaussian": {**FEDK, "directions": "gaussian"}, "long raw": {"step": "raw", "rate": 5.0},
    "too long": {"rate": 30.0}, "mixed": {"high_tier": "fedavg"}, "mixed adam": {"high_tier": "fedavg", "step": "adam", "rate": 0.01},
    "mixed clip": {"high_tier": "fedavg", "clip": 1.0}, "mixed local": {"high_tier": "fedavg", "local_steps": 2},
}
W = {  # warm-ups
    "uniform": {"weighting": "uniform"}, "clip 1": {"clip": 1.0}, "clip 0": {"clip": 0.0}, "server rate": {"server_rate": 0.5},
    "median": {"aggregate": "median", "weighting": "uniform"}, "trimmed": {"aggregate": "trimmed", "weighting": "uniform"},
    "fedadam": {"method": "fedadam", "server_rate": 0.01}, "fedyogi": {"method": "fedyogi", "server_rate": 0.01, "beta1": 0.8},
    "fedadam median": {"method": "fedadam", "server_rate": 0.01, "aggregate": "median", "weighting": "uniform"},
    "heterofl": {"method": "heterofl", "clients_per_round": 4}, "heterofl clip 1": {"method": "heterofl", "clients_per_round": 4, "clip": 1.0},
    "heterofl median": {"method": "heterofl", "clients_per_round": 4, "aggregate": "median", "weighting": "uniform"},
    "auto": {"pivot": "auto", "patience": 1},
}


def settings(warmup, zeroth, fleet):
    from tests.faults.small import run_file
    from zowarmup.server.runfile import run_file_of
    plain = json.loads(json.dumps(dataclasses.asdict(run_file(fleet))))
    for section, given in (("warmup", warmup), ("zeroth_order", zeroth)):
        named, given = plain[section], dict(given)
        if "high_tier" not in named and given.pop("high_tier", "") == "fedavg":
            given["method"] = "mixed"
        if given.get("method", named.get("method")) != named.get("method"):
            # another algorithm has settings of its own: keep what was chosen, not the defaults
            chosen = {"rounds", "clients_per_round", "quorum", "deadline_s", "learn_deadline", "probes", "head_projections", "rate", "snapshot_every"}
            named = {k: v for k, v in named.items() if k in chosen and (section != "warmup" or k != "rate")}
        if given.get("method") == "fedkseed" and "aggregate" not in plain["zeroth_order"]:  # settings of its own
            named, given = ({k: v for k, v in d.items() if k != "head_projections"} for d in (named, given))
        plain[section] = {**named, **given}
    return run_file_of(plain, "bits")


def small(name, warmup, zeroth):
    from tests.faults.small import TRIO
    from tests.scenario.test_crash_points import outcome
    from zowarmup.common.work import Tier
    from zowarmup.server import events as ev
    from zowarmup.server.archive import LEDGER
    from zowarmup.server.ledger import Ledger
    fleet = {**TRIO, "low-2": Tier.LOW}
    with tempfile.TemporaryDirectory() as folder:
        calm = outcome(Path(folder), fleet, settings=settings(warmup, zeroth, fleet))
        said = hashlib.sha256()
        ledger = Ledger(Path(folder) / "server" / LEDGER, read_only=True)
        clipped = [0, 0]
        for _, event in ledger.read():
            if isinstance(event, ev.Committed):
                clipped[0] += event.clipped_scalars; clipped[1] += event.clipped_deltas
                steps = [(s.seed, s.block.start, s.block.stop, s.ticks) for s in event.steps]
                kept = event.snapshot and (event.snapshot.sha256, event.snapshot.exponent, event.snapshot.ranges, event.snapshot.optimiser)
                said.update(repr((event.version, event.digest, steps, kept, event.clipped_scalars, event.clipped_deltas, event.moments)).encode())
        ledger.close()
    return [calm.digest, calm.version, said.hexdigest()[:32], clipped]


def demo(model, seed, *more):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([".venv/bin/zowarmup", "demo", "--model", model, "--seed", str(seed), "--rounds", "60", "--out", f"{folder}/demo", *more],
                              capture_output=True, text=True, cwd=os.getcwd())
        said = "".join(p.read_text(errors="replace") for p in Path(folder).rglob("*.log"))
    found = re.findall(r"digest ([0-9a-f]{32}) \(the run's own\)", said)
    return sorted({(d, found.count(d)) for d in found}) or (done.stdout + done.stderr)[-600:]


def main():
    if sys.argv[1] == "--compare":
        before, after = (json.loads(Path(p).read_text()) for p in sys.argv[2:4])
        differing = [k for k in before if k in after and before[k] != after[k]]
        missing = [k for k in before if k not in after]
        print(f"{len(before)} before, {len(after)} after, {len(differing)} differ, {len(missing)} missing")
        for k in differing: print("DIFFERS", k, before[k], after[k])
        for k in missing: print("MISSING", k)
        return
    out = Path(sys.argv[1]); found = {}
    began = time.time()
    if "--demos" not in sys.argv:
        for kind, table in (("zeroth", Z), ("warmup", W)):
            for name, given in table.items():
                try:
                    found[f"{kind} {name}"] = small(name, *(({}, given) if kind == "zeroth" else (given, {})))
                except Exception as error:
                    found[f"{kind} {name}"] = f"{type(error).__name__}: {str(error)[:300]}"
    else:
        for seed in range(3):
            found[f"demo mlp {seed}"] = demo("mlp", seed)
    out.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} in {time.time() - began:.0f} s")
main()
