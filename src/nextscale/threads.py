"""How threads wait for each other, which is settled before torch is loaded. Imports nothing."""

from __future__ import annotations

import os

POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says it: then nothing is changed."""


def share_the_processor() -> None:
    """Let threads that wait for others sleep instead of spin, from here on and in processes started from here.

    OpenMP's threads otherwise keep their cores busy at every barrier. Beside another busy process that makes each
    wait for a thread that has no core: everything takes five times as long. Has an effect only before torch is
    imported.
    """
    if not any(name in os.environ for name in POLICIES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
