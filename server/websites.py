"""What a coordinator shows by HTTP: metrics to Prometheus, and the live page to people.

Each is a server of its own, where the run file says. The page's address may be left to be found: then it is the first free
one of a few ports on the loopback, and a run without one goes on.
"""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zowarmup.common.settings.run import WEB_AUTO, WEB_PORTS, Server
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core.errors import ListeningError
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.store.archive import OPERATOR_CREDENTIAL

if TYPE_CHECKING:
    from zowarmup.server.rpc.endpoints import Endpoint
    from zowarmup.server.telemetry.endpoints import HttpEndpoint
    from zowarmup.server.telemetry.http import Application, HttpServer
    from zowarmup.server.telemetry.page.stream import EventStream

log = logging.getLogger("zowarmup.server")

PAGE_CONNECTIONS, PAGE_CONNECTIONS_EACH = 256, 64
"""A browser opens six at a time, and a class of them may share an address."""


class Site(Protocol):
    """Either of them."""

    def renew(self) -> None:
        """Show a new certificate."""

    def close(self) -> None:
        """End. It waits."""


class Page:
    """The live page, from `open` until `close`. `url`: where it is shown; empty where it is not."""

    def __init__(self, endpoint: "HttpEndpoint", found: bool, data_dir: Path) -> None:
        self._endpoint, self._found, self._data_dir = endpoint, found, data_dir
        self._server: HttpServer | None = None
        self._stream: EventStream | None = None
        self.url = ""

    def open(
        self, coordinator: Coordinator, history: History, traffic: Traffic, refusals: Counter[str], way: "Endpoint"
    ) -> None:
        """Begin to show it, and say where. Raises ListeningError where an address that was asked for is taken."""
        from zowarmup.server.telemetry.page.assets import applications
        from zowarmup.server.telemetry.page.stream import EventStream
        from zowarmup.server.telemetry.page.summary import PageSources
        from zowarmup.server.telemetry.page.view import PageView

        sources = PageSources(
            lambda: coordinator.state,
            coordinator.clock,
            history,
            traffic.counts,
            traffic.of,
            refusals,
            lambda: str(coordinator.trouble),
            lambda: way.expires_at,
        )
        self._stream = EventStream(lambda: PageView(sources))
        shown: dict[str, Application] = {**applications(), "/events": self._stream, "/state.json": self._stream.state}
        for port in WEB_PORTS if self._found else (self._endpoint.port,):
            server = self._made(port, shown)
            try:
                url = server.open()
            except ListeningError as error:
                if not self._found:
                    raise
                log.debug("%s", error)
                continue
            self._server, self.url = server, f"{url}/"
            asked = f" (any name; password: {self._data_dir / OPERATOR_CREDENTIAL})" if self._endpoint.admits else ""
            log.info("page at %s/%s", url, asked)
            return
        log.info(
            "no page: ports %d to %d of the loopback are taken; name another as server.web_address, or give --web-address",
            WEB_PORTS[0],
            WEB_PORTS[-1],
        )

    def _made(self, port: int, shown: "dict[str, Application]") -> "HttpServer":
        from zowarmup.server.telemetry.http import HttpServer

        return HttpServer(
            replace(self._endpoint, port=port),
            shown,
            connections=PAGE_CONNECTIONS,
            connections_each=PAGE_CONNECTIONS_EACH,
        )

    def renew(self) -> None:
        """Show a new certificate."""
        if self._server is not None:
            self._server.renew()

    def close(self) -> None:
        """Tell the viewers, and end. It waits."""
        if self._server is not None and self._stream is not None:
            self._server.call(self._stream.end)
            self._server.close()


def page_of(
    settings: Server, address: str, insecure: bool, way: "Endpoint", operator_sha256: str, data_dir: Path
) -> Page | None:
    """The page at an address, as `Server.web_address` has it; None where it is empty. Raises ListeningError."""
    if not address:
        return None
    from zowarmup.server.telemetry.endpoints import page_endpoint

    found = address == WEB_AUTO
    where = f"127.0.0.1:{WEB_PORTS[0]}" if found else address
    return Page(page_endpoint(settings, where, insecure, way.guarded, operator_sha256), found, data_dir)
