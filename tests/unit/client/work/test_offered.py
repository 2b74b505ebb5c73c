"""What a device was offered is kept, and another offer of the same run is refused in a sentence that says what differs."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.client.conftest import prepared
from zowarmup.client.errors import Final
from zowarmup.client.net.messages import Offer
from zowarmup.client.store.directory import OFFERED, StateDirectory
from zowarmup.client.work.offered import require_offered
from zowarmup.common.settings.run import Model


def test_an_offer_is_kept_compared_and_damage_is_said(tmp_path: Path) -> None:
    run = prepared(Model(name="mlp"))
    offer = Offer("run-1", "digits", run.spec, run.layout, bytes(32), 10, 1, 1)
    rate = 2 * run.spec.zeroth_order.rate
    steeper = replace(run.spec, zeroth_order=replace(run.spec.zeroth_order, rate=rate))
    with StateDirectory(tmp_path / "state") as state:
        require_offered(state, offer)
        require_offered(state, replace(offer, name="again", low_memory_bytes=2, now_s=1.0, software="zowarmup 9"))
        for other, said in (
            (replace(offer, spec=steeper), f"zeroth_order.rate was {run.spec.zeroth_order.rate} and is {rate}"),
            (replace(offer, program_sha256=b"\1" * 32), "sha256.program was "),
        ):
            with pytest.raises(Final, match=said):
                require_offered(state, other)
        require_offered(state, replace(offer, run_id="run-2", spec=steeper))
        with pytest.raises(Final, match=r"zeroth_order\.rate was"):
            require_offered(state, replace(offer, run_id="run-2"))
        (state.path / OFFERED).write_text("[]")
        with pytest.raises(Final, match="is damaged"):
            require_offered(state, offer)
