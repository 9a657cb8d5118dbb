"""What is packed from a working copy: tracked files only, so that a user's own images and runs stay at home."""

from __future__ import annotations

import subprocess
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TrackedFilesOnly(BuildHookInterface):
    """Leaves out what git does not track; outside a working copy (an unpacked sdist) everything is ours."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        command = ["git", "ls-files", "--others", "--directory", "-z"]
        try:
            listed = subprocess.run(command, cwd=self.root, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return
        excluded = self.build_config.target_config.setdefault("exclude", [])
        excluded += [pattern(name) for name in listed.decode().split("\0") if name]


def pattern(name: str) -> str:
    """A gitignore pattern that means this file or folder alone, whatever its name holds."""
    return "/" + "".join("\\" + letter if letter in "\\*?[ !#" else letter for letter in name)
