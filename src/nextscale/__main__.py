"""`python -m nextscale`."""

from nextscale.cli import run

run()
