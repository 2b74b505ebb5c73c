"""A coordinator that is killed when it takes the second step of a stage of secure aggregation: `python -m tests.e2e.dying_coordinator
FOLDER STAGE,STAGE ...`.

It is the real one in all else, and dies by SIGKILL while it leads, with one step of that stage on record and the second not. Of several
that have one folder one dies for each stage, in their order. Scalars that come in without a mask it notes there.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from zowarmup.common.messages import codec
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core import masking
from zowarmup.server.core.state import State
from zowarmup.server.main import main

if __name__ == "__main__":
    folder, stages = Path(sys.argv[1]), [Stage(stage) for stage in sys.argv[2].split(",")]
    take, read = masking.take_step, codec.scalars_from_wire

    def take_or_die(command: cmd.TakeStep, state: State) -> tuple[ev.Event, ...]:
        taken, current = take(command, state), state.current
        left = [stage for stage in stages if not (folder / stage).exists()]
        if taken and current is not None and left and current.stage is left[0] and len(current.given) == 1:
            (folder / left[0]).write_text(f"{command.round}")
            os.kill(os.getpid(), signal.SIGKILL)
        return taken

    def noting(message: Any) -> Any:
        (folder / "scalars").touch()
        return read(message)

    masking.take_step, codec.scalars_from_wire = take_or_die, noting
    del sys.argv[1:3]
    sys.exit(main())
