"""What many rules cost a request: purchases of 20 lines by 50 active rules against the same by one rule.

    python -m tests.bench.many_rules

Servers of its own; the two programs take turns, so both see the same machine. So many members buy that each has a few
entries: what a long history costs is another bench. The ratio of the rates must reach 0.75.
"""

from __future__ import annotations

import json
import secrets
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import httpx

from tests.bench import rules
from tests.bench.load import wrk
from tests.servers import Application, Mongod, Redis, new_program

ROUNDS = 5
SECONDS = 6
CONNECTIONS = 16
MEMBERS = 5000
FLOOR = 0.75

PROGRAM = {
    "name": "Bench",
    "currency": "USD",
    "timezone": "Europe/Berlin",
    "policies": {"wallets": {"points": {}, "status": {}, "stamps": {}}},
}
ONE = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}]}


def main() -> int:
    """Exit code 1 when the ratio is missed."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed. Run: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as folder:
        directory = Path(folder)
        mongod, redis = Mongod(directory / "mongod"), Redis(directory / "redis")
        app = Application(
            directory / "app",
            mongo_uri=mongod.uri,
            database="loyalty",
            redis_url=redis.url,
            rate_limit_per_minute="0",
        )
        try:
            mongod.start()
            redis.start()
            keys = [new_program(mongod.uri, "loyalty") for _ in range(2)]
            app.start()
            return measure(app.url, keys)
        finally:
            for server in (app, redis, mongod):
                server.stop()


def measure(url: str, keys: list[str]) -> int:
    sets = {"1 rule": ONE, "50 rules": rules.rules()}
    headers = {name: {"Authorization": f"Bearer {key}"} for name, key in zip(sets, keys, strict=True)}
    for name, wanted in sets.items():
        configuration = {"format": 1, "program": PROGRAM, "rules": wanted}
        with_tag = {**headers[name], "If-Match": "*"}
        httpx.put(f"{url}/v1/configuration", json=configuration, headers=with_tag, timeout=30).raise_for_status()
        enrol(url, headers[name])
    rates: dict[str, list[float]] = {name: [] for name in sets}
    for turn in range(ROUNDS + 1):
        for name in sets:
            sample = wrk(
                f"{url}/v1/events",
                "orders.lua",
                [secrets.token_hex(4), str(MEMBERS)],
                headers=headers[name],
                connections=CONNECTIONS,
                seconds=SECONDS,
            )
            if turn:  # the first turn warms up
                rates[name].append(sample.rate)
    ratio = statistics.median(many / one for one, many in zip(rates["1 rule"], rates["50 rules"], strict=True))
    for name, measured in rates.items():
        print(f"{name}: {statistics.median(measured):,.0f} requests/s")
    print(f"ratio {ratio:.2f} (at least {FLOOR})")
    return 0 if ratio >= FLOOR else 1


def enrol(url: str, headers: dict[str, str]) -> None:
    """Make the members that wrk's requests name, by a visit of each."""
    visits = (
        {"source": "enrol", "id": str(number), "type": "visit", "member": {"external_id": f"{number:05d}"}}
        for number in range(1, MEMBERS + 1)
    )
    lines = "\n".join(map(json.dumps, visits))
    batch = {**headers, "Content-Type": "application/x-ndjson"}
    httpx.post(f"{url}/v1/events/batch", content=lines, headers=batch, timeout=60).raise_for_status()


if __name__ == "__main__":
    sys.exit(main())
