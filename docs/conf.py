"""Sphinx settings."""

import dataclasses
import shutil
from typing import Any

from nextscale import __version__
from nextscale.explain.server import SITE as PAGE
from nextscale.explain.server import write_page

project = "nextscale"
author = "The nextscale authors"
copyright = "2026, the nextscale authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"nextscale {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
default_role = "code"  # what docstrings put in backticks
maximum_signature_line_length = 88
myst_enable_extensions = ["attrs_block", "dollarmath"]
myst_heading_anchors = 3


def is_built() -> bool:
    return (PAGE / "index.html").is_file()


def copy_page(app: Any, exception: Exception | None) -> None:
    """Put the interactive page into the site as explain/, without what an earlier build left there."""
    if exception or app.builder.format != "html":
        return
    shutil.rmtree(app.outdir / "explain", ignore_errors=True)
    if is_built():
        write_page(app.outdir / "explain")


def without_fields(app: Any, what: str, name: str, value: Any, options: Any, *_: Any) -> tuple[str, None] | None:
    """Settings show their fields below, each with its default, and not in the signature as well."""
    return ("", None) if what == "class" and dataclasses.is_dataclass(value) and options.get("members") else None


def setup(app: Any) -> None:
    if is_built():
        app.tags.add("explain")  # for the front page, which says so
    app.connect("autodoc-process-signature", without_fields)
    app.connect("build-finished", copy_page)
