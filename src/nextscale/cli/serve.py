"""`nextscale serve`: the Images API over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.errors import require
from nextscale.server.settings import Keys, ServerSettings


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServerSettings):
    """Settings of `nextscale serve`."""

    host: str = "127.0.0.1"
    "Address to listen at; 0.0.0.0 is every one of this machine's."
    port: int = 8000
    "Port to listen at."


@accepts(ServeOptions, first=("model", "host", "port", "api_key_file"))
def serve(*, config: ConfigFile = "", given: Any = None) -> None:
    """Serve a model over HTTP, in OpenAI's Images API."""
    options = settle(ServeOptions, given, file=config)
    require("the server", "ray", "fastapi", "multipart", "prometheus_client")
    if options.api_key_file:
        Keys.read(options.api_key_file)  # complain before anything is started
    from nextscale.catalogue import find_model

    find_model(options.model)
    from nextscale.server.run import serve_until_stopped

    settings = ServerSettings(**{field.name: getattr(options, field.name) for field in fields(ServerSettings)})
    serve_until_stopped(settings, host=options.host, port=options.port)
