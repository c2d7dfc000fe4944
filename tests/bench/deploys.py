"""`python -m tests.bench.deploys --site lab`: what clients notice of a deploy, a rollback, and a broken release.

Clients send purchases and read balances all the time, each over a connection of its own, and repeat nothing. Every
answer that is not 2xx and every broken connection is a failed request. The releases are copies of this checkout: one
that differs by a comment, one that answers 500 to every purchase, one that answers 500 to everything.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console
from rich.table import Table

from loyalty.ops.demo import RULE
from loyalty.ops.site import CHECKOUT
from tests.bench.load import percentile
from tests.lab_site import LabSite

MEMBERS = 500
console = Console(soft_wrap=True)

BROKEN = """
def create_app(_sound=create_app):
    app = _sound()
    inside = app.wsgi_app

    def broken(environ, start_response):
        if environ["PATH_INFO"] in {SOUND}:
            return inside(environ, start_response)
        start_response("500 Broken", [("Content-Length", "0")])
        return [b""]

    app.wsgi_app = broken
    return app
"""
BREAKS = {
    "better": "",
    "refuses purchases": BROKEN.replace("in {SOUND}", '!= "/v1/events"'),
    "refuses everything": BROKEN.replace("{SOUND}", '("/readyz", "/healthz", "/version")'),
}
"""What is written below the application to make another release of it."""


@dataclass
class Load:
    """What clients saw: seconds of each answer, and the failures by what they were."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    first_failure: float = 0
    last_failure: float = 0

    def failed(self, what: str) -> None:
        """Count a failure, and remember when it was."""
        self.failures[what] += 1
        self.last_failure = time.monotonic()
        self.first_failure = self.first_failure or self.last_failure

    def numbers(self) -> dict[str, Any]:
        """The load as numbers, latencies in milliseconds."""
        ordered = sorted(1000 * seconds for seconds in self.seconds)
        return {
            "requests": len(ordered) + sum(self.failures.values()),
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures),
            "failing_for_seconds": round(self.last_failure - self.first_failure, 2),
            "p50_ms": round(percentile(ordered, 0.50)),
            "p99_ms": round(percentile(ordered, 0.99)),
            "worst_ms": round(ordered[-1]),
        }


@contextmanager
def load(site: LabSite, key: str, *, clients: int, rate: float) -> Iterator[Load]:
    """Keep `clients` busy, each with at most `rate` requests a second, until the block ends."""
    seen = Load()
    over = threading.Event()

    def client(number: int) -> None:
        prefix = secrets.token_hex(4)
        turn = 0
        with site.client(key) as http:
            while not over.is_set():
                turn += 1
                member = f"{(number * 7919 + turn) % MEMBERS:05d}"
                began = time.monotonic()
                try:
                    if turn % 2:
                        body: dict[str, Any] = {
                            "source": "deploys",
                            "id": f"{prefix}-{turn}",
                            "type": "purchase",
                            "amount": "3.50",
                            "currency": "USD",
                            "member": {"external_id": member},
                        }
                        answer = http.post("/v1/events", json=body)
                    else:
                        answer = http.get(f"/v1/members/ext:{member}/balance")
                    # A member who has bought nothing yet is not there yet.
                    if answer.is_success or (answer.status_code == 404 and not turn % 2):
                        seen.seconds.append(time.monotonic() - began)
                    else:
                        seen.failed(f"{answer.request.method} {answer.status_code}")
                except httpx.TransportError as error:
                    seen.failed(type(error).__name__)
                over.wait(max(0, 1 / rate - (time.monotonic() - began)))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def another_release(breaking: str) -> Iterator[dict[str, str]]:
    """The variables that deploy a release of this checkout with something written below its application."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "loyalty")
        shutil.copytree(CHECKOUT / "loyalty", source, ignore=shutil.ignore_patterns("__pycache__"))
        with (source / "app.py").open("a", encoding="utf-8") as stream:
            stream.write(f"\n# {secrets.token_hex(8)}\n{breaking}")
        yield {"app_source_directory": str(source)}


def appliance(site: str, *words: str, extra: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a verb as an operator does."""
    command = [sys.executable, "-m", "loyalty.ops", *words, "--site", site]
    if extra:
        command += ["--extra-vars", json.dumps(extra)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def active(site: LabSite) -> str:
    """The release that runs."""
    release: str = json.loads(site.run(["cat", "/opt/loyalty/active.json"]))["release"]
    return release


ACTS = ("deploy", "rollback", *(f"a release that {broken}" for broken in BREAKS if broken != "better"))


def rehearse(
    site: LabSite,
    name: str,
    key: str,
    *,
    acts: Sequence[str],
    clients: int,
    rate: float,
    worst_ms: float,
    variables: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Each act under load, and what it looked like from outside.

    A broken release must not stay. The others must, and nobody may wait for an answer for longer than `worst_ms`.
    """
    found = []
    for act in acts:
        before = active(site)
        with another_release(BREAKS.get(act.removeprefix("a release that "), "")) as source:
            began = time.monotonic()
            with load(site, key, clients=clients, rate=rate) as seen:
                if act == "rollback":
                    done = appliance(name, "rollback", extra=variables)
                else:
                    done = appliance(name, "deploy", extra={**source, **variables})
        numbers = {"act": act, "took_seconds": round(time.monotonic() - began), **seen.numbers()}
        sound = act in ("deploy", "rollback")
        numbers["stays"] = active(site) != before
        # Of a release that fails after the switch a few purchases are lost before the watch is sure; nothing else is.
        bearable = 100 if act == "a release that refuses purchases" else 0
        kept = numbers["failed"] <= bearable and (not sound or numbers["worst_ms"] < worst_ms)
        numbers["ok"] = sound == numbers["stays"] == (done.returncode == 0) and kept
        found.append(numbers)
        console.print_json(data=numbers)
        if not numbers["ok"]:
            console.print((done.stdout + done.stderr)[-4000:], markup=False)
    return found


@click.command()
@click.option("--site", default="lab", show_default=True, help="The lab site (./appliance up).")
@click.option("--clients", default=8, show_default=True, help="Connections.")
@click.option("--rate", default=10.0, show_default=True, help="Requests a second of each, at most.")
@click.option("--worst-ms", default=1000.0, show_default=True, help="Longest wait around a deploy or rollback.")
@click.option("--act", "acts", multiple=True, type=click.Choice(ACTS), help="Only this; repeat it. Default: all.")
@click.option("--extra-vars", "extra", default="{}", help="Variables of the runs, as JSON.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Keep the numbers in FILE.")
def main(
    site: str, clients: int, rate: float, worst_ms: float, acts: tuple[str, ...], extra: str, file: Path | None
) -> None:
    """Deploy, roll back and deploy broken releases under load. 1 when a request failed or waited that should not."""
    server = LabSite(site)
    key = server.new_program("deploys")
    with server.client(key) as http:
        http.post("/v1/rules/versions", json={"rules": [RULE]}).raise_for_status()
    variables = json.loads(extra)
    found = rehearse(
        server, site, key, acts=acts or ACTS, clients=clients, rate=rate, worst_ms=worst_ms, variables=variables
    )
    columns = ("act", "ok", "requests", "failed", "failing_for_seconds", "p50_ms", "p99_ms", "worst_ms")
    table = Table(*columns, box=None, pad_edge=False)
    for numbers in found:
        table.add_row(*(str(numbers[column]) for column in columns))
    console.print(table)
    if file:
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(numbers["ok"] for numbers in found) else 1)


if __name__ == "__main__":
    main()
