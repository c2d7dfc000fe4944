"""What systemd hears from the jobs (sd_notify), and that a stuck follower is reported by silence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loyalty.jobs.notify import notify
from tests.servers import REPOSITORY, Mongod


def heard(channel: socket.socket, *, seconds: float) -> list[str]:
    """All assignments that arrive within the time."""
    lines: list[str] = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        channel.settimeout(left)
        try:
            lines += channel.recv(4096).decode().split("\n")
        except TimeoutError:
            break
    return lines


def test_nothing_is_sent_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_readiness_watchdog_and_end(tmp_path: Path, mongod: Mongod) -> None:
    """The real command, with the real schedule."""
    database = f"notify_{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        address = f"/tmp/loyalty-notify-{os.getpid()}"
        channel.bind(address)
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": address,
            "LOYALTY_MONGO_URI": mongod.uri,
            "LOYALTY_MONGO_DATABASE": database,
            "LOYALTY_SECRET_KEY": "s" * 32,
            "LOYALTY_SEAL_KEY": "A" * 43 + "=",
            "LOYALTY_STORAGE_PATH": str(tmp_path),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "loyalty", "jobs", "run"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            lines = heard(channel, seconds=12)
            assert lines.index("READY=1") == 0
            assert "STATUS=working, term 1" in lines
            assert lines.count("WATCHDOG=1") >= 2
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            assert resident < 150 * 1024 * 1024
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            assert "STOPPING=1" in heard(channel, seconds=1)
        finally:
            process.kill()
            process.wait()
            os.unlink(address)
            with mongod.connect() as client:
                client.drop_database(database)
