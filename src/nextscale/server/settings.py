"""Settings of the server."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from nextscale.config import require_at_least
from nextscale.settings import Computing

ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")


@dataclass(frozen=True, kw_only=True)
class ServerSettings(Computing):
    """What is served, and within which limits."""

    model: str = "demo"
    "demo, var-d16 ... var-d36, a model or run folder, or a hub id."
    precision: str = ""
    "auto, fp32, bf16, fp16, int8 (CPU) [default: fp32 on CPU, whose images do not depend on other requests; else auto]"
    replicas: int = 0
    "Processes that hold the model each, on CUDA each on a GPU of its own; 0 is 2 for small models on CPU, else 1."
    batch_size: int = 0
    "Images that a replica works on at once; 0 takes as many as suit the model and the device."
    queue: int = 256
    "Images that may be waiting or in work; beyond that, requests are refused with status 429."
    deadline: float = 120.0
    "Seconds after which a request is given up with status 504."
    max_images: int = 10
    "Images of one request at most."
    max_pixels: int = 16_000_000
    "Pixels of an uploaded image at most."
    max_body: int = 32_000_000
    "Bytes of a request at most."
    api_key_file: str = ""
    "File with one key a line; requests then need one of them (Authorization: Bearer KEY)."
    cors_origins: tuple[str, ...] = ()
    "Web pages that may use the server from a browser: https://one.example,https://two.example, or * for all."
    access_log: bool = True
    "Whether each request is logged in a line: method, path, status, milliseconds, images; no prompts, no keys."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "queue", "max_images", "max_pixels", "max_body")
        require_at_least(self, 0, "batch_size", "replicas")
        if re.fullmatch(r"cuda:\d+", self.device):
            number = self.device.removeprefix("cuda:")
            raise ValueError(
                f"device {self.device}: each replica gets a GPU of its own; use cuda, "
                f"and CUDA_VISIBLE_DEVICES={number} in the environment to choose"
            )
        if not self.deadline > 0:
            raise ValueError(f"deadline must be above 0 seconds, got {self.deadline}")
        origins = tuple(origin.strip().lower().rstrip("/") for origin in self.cors_origins)
        object.__setattr__(self, "cors_origins", origins)
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors_origins: {origin!r} is no origin; expected * or https://HOST[:PORT], without a path"
                )

    def precision_on(self, kind: str) -> str:
        """The `--precision` name for a kind of device (`cpu`, `cuda`, `mps`)."""
        return self.precision or ("fp32" if kind == "cpu" else "auto")

    @property
    def served_name(self) -> str:
        """Clients' name of the model: of a folder its name, without the path on this machine."""
        folder = Path(self.model)
        return folder.resolve().name if folder.exists() else self.model


class Keys:
    """API keys, kept as digests."""

    def __init__(self, keys: list[str]) -> None:
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def read(cls, file: str) -> Keys:
        """One key a line; blank lines and # comments do not count. Raises ValueError for a file without any."""
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--api-key-file {file}: cannot be read ({error})") from error
        keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise ValueError(f"--api-key-file {file}: holds no key; expected one a line")
        return cls(keys)

    def accept(self, key: str) -> bool:
        """Whether a key is one of these; takes the same time whichever it is."""
        digest = hashlib.sha256(key.encode("latin-1", errors="replace")).digest()  # the bytes that were sent
        return sum(hmac.compare_digest(digest, known) for known in self.digests) > 0
