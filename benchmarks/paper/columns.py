"""The cells of an experiment by few columns: what each method reached, from where, and what it cost.

    python -m benchmarks.paper.columns OUT/cifar10_resnet8.csv benchmarks/paper/results/cifar10_resnet8.csv

Reads the table of cells that `zowarmup experiment` has written. `pivot` is the accuracy there, `forwards` are passes over one example
and `uplink_bytes` what was sent, both by all clients in the whole run.
"""

import csv
import sys
from pathlib import Path

COLUMNS = {
    "method": "method",
    "high_percent": "high_percent",
    "seed": "seed",
    "accuracy": "accuracy",
    "pivot": "accuracy_at_pivot",
    "forwards": "client_forwards",
    "uplink_bytes": "uplink_bytes",
}
"""Of each column, the name that it has among the experiment's."""


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    with source.open(newline="") as read, target.open("w", newline="") as written:
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row[name] for name in COLUMNS.values()] for row in csv.DictReader(read))


if __name__ == "__main__":
    main()
