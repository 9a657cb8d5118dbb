"""How threads wait for each other, which is settled before torch is loaded. Imports nothing of ours."""

from __future__ import annotations

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""Threads look a thousand times whether they may go on, some microseconds, then sleep (GNU's OpenMP; others: at once).

Sleeping at once costs a small model 5 % alone, a thousand looks nothing; the usual 300,000 bring it to a standstill
beside another busy process (`benchmarks/busy.py`)."""
POLICIES = (*WAITING, "KMP_BLOCKTIME")
"""Variables by which a user says it: then nothing is changed."""


def share_the_processor() -> None:
    """Let threads that wait for others soon sleep instead of spin, from here on and in processes started from here.

    OpenMP's threads otherwise keep their cores busy at every barrier. Beside another busy process that makes each
    wait for a thread that has no core. Has an effect only before torch is imported.
    """
    if not any(name in os.environ for name in POLICIES):
        os.environ |= WAITING
