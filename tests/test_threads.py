"""Threads that wait sleep soon: said before torch is loaded, and only where the user said nothing."""

import json
import os
import subprocess
import sys

import pytest

from nextscale.threads import POLICIES, WAITING

SCRIPT = """
import json, os, sys
from nextscale.cli import main
main(["--version"])
names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
print(json.dumps([{name: os.environ[name] for name in names if name in os.environ}, "torch" in sys.modules]))
"""


@pytest.mark.parametrize("said", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "0"}])
def test_commands_say_how_threads_wait_before_torch_is_loaded(said: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in POLICIES} | said
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    settled, loaded = json.loads(done.stdout.splitlines()[-1])
    assert settled == (said or WAITING)
    assert not loaded, "it would be too late"
