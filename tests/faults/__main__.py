"""`python -m tests.faults --site lab --minutes 30`: the long version, on a lab server, power cuts included."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable

import click
import httpx
from rich.console import Console
from rich.table import Table

from loyalty.ops.errors import Failure, Refusal
from tests.faults.workload import Workload
from tests.lab_site import LabSite

console = Console()


class Faults:
    """What can happen to a server. Each returns when the harm is done; systemd, or a boot, has to mend it."""

    def __init__(self, site: LabSite) -> None:
        self._site = site
        self.kinds: dict[str, Callable[[], None]] = {
            "mongod": lambda: self._kill("mongod.service"),
            "gunicorn": lambda: self._kill("loyalty@*.service"),
            "redis": lambda: self._kill("redis-server.service"),
            "jobs": lambda: self._kill("loyalty-jobs.service"),
            "nginx": lambda: self._kill("nginx.service"),
            "power": self._cut_power,
        }

    def _kill(self, unit: str) -> None:
        self._site.run(["systemctl", "kill", "--signal=SIGKILL", unit])

    def _cut_power(self) -> None:
        self._site.lab.kill(self._site.host)
        self._site.lab.boot(self._site.host)


@click.command()
@click.option("--site", "site_name", default="lab", show_default=True, help="The lab site (./appliance up).")
@click.option("--minutes", default=30.0, show_default=True, help="How long to go on.")
@click.option("--pause", default=15.0, show_default=True, help="Seconds of peace between two faults.")
@click.option("--clients", default=8, show_default=True, help="Concurrent clients.")
@click.option("--fault", "chosen", multiple=True, help="Only these: mongod, gunicorn, redis, jobs, nginx, power.")
def main(site_name: str, minutes: float, pause: float, clients: int, chosen: tuple[str, ...]) -> None:
    """Kill whatever there is on a lab server while clients work, then account for every operation."""
    try:
        site = LabSite(site_name)
        faults = Faults(site)
        unknown = set(chosen) - set(faults.kinds)
        if unknown:
            raise click.BadParameter(f"there is no fault {', '.join(unknown)}; there are {', '.join(faults.kinds)}")
        key = site.new_program("faults")
        workload = Workload(lambda: site.client(key, timeout_s=15), clients=clients)
        workload.start()
        happened = _torment(faults, list(chosen or faults.kinds), workload, minutes=minutes, pause=pause)
        console.print("Waiting for every client to finish its operation")
        _wait_until_ready(site)
        tally = workload.stop()
        defects = workload.judge()
    except (Failure, Refusal) as error:
        sys.exit(str(error))
    table = Table(title=f"{minutes:g} minutes on {site_name}")
    table.add_column("")
    table.add_column("", justify="right")
    for kind, count in happened.items():
        table.add_row(f"fault: {kind}", str(count))
    table.add_row("operations acknowledged", f"{len(tally.done):,}")
    table.add_row("redemptions refused for want of points", f"{tally.refused:,}")
    table.add_row("answers repeated on request", f"{tally.repeated:,}")
    for outcome, count in tally.attempts.most_common():
        table.add_row(f"attempts that ended with {outcome}", f"{count:,}")
    table.add_row("longest time without any success", f"{tally.longest_silence_s:.1f} s")
    table.add_row("defects", f"{len(defects):,}")
    console.print(table)
    for defect in defects[:20]:
        console.print(f"  {defect}", style="red")
    console.print("loyalty ledger verify:", site.lab.ssh(site.host, ["loyalty", "ledger", "verify"]).stdout.strip())
    sys.exit(1 if defects else 0)


def _torment(faults: Faults, kinds: list[str], workload: Workload, *, minutes: float, pause: float) -> Counter[str]:
    """One fault after the other, in rounds of random order, so that each kind has its turn."""
    happened: Counter[str] = Counter()
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        for kind in random.sample(kinds, len(kinds)):
            time.sleep(pause * random.uniform(0.5, 1.5))  # the pace of the faults
            if time.monotonic() > end:
                break
            console.print(f"{time.strftime('%H:%M:%S')} {kind}; {len(workload.tally.done):,} operations so far")
            faults.kinds[kind]()
            happened[kind] += 1
    return happened


def _wait_until_ready(site: LabSite, *, patience_s: float = 120) -> None:
    deadline = time.monotonic() + patience_s
    with site.client(timeout_s=10) as client:
        while True:
            try:
                if client.get("/readyz").is_success:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise Failure(
                    f"The site did not come back within {patience_s:.0f} s.",
                    f"See: ./appliance status --site {site.lab.site}",
                )
            time.sleep(1)  # a poll


if __name__ == "__main__":
    main()
