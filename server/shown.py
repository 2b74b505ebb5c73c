"""What a coordinator shows of itself: its metrics and its live page, where they are wanted."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from zowarmup.server.cluster.front_end import FrontEnd
from zowarmup.server.cluster.node import Node
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.listening import Listening
from zowarmup.server.opening import Opened
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc.streams import StreamRegistry
from zowarmup.server.served import Serving
from zowarmup.server.store.archive import BLOBS, LEDGER
from zowarmup.server.websites import Page, Site

if TYPE_CHECKING:
    from zowarmup.server.telemetry.cluster_metrics import ClusterFigures
    from zowarmup.server.telemetry.metrics import RunMetrics

log = logging.getLogger("zowarmup.server")


def metrics_of(serving: Serving) -> "RunMetrics | None":
    """What is measured of a run; None where it is shown nowhere."""
    if serving.shown is None:
        return None
    from zowarmup.server.telemetry.metrics import RunMetrics

    return RunMetrics(serving.run_file.name)


def figures_of(
    coordinator: Coordinator, node: Node | None, fenced: int, streams: StreamRegistry
) -> "Callable[[], ClusterFigures] | None":
    """Figures of a coordinator among several that has lost the lease `fenced` times; None where it is the only one."""
    if node is None or not isinstance(coordinator, FrontEnd):
        return None
    from zowarmup.server.telemetry.cluster_metrics import ClusterFigures

    return lambda: ClusterFigures(
        coordinator.leads, node.epoch, node.changes, fenced, coordinator.lag_s, len(streams), node.front_ends
    )


def show(
    serving: Serving,
    opened: Opened,
    listening: Listening,
    page: Page | None,
    metrics: "RunMetrics | None",
    traffic: Traffic,
    catch_ups: Mapping[str, int],
    figures: "Callable[[], ClusterFigures] | None",
) -> list[Site]:
    """Show metrics and the page.

    Args:
        serving: The run.
        opened: What there is of it.
        listening: Where clients are answered.
        page: None: there is none.
        metrics: As `metrics_of` made them.
        traffic: Of the run.
        catch_ups: As `StreamRegistry` counts them.
        figures: As `figures_of` made them.

    Returns:
        What is to be closed, and told of a new certificate.

    Raises:
        ListeningError: An address that was asked for is taken.
    """
    way, coordinator = serving.way, opened.coordinator
    sites: list[Site] = []
    if metrics is not None and serving.shown is not None:
        from zowarmup.server.telemetry.http import HttpServer
        from zowarmup.server.telemetry.metrics import Sources
        from zowarmup.server.telemetry.tcp_info import WireBytes

        wire = WireBytes(listening.port, traffic, lambda: coordinator.state.phase)
        wire.listen(asyncio.get_running_loop())
        coordinator.observe(wire)
        metrics.show(
            Sources(
                coordinator,
                opened.history,
                traffic,
                listening.refusals,
                serving.data_dir,
                serving.data_dir / LEDGER,
                serving.data_dir / BLOBS,
                catch_ups,
                wire,
                lambda: way.expires_at,
                (lambda: coordinator.leads) if isinstance(coordinator, FrontEnd) else (lambda: True),
                figures,
            )
        )
        website = HttpServer(serving.shown, {"/metrics": metrics.application})
        log.info("metrics at %s/metrics", website.open())
        sites.append(website)
    if page is not None:
        page.open(coordinator, opened.history, traffic, listening.refusals, way)
        sites.append(page)
    return sites
