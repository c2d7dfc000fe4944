"""How fast a database comes back: `python -m tests.bench.restore [--entries N] [--log-seconds S]`.

Inserts a ledger of N entries with the ledger's indexes (the driver's insert_many, which is what a restore is measured
against), copies it, lets writers append for S seconds through the engine, archives the log, and restores all of it.
Writes one JSON object; 1 when a ratio is missed.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pymongo.write_concern import WriteConcern

from loyalty.backup.manifest import ClusterTime
from loyalty.backup.oplog import archive_log
from loyalty.backup.physical import full
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft
from loyalty.ledger.movements import credit
from loyalty.ledger.state import State
from loyalty.migrations import migrate
from tests.chains import make
from tests.integration.backup.conftest import Site
from tests.servers import REPOSITORY, Mongod

RESTORE = 0.5
"""Wanted of insert_many's documents a second."""
REPLAY = 3.0
"""Wanted of the writers' entries a second."""

MEMORY = 200
"""Megabytes that the program may take, whatever the size. mongod's own are apart."""

_RESTORE = """
import json, re, sys
from pathlib import Path
from loyalty.backup.manifest import ClusterTime
from loyalty.backup.restore import restore
from loyalty.backup.settings import load_settings
_, settings, to, into = sys.argv
done = restore(load_settings(Path(settings)), ClusterTime.from_hex(to) if to else None, Path(into))
memory = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([done.seconds, int(memory[1]) // 1024]))
"""

_LENGTH = 40
_WRITERS = 4
_TOGETHER = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--log-seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loyalty-") as directory:
        server = Mongod(Path(directory) / "mongod")
        server.start()
        try:
            figures = _measure(server, Path(directory), options.entries, options.log_seconds)
        finally:
            server.stop()
    json.dump(figures, sys.stdout, indent=2)
    print()
    missed = (
        figures["restore_to_insert_many"] < RESTORE,
        figures["replay_to_writers"] < REPLAY,
        figures["memory_megabytes"] > MEMORY,
    )
    sys.exit(any(missed))


def _measure(server: Mongod, directory: Path, entries: int, log_seconds: float) -> dict[str, Any]:
    db = connect(server.uri, "loyalty", serves_requests=False)
    migrate(db, release="bench", clock=system_clock)
    inserted, insert_seconds = _insert(db, entries)
    site = Site(directory / "host", [server])
    archive = full(site.settings, site.target)
    written, write_seconds = write(db, log_seconds)
    slices = archive_log(site.settings, site.target)
    logged = sum(piece.entries for piece in slices)

    copied, _ = _restore(site, archive.to, directory / "copy")
    copy_seconds = sum(copied.values())
    shutil.rmtree(directory / "copy")
    latest, memory = _restore(site, None, directory / "latest")
    replay_seconds = latest["append"] + latest["replay"]
    insert_rate, write_rate = inserted / insert_seconds, written / write_seconds
    return {
        "documents": inserted,
        "insert_many_per_second": round(insert_rate),
        "restored_per_second": round(inserted / copy_seconds),
        "restore_seconds": round(copy_seconds, 1),
        "restore_to_insert_many": round(inserted / copy_seconds / insert_rate, 2),
        "copied_megabytes": round(archive.bytes / 1e6),
        "written_per_second": round(write_rate),
        "log_entries": logged,
        "replayed_per_second": round(logged / replay_seconds),
        "replay_seconds": round(replay_seconds, 1),
        "replay_to_writers": round(logged / replay_seconds / (logged / write_seconds), 1),
        "memory_megabytes": memory,
        "seconds_of_the_copy": copied,
        "seconds_of_the_latest": latest,
    }


def _restore(site: Site, to: ClusterTime | None, into: Path) -> tuple[dict[str, float], int]:
    """Seconds of each step, and the most memory (MB), of a restore in a process that does nothing else."""
    command = [sys.executable, "-c", _RESTORE, str(site.path), to.hex if to else "", str(into)]
    told = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
    seconds, memory = json.loads(told)
    return seconds, memory


def _insert(db: Mongo, entries: int) -> tuple[int, float]:
    """Documents that were inserted, and the seconds within insert_many."""
    ledger = db.ledger.with_options(write_concern=WriteConcern(w=1))
    made = make(members=2 * (entries // (2 * _LENGTH) + 1), length=_LENGTH)
    count, seconds = 0, 0.0
    while batch := list(islice(made, 1000)):
        began = time.perf_counter()
        ledger.insert_many(batch, ordered=False)
        seconds += time.perf_counter() - began
        count += len(batch)
    return count, seconds


def write(db: Mongo, seconds: float) -> tuple[int, float]:
    """Entries that writers appended through the engine, many in each insert, and how long it took."""
    began = time.monotonic()
    counts = [0] * _WRITERS

    def write(number: int) -> None:
        first = 1_000_000 * (number + 1)
        while time.monotonic() - began < seconds:
            operations = [
                Operation("main", first + member, (secrets.token_bytes(16),), b"request", _earn)
                for member in range(_TOGETHER)
            ]
            append(db.ledger, operations, clock=system_clock)
            counts[number] += _TOGETHER

    threads = [threading.Thread(target=write, args=(number,)) for number in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), time.monotonic() - began


def _earn(state: State, sequence: int, now: datetime) -> Draft:
    return Draft("earn", now, credit(state, "points", 10, source="issuance", sequence=sequence), {})


if __name__ == "__main__":
    main()
