"""The line on stderr that names the next command; stdout is for scripts."""

from __future__ import annotations

import shlex
import sys


def command_line(*arguments: object) -> str:
    """A command that can be pasted into a shell."""
    return shlex.join(["nextscale", *map(str, arguments)])


def tell_next(*arguments: object, word: str = "next") -> None:
    """Print a command of ours to run after the present one; only the main process prints."""
    from nextscale.runtime import launched_processes

    if launched_processes().is_main:
        print(f"{word}: {command_line(*arguments)}", file=sys.stderr)
