"""How many images may be waiting or in work."""

from __future__ import annotations

import math
import time

from nextscale.server.problems import Refused


class Admission:
    """A bounded queue, by count of images."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.pending = 0
        self.draining = False
        self.seconds_each = 0.1
        "Time between finished images under load, a running mean."
        self.finished_at: float | None = None

    def enter(self, images: int) -> None:
        """Take up a request. Raises Refused when the queue is full or the server is stopping."""
        if self.draining:
            raise Refused(503, "the server is stopping; try another one, or later", retry_after=5)
        if images > self.most:
            raise Refused(400, f"n: at most {self.most} images fit into the queue, got {images}", param="n")
        if self.pending + images > self.most:
            wait = min(60, math.ceil(max(1.0, self.pending * self.seconds_each)))
            raise Refused(
                429, f"{self.pending} images are waiting, of {self.most} at most; try again in {wait} s",
                retry_after=wait,
            )  # fmt: skip
        self.pending += images

    def leave(self, images: int) -> None:
        """A request is done with, however it ended."""
        now = time.monotonic()
        if self.finished_at is not None and self.pending > images:
            self.seconds_each += 0.1 * (min(60.0, (now - self.finished_at) / images) - self.seconds_each)
        self.finished_at = now
        self.pending -= images
