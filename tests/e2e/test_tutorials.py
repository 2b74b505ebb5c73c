"""What a tutorial tells its reader to do, done: its files saved, its commands typed into terminals, and what it shows seen.

A terminal is a shell, as a reader's is. A block without a title is done to its end before the next; one that is titled
`Terminal N` goes on. Where `text` follows a block, its lines must come out of that block before the reader reads on. At the end every
terminal has ended by itself, or with Ctrl-C where it holds a coordinator that was not told to leave.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import REPOSITORY, Block, blocks
from tests.e2e.conftest import wait_until
from tests.patience import PATIENCE
from zowarmup.lab.processes import free_port

ADDRESS = "127.0.0.1:7070"
TERMINAL = "Terminal "


class Reader:
    """Who follows a tutorial in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.terminals: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        (folder / "home").mkdir()
        (folder / "examples").mkdir()
        for example in (REPOSITORY / "examples").glob("*.toml"):
            text = example.read_text(encoding="utf-8").replace(ADDRESS, self.address)
            (folder / "examples" / example.name).write_text(text, encoding="utf-8")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = os.environ | {
            "PATH": path, "HOME": str(folder / "home"), "ZOWARMUP_SERVER": self.address, "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def follow(self, block: Block) -> Path | None:
        """Do what a block asks; the file with what its commands print."""
        text = block.text.replace(ADDRESS, self.address)
        if block.language != "sh":
            if block.title:
                (self.folder / block.title).write_text(text, encoding="utf-8")
            return None
        output = self.folder / f"output-{block.line}"
        if block.title.startswith(TERMINAL):
            self.leave(block.title)
            self.terminals[block.title] = self.start(text, output), output
            if "zowarmup-server" in text:
                self.see(output, "waiting: ")
        else:
            process = self.start(text, output)
            assert process.wait(PATIENCE * 120) == 0, f"{block}: {output.read_text()}"
        return output

    def start(self, text: str, output: Path) -> "subprocess.Popen[bytes]":
        with output.open("wb") as file:
            return subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def see(self, output: Path, line: str) -> None:
        def seen() -> bool:
            ended = [
                str(file.read_text()) for process, file in self.terminals.values() if process.poll() not in (None, 0)
            ]
            assert not ended, ended
            return line in output.read_text()

        wait_until(seen, PATIENCE * 120, f"{line!r} in {output.read_text()}")

    def leave(self, title: str) -> None:
        """Wait until what a terminal does has ended: so does a reader who needs it for something else."""
        if title in self.terminals:
            process, output = self.terminals.pop(title)
            assert process.wait(PATIENCE * 60) == 0, output.read_text()

    def end(self) -> None:
        """Ctrl-C where a coordinator goes on, which was not told to leave, and then nothing goes on."""
        for title, (process, output) in list(self.terminals.items()):
            if "zowarmup-server" in str(process.args) and "--exit-when-finished" not in str(process.args):
                os.killpg(process.pid, signal.SIGINT)
                # The shell, too, hears it.
                assert process.wait(PATIENCE * 20) in (130, -signal.SIGINT), output.read_text()
                del self.terminals[title]
        for title in list(self.terminals):
            self.leave(title)


@pytest.mark.parametrize(
    ("document", "section"),
    [("docs/first-fleet.md", ""), ("README.md", "The same by hand")],
    ids=["tutorial", "by-hand"],
)
def test_a_reader_who_does_what_is_written_sees_what_is_shown(document: str, section: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    told = blocks(REPOSITORY / document, section)
    assert sum(block.title.startswith(TERMINAL) for block in told) >= 3
    output: Path | None = None
    try:
        for block in told:
            if block.language == "text":
                assert output is not None, block
                for line in block.text.splitlines():
                    reader.see(output, line)
            else:
                output = reader.follow(block)
        reader.end()
    finally:
        for process, _ in reader.terminals.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert list(tmp_path.glob("*.onnx"))
