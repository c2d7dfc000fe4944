"""What the lab asks of this machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from loyalty.ops import host

_PINNED = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from loyalty.ops.host import use_all_processors
use_all_processors()
print(sorted(os.sched_getaffinity(0)))
"""


def test_servers_have_all_processors_whoever_starts_them() -> None:
    """A process of its own, which is held to one processor: its affinity is not to be that of the other tests."""
    done = subprocess.run([sys.executable, "-c", _PINNED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(os.sched_getaffinity(1)))


def test_asking_for_nftables_is_nothing_to_the_connections_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules masquerade everything: awake for a moment, they reset 5 connections to mongod in 280 times."""
    asked: list[str] = []
    monkeypatch.setattr(host, "run", lambda _command, *, input_text="": asked.append(input_text))

    assert host._nft().ok
    assert "masquerade" in asked[0]
    assert "flags dormant" in asked[0]
