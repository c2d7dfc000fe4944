"""`python -m tests.faults --site jep --minutes 30`: the long version, on the servers of a lab site."""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from loyalty.ops.errors import Failure, Refusal
from loyalty.ops.process import run
from tests.faults.lab import lab_cluster
from tests.faults.local import local_cluster
from tests.faults.nemesis import Nemesis
from tests.faults.workload import Tally, Workload, prepare

console = Console()


@click.command()
@click.option("--site", "name", help="The lab site (./appliance up --topology ...); default: servers of its own, here.")
@click.option("--minutes", default=30.0, show_default=True, help="How long to go on.")
@click.option("--lasts", default=10.0, show_default=True, help="Seconds that a fault goes on.")
@click.option("--peace", default=10.0, show_default=True, help="Seconds of peace between two faults.")
@click.option("--clients", default=8, show_default=True, help="Concurrent clients.")
@click.option("--members", default=48, show_default=True, help="Members that they share.")
@click.option("--fault", "chosen", multiple=True, help="Only this one; repeat for more.")
@click.option("--record", type=click.Path(path_type=Path), help="Write what was found to this file, as JSON.")
def main(
    name: str | None,
    minutes: float,
    lasts: float,
    peace: float,
    clients: int,
    members: int,
    chosen: tuple[str, ...],
    record: Path | None,
) -> None:
    """Attack a cluster while clients work, then prove from what they were told and from the ledger that nothing is
    wrong. Exit code 1 if something is.
    """
    try:
        with local_cluster() if name is None else lab_cluster(name) as cluster:
            if unknown := set(chosen) - set(cluster.faults):
                raise click.BadParameter(f"no fault {', '.join(unknown)}; there are {', '.join(cluster.faults)}")
            faults = {kind: fault for kind, fault in cluster.faults.items() if not chosen or kind in chosen}
            nemesis = Nemesis(faults, lasts_s=lasts, peace_s=peace, mend=cluster.mend)
            with cluster.administer() as api:
                stage, tally = prepare(api, members=members)
            workload = Workload(stage, tally, cluster.connects, clients=clients)
            started = time.time()
            workload.start()
            nemesis.rage(minutes, say=_say)
            ended = time.time()
            workload.stop()
            console.print("Judging")
            if record is not None:  # whatever happens from here on, it can be judged again
                record.with_suffix(".history").write_bytes(pickle.dumps((stage, tally.calls, nemesis.happened)))
            verdict = cluster.judge(stage, tally)
    except (Failure, Refusal) as error:
        sys.exit(str(error))
    wrong = verdict.wrong
    found = {
        "site": name or "local",
        "commit": run(["git", "rev-parse", "HEAD"]).strip(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "minutes": round((ended - started) / 60, 1),
        **summary(tally, nemesis),
        "entries": verdict.entries,
        "calls": dict(sorted(verdict.calls.items())),
        "wrong": wrong,
    }
    if record is not None:
        record.write_text(json.dumps(found, indent=2) + "\n")
    console.print_json(json.dumps({**found, "wrong": wrong[:20]}))
    console.print(f"{len(wrong)} things are wrong" if wrong else "nothing is wrong")
    sys.exit(1 if wrong else 0)


def summary(tally: Tally, nemesis: Nemesis) -> dict[str, Any]:
    """How many operations and faults there were, and the longest time without an acknowledged change around each."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for fault in nemesis.happened:
        gaps[fault.kind].append(tally.gap_s(fault.began, fault.settled))
    return {
        "acknowledged": len(tally.acknowledged()),
        "refused": tally.refused(),
        "unknown": tally.unknown(),
        "reads": sum(call.kind == "read" and call.status == "done" for call in tally.calls),
        "answers": dict(tally.answers.most_common()),
        "faults": {
            kind: {
                "times": len(found),
                "median_gap_s": round(sorted(found)[len(found) // 2], 1),
                "longest_gap_s": round(max(found), 1),
            }
            for kind, found in sorted(gaps.items())
        },
        "faults_that_failed": nemesis.failed,
    }


def _say(line: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {line}")


if __name__ == "__main__":
    main()
