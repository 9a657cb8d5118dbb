"""Figures for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
TOGETHER = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one HTTP process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "nextscale_requests", "Requests by path and status.", ("path", "status"), registry=self.registry
        )
        self.images = Counter("nextscale_images", "Images made.", ("kind",), registry=self.registry)
        self.pending = Gauge("nextscale_images_pending", "Images waiting or in work.", registry=self.registry)
        self.seconds = Histogram(
            "nextscale_request_seconds", "Time of requests.", ("path",), buckets=SECONDS, registry=self.registry
        )
        self.together = Histogram(
            "nextscale_batch_images", "Images that were made at once.", buckets=TOGETHER, registry=self.registry
        )

    def text(self) -> bytes:
        """Prometheus' exposition format."""
        return generate_latest(self.registry)
