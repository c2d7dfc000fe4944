"""`python -m tests.bench.backup`: how fast a full backup is, beside a plain read of the same collections by the driver.

Both read the same replica set of one in the same round, one after the other. The plain read takes whole batches and
looks at nothing in them: no driver reads faster. A full holds the replica set's log too, which in a set as young as
this is as large as the data. So the ratio is given with the log read as well, which is what it comes to where the data
is much larger than its log, and without. A full counts until its manifest is written; that it is then read once more
is shown apart. Memory is the most that the program and all that it starts (borg, and here also the member's side) have
together.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from loyalty.backup.manifest import read_catalogue
from tests.integration.backup.conftest import Site
from tests.servers import REPOSITORY, Mongod

BATCH = 5000
DOCUMENT_BYTES = 420


class Taken(NamedTuple):
    """One run of the program."""

    seconds: float
    """All of it."""
    took_s: float
    """Until the manifest, as the manifest says."""
    memory_mb: float
    """The most that the program with all it started had."""
    locked_s: float


@click.command()
@click.option("--megabytes", default=600, show_default=True, help="Size of the documents.")
@click.option("--rounds", default=3, show_default=True)
def main(megabytes: int, rounds: int) -> None:
    """Measure in rounds, and print the medians."""
    with tempfile.TemporaryDirectory(prefix="bench-backup-") as directory:
        member = Mongod(Path(directory) / "mongod")
        member.start()
        try:
            size = _fill(member, megabytes * 1_000_000)
            ratios = []
            for number in range(rounds):
                site = Site(Path(directory) / f"host{number}", [member])
                data_s = _plain_read(member, "bench", "entries")
                log_s = _plain_read(member, "local", "oplog.rs")
                full = _take(site, "full")
                ratios.append((data_s + log_s) / full.took_s)
                with member.connect() as client:
                    client.bench.entries.insert_many([_document(-number * BATCH - one - 1) for one in range(BATCH)])
                incremental = _take(site, "incremental")
                log = _take(site, "log")
                stored = [archive.stored_bytes / 1e6 for archive in read_catalogue(site.target).physical]
                print(
                    f"round {number + 1}: {size / 1e6:.0f} MB; plain read {size / data_s / 1e6:.1f} MB/s; "
                    f"full {full.took_s:.1f} s, ratio {ratios[-1]:.2f} (without the log {data_s / full.took_s:.2f}; "
                    f"reading it again takes {full.seconds - full.took_s:.1f} s), {stored[0]:.0f} MB stored, "
                    f"locked {full.locked_s:.2f} s, {full.memory_mb:.0f} MB of memory; "
                    f"incremental {incremental.seconds:.1f} s, {stored[1]:.0f} MB stored, "
                    f"locked {incremental.locked_s:.2f} s; log {log.seconds:.1f} s, {log.memory_mb:.0f} MB of memory",
                    flush=True,
                )
            print(f"ratio of the rates, median: {statistics.median(ratios):.2f} (wanted: at least 0.6)")
        finally:
            member.stop()


def _fill(member: Mongod, size: int) -> int:
    """Documents like the ledger's entries; their bytes as BSON."""
    with member.connect() as client:
        client.bench.entries.create_index("member")
        for first in range(0, size // DOCUMENT_BYTES, BATCH):
            client.bench.entries.insert_many([_document(first + number) for number in range(BATCH)])
        return int(client.bench.command("collStats", "entries")["size"])


def _document(number: int) -> dict[str, object]:
    return {
        "_id": number,
        "member": number * 7919 % 50_000,
        "kind": ("earn", "redeem", "expire")[number % 3],
        "points": number % 1000,
        "key": os.urandom(16),
        "hash": os.urandom(32),
        "previous": os.urandom(32),
        "note": "A purchase at the till of a shop, with a text as long as the facts of a real one are. " * 2,
    }


def _plain_read(member: Mongod, database: str, collection: str) -> float:
    """Seconds that the driver needs to read a collection."""
    with member.connect() as client:
        began = time.perf_counter()
        for _ in client[database][collection].find_raw_batches():
            pass
        return time.perf_counter() - began


def _take(site: Site, command: str) -> Taken:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "loyalty.backup", "--settings", str(site.path), command],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with _watched(process.pid) as most:
        code = process.wait()
    seconds = time.perf_counter() - began
    if code != 0:
        raise SystemExit(f"{command} ended with {code}")
    physical = read_catalogue(site.target).physical
    return Taken(seconds, physical[-1].took_s, most[0] / 1e6, physical[-1].locked_s)


@contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """The most bytes that a process and its descendants had together, looked at ten times a second."""
    most = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], sum(map(_resident, _tree(pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def _tree(pid: int) -> list[int]:
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in below for one in _tree(int(child)))]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    main()
