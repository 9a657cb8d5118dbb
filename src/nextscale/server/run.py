"""Start the server on this machine and stop it in order."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time

from nextscale.server.settings import ServerSettings

LOOPBACK = "127.0.0.1"
log = logging.getLogger(__name__)


def serve_until_stopped(settings: ServerSettings, *, host: str = LOOPBACK, port: int = 8000) -> None:
    """Serve until SIGTERM or SIGINT; what was accepted by then is finished. Raises ValueError for a port in use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require_free(host, port)
    import ray
    from ray import serve

    from nextscale.server.deployment import build

    application = build(settings)
    stop = threading.Event()
    ray.init(
        include_dashboard=False, _node_ip_address=LOOPBACK, log_to_driver=False, logging_level=logging.WARNING,
        configure_logging=True,
    )  # fmt: skip
    # After Ray's own handlers, which end at once.
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        serve.start(
            proxy_location="HeadOnly", http_options={"host": host, "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )  # fmt: skip
        api = serve.run(application, name="nextscale", route_prefix="/")
        log.info("serving %s at http://%s:%d/v1 (documentation at /docs); stop with Ctrl-C", settings.model, host, port)
        stop.wait()
        log.info("stopping: what was accepted is finished first")
        ends = time.monotonic() + settings.deadline
        while api.drain.remote().result() and time.monotonic() < ends:
            time.sleep(0.1)
        time.sleep(0.3)  # the last answers are still being sent
    finally:
        serve.shutdown()
        ray.shutdown()
        for each, handler in before.items():
            signal.signal(each, handler)


def require_free(host: str, port: int) -> None:
    """Raises ValueError when nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"--host {host} --port {port}: cannot listen there ({error}); choose another") from error
