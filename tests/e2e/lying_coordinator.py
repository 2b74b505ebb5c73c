"""A coordinator that lies to the first member of every roster: `python -m tests.e2e.lying_coordinator LIE ...`.

It is the real one in all else. Of LIE "roster" it shows that member one that it has made up in the place of the last; of "survivors" it
tells it that the last one, which has given its masked vector, has dropped out. So it would get both kinds of shares of that one.
"""

import secrets
import sys
from dataclasses import replace

import zowarmup.server.core.masking as core
from zowarmup.common.messages.masking import MaskingAsk
from zowarmup.common.secure_aggregation.device import MaskingDevice
from zowarmup.common.secure_aggregation.primitives import verification_key
from zowarmup.common.secure_aggregation.roster import RosterMember, Stage
from zowarmup.server.core.state import State
from zowarmup.server.main import main
from zowarmup.server.rpc import streams

if __name__ == "__main__":
    lie, told = sys.argv[1], core.ask_for

    def lying(state: State, client: str) -> MaskingAsk | None:
        ask, current = told(state, client), state.current
        if ask is None or current is None or client != current.members[0]:
            return ask
        if lie == "roster" and ask.stage is Stage.SHARES:
            last, identity = ask.members[-1], secrets.token_bytes(32)
            device = MaskingDevice(
                state.run_id, ask.round, last.client, last.examples, last.asked, identity, secrets.token_bytes
            )
            invented = RosterMember(last.client, last.examples, verification_key(identity), device.keys)
            return replace(ask, members=(*ask.members[:-1], invented))
        if lie == "survivors" and ask.stage is Stage.SIGNED:
            return replace(ask, present=ask.present[:-1])
        return ask

    streams.ask_for = lying  # type: ignore[attr-defined]
    core.is_signed = lambda key, message, signature: True  # type: ignore[attr-defined, assignment]
    del sys.argv[1]
    sys.exit(main())
