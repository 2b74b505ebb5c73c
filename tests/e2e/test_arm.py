"""The same bits on another machine: aarch64, by user-mode emulation, against this one.

`make arm` fetches that machine's packages (tests/arm/fetch.sh) and runs this. The fleets below are real, and train here;
the replica that one of each one's devices leaves behind is then taken up on either machine by tests/arm/exact.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.language import DECODER, language_folder, sayings
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.settings.text import Text
from zowarmup.server.store.archive import open_archive

REPOSITORY = Path(__file__).parents[2]
ARM = REPOSITORY / ".build" / "arm"
EXACT = REPOSITORY / "tests" / "arm" / "exact.py"
WARM_UP_ROUNDS, ROUNDS = 2, 50
RUN = RunFile(
    name="arm",
    seed=5,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=WARM_UP_ROUNDS, clients_per_round=1, quorum=1.0, learn_deadline=False, epochs=1),
    zeroth_order=zeroth_order_settings(
        rounds=ROUNDS,
        clients_per_round=3,
        quorum=1.0,
        learn_deadline=False,
        train="all",
        probes=9,
        head_projections=9,
        whitening=0,
    ),
    evaluation=Evaluation(data="digits:test", every=100),
)


@dataclass(frozen=True)
class Answer:
    """What tests/arm/exact.py printed on one machine."""

    machine: str
    seconds: float
    found: dict[str, Any]


def answer(command: list[str], path: str, kept: list[str]) -> Answer:
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(EXACT), *kept], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return Answer(**json.loads(done.stdout))


def test_aarch64_gives_the_same_bits(fleet: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    if not (ARM / "ready").exists():
        assert not os.environ.get("CI"), "continuous integration must have fetched it: make .build/arm/ready"
        pytest.skip("there is no aarch64 in .build/arm: make arm (it needs Debian's apt and dpkg, on x86-64)")
    folder = language_folder(tmp_path / "model", DECODER)
    told = [str(sayings(tmp_path / f"{number}.tsv", 12, number)) for number in range(4)]
    adapters = replace(
        RUN,
        model=Model(name=f"hf:{folder}", task="completion", base="int8"),
        text=Text(most_tokens=10),
        zeroth_order=zeroth_order_settings(
            rounds=12,
            clients_per_round=3,
            quorum=1.0,
            learn_deadline=False,
            train="lora:r=4,modules=q,v",
            probes=9,
            eps=0.02,
        ),
        evaluation=Evaluation(data=f"tsv:{told[0]}", every=100),
    )
    archives, kept = [], list[str]()
    for run, shards in (
        (RUN, [f"digits:{shard}/3" for shard in (1, 2, 3)]),
        (adapters, [f"tsv:{path}" for path in told[1:]]),
    ):
        mixed = fleet()
        mixed.lead(run)
        for data, (name, tier) in zip(shards, {"high-1": "high", "low-1": "low", "low-2": "low"}.items(), strict=True):
            mixed.join(name, data, tier)
        mixed.finished(3)
        archives.append(open_archive(mixed.data_dir))
        layout = tmp_path / f"layout-{len(archives)}.json"
        layout.write_text(archives[-1].layout.to_json())
        kept += [str(mixed.folder / "clients" / "low-1"), str(layout)]
        mixed.processes.stop()

    tree = str(REPOSITORY / ".build" / "python")
    here = answer([sys.executable], tree, kept)
    python = str(next((ARM / "root" / "usr" / "bin").glob("python3.[0-9]*")))
    there = answer([str(ARM / "qemu"), "-L", str(ARM / "root"), python], f"{tree}:{ARM / 'site'}", kept)
    print(f"{here.machine}: {here.seconds:.1f} s, {there.machine}: {there.seconds:.1f} s (emulated)")

    assert there.machine == "aarch64"
    assert here.machine != "aarch64", "this machine is one already: it has nothing to be compared with"
    assert there.found == here.found
    # And what both found is what it should be, rather than wrong alike.
    vectors = json.loads((REPOSITORY / "tests" / "golden" / "vectors.json").read_text())
    assert there.found["golden"]["lanes"] == [case["bytes"] for case in vectors["lanes"]]
    for name in ("apply_steps", "apply_steps_large", "perturb"):
        wanted = {key: vectors[name][key] for key in there.found["golden"][name]}
        assert there.found["golden"][name] == wanted
    probes = there.found["probes"]
    assert probes["after"] == probes["before"]
    assert len({probes["before"], *probes["displaced"]}) == 2 * ROUNDS + 1
    fifty = there.found["coordinator"]
    assert fifty["at_once"] == fifty["digests"][-1]
    assert len(set(fifty["digests"])) == ROUNDS
    for archive, run, device in zip(archives, (RUN, adapters), there.found["devices"], strict=True):
        versions = range(WARM_UP_ROUNDS, WARM_UP_ROUNDS + run.zeroth_order.rounds + 1)
        assert device["digests"] == {str(version): archive.digest(version) for version in versions}
        assert device["at_once"] == {str(versions[-1]): archive.digest(versions[-1])}
