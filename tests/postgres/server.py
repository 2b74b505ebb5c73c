"""A real PostgreSQL of the tests' own: a cluster in a folder of its own, on a private socket and a free port of loopback, with fsync."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from zowarmup.common.settings.store import StoreAddress
from zowarmup.lab.processes import free_port

BUILT = Path(__file__).parents[2] / ".build" / "postgres"
USER = "zowarmup"
ROOM_BYTES = 1 << 30
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "max_wal_size": "16MB",
    "min_wal_size": "4MB",
    "autovacuum": "off",
    "jit": "off",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
}


def binaries() -> Path:
    """The folder with `initdb` and `postgres`; where there is none the test fails in CI and is skipped elsewhere."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    found = [BUILT / "bin" / "initdb", *reversed(installed), *([Path(on_path)] if on_path else [])]
    for initdb in found:
        if initdb.exists():
            return initdb.resolve().parent
    what = (
        "there is no PostgreSQL: `make .build/postgres/ready` fetches it where there is apt-get; elsewhere install its server, so "
        "that initdb and postgres are on the PATH"
    )
    assert not os.environ.get("CI"), what
    pytest.skip(what)


def _memory() -> str | None:
    """Where files are in memory, if there is room: what is tried is the order of writes, not the disk, which other tests use."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES else None


class PostgresServer:
    """A cluster and its process. Closed, nothing of it is left."""

    def __init__(self) -> None:
        self._bin = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="zowarmup-postgres-", dir=_memory()))
        self._user = None if os.getuid() else pwd.getpwnam("nobody")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = dict(os.environ, LC_ALL="C.UTF-8", TZ="UTC")
        try:
            self._reach()
            if self._user is not None:  # it refuses to be root
                os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
            self.data = self.folder / "data"
            self._run(
                "initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--wal-segsize=1"
            )
            with (self.data / "postgresql.conf").open("a") as config:
                config.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")
                config.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
            self.start()
        except BaseException:
            self.close()
            raise

    def _reach(self) -> None:
        """Programs that were fetched, with their libraries, where another user can reach them."""
        root = BUILT / "root"
        if not self._bin.is_relative_to(root.resolve()):
            return
        if self._user is not None:
            shutil.copytree(root, self.folder / "root", symlinks=True)
            self._bin = self.folder / "root" / self._bin.relative_to(root.resolve())
            root = self.folder / "root"
        libraries = [*root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu")]
        self._environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))

    def _command(self, name: str, *arguments: str) -> dict[str, object]:
        owner = (
            {} if self._user is None else {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        )
        return {"args": [str(self._bin / name), *arguments], "env": self._environment, "cwd": "/", **owner}

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(  # type: ignore[call-overload]
            **self._command(name, *arguments), check=False, capture_output=True, text=True, timeout=60 * PATIENCE
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def start(self) -> None:
        """Until it answers."""
        with (self.folder / "log").open("ab") as log:
            command = self._command("postgres", "-D", str(self.data))
            self._process = subprocess.Popen(**command, stdout=log, stderr=log)  # type: ignore[call-overload]
        ends_at = time.monotonic() + 60 * PATIENCE
        ready = self.data / "postmaster.pid"
        while "ready" not in (ready.read_text() if ready.exists() else ""):
            assert self._process.poll() is None and time.monotonic() < ends_at, self.log
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: at once and cleanly; SIGQUIT: as a crash, after which it recovers from its log."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(60 * PATIENCE)
        self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def close(self) -> None:
        try:
            self.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, schema: str = "", *, port: int = 0, database: str = "postgres") -> StoreAddress:
        """Of a schema of its own, unless one is named. `port`: of a proxy in between."""
        url = f"postgresql://{USER}@127.0.0.1:{port or self.port}/{database}"
        return StoreAddress(url, schema or f"t_{uuid.uuid4().hex}")


@contextlib.contextmanager
def serving() -> Iterator[PostgresServer]:
    with contextlib.closing(PostgresServer()) as server:
        yield server
