"""`nextscale serve` in a process of its own: started, watched, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx

REPLICA = b"ServeReplica:nextscale:ImageModel"
"""What the command line of a process that holds the model contains."""


class Server:
    """`nextscale serve` in a process of its own; what it says is kept line by line."""

    def __init__(
        self, model: str, *options: str, folder: str | Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """`folder`: where it runs."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "nextscale", "serve", "--model", model, "--port", str(port), *options]
        self.folder, self.environment = folder, environment
        self.lines: list[str] = []
        self.serves_or_ended = threading.Event()
        self.listener = threading.Thread(target=self.listen)

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
            env=self.environment,
        )  # fmt: skip
        self.listener.start()
        try:
            assert self.serves_or_ended.wait(120) and self.process.poll() is None, "".join(self.lines[-50:])
            assert httpx.get(f"{self.url}/healthz").status_code == 200, "it says that it serves and does not"
        except BaseException:
            self.stop()
            raise
        return self

    def listen(self) -> None:
        """Keep every line until the process ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if "serving" in line:
                self.serves_or_ended.set()
        self.serves_or_ended.set()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask for the end, and wait for it. A server that is stopping already stops at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.wait()

    def wait(self) -> int:
        """The exit status, once the server has ended and all that it said is here."""
        status = self.process.wait(90)
        self.listener.join(90)
        return status

    def memory(self) -> float:
        """Megabytes of all processes together, without what they share with files."""
        return sum(resident(pid) for pid in self.processes())

    def processes(self) -> list[int]:
        """Ids of the process and of all that stem from it."""
        return [self.process.pid, *descendants(self.process.pid)]

    def replicas(self) -> list[int]:
        """Ids of the processes that hold the model."""
        return [pid for pid in self.processes() if REPLICA in command_of(pid)]

    def kill_replicas(self) -> None:
        for pid in self.replicas():
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Processes that stem from this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, stack = [], [pid]
    while stack:
        own = children.get(stack.pop(), [])
        found += own
        stack += own
    return found


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def resident(pid: int) -> float:
    """Megabytes of a process, without what it shares with files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon")), 0.0)
