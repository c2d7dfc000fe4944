"""`python -m tests.bench`: measure in rounds, each beside its baseline, and print medians of ratios."""

from __future__ import annotations

import json
import secrets
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console
from rich.table import Table

from loyalty.ops import demo
from loyalty.ops.errors import Failure, Refusal
from tests.bench.load import Refused, Sample, batches, wrk
from tests.bench.sites import Entrance, InstalledSite, LocalSite, Site
from tests.lab_site import new_program

MEMBERS = 20_000
BATCH = 1000
BATCH_CONNECTIONS = 4

console = Console()


@dataclass
class Case:
    """One thing that is measured, and what it is measured against. `floor` is the ratio to reach."""

    name: str
    floor: float
    process: str
    ours: Callable[[], Sample]
    theirs: Callable[[], Sample | float]
    our_samples: list[Sample] = field(default_factory=list)
    their_samples: list[Sample | float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    """Microseconds a request, by process; `baseline` and `baseline mongod` for the other side."""

    def ratio(self) -> float:
        pairs = zip(self.our_samples, self.their_samples, strict=True)
        return statistics.median(ours.rate / _rate(theirs) for ours, theirs in pairs)


def _rate(sample: Sample | float) -> float:
    return sample.rate if isinstance(sample, Sample) else sample


@click.command()
@click.option("--site", "site_name", default="lab", show_default=True, help="The lab site to measure (./appliance up).")
@click.option("--local", is_flag=True, help="Start servers here instead: no NGINX, no TLS, quick.")
@click.option("--rounds", default=5, show_default=True, help="How often each case and its baseline take turns.")
@click.option("--seconds", default=8, show_default=True, help="How long one measurement takes.")
@click.option("--connections", default=16, show_default=True, help="Concurrent clients of the single requests.")
@click.option("--soak", default=0, help="Afterwards send so many reads, and compare the workers' memory.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write all samples.")
def main(
    site_name: str, local: bool, rounds: int, seconds: int, connections: int, soak: int, json_file: Path | None
) -> None:
    """Measure the speed of the API against a bare Flask and a bare driver, in the same run."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed. Run: apt-get install wrk")
    try:
        with _local() if local else _lab(site_name) as site:
            api = _program_of_our_own(site)
            cases = _cases(site, api, connections, seconds)
            _measure(site, cases, rounds)
            _report(cases)
            if soak:
                _soak(site, api, soak, connections)
    except (Failure, Refusal, Refused, RuntimeError) as error:
        sys.exit(str(error))
    if json_file:
        json_file.write_text(json.dumps([_as_json(case) for case in cases], indent=2) + "\n")
    sys.exit(0 if all(case.ratio() >= case.floor for case in cases) else 1)


@contextmanager
def _local() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="loyalty-bench-", ignore_cleanup_errors=True) as directory:
        site = LocalSite(Path(directory))
        try:
            yield site
        finally:
            site.close()


@contextmanager
def _lab(name: str) -> Iterator[Site]:
    site = InstalledSite(name)
    try:
        yield site
    finally:
        site.close()


def _program_of_our_own(site: Site) -> Entrance:
    """A program that the measurements may fill, with the demo's rule and all its members enrolled."""

    def client(headers: Mapping[str, str]) -> httpx.Client:
        return httpx.Client(base_url=site.api.url, verify=site.verify, headers=headers, timeout=60)

    headers = {"Authorization": f"Bearer {new_program(client(site.api.headers), 'bench')}"}
    with client(headers) as api:
        demo.configure(api)
        with console.status(f"Enrolling {MEMBERS:,} members"):
            for start in range(1, MEMBERS + 1, BATCH):
                events = [_first_purchase(member) for member in range(start, start + BATCH)]
                api.post("/v1/events/batch", json=events).raise_for_status()
    return Entrance(site.api.url, headers)


def _unique() -> str:
    return secrets.token_hex(4)


def _first_purchase(member: int) -> dict[str, Any]:
    return {
        "source": "bench",
        "id": f"first-{member}",
        "type": "purchase",
        "member": {"external_id": f"{member:05d}"},
        "occurred_at": "2026-01-01T12:00:00Z",
        "amount": "100.00",
        "currency": "USD",
    }


def _cases(site: Site, api: Entrance, connections: int, seconds: int) -> list[Case]:
    def single(entrance: Entrance, path: str) -> Callable[[], Sample]:
        def run() -> Sample:
            arguments = [_unique(), str(MEMBERS)]
            headers = entrance.headers
            return wrk(
                entrance.url + path, "events.lua", arguments, headers=headers, connections=connections, seconds=seconds
            )

        return run

    def read(entrance: Entrance, before: str, after: str) -> Callable[[], Sample]:
        def run() -> Sample:
            arguments = [before, after, str(MEMBERS)]
            headers = entrance.headers
            return wrk(entrance.url, "reads.lua", arguments, headers=headers, connections=connections, seconds=seconds)

        return run

    def batch() -> Sample:
        return batches(
            api.url,
            verify=site.verify,
            headers=api.headers,
            members=MEMBERS,
            size=BATCH,
            connections=BATCH_CONNECTIONS,
            seconds=seconds,
        )

    entry = site.seed_baseline()
    return [
        Case("one event", 0.6, "app", single(api, "/v1/events"), single(site.baseline, "/insert")),
        Case(
            "balance",
            0.6,
            "app",
            read(api, "/v1/members/ext:", "/balance"),
            read(site.baseline, "/find/", ""),
        ),
        Case(
            "events in batches",
            0.25,
            "app",
            batch,
            lambda: site.raw_insert_many(seconds=seconds, size=BATCH, like=entry),
        ),
    ]


def _measure(site: Site, cases: list[Case], rounds: int) -> None:
    """In turns, so that whatever else this machine does meets both sides alike."""
    for round_ in range(rounds):
        for case in cases:
            with console.status(f"Round {round_ + 1} of {rounds}: {case.name}"):
                before = site.usage()
                ours = case.ours()
                between = site.usage()
                theirs = case.theirs()
                after = site.usage()
            case.our_samples.append(ours)
            case.their_samples.append(theirs)
            for name in ("app", "mongod", "nginx"):
                if name in before:
                    _note(case, name, before[name], between[name], ours.requests)
            if isinstance(theirs, Sample):
                _note(case, "baseline", between["baseline"], after["baseline"], theirs.requests)
                _note(case, "baseline mongod", between["mongod"], after["mongod"], theirs.requests)


def _note(case: Case, name: str, before: Any, after: Any, requests: int) -> None:
    used = (after["cpu_seconds"] - before["cpu_seconds"]) / requests * 1e6
    case.cpu.setdefault(name, []).append(used)


def _report(cases: list[Case]) -> None:
    speed = Table(title="Speed (medians of the rounds)")
    cpu = Table(title="Processor time, microseconds each (medians)")
    for column in ("", "a second", "baseline", "ratio", "wanted", "p50 ms", "p95 ms", "p99 ms"):
        speed.add_column(column, justify="right" if column else "left")
    processes = ("app", "mongod", "nginx", "baseline", "baseline mongod")
    for column in ("", *processes):
        cpu.add_column(column, justify="right" if column else "left")
    for case in cases:
        ratio = case.ratio()
        speed.add_row(
            case.name,
            f"{statistics.median(sample.rate for sample in case.our_samples):,.0f}",
            f"{statistics.median(_rate(sample) for sample in case.their_samples):,.0f}",
            f"[{'green' if ratio >= case.floor else 'red'}]{ratio:.2f}[/]",
            f"{case.floor:.2f}",
            *(
                f"{statistics.median(getattr(sample, name) for sample in case.our_samples):.1f}"
                for name in ("p50", "p95", "p99")
            ),
        )
        used = (case.cpu.get(name) for name in processes)
        cpu.add_row(case.name, *(f"{statistics.median(values):,.0f}" if values else "" for values in used))
    console.print(speed)
    console.print(f"Latencies of batches are of {BATCH:,} events; their baseline is insert_many of {BATCH:,} entries.")
    console.print(cpu)


def _soak(site: Site, api: Entrance, requests: int, connections: int) -> None:
    """Memory after many requests. Reads and events in turns, as a shop's day has both."""
    before = site.usage()["app"]["worker_bytes"]
    sent = 0
    with console.status(f"Sending {requests:,} requests"):
        while sent < requests:
            for script, path, arguments in (
                ("events.lua", "/v1/events", [_unique(), str(MEMBERS)]),
                ("reads.lua", "", ["/v1/members/ext:", "/balance", str(MEMBERS)]),
            ):
                sample = wrk(
                    api.url + path, script, arguments, headers=api.headers, connections=connections, seconds=20
                )
                sent += sample.requests
    after = site.usage()["app"]["worker_bytes"]
    console.print(
        f"Largest worker after {sent:,} more requests: {after / 1e6:.0f} MB; before: {before / 1e6:.0f} MB "
        f"({after / before - 1:+.1%})"
    )


def _as_json(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "ratio": case.ratio(),
        "wanted": case.floor,
        "ours": [vars(sample) | {"rate": sample.rate} for sample in case.our_samples],
        "baseline": [_rate(sample) for sample in case.their_samples],
        "cpu_us": case.cpu,
    }


if __name__ == "__main__":
    main()
