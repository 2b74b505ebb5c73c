"""A client in this process: the one of `zowarmup-client`, for as long as a `with` block lasts."""

import concurrent.futures
import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from zowarmup.api.background import BackgroundTask
from zowarmup.api.datasets import dataset
from zowarmup.api.errors import RunError, SettingsError, sentences
from zowarmup.api.folders import PassingFolder
from zowarmup.client.policy import Policy, read_policy
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.addresses import addresses_in

if TYPE_CHECKING:
    from zowarmup.client.store.directory import Identity
    from zowarmup.client.work.device import Device

PATIENCE_S = 60.0
NEVER_S = 1e9
_clients: "weakref.WeakSet[LocalClient]" = weakref.WeakSet()
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Membership:
    """Where a client is.

    Args:
        client: Its name in the run; empty before it is a member.
        tier: That it takes; None before it is a member.
        version: Of its replica; 0 where it has none.
        digest: Of its replica, hex; empty where it has none.
        over: Whether the run is over for it.
    """

    client: str
    tier: Tier | None
    version: int
    digest: str
    over: bool


class LocalClient:
    """A client that takes part as long as a `with` block lasts, or until the run is over. Whatever keeps it from that is raised
    where it is waited for, by `wait` of a coordinator of this process, and at the latest at the end of the block.

    Args:
        server: The coordinator's HOST:PORT, or several of a run's coordinators, separated by commas.
        data: Its examples, as `dataset` takes them.
        tier: "high", "low", or "auto": what the memory allows.
        name: What it is called in the fleet; None: the host's name.
        state_dir: Where its identity and replica are, with which it comes back; None: in a folder that is gone with this object.
        policy: What it allows the coordinator: a policy, or the file of one. `forward_s` is not enforced: a pass that does not
            end could only be ended with this process.
        allow_model: Names of models, algorithms and tasks whose code may be imported.
        threads: How many compute.
        device: Where it probes: "cpu", or a device of torch's in the high tier.
        join_file: A file with its invitation.
        ca: PEM of who signs the coordinator's certificate.
        certificate: PEM of its own certificate, where one is asked for.
        key: PEM of that one's key.
        insecure: Whether everything is sent in plain text.
        connect_timeout_s: How long it waits for a coordinator that does not answer, at the start; None: for ever.

    Raises:
        DataError: The data cannot be read.
        SettingsError: An argument cannot be.

    Example:
        >>> import zowarmup as zw
        >>> with zw.Coordinator("run.toml", model_cache="models") as coordinator:
        ...     with zw.Client(coordinator.address, "digits:1/10", tier="low", name="pi") as client:
        ...         client.wait()
        >>> client.status().client, client.status().version
        ('pi', 1)
    """

    def __init__(
        self,
        server: str,
        data: object,
        *,
        tier: str | Tier = "auto",
        name: str | None = None,
        state_dir: Path | str | None = None,
        policy: Policy | Path | str | None = None,
        allow_model: Sequence[str] = (),
        threads: int = 1,
        device: str = "cpu",
        join_file: Path | str | None = None,
        ca: Path | str | None = None,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        insecure: bool = False,
        connect_timeout_s: float | None = PATIENCE_S,
    ) -> None:
        from zowarmup.client.participation import DeviceOptions
        from zowarmup.client.store.directory import client_name, default_name
        from zowarmup.client.work.joining import invited

        try:
            addresses_in(server)
            if tier not in ("auto", "high", "low"):
                raise ValueError(f'tier = {tier!r}: must be "auto", "high" or "low"')
            called = client_name(name or default_name())
            allowed = policy.allowing(allow_model) if isinstance(policy, Policy) else None
        except ValueError as error:
            raise SettingsError(str(error)) from None
        self._folder = PassingFolder() if state_dir is None else None
        with sentences():
            if allowed is None:
                allowed = read_policy(_path(policy), tuple(allow_model))
            self._options = DeviceOptions(
                server=server,
                name=called,
                source=data if isinstance(data, str) else f"the data of {called}",
                state_dir=self._folder.path / "state" if self._folder else Path(str(state_dir)).expanduser(),
                tier=str(tier),
                policy=replace(allowed, forward_s=NEVER_S),
                invitation=invited(_path(join_file)) if join_file is not None else None,
                ca=_path(ca),
                certificate=_path(certificate),
                key=_path(key),
                insecure=insecure,
                threads=threads,
                device=device,
                patience_s=math.inf if connect_timeout_s is None else connect_timeout_s,
                own_thread=True,
            )
        self._data = dataset(data, source=self._options.source)
        self._task: BackgroundTask[None] | None = None
        self._raised = False
        self._identity: Identity | None = None
        self._device: Device | None = None

    @property
    def server(self) -> str:
        """The coordinator's HOST:PORT, or several."""
        return self._options.server

    @property
    def name(self) -> str:
        """What it is called in the fleet."""
        return self._options.name

    def status(self) -> Membership:
        """Where it is."""
        identity, position = self._identity, None if self._device is None else self._device.position
        return Membership(
            client=identity.client if identity else "",
            tier=identity.tier if identity else None,
            version=position.version if position else 0,
            digest=position.digest.hex() if position else "",
            over=self._task is not None and self._task.done and self._task.error is None,
        )

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the run is over for it.

        Args:
            timeout_s: For at most so many seconds; None: for as long as it takes.

        Raises:
            RunError: It cannot take part, or not go on.
            TimeoutError: It takes longer.
        """
        if self._task is None:
            raise RunError("the client is not there: use it inside of `with zowarmup.Client(...) as client:`")
        try:
            self._task.wait(timeout_s)
        except TimeoutError:
            raise TimeoutError(f"the run is not over for {self.name} after {timeout_s:g} s") from None
        except concurrent.futures.CancelledError:
            raise RunError(f"client {self.name} has left") from None
        except Exception:
            self._raised = True
            raise

    def fault(self) -> BaseException | None:
        """What keeps it from going on; None where nothing does. Whoever asks raises it."""
        found = None if self._task is None else self._task.error
        self._raised |= found is not None
        return found

    def __enter__(self) -> Self:
        if self._task is not None:
            raise RunError("this client has been started already: make another with its state_dir to go on")

        async def work() -> None:
            from zowarmup.client.participation import participate

            with sentences():
                await participate(self._options, self._data, joined=self._joined)

        self._task = BackgroundTask(work())
        with _guard:
            _clients.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _guard:
            _clients.discard(self)
        if self._task is None:
            return
        self._task.end()
        found = self._task.error
        if found is None or self._raised:
            return
        if error is None:
            raise found
        error.add_note(f"and client {self.name}: {found}")

    def _joined(self, identity: "Identity", device: "Device") -> None:
        self._identity, self._device = identity, device


def failed_at(address: str) -> BaseException | None:
    """What keeps one of the clients of this process at HOST:PORT from going on; None where nothing does."""
    with _guard:
        found = [client.fault() for client in _clients if address in addresses_in(client.server)]
    return next(filter(None, found), None)


def _path(given: object) -> Path | None:
    return None if given is None else Path(str(given)).expanduser()
