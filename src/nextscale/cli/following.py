"""What to run next, said after a command on stderr: stdout stays what scripts read."""

from __future__ import annotations

import shlex
import sys


def command_line(*arguments: object) -> str:
    """A command that can be pasted into a shell."""
    return shlex.join(["nextscale", *map(str, arguments)])


def tell_next(*arguments: object, word: str = "next") -> None:
    """Print a command of ours that follows the present one; of several processes the main one does."""
    from nextscale.runtime import launched_processes

    if launched_processes().is_main:
        print(f"{word}: {command_line(*arguments)}", file=sys.stderr)
