"""Clocks that are wrong: what is archived goes by the database's time, and a wrong clock is an alarm, not silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from loyalty.backup.manifest import ClusterTime, read_catalogue
from loyalty.backup.raw import RAW
from loyalty.backup.restore import restore
from loyalty.backup.scratch import Scratch
from tests.integration.backup.conftest import Site
from tests.servers import REPOSITORY, Mongod, wait_until

HOUR_S = 3600

_PROGRAM = """
import threading, time
time.sleep = lambda seconds: threading.Event().wait(seconds) and None  # libfaketime would move its end by the hour too
from loyalty.backup.cli import main
main()
"""


class SkewedSite(Site):
    """One whose host's clock is `ahead_s` off. Its members' programs have their own hosts' clocks."""

    def __init__(self, folder: Path, member: Mongod) -> None:
        super().__init__(folder, [member])
        self.ahead_s = 0
        here = f'command = ["{sys.executable}"'
        written = self.path.read_text()
        assert here in written
        self.path.write_text(written.replace(here, f'command = ["env", "--unset=LD_PRELOAD", "{sys.executable}"'))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _PROGRAM, "--settings", str(self.path), *arguments]
        return subprocess.run(
            ["faketime", "-m", "-f", f"{self.ahead_s:+d}s", *command] if self.ahead_s else command,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=REPOSITORY,
            env=os.environ | {"DONT_FAKE_MONOTONIC": "1"},  # what is set is the clock, not how fast time goes by
        )

    def must(self, *commands: str) -> None:
        """Run one after the other, each of which has to succeed."""
        for command in commands:
            done = self.run(*command.split())
            assert done.returncode == 0, f"{command}: {done.stderr}"

    def alarms(self) -> dict[str, str]:
        """Those that `status` tells of now."""
        found: dict[str, str] = json.loads(self.run("status", "--json").stdout)["alarms"]
        return found


class SkewedMongod(Mongod):
    """One whose clock can be set while it runs."""

    def environment(self) -> Mapping[str, str] | None:
        self._write(0)
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        return os.environ | {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set_clock(self, ahead_s: int) -> None:
        """From now on it is off by so much."""
        self._write(ahead_s)
        wait_until(
            lambda: abs(self._seconds_ahead() - ahead_s) < 60, timeout_s=10, failure=lambda: "its clock is as it was"
        )

    def _seconds_ahead(self) -> float:
        local: datetime = self.ask("hello", timeout_s=5)["localTime"]
        return local.replace(tzinfo=timezone.utc).timestamp() - time.time()

    def _write(self, ahead_s: int) -> None:
        new = self._clock.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}s\n")
        new.replace(self._clock)

    def kill(self) -> None:
        shared = f"faketime_*_{self.pid}"
        super().kill()
        for left in (*Path("/dev/shm").glob(shared), *Path("/dev/shm").glob(f"sem.{shared}")):
            left.unlink()

    @property
    def _clock(self) -> Path:
        return self.directory / "clock"


@pytest.fixture
def skewed_member(tmp_path: Path) -> Iterator[SkewedMongod]:
    server = SkewedMongod(tmp_path / "member")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def write(member: Mongod, *numbers: int) -> ClusterTime:
    """Insert the numbers, and let the second end. The moment of the last of them."""
    with member.connect() as client:
        for number in numbers:
            client.shop.visits.insert_one({"_id": number})
        (last,) = client.local["oplog.rs"].find({"ns": "shop.visits"}, {"ts": 1}, sort=[("$natural", -1)], limit=1)
    now = int(time.time())
    wait_until(lambda: time.time() >= now + 1, timeout_s=5, failure=lambda: "the clock stands still")
    return ClusterTime.of(last["ts"])


def require_exact(site: Site, member: Mongod, last: ClusterTime) -> None:
    """What is archived of the log up to `last` is what the member has: each entry, once, in one stretch, after one
    chain."""
    catalogue = read_catalogue(site.target)
    (chain,) = catalogue.chains
    assert [archive.predecessor for archive in chain.archives] == [None, *(each.id for each in chain.archives[:-1])]
    (span,) = catalogue.spans
    assert span.slices == catalogue.slices
    assert span.from_ == chain.archives[0].to
    assert span.to >= last
    assert [piece.predecessor for piece in span.slices] == [None, *(each.id for each in span.slices[:-1])]
    archived = [entry for piece in span.slices for entry in site.entries(piece)[1:]]
    with member.connect() as client:
        log = client.local["oplog.rs"].with_options(codec_options=RAW)
        held: Any = log.find({"ts": {"$gt": span.from_.timestamp, "$lte": span.to.timestamp}})
        assert archived == [entry.raw for entry in held]


def restored_numbers(site: Site, folder: Path) -> list[int]:
    with Scratch.in_folder(site.settings, folder).replica_set("fresh") as client:
        return [document["_id"] for document in client.shop.visits.find(sort=[("_id", 1)])]


def test_a_keeper_whose_clock_is_wrong_archives_and_restores_exactly(lone_member: Mongod, tmp_path: Path) -> None:
    site = SkewedSite(tmp_path / "host", lone_member)
    write(lone_member, 0, 1)
    site.must("full")
    write(lone_member, 2)
    site.must("log")
    assert site.alarms() == {}
    last_of: dict[int, ClusterTime] = {}
    for ahead_s, numbers in ((HOUR_S, (3, 4)), (-HOUR_S, (5, 6))):
        site.ahead_s = ahead_s
        last_of[ahead_s] = write(lone_member, *numbers)
        site.must("incremental", "log", "verify --all")
        assert "min behind this host's" in site.alarms()["clock"] if ahead_s > 0 else "ahead" in site.alarms()["clock"]
    require_exact(site, lone_member, last_of[-HOUR_S])
    second = f"{last_of[HOUR_S].instant:%Y-%m-%dT%H:%M:%SZ}"
    site.must(f"restore --to {second} --into {tmp_path}/second", f"restore --to latest --into {tmp_path}/latest")
    assert restored_numbers(site, tmp_path / "second") == [0, 1, 2, 3, 4]
    assert restored_numbers(site, tmp_path / "latest") == [0, 1, 2, 3, 4, 5, 6]
    site.ahead_s = 0
    site.must("log", "verify")
    assert site.alarms() == {}


def test_archives_from_the_future_are_an_alarm_also_while_nothing_is_archived(
    lone_member: Mongod, tmp_path: Path
) -> None:
    """This host's clock was set back and its timers stand still: by that clock nothing would ever be late."""
    site = SkewedSite(tmp_path / "host", lone_member)
    site.must("full", "log")
    assert site.alarms() == {}
    site.ahead_s = -HOUR_S
    assert "min from now" in site.alarms()["clock"]
    assert site.run("status").returncode == 1


def test_a_member_whose_clock_was_set_back_is_archived_and_restored_exactly(
    skewed_member: SkewedMongod, tmp_path: Path
) -> None:
    """Its time goes on from where it was, within one second, until the clock has come there."""
    site = SkewedSite(tmp_path / "host", skewed_member)
    write(skewed_member, 0, 1)
    site.must("full")
    before = write(skewed_member, 2)
    site.must("log")
    skewed_member.set_clock(HOUR_S)
    ahead = write(skewed_member, 3, 4)
    site.must("log")
    assert "min ahead of this host's" in site.alarms()["clock"]
    skewed_member.set_clock(0)
    back = write(skewed_member, 5)
    write(skewed_member, 6)
    site.must("log")
    last = write(skewed_member, 7)
    site.must("incremental", "log")
    assert before.t + HOUR_S <= ahead.t <= back.t
    assert back.t == last.t > time.time() + 60
    assert "database's time is" in site.alarms()["clock"]
    require_exact(site, skewed_member, last)
    for name, moment, expected in (
        ("within", back, [0, 1, 2, 3, 4, 5]),
        ("latest", None, [0, 1, 2, 3, 4, 5, 6, 7]),
    ):
        restore(site.settings, moment, tmp_path / name)
        assert restored_numbers(site, tmp_path / name) == expected
