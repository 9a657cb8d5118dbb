"""The line on stderr that names the next command; stdout is for scripts."""

from __future__ import annotations

import shlex
import sys


def tell_next(*arguments: object, word: str = "next") -> None:
    """Print a command of ours to run after the present one, quoted for a shell; only the main process prints."""
    from nextscale.runtime import launched_processes

    if launched_processes().is_main:
        print(f"{word}: {shlex.join(['nextscale', *map(str, arguments)])}", file=sys.stderr)
