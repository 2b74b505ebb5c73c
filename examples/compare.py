"""Algorithms beside each other, after one warm-up: what each makes of as many rounds, and what it sends for them.

python examples/compare.py        # the figure is in compare.png
"""

from typing import Any

import zowarmup as zw

ROUNDS = 40
shards = zw.divide("digits", clients=6, alpha=0.5)
methods: dict[str, dict[str, Any]] = {
    "FedAvg by the high tier alone": {"rounds": 0},
    "ZOWarmUp": {"rounds": ROUNDS},
    "ZOWarmUp, a byte a scalar": {"rounds": ROUNDS, "scalars": "byte"},
    "DeComFL": {"algorithm": "decomfl", "rounds": ROUNDS},
}
runs = {}
for name, zeroth_order in methods.items():
    rounds = 10 if zeroth_order["rounds"] else 10 + ROUNDS
    runs[name] = zw.simulate(
        "mlp",
        shards,
        held_out="digits:test",
        warmup={"rounds": rounds},
        zeroth_order=zeroth_order,
        evaluate_every=5,
        name=name[:60],
    )
    costs = runs[name].costs
    print(
        f"{name:32} {runs[name].value:6.1%} {costs.up_bytes() / 1e3:8.0f} kB up {costs.forwards / 1e3:8.0f} k forwards"
    )
zw.plot(runs, "compare.png")
