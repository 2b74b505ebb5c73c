"""TensorBoard: event files in a folder of the run's own, written with the tensorboard package and without TensorFlow or torch.

Each start of the coordinator writes a file more, as TensorBoard's own writers do, and TensorBoard shows all of a folder as one run. One
file cannot be gone on with: a crash leaves its last record half written, and a TensorBoard that has read the beginning of that waits for
the rest of it, whatever is put in its place. What is there already is read with TensorBoard's own reader, which stops there.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zowarmup.server.tracking.points import Standing, TrackedRun, VersionPoint

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter

PARAMETERS, ENDING = "run file", "ending"
"""The tags of the two texts."""


class TensorBoardTracker:
    """A `Tracker`. `folder`: where TensorBoard looks; the run's own is in it."""

    setting = "tracking.tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: RecordWriter | None = None
        self._ended = -1

    def open(self, run: TrackedRun) -> Mapping[str, int]:
        from tensorboard.summary.writer.record_writer import RecordWriter

        place = self._folder / _file_name(f"{run.name}-{run.run_id[:8]}")
        place.mkdir(parents=True, exist_ok=True)
        found, texts = _read(place)
        self._ended = texts.get(ENDING, -1)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}.zowarmup"
        self._writer = RecordWriter(open(place / name, "xb"))  # noqa: SIM115  (open until `close`)
        self._write({"file_version": "brain.Event:2"}, time.time())
        if PARAMETERS not in texts:
            table = "| parameter | value |\n|---|---|\n" + "\n".join(
                f"| {name} | {' '.join(value.replace('|', '&#124;').split())} |"
                for name, value in {**run.parameters, **run.tags}.items()
            )
            self._text(PARAMETERS, table, 0, run.began_at)
        self._writer.flush()
        return found

    def write(self, points: Sequence[VersionPoint]) -> None:
        assert self._writer is not None
        for point in points:
            values = [{"tag": name, "simple_value": value} for name, value in point.values.items()]
            self._write({"step": point.version, "summary": {"value": values}}, point.at)
        self._writer.flush()

    def stand(self, now: Standing) -> None:
        assert self._writer is not None
        if now.state == "stopped" or self._ended >= now.version:
            return  # a file need not be told that nobody writes it any more
        said = [f"{now.state} {now.reason}".strip(), *(f"{name}: {value}" for name, value in now.tags.items())]
        self._text(ENDING, "\n\n".join(said), now.version, time.time())
        self._writer.flush()
        self._ended = now.version

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _text(self, tag: str, text: str, step: int, at: float) -> None:
        value = {
            "tag": tag,
            "metadata": {"plugin_data": {"plugin_name": "text"}},
            "tensor": {"dtype": "DT_STRING", "string_val": [text.encode()], "tensor_shape": {"dim": [{"size": 1}]}},
        }
        self._write({"step": step, "summary": {"value": [value]}}, at)

    def _write(self, content: dict[str, Any], at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        assert self._writer is not None
        self._writer.write(Event(wall_time=at, **content).SerializeToString())


def _read(place: Path) -> tuple[dict[str, int], dict[str, int]]:
    """The last step of each number, and of each text, that the files in a folder have."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it names each file that it reads
    read = EventAccumulator(str(place), size_guidance={"scalars": 1, "tensors": 1})
    read.Reload()
    tags = read.Tags()
    numbers = {name: max(event.step for event in read.Scalars(name)) for name in tags["scalars"]}
    return numbers, {name: max(event.step for event in read.Tensors(name)) for name in tags["tensors"]}


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)
