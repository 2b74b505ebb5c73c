"""What must come out alike on every machine, as JSON: run it on each and compare.

    PYTHONPATH=.build/python python tests/arm/exact.py REPLICA LAYOUT

`golden` computes tests/golden/vectors.json anew with the core itself. `probes` perturbs and restores a vector of
some 140,000 weights. `coordinator` combines the scalars of fifty rounds, as a coordinator does, and applies what comes
of them. `device` takes up REPLICA, the replica that a client of a real run left on its disk (its layout in LAYOUT), and
moves it on commit by commit, as a device does that has been away.

It needs what a low-tier device has and no more; nothing here is a floating-point function of a library.
"""

import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from zowarmup.client.store.replica import CommitLog, LocalReplica
from zowarmup.common.algorithms.protocol import ClientScalars, Start
from zowarmup.common.algorithms.zowarmup import ZOWarmUp, ZOWarmUpSettings
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor, digest
from zowarmup.common.exact.replica import Commit, Replica
from zowarmup.common.exact.steps import Direction, Step, apply_steps, perturb, swap_direction
from zowarmup.common.messages.codec import decode_commit, encode_commit
from zowarmup.common.messages.values import Scalars

VECTORS = Path(__file__).parents[1] / "golden" / "vectors.json"
ROUNDS, CLIENTS, EXAMPLES = 50, 5, 200
# A trunk whose size is no multiple of anything, and a head.
BODY, FEATURES, CLASSES = 140_003, 64, 10
TRAINABLE = BODY + FEATURES * CLASSES + CLASSES
LAYOUT = Layout(
    tensors=(
        Tensor("body", (BODY,), 0),
        Tensor("head.weight", (CLASSES, FEATURES), BODY),
        Tensor("head.bias", (CLASSES,), BODY + FEATURES * CLASSES),
        Tensor("running_mean", (16,), TRAINABLE),
    ),
    trainable=TRAINABLE,
    size=TRAINABLE + 16,
    blocks=(Block("all", 0, TRAINABLE), Block("trunk", 0, BODY), Block("head", BODY, TRAINABLE)),
    head=Head("head.weight", "head.bias", FEATURES, CLASSES),
)
GRID = Grid(20)


def numbers(key: int, count: int) -> NDArray[np.float32]:
    """Dyadic numbers in [-1, 1), the same on every machine: the upper halves of a Philox stream's words."""
    words = Philox(key=np.array([key, 0], dtype=np.uint64)).random_raw(count)
    return ((words >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(np.float32) * np.float32(2.0**-23)


def golden() -> dict[str, Any]:
    """The golden vectors' answers, in their own form."""
    given = json.loads(VECTORS.read_text())
    found: dict[str, Any] = {
        "lanes": [
            lanes(int(case["seed"]), int(case["group"]), case["start"], len(case["bytes"]) // 2).tobytes().hex()
            for case in given["lanes"]
        ]
    }

    def stepped(weights: NDArray[np.float32], case: dict[str, Any], grid: Grid | None = None) -> NDArray[np.float32]:
        steps = [Step(int(s["seed"]), Block("b", s["start"], s["stop"]), tuple(s["ticks"])) for s in case["steps"]]
        apply_steps(weights, grid or Grid(case["exponent"]), steps)
        return weights

    case = given["apply_steps"]
    moved = stepped(_weights(case["weights"], case["exponent"]), case)
    found["apply_steps"] = {"result": _ticks(moved, case["exponent"]), "digest_after": digest(moved).hex()}
    case = given["apply_steps_large"]
    patterned = [place * 2654435761 % 2**32 % 2001 - 1000 for place in range(case["size"])]
    found["apply_steps_large"] = {"digest_after": digest(stepped(_weights(patterned, case["exponent"]), case)).hex()}
    case = given["apply_steps_in_ranges"]
    grid, edge = Grid(case["exponent"], tuple(map(tuple, case["ranges"]))), case["ranges"][0][0]
    parts = (_weights(case["weights"][:edge], grid.exponent), _weights(case["weights"][edge:], case["ranges"][0][1]))
    moved = stepped(np.concatenate(parts), case, grid)
    result = _ticks(moved[:edge], grid.exponent) + _ticks(moved[edge:], case["ranges"][0][1])
    found["apply_steps_in_ranges"] = {"result": result, "digest_after": digest(moved).hex()}
    case = given["perturb"]
    moved, block = _weights(case["weights"], case["exponent"]), Block("b", case["start"], case["stop"])
    perturb(moved, Grid(case["exponent"]), Direction(int(case["seed"]), case["index"], block), case["ticks"])
    found["perturb"] = {"result": _ticks(moved, case["exponent"]), "digest_after": digest(moved).hex()}
    return found


def _weights(ticks: list[int], exponent: int) -> NDArray[np.float32]:
    return np.array([tick * 2.0**-exponent for tick in ticks], dtype=np.float32)


def _ticks(weights: NDArray[np.float32], exponent: int) -> list[int]:
    return [int(value) for value in (weights * np.float32(2.0**exponent)).tolist()]


def probes() -> dict[str, Any]:
    """Digests of a vector before, at each displacement of `ROUNDS` probes, and after."""
    weights = np.empty(LAYOUT.size, np.float32)
    weights[:] = GRID.quantise(numbers(1, LAYOUT.size))
    before, displaced = digest(weights).hex(), []
    directions = [Direction(99, index, LAYOUT.block("trunk")) for index in range(ROUNDS)]
    perturb(weights, GRID, directions[0], 1049)
    for here, there in zip(directions, [*directions[1:], None], strict=True):
        displaced.append(digest(weights).hex())
        perturb(weights, GRID, here, -2 * 1049)
        displaced.append(digest(weights).hex())
        if there is None:
            perturb(weights, GRID, here, 1049)
        else:
            swap_direction(weights, GRID, here, there, 1049)
    return {"before": before, "displaced": displaced, "after": digest(weights).hex()}


def coordinator() -> dict[str, Any]:
    """Digests of the versions that fifty rounds of five clients make, by way of the wire; and of one that takes all
    fifty in one pass."""
    algorithm = ZOWarmUp(ZOWarmUpSettings(rounds=ROUNDS), LAYOUT)
    start = np.zeros(LAYOUT.size, np.float32)
    start[:] = GRID.quantise(numbers(2, LAYOUT.size) * np.float32(0.5))
    replica, wired = Replica(LAYOUT, GRID, start.copy(), 0), []
    for done in range(ROUNDS):
        contributions = []
        for client in range(CLIENTS):
            seed = done * CLIENTS + client + 1
            values = numbers(1000 + seed, algorithm.spec.most_probes + algorithm.plan.projections).tolist()
            scalars = Scalars(
                done + 1, tuple(values[: algorithm.spec.most_probes]), tuple(values[algorithm.spec.most_probes :])
            )
            contributions.append(ClientScalars(seed << 40 | 7, EXAMPLES + client, scalars))
        steps = algorithm.aggregate(Start(replica.weights, GRID, done), contributions).steps(GRID)
        apply_steps(replica.weights, GRID, steps)
        replica.version += 1
        wired.append(encode_commit(Commit(replica.version, replica.digest(), steps), LAYOUT))
    commits = [decode_commit(data, LAYOUT) for data in wired]
    behind = Replica(LAYOUT, GRID, start, 0)
    behind.apply(commits)
    return {"digests": [commit.digest.hex() for commit in commits], "at_once": behind.digest().hex()}


def device(kept: Path, layout: Layout) -> dict[str, Any]:
    """Digests of the versions that a device's replica goes through, computed here, not read."""
    with tempfile.TemporaryDirectory() as folder:
        for file in kept.iterdir():
            if file.name.startswith(("snapshot-", "commits-")):
                shutil.copy(file, folder)
        # As a device does that starts again: the snapshot, and all commits in one pass. Each digest is checked.
        taken_up = LocalReplica(Path(folder), layout)
        taken_up.open()
        at_once = {str(taken_up.position.version): digest(taken_up.weights).hex()}
        # And one after the other.
        (log,) = Path(folder).glob("commits-*.log")
        commits = [decode_commit(record, layout) for record in CommitLog(log).records]
        log.unlink()
        replica = LocalReplica(Path(folder), layout)
        replica.open()
        digests = {str(replica.position.version): digest(replica.weights).hex()}
        for commit in commits:
            replica.apply([commit])
            digests[str(commit.version)] = digest(replica.weights).hex()
    return {"digests": digests, "at_once": at_once}


def main() -> None:
    kept, layout = Path(sys.argv[1]), Layout.from_json(Path(sys.argv[2]).read_text())
    started = time.monotonic()
    found = {"golden": golden(), "probes": probes(), "coordinator": coordinator(), "device": device(kept, layout)}
    json.dump({"machine": platform.machine(), "seconds": time.monotonic() - started, "found": found}, sys.stdout)


if __name__ == "__main__":
    main()
