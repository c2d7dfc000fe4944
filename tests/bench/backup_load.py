"""`python -m tests.bench.backup_load --site lab`: what clients notice of a full backup.

Purchases are sent at a steady rate, whether or not those before were answered, so that a server that stands still for a
moment shows in every purchase that was due meanwhile. Rounds without a backup and with fulls, one after the other, take
turns. Latencies run from the moment a purchase was due. The exit code is 1 when p99 during fulls is more than 1.5 times
that without.

All servers of a lab share its processors, as no servers of a customer do. With `--apart` the named ones have the last
processor for themselves, and all others, and the clients, have the rest, in both kinds of rounds.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from loyalty.ops.site import Site
from tests.bench.load import percentile
from tests.lab_site import LabSite

MEMBERS = 500
CONNECTIONS = 16
WANTED = 1.5


@click.command(help=__doc__)
@click.option("--site", "name", default="lab", show_default=True)
@click.option("--keeper", default="backup1", show_default=True, help="The host that keeps the backups.")
@click.option("--apart", multiple=True, help="A host that shall have a processor for itself; repeat for more.")
@click.option("--rate", default=20.0, show_default=True, help="Purchases a second.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=15.0, show_default=True, help="How long a round lasts, at least.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    name: str, keeper: str, apart: tuple[str, ...], rate: float, rounds: int, seconds: float, json_file: Path | None
) -> None:
    site = LabSite(name)
    key = site.new_program("backup-load")
    plain: list[float] = []
    during: list[float] = []
    fulls = 0
    with ExitStack() as stack:
        if apart:
            stack.enter_context(divided(Site.load(name), apart))
        latencies = stack.enter_context(sending(site, key, rate))
        time.sleep(5)  # connections are made, and nothing of it is counted
        for _ in range(rounds):
            plain += taken(latencies, lambda: time.sleep(seconds))  # how long it lasts is the measurement
            until = time.monotonic() + seconds

            def back_up(until: float = until) -> None:
                nonlocal fulls
                while time.monotonic() < until:
                    site.run_on(keeper, ["systemctl", "start", "loyalty-backup@full.service"])
                    fulls += 1

            during += taken(latencies, back_up)
    ratio = round(percentile(sorted(during), 0.99) / percentile(sorted(plain), 0.99), 2)
    numbers = {
        "rate": rate,
        "apart": apart,
        "fulls": fulls,
        "without": summary(plain),
        "during_fulls": summary(during),
        "p99_ratio": ratio,
        "wanted_at_most": WANTED,
    }
    text = json.dumps(numbers, indent=2)
    click.echo(text)
    if json_file is not None:
        json_file.write_text(text)
    sys.exit(ratio > WANTED)


def summary(latencies: list[float]) -> dict[str, float]:
    """How many, and milliseconds."""
    ordered = sorted(latencies)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {"requests": len(ordered), **{name: round(1000 * percentile(ordered, at)) for name, at in shares.items()}}


def taken(latencies: list[float], act: Callable[[], None]) -> list[float]:
    """The latencies of purchases that were answered during the act."""
    before = len(latencies)
    act()
    return latencies[before:]


@contextmanager
def divided(site: Site, apart: Sequence[str]) -> Iterator[None]:
    """Let the last processor serve these hosts alone, and nothing else of the site; afterwards all serve everybody."""
    everything = os.sched_getaffinity(0)
    last = {max(everything)}
    hosts = site.cgroups
    if unknown := set(apart) - set(hosts):
        raise click.BadParameter(f"no host {', '.join(unknown)} in {site.name}; there are {', '.join(hosts)}")
    if everything == last:
        raise click.ClickException("This machine has one processor: nothing can be divided.")
    try:
        for host, groups in hosts.items():
            hold(Path(groups[0]), last if host in apart else everything - last)
        os.sched_setaffinity(0, everything - last)
        yield
    finally:
        os.sched_setaffinity(0, everything)
        for groups in hosts.values():
            hold(Path(groups[0]), everything)


def hold(group: Path, processors: set[int]) -> None:
    """Let every thread of a lab server, and all that they start, run on these processors."""
    for member in group.rglob("cgroup.procs"):
        for process in member.read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                for thread in Path(f"/proc/{process}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), processors)


@contextmanager
def sending(site: LabSite, key: str, rate: float) -> Iterator[list[float]]:
    """Purchases until the block ends; the seconds from when each was due to its answer."""
    latencies: list[float] = []
    over = threading.Event()
    prefix = secrets.token_hex(4)
    start = time.monotonic()

    def send(number: int) -> None:
        turn = number
        with site.client(key) as http:
            while not over.is_set():
                due = start + turn / rate
                over.wait(max(0.0, due - time.monotonic()))
                body = {
                    "source": "backup-load",
                    "id": f"{prefix}-{turn}",
                    "type": "purchase",
                    "amount": "3.50",
                    "currency": "USD",
                    "member": {"external_id": f"{turn * 7919 % MEMBERS:05d}"},
                }
                http.post("/v1/events", json=body).raise_for_status()
                latencies.append(time.monotonic() - due)
                turn += CONNECTIONS

    threads = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        yield latencies
    finally:
        over.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
