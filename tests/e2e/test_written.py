"""What a device writes to its disk in a real run, as the kernel counts it: an SD card bears only so much."""

from collections.abc import Callable

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import Fleet
from tests.e2e.test_doctor import doctor
from zowarmup.client.diagnostics import sensors
from zowarmup.client.diagnostics.checks import Written
from zowarmup.client.store.directory import LOCK
from zowarmup.common.settings.run import Evaluation, Model, RunFile

ROUNDS = 200
# The log's record of a commit, its share of the snapshots that the log is folded into, and what the first fetch brought.
# A sync in every round would write 4,096 bytes more, a snapshot in every round 38,440.
BYTES_A_ROUND = 3000
RUN = RunFile(
    name="digits",
    model=Model(name="mlp"),
    evaluation=Evaluation(data="digits:test"),
    warmup=warmup_settings(rounds=0),
    zeroth_order=zeroth_order_settings(
        rounds=100_000, clients_per_round=2, minimum_clients=2, probes=8, head_projections=8
    ),
)


def test_a_round_costs_a_device_little_more_than_the_commit(fleet: Callable[[], Fleet]) -> None:
    one = fleet()
    one.lead(RUN)
    for shard, name in enumerate(("a", "b"), 1):
        one.join(name, f"digits:{shard}/2", "low")
    one.until(lambda status: status.version >= ROUNDS, 240, "so many rounds")
    for name in ("a", "b"):
        folder = one.folder / "clients" / name
        written = sensors.written(folder, folder / LOCK)
        assert isinstance(written, Written)
        assert 0 < written.bytes < ROUNDS * BYTES_A_ROUND, written
        assert 0 < written.seconds < 600
    _, found = doctor(one.address, "--state-dir", str(one.folder / "clients" / "a"))
    assert found["wear"]["found"].endswith("ask again after an hour")
