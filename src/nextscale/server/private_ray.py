"""A Ray for one server: closed to other machines, silent, in a folder that is removed at the end."""

from __future__ import annotations

import atexit
import io
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "::1")
SOCKETS = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""The longest path that Ray makes below its folder."""
LONGEST = 107 if sys.platform.startswith("linux") else 103
"""Bytes of a Unix socket's path."""
PREFIX = "nextscale-"
INNER = "r"
"""Ray opens its folder to every user: it gets one inside a folder that is closed to others."""
ADD_PORT = "add_port_to_grpc_server"
"""Function of Ray Serve that opens a replica's port."""
ROOM = LONGEST - len(SOCKETS) - len(f"/{PREFIX}12345678/{INNER}")


@contextmanager
def private_ray(gpus: int) -> Iterator[None]:
    """A Ray of our own, whatever other Rays run. Import ray only inside. Raises ValueError where no folder can be made.

    It gives out that many GPUs: were Ray to count them otherwise than torch does, replicas might wait for ever. It
    needs no home folder, and does not touch another's `/tmp/ray`.
    """
    os.environ.update(environment())
    folder = short_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after Ray's own, which is registered later
    import ray
    from ray import serve  # sets up its logging

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with redirect_stdout(RayOutput()) as output:
        try:
            ray.init(address="local", num_gpus=gpus, include_dashboard=False, _temp_dir=str(folder / INNER), **quiet)
            yield
        except SystemExit:  # Ray raises it at SIGTERM while it starts
            raise KeyboardInterrupt from None
        finally:
            output.muted = True  # from here on its processes are meant to end
            if ray.is_initialized():
                serve.shutdown()
            ray.shutdown()


class RayOutput(io.TextIOBase):
    """Standard output of Ray, which prints there that a process has ended: one line of our log, without the advice."""

    muted = False

    def write(self, text: str) -> int:
        said = re.sub(r"\x1b\[[0-9;]*m|\(raylet\)", "", text).strip()
        if said and not self.muted:
            log.warning("Ray says: %s", said.splitlines()[0].partition(". ")[0])
        return len(text)


def environment() -> dict[str, str]:
    """Variables that Ray reads when it is imported: only the loopback address, and a new secret for every port."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too: without a cluster only the loopback address is used
        "RAY_ENABLE_AUTO_CONNECT": "0",  # a call after the end starts no other Ray
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # the handler aborts at SIGTERM, and nothing is cleaned up
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # Ray's own would be kept in the home folder
    }


def short_folder() -> Path:
    """A new folder whose path leaves room for Ray's sockets. Raises ValueError where there is none."""
    tried = []
    for parent in (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"):
        if not parent or len(os.fsencode(os.path.abspath(parent))) > ROOM:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=os.path.abspath(parent)))
        except OSError as error:
            tried.append(f"{parent} ({error.strerror})")
    raise ValueError(
        f"no folder for the server's sockets: {', '.join(tried)} cannot be written; set TMPDIR to a folder that can, "
        f"of at most {ROOM} characters"
    )


def keep_replicas_private() -> None:
    """Let this replica's own port listen at the address of its node. Call it in a replica, before the port is opened.

    Ray Serve opens the port at every address, and has no setting for that.
    """
    import ray
    from ray.serve._private import replica

    node, add_port = ray.util.get_node_ip_address(), getattr(replica, ADD_PORT, None)
    if node in LOOPBACK and add_port is not None:
        address = f"[{node}]:0" if ":" in node else f"{node}:0"
        setattr(replica, ADD_PORT, lambda server, _: add_port(server, address))
