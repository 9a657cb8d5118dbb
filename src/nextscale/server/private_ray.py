"""Ray for one server: closed to other machines, without words of its own, in a folder that goes with it."""

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

log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "::1")
SOCKETS = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""What Ray appends to its folder."""
LONGEST = 107 if sys.platform.startswith("linux") else 103
"""Bytes of a Unix socket's path."""
PREFIX = "nextscale-"
INNER = "r"
"""Ray opens its folder to every user, so that it is one inside of a closed one."""
ROOM = LONGEST - len(SOCKETS) - len(f"/{PREFIX}12345678/{INNER}")


@contextmanager
def private_ray() -> Iterator[None]:
    """A Ray of our own, whatever other ones there are. Import ray only inside. Raises ValueError without a folder.

    A home folder is not needed, and nobody else's `/tmp/ray` is touched.
    """
    os.environ.update(environment())
    folder = short_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after Ray, which registers later, has ended the rest
    import ray
    from ray import serve  # which sets up its logging

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with redirect_stdout(RaysWords()) as words:
        try:
            ray.init(
                address="local", include_dashboard=False, _temp_dir=str(folder / INNER), log_to_driver=False,
                logging_level=logging.ERROR,
            )  # fmt: skip
            yield
        except SystemExit:  # which Ray makes of SIGTERM while it starts
            raise KeyboardInterrupt from None
        finally:
            words.muted = True  # that its processes end is no news any more
            if ray.is_initialized():
                serve.shutdown()
            ray.shutdown()


class RaysWords(io.TextIOBase):
    """Where Ray prints that a process of its own has ended: one line of our log, without the advice."""

    muted = False

    def write(self, text: str) -> int:
        said = re.sub(r"\x1b\[[0-9;]*m|\(raylet\)", "", text).strip()
        if said and not self.muted:
            log.warning("Ray says: %s", said.splitlines()[0].partition(". ")[0])
        return len(text)


def environment() -> dict[str, str]:
    """What Ray reads when it is imported: its node is the loopback address, and every port asks for a new secret."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too: no cluster, hence no address but the loopback's
        "RAY_ENABLE_AUTO_CONNECT": "0",  # none but ours is started, not even by a call after its end
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # which aborts at SIGTERM, so that nothing is cleaned up
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # which would otherwise be kept in the home folder
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
    """Let a replica's own port listen where its node does.

    Ray Serve opens it at every address, and has no setting for that. Called in a replica, before the port is opened.
    """
    import ray
    from ray.serve._private import replica

    node, opened = ray.util.get_node_ip_address(), getattr(replica, "add_port_to_grpc_server", None)
    if node in LOOPBACK and opened is not None:
        address = f"[{node}]:0" if ":" in node else f"{node}:0"
        replica.add_port_to_grpc_server = lambda server, _: opened(server, address)  # pyright: ignore[reportPrivateImportUsage]
