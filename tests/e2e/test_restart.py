"""A coordinator or a client that stops and comes back."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.store.archive import back_up, open_archive

RUN = RunFile(
    name="restart",
    seed=5,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False),
    zeroth_order=zeroth_order_settings(
        rounds=60, clients_per_round=3, quorum=1.0, learn_deadline=False, probes=8, head_projections=4, snapshot_every=7
    ),
    evaluation=Evaluation(data="digits:test", every=100),
)
NAMES = {"high-1": "high", "low-1": "low", "low-2": "low"}


def run_to_its_end(fleet: Callable, disturb: Callable | None = None) -> str:  # type: ignore[type-arg]
    made = fleet()
    made.lead(RUN)
    for shard, (name, tier) in enumerate(NAMES.items(), 1):
        made.join(name, f"digits:{shard}/3", tier)
    if disturb:
        disturb(made)
    status = made.finished(3)
    assert status.replicas.agree == tuple(NAMES)
    digest: str = status.digest
    return digest


def test_a_killed_coordinator_loses_nothing(fleet: Callable) -> None:  # type: ignore[type-arg]
    """The disturbed run ends with the bits of the undisturbed one. Version 2 is the first with whitened features."""

    def kill_and_restart(made) -> None:  # type: ignore[no-untyped-def]
        for attempt, version in enumerate((0, 2, 20, 35)):
            name = f"server-{attempt}" if attempt else "server"
            made.until(lambda status, version=version: status.version >= version, 60, f"version {version}")
            made.signal(name, signal.SIGKILL)
            made.lead(None, f"server-{attempt + 1}")

    assert run_to_its_end(fleet, kill_and_restart) == run_to_its_end(fleet)


def test_a_killed_client_is_the_same_client_again_and_catches_up_by_steps(fleet: Callable) -> None:  # type: ignore[type-arg]
    def kill_and_restart(made) -> None:  # type: ignore[no-untyped-def]
        made.until(lambda status: status.version >= 1, 60, "the round that whitens")
        made.signal("low-2", signal.SIGKILL)
        made.join("low-2", "digits:3/3", "low", log="low-2-once")
        made.until(lambda status: status.version >= 20, 60, "version 20")
        made.signal("low-2-once", signal.SIGKILL)
        made.join("low-2", "digits:3/3", "low", log="low-2-again")

    made: list[object] = []

    def make():  # type: ignore[no-untyped-def]
        made.append(fleet())
        return made[-1]

    disturbed = run_to_its_end(make, kill_and_restart)
    assert disturbed == run_to_its_end(fleet)
    status = made[0].status()  # type: ignore[attr-defined]
    assert [client.name for client in status.clients] == list(NAMES)
    assert "fetched snapshot" not in made[0].logged("low-2-again")  # type: ignore[attr-defined]


def test_a_stopped_coordinator_continues_and_a_changed_run_file_is_refused(fleet: Callable) -> None:  # type: ignore[type-arg]
    made = fleet()
    made.lead(RUN)
    made.until(lambda status: True, 60, "the coordinator to listen")
    made.signal("server", signal.SIGTERM)
    assert "start again with the same --data-dir" in made.logged("server")
    run_file = made.folder / "run.toml"
    before = run_file.read_text()
    changed = replace(RUN, zeroth_order=replace(RUN.zeroth_order, rate=0.123))
    from zowarmup.lab.demo.settings import to_toml

    run_file.write_text(to_toml(changed))
    refused = made.run_once("zowarmup.server.main", str(run_file), "--data-dir", str(made.data_dir))
    assert refused.returncode == 1
    assert "zeroth_order.rate is 0.123, the run began with 0.4" in refused.stderr
    run_file.write_text(before)
    made.lead(None, "server-again")
    made.until(lambda status: status.name == "restart", 60, "the coordinator to listen again")
    assert "goes on at version 0" in made.logged("server-again")


def test_a_backup_of_a_live_run_goes_on_with_clients_that_are_ahead_of_it(fleet: Callable) -> None:  # type: ignore[type-arg]
    """The data directory is lost and its copy takes its place: every version comes out as it was, and goes on to the end."""
    kept: list[Path] = []

    def lose_and_restore(made) -> None:  # type: ignore[no-untyped-def]
        made.until(lambda status: status.version >= 5, 60, "version 5")
        copied = back_up(made.data_dir, made.folder / "copy").version
        made.until(lambda status: status.version >= min(copied + 10, 61), 60, "ten more versions")
        made.signal("server", signal.SIGKILL)
        made.data_dir.rename(made.folder / "lost")
        (made.folder / "copy").rename(made.data_dir)
        kept.extend([made.folder / "lost", made.data_dir])
        assert open_archive(made.data_dir).state.version == copied < open_archive(made.folder / "lost").state.version
        made.lead(None, "restored")

    run_to_its_end(fleet, lose_and_restore)
    lost, restored = (open_archive(folder).history.versions for folder in kept)
    assert {version: restored[version].digest for version in lost} == {v: lost[v].digest for v in lost}
