"""What TensorBoard's own reader finds in a folder of event files: `python scalars.py FOLDER`, in an environment that has TensorBoard,
prints it as JSON for tests/e2e/test_tracking.py."""

import json
import sys
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main(folder: str) -> None:
    found: Any = EventAccumulator(folder, size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    tags = found.Tags()
    print(
        json.dumps(
            {
                "scalars": {tag: [[e.step, e.value] for e in found.Scalars(tag)] for tag in tags["scalars"]},
                "texts": {
                    tag: [[e.step, e.tensor_proto.string_val[0].decode()] for e in found.Tensors(tag)]
                    for tag in tags["tensors"]
                },
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
