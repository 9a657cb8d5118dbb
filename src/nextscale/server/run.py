"""Start the server on this machine, and stop it when its work is done."""

from __future__ import annotations

import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nextscale.server.private_ray import LOOPBACK, private_ray
from nextscale.server.settings import ServerSettings

NAME = "nextscale"
"""Of the application."""
PULSE = 0.5
"""Seconds between looks at the log of the HTTP side, which is another process."""
log = logging.getLogger(__name__)


def serve_until_stopped(settings: ServerSettings, *, host: str = LOOPBACK[0], port: int = 8000) -> None:
    """Serve until SIGTERM or SIGINT; what was accepted by then is finished. Raises ValueError for a port in use."""
    port = require_free(host, port)
    gpus = require_devices(settings)
    require_weights(settings)
    with private_ray(gpus):
        from ray import serve

        from nextscale.server.deployment import build

        application = build(settings)
        with stop_signals() as stop:
            log.info("loading %s", settings.model)
            quiet = {"log_level": "ERROR", "enable_access_log": False}
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=quiet)
            try:
                api = serve.run(application, name=NAME, route_prefix="/")
            except RuntimeError as error:
                raise ValueError(f"{settings.model} cannot be served: {cause_of(error)}") from error
            announce(settings, host, port)
            while not stop.wait(PULSE):
                relay(api)
            log.info("stopping: what was accepted is finished first; again to stop at once")
            drain(api, settings.deadline)
            relay(api)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second signal raises KeyboardInterrupt. Enter it once Ray has started.

    Ray's own handlers end the process at once.
    """
    stop = threading.Event()

    def stopping(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {each: signal.signal(each, stopping) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def drain(api: Any, seconds: float) -> None:
    """Have the server take up nothing new, and wait for what it has accepted, so many seconds at most."""
    ends = time.monotonic() + seconds
    while api.drain.remote().result() and time.monotonic() < ends:
        time.sleep(0.1)
    time.sleep(0.3)  # the last answers are still being sent


def cause_of(failure: Exception) -> str:
    """Why the application did not start: the last line of a replica's traceback."""
    from ray import serve

    deployments = serve.status().applications[NAME].deployments.values()
    messages = [one.message for one in deployments if "Traceback" in one.message] or [str(failure)]
    last = messages[0].strip().splitlines()[-1]
    return re.sub(r"^[\w.]+(Error|Exception): ", "", last)


def announce(settings: ServerSettings, host: str, port: int) -> None:
    """Log where the server is, and who can use it."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("serving %s at %s/v1, documentation at %s/docs; stop with Ctrl-C", settings.model, url, url)
    if not settings.api_key_file and host not in (*LOOPBACK, "localhost"):
        log.warning("whoever reaches this machine can use the server; --api-key-file asks for keys")


def relay(api: Any) -> None:
    """Log what the HTTP side, another process, has logged since the last call."""
    try:
        lines = api.lines.remote().result(timeout_s=10)
    except Exception as error:  # it is being replaced
        log.debug("no log of the HTTP side: %s", error)
        return
    for level, line in lines:
        log.log(level, "%s", line)


def require_devices(settings: ServerSettings) -> int:
    """The number of GPUs that replicas take theirs from: all, or none for another device.

    Raises ValueError for a device or precision that this machine does not have, and for more replicas than GPUs, which
    would wait for ever.
    """
    import torch

    from nextscale.runtime import resolve_device, resolve_generation_dtype

    device = resolve_device(settings.device)
    resolve_generation_dtype(settings.precision_on(device.type), device)
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if gpus and settings.replicas > gpus:
        line = f"replicas: each takes a GPU, and this machine has {gpus}; use --replicas {gpus} or --device cpu"
        raise ValueError(f"{line}, got {settings.replicas}")
    return gpus


def require_weights(settings: ServerSettings) -> None:
    """Raises ValueError for a folder with damaged weights: replicas would try to load them again and again."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(settings.model).rglob("*.safetensors")) if Path(settings.model).is_dir() else []:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: not a readable safetensors file ({error})") from error


def require_free(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises ValueError for one that cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host {host} --port {port}: cannot listen there ({error}); choose another") from error
