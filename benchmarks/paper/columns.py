"""The cells of an experiment by few columns: what each method reached, from where, and what it cost.

    python -m benchmarks.paper.columns OUT/cifar10_resnet8.csv benchmarks/paper/results/cifar10_resnet8.csv method high_percent seed accuracy pivot forwards uplink_bytes
    python -m benchmarks.paper.columns OUT/sst2_minilm.csv benchmarks/paper/results/sst2_minilm.csv method seed accuracy loss forwards uplink_bytes --with brackets.csv

Reads the table of cells that `zowarmup experiment` has written. `pivot` is the accuracy there, `forwards` are passes over one example
and `uplink_bytes` what was sent, both by all clients in the whole run. `--with` adds the lines of a table that has these columns already.
"""

import argparse
import csv
from pathlib import Path

NAMES = {"pivot": "accuracy_at_pivot", "forwards": "client_forwards"}
"""Of a column, the name that it has among the experiment's, where that is another."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper.columns", description="Some columns of a table.")
    parser.add_argument("source", type=Path, help="the experiment's table of cells")
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("columns", nargs="+", help="in their order")
    parser.add_argument("--with", dest="others", type=Path, help="a table that has these columns")
    given = parser.parse_args()
    rows = [[row[NAMES.get(name, name)] for name in given.columns] for row in table(given.source)]
    rows += [[row[name] for name in given.columns] for row in (table(given.others) if given.others else ())]
    with given.target.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([given.columns, *rows])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
