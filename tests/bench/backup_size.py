"""What a year of backups takes: `python -m tests.bench.backup_size [--members N] [--entries N] [--log-seconds S]`.

Fills a ledger with chains of every kind of entry, sealed and projected; copies it; lets writers append through the
engine; archives the log and an incremental; and drills: restores, rebuilds, verifies every entry. Prints what each
took, and carries it on to a year of a million transactions a day, with the arithmetic. One entry a transaction is
assumed, and the other collections of the application are left out: they add what the site's own first full says.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loyalty.backup.certificate import Certificate
from loyalty.backup.drill import drill
from loyalty.backup.manifest import Archive, read_catalogue
from loyalty.backup.oplog import archive_log
from loyalty.backup.physical import full, incremental
from loyalty.backup.verify import Verifier
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import connect
from loyalty.ledger.projection import rebuild
from loyalty.ledger.seal import Sealer
from loyalty.migrations import migrate
from tests.bench.restore import write
from tests.chains import fill
from tests.integration.backup.conftest import Site
from tests.servers import Mongod

A_DAY = 1_000_000
A_YEAR = 365 * A_DAY


def main() -> None:
    """Exit code 1 when the drill does not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--entries", type=int, default=3_000_000)
    parser.add_argument("--log-seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loyalty-") as directory:
        server = Mongod(Path(directory) / "mongod")
        server.start()
        try:
            ok = measure(server, Path(directory), options.members, options.entries, options.log_seconds)
        finally:
            server.stop()
    sys.exit(not ok)


def measure(server: Mongod, directory: Path, members: int, entries: int, log_seconds: float) -> bool:
    began = time.monotonic()
    made = fill_ledger(server.uri, members, entries // members)
    print(f"filled: {made:,} entries of {members:,} members in {time.monotonic() - began:.0f} s")
    site = Site(directory / "host", [server])
    first = full(site.settings, site.target)
    tell("full", first)
    db = connect(server.uri, "loyalty", serves_requests=False)
    sizes = db.command("collStats", "ledger")
    ledger = sizes["storageSize"] + sizes["totalIndexSize"]
    print(f"ledger on the disk: {sizes['storageSize'] / 1e6:,.0f} MB, indexes {sizes['totalIndexSize'] / 1e6:,.0f} MB")
    written, seconds = write(db, log_seconds)
    db.client.close()
    print(f"written: {written:,} entries through the engine in {seconds:.0f} s")
    slices = archive_log(site.settings, site.target)
    logged, stored = sum(one.entries for one in slices), sum(one.stored_bytes for one in slices)
    print(
        f"log: {logged:,} entries, {sum(one.bytes for one in slices) / 1e6:,.0f} MB, {stored / 1e6:,.1f} MB stored, "
        f"{sum(one.took_s for one in slices):.1f} s"
    )
    second = incremental(site.settings, site.target)
    tell("incremental", second)
    verifying = time.monotonic()
    catalogue = read_catalogue(site.target)
    results = list(Verifier.of(site.settings, site.target).everything(catalogue))
    verifying = time.monotonic() - verifying
    print(f"verify --all: {verifying:.1f} s, {sum(one.problem is not None for one in results)} problems")
    proof = drill(site.settings, site.target, now=system_clock(), progress=lambda step, done, whole: None)
    steps = ", ".join(f"{step} {took:.1f}" for step, took in proof.seconds.items())
    print(f"drill: {'passed' if proof.ok else f'NOT PASSED {proof.defects[:3]}'}, {proof.entries:,} entries, RTO")
    print(f"       {proof.rto_seconds:.0f} s ({steps})")
    carry_on(made, ledger, first, written, stored, verifying, proof)
    return proof.ok


def fill_ledger(uri: str, members: int, length: int) -> int:
    """The ledger with its indexes, seals and projection, by as many processes as there are cores; how many entries."""
    db = connect(uri, "loyalty", serves_requests=False)
    migrate(db, release="bench", clock=system_clock)
    workers = os.cpu_count() or 1
    share = members // workers // 2 * 2
    with ProcessPoolExecutor(workers) as pool:
        parts = [pool.submit(fill_part, uri, share, length, number * share + 1) for number in range(workers)]
        made = sum(part.result() for part in parts)
    rebuild(db)
    sealer = Sealer(db, Ed25519PrivateKey.generate())
    while sealer.seal(system_clock()) is not None:
        pass
    db.client.close()
    return made


def fill_part(uri: str, members: int, length: int, first: int) -> int:
    db = connect(uri, "loyalty", serves_requests=False)
    try:
        return fill(db, members=members, length=length, first=first)
    finally:
        db.client.close()


def tell(what: str, archive: Archive) -> None:
    print(
        f"{what}: {archive.bytes / 1e6:,.0f} MB in {archive.took_s:.1f} s ({archive.bytes / archive.took_s / 1e6:,.0f} "
        f"MB/s), {archive.stored_bytes / 1e6:,.0f} MB stored, locked {archive.locked_s:.2f} s"
    )


def carry_on(
    made: int, ledger: int, first: Archive, written: int, log_stored: int, verifying: float, proof: Certificate
) -> None:
    """From these figures to a year. Sizes grow with the entries, times with the bytes that are moved or the entries.

    The data folder has the set's own log as well, whose size is a setting and does not grow: it is left out of what is
    carried on, and so are the few hundred megabytes of an empty database.
    """
    factor = A_YEAR / made
    data = ledger * factor
    share = first.stored_bytes / first.bytes
    rate = first.bytes / first.took_s
    unpacked = first.bytes / proof.seconds["unpack"]
    log = log_stored / written * A_DAY
    verified, rebuilt = proof.entries / proof.seconds["verify"], proof.entries / proof.seconds["rebuild"]
    print(
        f"\nA year of {A_DAY:,} entries a day is {A_YEAR:,} entries, {factor:,.1f} times the {made:,} that were made."
    )
    print(f"  the ledger          {ledger / 1e9:.2f} GB x {factor:.1f} = {data / 1e9:,.0f} GB")
    print(f"  a full, stored      {data / 1e9:,.0f} GB x {share:.2f} = {data * share / 1e9:,.0f} GB")
    print(f"  a full, taken in    {data / 1e9:,.0f} GB / {rate / 1e6:,.0f} MB/s = {data / rate / 3600:.1f} h")
    print(f"  log, a day          {log_stored / written:.0f} bytes x {A_DAY:,} = {log / 1e9:.2f} GB")
    print(f"  log, a year         {log / 1e9:.2f} GB x 365 = {log * 365 / 1e9:,.0f} GB")
    read = first.bytes / verifying
    print(f"  reading a chain     {data / 1e9:,.0f} GB / {read / 1e6:,.0f} MB/s = {data / read / 3600:.1f} h")
    print(f"  restore, unpacking  {data / 1e9:,.0f} GB / {unpacked / 1e6:,.0f} MB/s = {data / unpacked / 3600:.1f} h")
    print(f"  every entry checked {A_YEAR:,} / {verified:,.0f} a second = {A_YEAR / verified / 3600:.1f} h")
    print(f"  projections rebuilt {A_YEAR:,} / {rebuilt:,.0f} a second = {A_YEAR / rebuilt / 3600:.1f} h")


if __name__ == "__main__":
    main()
