"""`nextscale serve` in a process of its own, for benchmarks: started, watched, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx


class Server:
    """`nextscale serve` in a process of its own."""

    def __init__(self, model: str, *options: str, folder: str | None = None) -> None:
        """`folder`: where it runs."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "nextscale", "serve", "--model", model, "--port", str(port), *options]
        self.folder = folder

    def __enter__(self) -> Server:
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, cwd=self.folder)
        for _ in range(600):
            assert self.process.poll() is None, self.said()
            try:
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError("the server does not answer")

    def said(self) -> str:
        """What a server that ended has left in its log."""
        self.log.seek(0)
        return f"the server ended: {self.log.read().decode(errors='replace')[-3000:]}"

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)

    def memory(self) -> float:
        """Megabytes of all processes together."""
        return sum(resident(self.process.pid).values())

    def kill_replica(self) -> None:
        for pid in resident(self.process.pid):
            if b"ServeReplica:nextscale:ImageModel" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def resident(root: int) -> dict[int, float]:
    """Megabytes of a process and all that stem from it, without what they share with files."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "stat").exists():
            parents.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(
                int(entry.name)
            )
    found, stack = {}, [root]
    while stack:
        pid = stack.pop()
        stack += parents.get(pid, [])
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[pid] = next((int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon")), 0.0)
    return found
