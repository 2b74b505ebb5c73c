"""`zowarmup fleet --engine ray` on a Ray cluster of two nodes on this machine. Ray is an extra that nothing else needs, so
`make ray` and continuous integration install it first."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.settings.run import Evaluation, Model, RunFile

# Continuous integration has it, and fails without.
pytestmark = pytest.mark.skipif(find_spec("ray") is None and not os.environ.get("CI"), reason="not installed: make ray")
CLIENTS = 6
RUN = RunFile(
    name="ray",
    seed=5,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False),
    zeroth_order=zeroth_order_settings(
        rounds=4, clients_per_round=CLIENTS, quorum=1.0, learn_deadline=False, probes=4, head_projections=4
    ),
    evaluation=Evaluation(data="digits:test", every=100),
)


@pytest.fixture
def cluster() -> Iterator[str]:
    """Its address; the head has room for no part of a fleet, the two other nodes for one each."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1)
        yield nodes.address
    finally:
        nodes.shutdown()


def test_a_fleet_on_two_nodes_gives_the_bits_of_one_process(fleet: Callable, cluster: str) -> None:  # type: ignore[type-arg]
    digests = []
    for engine in ((), ("--engine", "ray", "--address", cluster, "--workers", "2")):
        members = fleet()
        members.lead(RUN)
        shared = ["fleet", "--server", members.address, "--clients", str(CLIENTS), "--high", "1", "--data", "digits"]
        members.processes.start(
            "fleet", "zowarmup.cli.main", [*shared, "--state", str(members.folder / "state"), *engine]
        )
        status = members.finished(CLIENTS)
        digests.append(status.digest)
        assert members.code("fleet", 60) == 0
        assert "6 clients of 6 with the run's own digest" in members.logged("fleet")
    assert digests[0] == digests[1]


def test_no_cluster_is_one_sentence(fleet: Callable) -> None:  # type: ignore[type-arg]
    members = fleet()
    options = ["--clients", "2", "--data", "digits", "--state", str(members.folder / "state"), "--engine", "ray"]
    done = members.run_once("zowarmup.cli.main", "fleet", *options, "--address", "127.0.0.1:9", seconds=120)
    assert done.returncode == 1
    assert "no Ray cluster answers at '127.0.0.1:9'" in done.stderr
    assert "Traceback" not in done.stderr
