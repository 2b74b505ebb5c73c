"""Table 2's columns at the paper's full size on one GPU: `python -m benchmarks.full_size PATH --high 10`.

ResNet18 with BatchNorm on CIFAR-10 (PATH as in the data spec `cifar10:PATH`), 50 clients of 1,000 images, Dirichlet 0.1,
200 rounds of FedAvg by the high tier and then 300 rounds by 10 of all clients: what each contribution after the pivot is
worth, from one and the same pivot. This is a simulation in torch's own arithmetic, so that a hundred thousand
optimizer steps fit into minutes; the exact core, the wire and the processes are not part of it.

Methods after the pivot, all without momentum:
  high_only  FedAvg by the high tier goes on.
  paper      S = 3 directions of everything, each measured on all local images; the raw step.
  head       The head's exact gradient from one forward pass, sent as 64 directional derivatives; the trunk frozen.
  norm       The same, beside 32 probes of the normalisation parameters, each on its own slice of the images.
  ceiling    Everyone back-propagates once a round and sends the whole gradient.
Steps but the paper's are normalized for each block (divided by the estimate's root mean square) and annealed linearly.

The first 2,000 test images choose learning rates, the other 8,000 give the accuracy. Results are written as they come;
what does not fit into --seconds is left out and named.
"""

import argparse
import csv
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.full_size.column import Column, OutOfTime

CLIENTS, PARTICIPANTS, VALIDATION = 50, 10, 2000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size")
    parser.add_argument("path", help="where CIFAR-10 is, as in cifar10:PATH")
    parser.add_argument("--high", type=int, nargs="+", default=[10], help="percent of clients that are high-tier")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.05, help="of FedAvg's clients")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--participants", type=int, default=PARTICIPANTS)
    parser.add_argument("--validation", type=int, default=VALIDATION, help="test images that choose learning rates")
    parser.add_argument("--streams", type=int, default=5)
    parser.add_argument("--head-rates", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.05])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--check", action="store_true", help="finite differences beside exact derivatives")
    parser.add_argument("--out", type=Path, default=Path("full_size.csv"))
    arguments = parser.parse_args()
    start = time.monotonic()
    arguments.until = start + arguments.seconds
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    with arguments.out.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["method", "high_percent", "seed", "round", "rate", "accuracy", "validation", "seconds"])

        def write(column: Column, method: str, number: int, rate: object, accuracy: float, validation: float) -> None:
            taken = round(time.monotonic() - start, 1)
            rows.writerow(
                [
                    method,
                    column.high_percent,
                    column.seed,
                    number,
                    json.dumps(rate),
                    f"{accuracy:.2f}",
                    f"{validation:.2f}",
                    taken,
                ]
            )
            file.flush()
            print(
                method,
                column.high_percent,
                column.seed,
                number,
                rate,
                f"{accuracy:.2f} {validation:.2f} {taken}",
                flush=True,
            )

        for seed in arguments.seeds:
            for high in arguments.high:
                try:
                    Column(arguments, high, seed, torch.device(arguments.device), write).run()
                except OutOfTime:
                    print(f"out of time at {high} %, seed {seed}: what follows is missing", file=sys.stderr)
                    return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
