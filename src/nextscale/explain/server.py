"""Serves the interactive page: static files of one folder, to browsers on this machine unless told otherwise."""

from __future__ import annotations

import json
import shutil
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nextscale.files import file_hash

PACKAGE = Path(__file__).parents[1]
SITE = PACKAGE / "explain" / "site"
MODELS = ("demo", "demo-raster")
"""The bundled models that draw in the page."""
SHARED = {
    f"models/{name}/{part}.safetensors": PACKAGE / "assets" / name / part / "model.safetensors"
    for name in MODELS
    for part in ("transformer", "tokenizer")
}
"""What the page reads of the package beside its own folder, by the path it asks for: weights, packed once."""
WEIGHTS = "models/weights.json"
"""Hash of each file of `SHARED` that the graphs were made for: they name places in it."""
NEEDED = ("index.html", "models/demo/transformer.onnx", "models/demo-raster/transformer.onnx", WEIGHTS)
"""Without these there is nothing to serve: the page, and the models that it draws with."""
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # these two together let the models compute in several threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; worker-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def shared_hashes() -> dict[str, str]:
    """What `WEIGHTS` holds for the package's present files."""
    return {name: file_hash(path) for name, path in SHARED.items()}


def require_page(site: Path) -> None:
    """Raises ValueError where the page is not built, or was built for other weights than the package's."""
    if not all((site / name).is_file() for name in NEEDED):
        raise ValueError("the page is not built; build it in a copy of the repository, with node: make explain")
    if json.loads((site / WEIGHTS).read_text(encoding="utf-8")) != shared_hashes():
        raise ValueError("the page was built for other weights of the bundled models; build it again: make explain")


def write_page(folder: Path, *, site: Path = SITE) -> None:
    """The whole page as files of one new folder, for any server of static files. Raises ValueError without one."""
    require_page(site)
    shutil.copytree(site, folder, symlinks=True)
    for name, path in SHARED.items():
        shutil.copy(path, folder / name)


class PageHandler(SimpleHTTPRequestHandler):
    """Files with the types and headers that threads and WebAssembly need; folders are not listed."""

    protocol_version = "HTTP/1.1"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".wasm": "application/wasm",
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".json": "application/json",
        ".webp": "image/webp",
        ".py": "text/plain; charset=utf-8",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        named_by_content = self.path.startswith("/assets/")
        self.send_header("Cache-Control", "max-age=31536000, immutable" if named_by_content else "no-cache")
        super().end_headers()

    def translate_path(self, path: str) -> str:
        own = Path(super().translate_path(path))
        return str(SHARED.get(own.relative_to(self.directory).as_posix(), own))

    def send_head(self) -> Any:
        place = Path(self.translate_path(self.path))
        if place in SHARED.values() or place.resolve().is_relative_to(Path(self.directory).resolve()):
            return super().send_head()
        self.send_error(HTTPStatus.NOT_FOUND)  # a link that leads out of the folder
        return None

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page has many files."""


def page_server(host: str = "127.0.0.1", port: int = 0, *, site: Path = SITE) -> ThreadingHTTPServer:
    """A server of the page that listens already; port 0 takes a free one.

    Raises ValueError where the page is not built or the address cannot be had.
    """
    require_page(site)
    try:
        server = ThreadingHTTPServer((host, port), partial(PageHandler, directory=str(site)))
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port} ({error.strerror}); choose another --port") from error
    server.daemon_threads = True
    return server
