"""A client that is killed when a stage of secure aggregation is asked of it: `python -m tests.e2e.dying_client STAGE ROUND ...`.

It is the real client in all else, and dies by SIGKILL, in the midst of what it does.
"""

import os
import signal
import sys

from zowarmup.client.main import main
from zowarmup.client.work.masking import Masking
from zowarmup.common.messages.masking import MaskingAsk, MaskingStep

if __name__ == "__main__":
    stage, round = sys.argv[1], int(sys.argv[2])
    answer = Masking.answer

    def answer_or_die(self: Masking, ask: MaskingAsk) -> MaskingStep:
        if ask.stage == stage and ask.round >= round:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(self, ask)

    Masking.answer = answer_or_die  # type: ignore[method-assign]
    sys.exit(main(sys.argv[3:]))
