"""`python -m tests.concurrency --seconds 60`: the long run, on a MongoDB of its own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from loyalty.infra.mongo import connect
from tests.concurrency.check import judge_database
from tests.concurrency.traffic import prepare, run
from tests.servers import Mongod


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long the processes go on.")
@click.option("--processes", default=16, show_default=True, help="How many there are.")
@click.option("--members", default=50, show_default=True, help="How many members they share.")
def main(seconds: float, processes: int, members: int) -> None:
    """Let processes go at the same members, and prove that it looks as if they had taken turns."""
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as directory:
        server = Mongod(Path(directory) / "mongod")
        try:
            server.start()
            plan, calls = prepare(server.uri, "hot", count=members, seconds=seconds)
            calls += run(plan, processes)
            print(f"{len(calls):,} calls; now the proof")
            db = connect(server.uri, "hot", serves_requests=False)
            verdict = judge_database(db, calls)
            db.client.close()
        finally:
            server.stop()
    for what, count in sorted(verdict.calls.items()):
        print(f"{count:>8,} {what}")
    print(f"{verdict.entries:,} entries in {members} chains")
    for wrong in verdict.wrong[:20]:
        print(wrong)
    print(f"{len(verdict.wrong)} things are wrong" if verdict.wrong else "nothing is wrong")
    sys.exit(1 if verdict.wrong else 0)


if __name__ == "__main__":
    main()
