"""`nextscale studio`: the web page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.errors import require
from nextscale.settings import Computing


@dataclass(frozen=True, kw_only=True)
class StudioOptions(Computing):
    """Settings of `nextscale studio`."""

    model: str = "demo"
    "demo, var-d16 ... var-d36, a model or run folder, or a hub id."
    models: str = ""
    "Folder whose models the page offers to switch to, beside the bundled ones: model and run folders, .pth files."
    rival: str = ""
    "Second model for the Compare tab, such as a run of `nextscale train raster` [default: the other bundled one]"
    results: tuple[str, ...] = ()
    "Results of `nextscale scaling run` and `nextscale compare` for the Scaling tab: folders or files, with commas."
    host: str = "127.0.0.1"
    "Address to listen at."
    port: int = 7860
    "Port to listen at."
    open: bool = False
    "Open the page in a browser."

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be between 1 and 65535, got {self.port}")


@accepts(StudioOptions, first=("model", "models", "rival", "results", "open", "host", "port"))
def studio(*, config: ConfigFile = "", given: Any = None) -> None:
    """Open the studio: generate, edit, inspect and compare in a browser."""
    options = settle(StudioOptions, given, file=config)
    require("the studio", "gradio", "matplotlib", extra="studio")
    for place in options.results:
        if not Path(place).exists():
            raise ValueError(f"--results {place}: there is no such file or folder")
    from nextscale.runtime import retain_freed_memory
    from nextscale.studio.desk import Desk, take_files
    from nextscale.studio.shelf import Shelf

    how = {"device": options.device, "precision": options.precision}
    shelf = Shelf.of(options.model, options.models, rival=options.rival, **how)
    pipeline, rival = shelf.open(options.model)
    retain_freed_memory()
    desk = Desk(pipeline, options.model, rival, tuple(map(Path, options.results)), shelf=shelf)
    del pipeline, rival  # the desk lets them go when another model is chosen
    take_files(desk.folder)  # before gradio is imported
    from nextscale.studio.app import run_studio

    run_studio(desk, host=options.host, port=options.port, open_browser=options.open)
