# SPDX-License-Identifier: BSD-3-Clause
"""What `rpma serve --metrics` tells Prometheus."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import rpma
from rpma import RpmaError
from rpma.address import why_not_listen

try:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    from rpma.cli.web import PageServer
    from rpma.pool.target.listening import listen
except ImportError as error:
    if error.name not in ("prometheus_client", "h11"):
        raise
    raise ImportError(
        f"--metrics needs {error.name}, which is not installed: pip install 'rpma[metrics]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from prometheus_client import Metric

    from rpma.pool.target.metrics import Metrics
    from rpma.pool.target.target import Target

log = logging.getLogger("rpma.serve")

PATIENCE = 5.0
"""How long the target may take to answer, in seconds."""

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@contextlib.contextmanager
def export(target: Target, host: str, port: int) -> Iterator[int]:
    """Answer Prometheus for a while; yields the port.

    Raises:
        OSError: it cannot listen there.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exporter(target))
    ProcessCollector(registry=registry)

    def page(is_openmetrics: bool) -> tuple[str, bytes]:
        encode, kind = choose_encoder(_OPENMETRICS if is_openmetrics else "")
        return kind, encode(registry)

    try:
        listening = listen(host, port)
    except OSError as error:
        why = why_not_listen(error)
        words = f"cannot listen on {host} port {port} for metrics: {why}; --metrics names another"
        raise OSError(error.errno, words) from None
    port = int(listening[0].getsockname()[1])
    with contextlib.ExitStack() as stack:
        for one in listening:
            stack.enter_context(one)
        stack.enter_context(PageServer(page, log).serving(*listening))
        log.info("metrics at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, port)
        yield port


class Exporter(Collector):
    """Asks the target when Prometheus asks."""

    def __init__(self, target: Target) -> None:
        """Of a target that need not run yet."""
        self._target = target

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are known when there are values."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics; without those of the target while it does not answer."""
        up = GaugeMetricFamily("rpma_target_up", "Whether the target answers.")
        try:
            found = self._target.metrics(PATIENCE)
        except RpmaError as error:
            log.warning("no metrics: %s", error)
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from families(found)


def families(found: Metrics) -> Iterator[Metric]:
    """The metrics of a target, as Prometheus has them."""
    yield InfoMetricFamily(
        "rpma_target",
        "What the target runs.",
        {"version": rpma.__version__, "fabric": rpma.fabric.name},
    )
    yield GaugeMetricFamily("rpma_clients", "Clients that are in.", found.clients)
    yield CounterMetricFamily("rpma_sessions", "Clients that came in.", found.sessions)
    yield CounterMetricFamily(
        "rpma_refused_logins", "Clients that did not show the token.", found.refused_logins
    )
    yield CounterMetricFamily(
        "rpma_refused_connections", "Clients that were one too many.", found.refused_connections
    )
    yield CounterMetricFamily(
        "rpma_displaced_strangers",
        "Clients that gave way to others, having shown no token.",
        found.displaced_strangers,
    )
    yield GaugeMetricFamily("rpma_open_pools", "Pools that a client has open.", found.open_pools)
    for name, words, value in (
        ("rpma_shadow_bytes", "Memory of the copies that pools have in DRAM.", found.shadow_bytes),
        ("rpma_shadow_limit_bytes", "How much such copies may take.", found.shadow_limit),
    ):
        yield GaugeMetricFamily(name, words, value)
    for name, words, by_kind in (
        ("rpma_pools", "Pools, open or not.", found.pools),
        ("rpma_pool_bytes", "The sizes of all pools.", found.bytes),
    ):
        gauge = GaugeMetricFamily(name, words, labels=["kind"])
        for kind, value in by_kind.items():
            gauge.add_metric([kind], value)
        yield gauge
    for name, words, by_kind in (
        ("rpma_requests", "Requests on control channels.", found.requests),
        ("rpma_refused_requests", "Requests that were refused, or failed.", found.refused_requests),
    ):
        counter = CounterMetricFamily(name, words, labels=["kind"])
        for kind, value in by_kind.items():
            counter.add_metric([kind.replace(" ", "_")], value)
        yield counter
    flushes = found.flushes
    for name, words, value in (
        ("rpma_flush_requests", "Flush requests.", flushes.requests),
        ("rpma_flush_ranges", "Ranges made durable for flush requests.", flushes.ranges),
        ("rpma_flush_bytes", "Bytes in these ranges.", flushes.bytes),
        ("rpma_flush_failures", "Flush requests that the storage failed.", flushes.failures),
        ("rpma_bad_flush_requests", "Flush requests that were none.", flushes.bad_requests),
    ):
        yield CounterMetricFamily(name, words, value)
