"""`zowarmup demo` as a person runs it: what it leaves behind, and that it leaves nothing running."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from tests.patience import PATIENCE
from zowarmup.data import load

ZOWARMUP = [sys.executable, "-m", "zowarmup.cli.main"]
SMALL = ["--high", "1", "--low", "2", "--rounds"]
LONG = "5000"  # far more than a test waits for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def belonging_to(out: Path) -> list[int]:
    """Processes, other than the demo itself, whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(out).encode() in word for word in words) and b"demo" not in words:
            found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + PATIENCE * seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@contextmanager
def demo(out: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [*ZOWARMUP, "demo", "--out", str(out), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=15)
            until(lambda: not belonging_to(out), 10, "the demo's processes to end")


def log(out: Path, name: str) -> str:
    path = out / "logs" / f"{name}.log"
    return path.read_text() if path.exists() else ""


def address(out: Path) -> str:
    until(lambda: "listening on" in log(out, "server"), 90, "the coordinator")
    match = re.search(r"listening on (\S+)", log(out, "server"))
    assert match
    return match[1]


@contextmanager
def on_a_terminal(out: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", Callable[[], str]]]:
    """The demo as a person starts it, and what the terminal has shown so far."""
    ours, theirs = os.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 4096):
                shown.extend(piece)

    command = [*ZOWARMUP, "demo", "--out", str(out), *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    reading = threading.Thread(target=read, daemon=True)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        reading.start()
        try:
            yield process, lambda: shown.decode(errors="replace")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=15)
            reading.join(5)
            os.close(ours)
            until(lambda: not belonging_to(out), 10, "the demo's processes to end")


def test_on_a_terminal_a_demo_trains_reports_stays_until_ctrl_c_and_can_be_exported(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with on_a_terminal(out, *SMALL, "12") as (process, shown):
        where = address(out)
        status = subprocess.run([*ZOWARMUP, "status", "--json", "--server", where], capture_output=True, check=True)
        assert json.loads(status.stdout)["name"] == "demo-mlp-0"
        until(lambda: "until Ctrl-C" in shown() or process.poll() is not None, 120, "the demo to be over")
        assert "all 3 clients' are equal" in shown(), shown()
        (page,) = set(re.findall(r"http://127\.0\.0\.1:\d+/", shown()))
        with urllib.request.urlopen(f"{page}state.json", timeout=10) as answer:
            assert json.load(answer)["now"]["phase"] == "finished"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 0
        assert belonging_to(out) == []
    written = (out / "report.html").read_text()
    kept = json.loads(written.partition('id="state">')[2].partition("</script>")[0])
    assert kept["run"]["name"] == "demo-mlp-0" and [name for name, _ in kept["devices"]].count("low-2") == 1
    assert all(row[2] > 20e6 and row[3] for row in kept["rows"]), "each device's memory and bytes"
    made = [*ZOWARMUP, "report", str(out / "server"), "--out", str(tmp_path / "again.html")]
    subprocess.run(made, check=True, capture_output=True)
    assert (
        (tmp_path / "again.html")
        .read_text()
        .partition("<body>")[2]
        .startswith(written.partition("<body>")[2].partition('id="state">')[0])
    )

    report = json.loads((out / "report.json").read_text())
    assert report["replicas_equal"] is True
    assert report["rounds"] == 22
    assert report["metrics"]["accuracy"]["final"] > report["metrics"]["accuracy"]["pivot"] > 0.1
    for direction in ("uplink_payload_bytes", "downlink_payload_bytes"):
        assert all(report[direction][tier]["zeroth-order"] > 0 for tier in ("high", "low"))
    # The first of the twelve has (8 + 1) 128 + 1 scalars, the others 64.
    assert 64 * 4 < report["uplink_bytes_per_contribution"]["low"]["zeroth-order"] <= (11 * 280 + 4700) / 12
    assert report["contributions"]["low"] == {"warm-up": 0, "zeroth-order": 24}
    assert 20 < report["peak_rss_mb"]["low"] < report["peak_rss_mb"]["high"]
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")

    done = subprocess.run(
        [*ZOWARMUP, "export", "--data-dir", str(out / "server"), "--out", str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"version 22, digest {report['digest']}" in done.stdout
    assert "inputs: float32 (n, 1, 8, 8), channels x height x width: stored as uint8, divided by 16" in done.stdout
    assert "classes: 0 = 0, 1 = 1," in done.stdout

    # With nothing but the file: its metadata say how raw digits become inputs, and what a label stands for.
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["data_card"])
    raw = load("digits:test")
    assert raw.inputs.dtype == card["element"]
    inputs = (raw.inputs.reshape(-1, *card["shape"]) / card["scale"]).astype(np.float32)
    assert card["mean"] == card["deviation"] == []
    logits = session.run(["logits"], {"inputs": inputs})[0]
    found = [card["class_names"][label] for label in np.argmax(logits, axis=1)]
    assert (
        np.mean([name == str(label) for name, label in zip(found, raw.targets, strict=True)])
        == report["metrics"]["accuracy"]["final"]
    )


def coloured(root: Path) -> Path:
    """The first digits, as people keep pictures: 24 x 24 in colours of their own, by class."""
    data = load("digits:train")
    tint = np.random.default_rng(0).uniform(0.4, 1.0, (len(data), 1, 1, 3))
    for number in range(300):
        picture = np.kron(data.inputs[number, 0], np.ones((3, 3)))[..., None] * (255 / 16) * tint[number]
        place = root / f"digit {data.targets[number]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(place / f"{number}.png")
    return root


def test_a_demo_on_pictures_says_what_it_uses_trains_and_reports(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with demo(out, *SMALL, "30", "--images", str(coloured(tmp_path / "own"))) as process:
        said, _ = process.communicate(timeout=PATIENCE * 120)
        assert process.returncode == 0, said
        assert belonging_to(out) == []
    assert said.startswith("found own: 300 pictures of 24 x 24, 10 classes (digit 0, digit 1,")
    used = re.search(r"3 clients with (\d+) each, of (\d+), and (\d+) held out, of (\d+)", said)
    assert used
    each, training, *held_out = map(int, used.groups())
    assert held_out[0] == held_out[1] == 300 - training
    assert each == training // 3
    report = json.loads((out / "report.json").read_text())
    assert report["data"] == f"{3 * each} pictures of own"
    assert report["replicas_equal"] is True
    assert report["metrics"]["accuracy"]["final"] > report["metrics"]["accuracy"]["pivot"]
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((out / "pictures" / "low-2").rglob("*.png"))) == each


MOMENTS: list[tuple[str, signal.Signals, Callable[[Path], object]]] = [
    ("while processes start", signal.SIGINT, lambda out: (out / "logs" / "server.log").exists()),
    ("while the model is made ready", signal.SIGTERM, lambda out: "will join when it answers" in log(out, "low-2")),
    ("while it trains", signal.SIGINT, lambda out: "version 10 committed" in log(out, "server")),
]


@pytest.mark.parametrize(("moment", "number", "come"), MOMENTS, ids=[moment for moment, *_ in MOMENTS])
def test_a_signal_at_any_moment_stops_everything(
    moment: str, number: signal.Signals, come: Callable[[Path], object], tmp_path: Path
) -> None:
    with demo(tmp_path, *SMALL, LONG) as process:
        until(lambda: come(tmp_path), 90, moment)
        process.send_signal(number)
        said, _ = process.communicate(timeout=15)
        assert process.returncode == 128 + number
        assert belonging_to(tmp_path) == []
    assert "Traceback" not in said


def test_a_second_demo_in_the_folder_is_refused_and_nothing_is_left_when_the_first_is_killed(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, LONG) as process:
        until((tmp_path / "run.toml").exists, 30, "the first")
        second = subprocess.run(
            [*ZOWARMUP, "demo", "--out", str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert "another demo is at work" in second.stderr
        assert (tmp_path / "run.toml").exists()
        until(lambda: "version 10 committed" in log(tmp_path, "server"), 90, "training")
        process.kill()
        until(lambda: not belonging_to(tmp_path), 5, "its processes to end")


def test_a_client_that_dies_ends_the_demo_and_is_named(tmp_path: Path) -> None:
    with demo(tmp_path, *SMALL, LONG) as process:
        until(lambda: "version 10 committed" in log(tmp_path, "server"), 90, "training")
        victim = next(pid for pid in belonging_to(tmp_path) if b"low-2" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(victim, signal.SIGKILL)
        said, _ = process.communicate(timeout=15)
        assert process.returncode == 1
        assert belonging_to(tmp_path) == []
    assert "zowarmup: low-2 was killed by SIGKILL; the last lines of" in said
