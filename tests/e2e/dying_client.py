"""A client that is killed when a stage of secure aggregation is asked of it: `python -m tests.e2e.dying_client STAGE FOLDER ...`.

It is the real client in all else, and dies by SIGKILL, in the midst of what it does; of no stage, never. What it adds to the sum of
each round it writes down in a folder, which stands for what only the device knows.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.main import main
from zowarmup.client.work.masking import Masking
from zowarmup.common.messages.masking import MaskingAsk, MaskingStep

if __name__ == "__main__":
    stage, folder = sys.argv[1], Path(sys.argv[2])
    answer, summand = Masking.answer, Masking._summand

    def answer_or_die(self: Masking, ask: MaskingAsk) -> MaskingStep:
        if ask.stage == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(self, ask)

    def noted(self: Masking, held: object) -> NDArray[np.uint64]:
        found = summand(self, held)  # type: ignore[arg-type]
        np.save(folder / f"{self._client}-{held.work.round}.npy", found)  # type: ignore[attr-defined]
        return found

    Masking.answer, Masking._summand = answer_or_die, noted  # type: ignore[method-assign]
    sys.exit(main(sys.argv[3:]))
