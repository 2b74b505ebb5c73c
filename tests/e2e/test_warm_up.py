"""A warm-up by an optimizer on the server, which ends by itself, with real processes.

That a crash in its midst changes no bit is seen in `tests/scenario/test_crash_warm_up.py`.
"""

import signal
from collections.abc import Callable
from typing import Any

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

ROUNDS, LONGEST = 3, 400
RUN = RunFile(
    name="warm-up",
    seed=3,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(
        rounds=LONGEST,
        clients_per_round=1,
        quorum=1.0,
        learn_deadline=False,
        epochs=1,
        algorithm="fedadam",
        server_rate=0.003,
        pivot="auto",
        patience=40,
        least_improvement=0.3,
    ),
    zeroth_order=zeroth_order_settings(
        rounds=ROUNDS, clients_per_round=2, quorum=1.0, learn_deadline=False, probes=8, head_projections=4
    ),
    evaluation=Evaluation(data="digits:test", every=1000),
)
NAMES = {"high-1": "high", "low-1": "low"}


def test_it_is_killed_in_its_midst_and_pivots_by_itself(fleet: Callable[[], Any]) -> None:
    made = fleet()
    made.lead(RUN)
    for shard, (name, tier) in enumerate(NAMES.items(), 1):
        made.join(name, f"digits:{shard}/2,alpha=100", tier)
    seen = made.until(lambda status: status.version >= 1, 60, "version 1")
    assert seen.phase is Phase.WARM_UP and not seen.pivot_reason
    made.signal("server", signal.SIGKILL)
    killed = open_archive(made.data_dir).state
    assert killed.phase is Phase.WARM_UP and killed.snapshot.optimiser
    made.lead(None, "server-again")

    status = made.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    assert 80 < status.pivot_version < LONGEST and status.version == status.pivot_version + ROUNDS
    assert status.pivot_reason.startswith("the held-out loss has not fallen by 30 %: ")
    assert f"pivot at version {status.pivot_version}: {status.pivot_reason}" in made.logged("server-again")
    assert status.pivot_evaluation is not None and status.value(status.pivot_evaluation) > 0.6
    assert status.refusals == {}, "an honest client is never too fast"
    made.processes.stop()
    assert check(made.data_dir).problems == []
