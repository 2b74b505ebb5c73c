"""The demo's fleet, in this process: one client trains, nine only run the model forward."""

import zowarmup as zw

run = zw.simulate(
    "mlp",
    shards=zw.divide("digits", clients=10, alpha=0.1),
    held_out="digits:test",
    warmup={"rounds": 10, "epochs": 3, "rate": 0.1},
    zeroth_order={"rounds": 150},
)
print(run.history, run.plot("first.png"), f"digest {run.digest}", sep="\n")
