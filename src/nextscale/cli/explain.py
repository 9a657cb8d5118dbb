"""`nextscale explain`: the interactive account of the method."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass
from typing import Any

from nextscale.cli.options import ConfigFile, accepts, settle


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """Settings of `nextscale explain`."""

    host: str = "127.0.0.1"
    "Address to listen at."
    port: int = 7870
    "Port to listen at."
    browser: bool = True
    "Open the page in a browser, where there is a display."

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be between 1 and 65535, got {self.port}")


def has_display() -> bool:
    """Whether a browser opens a window; without one, Python would start one that runs in the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


@accepts(ExplainOptions, first=("browser", "host", "port"))
def explain(*, config: ConfigFile = "", given: Any = None) -> None:
    """Serve the interactive account of the method, with models that draw in the browser."""
    options = settle(ExplainOptions, given, file=config)
    from nextscale.explain.server import page_server

    with page_server(options.host, options.port) as server:
        url = f"http://{options.host}:{options.port}/"
        print(f"{url}  (Ctrl-C stops)", flush=True)
        if options.browser and has_display():
            webbrowser.open(url)
        server.serve_forever()
