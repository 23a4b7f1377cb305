"""What a server counts, in Prometheus' format. Knows names and numbers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Counted", "Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "scalekv_requests", "Requests answered, by status.", ["status"], registry=registry
        )
        self.queue = Gauge("scalekv_queue_pictures", "Pictures that wait.", registry=registry)
        self.seconds = Histogram(
            "scalekv_request_seconds",
            "From a request's arrival to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.picture_seconds = Histogram(
            "scalekv_picture_seconds",
            "A picture's share of its scales, and its decoding.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.pictures = Counter("scalekv_pictures", "Pictures made.", registry=registry)
        self.dropped = Counter(
            "scalekv_pictures_dropped", "Not made: nobody waited any more.", registry=registry
        )
        self.held = Gauge(
            "scalekv_held_cache_bytes",
            "Keys and values held at the fullest moment of the latest pictures.",
            registry=registry,
        )
        self.peak = Gauge(
            "scalekv_peak_bytes",
            "The highest peak so far: of the device, or of the process on a CPU.",
            ["stage"],
            registry=registry,
        )

    def text(self) -> bytes:
        """All of them as /metrics shows them."""
        return generate_latest(self.registry)


class Counted:
    """An ASGI application whose answers are counted, refusals before it included."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        start = time.perf_counter()

        async def seen(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
                if scope["path"].startswith("/v1/images/generations"):
                    self._metrics.seconds.observe(time.perf_counter() - start)
            await send(message)

        await self._app(scope, receive, seen if scope["type"] == "http" else send)
