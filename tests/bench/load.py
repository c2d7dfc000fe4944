"""The load: wrk for single requests, a few connections of Python for batches, one process for the raw driver."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sample:
    """One measurement. Latencies in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Refused(Exception):
    """The server did not answer as it should: the measurement would be of errors."""


def wrk(
    url: str, script: str, arguments: Sequence[str], *, headers: Mapping[str, str], connections: int, seconds: int
) -> Sample:
    """Keep `connections` busy for `seconds`; one thread, because the cores belong to the server."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(HERE / script)]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run([*command, url, "--", *arguments], capture_output=True, text=True, check=False)
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if result is None:
        raise Refused(f"wrk did not run: {done.stderr.strip() or done.stdout.strip()}")
    numbers: dict[str, Any] = json.loads(result.removeprefix("RESULT "))
    if numbers["refused"] or numbers["broken"]:
        raise Refused(f"{url}: {numbers['refused']} refusals and {numbers['broken']} broken connections: {numbers}")
    return Sample(
        requests=numbers["requests"],
        seconds=numbers["microseconds"] / 1e6,
        p50=numbers["p50"] / 1e3,
        p95=numbers["p95"] / 1e3,
        p99=numbers["p99"] / 1e3,
    )


def batches(
    url: str,
    *,
    verify: Any,
    headers: Mapping[str, str],
    members: int,
    size: int,
    connections: int,
    seconds: float,
) -> Sample:
    """Post batches of `size` purchases for about `seconds`. Counts events; latencies are those of whole batches."""
    prefix = secrets.token_hex(4)

    def lane(number: int) -> list[float]:
        latencies = []
        with httpx.Client(base_url=url, verify=verify, headers=headers, timeout=60) as client:
            for turn in range(10_000):
                body = _body(f"{prefix}-{number}-{turn}", members=members, size=size)
                began = time.perf_counter()
                response = client.post("/v1/events/batch", content=body)
                latencies.append(time.perf_counter() - began)
                if response.status_code != 200 or response.json()["summary"]["applied"] != size:
                    raise Refused(f"the batch was answered {response.status_code}: {response.text[:300]}")
                if time.perf_counter() > deadline:
                    break
        return latencies

    started = time.perf_counter()
    deadline = started + seconds
    with ThreadPoolExecutor(connections) as pool:
        latencies = sorted(latency * 1e3 for lane_ in pool.map(lane, range(connections)) for latency in lane_)
    elapsed = time.perf_counter() - started
    return Sample(
        requests=len(latencies) * size,
        seconds=elapsed,
        p50=percentile(latencies, 0.50),
        p95=percentile(latencies, 0.95),
        p99=percentile(latencies, 0.99),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the ordered values do not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _body(prefix: str, *, members: int, size: int) -> bytes:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    events = [
        {
            "source": "bench",
            "id": f"{prefix}-{number}",
            "type": "purchase",
            "member": {"external_id": f"{random.randint(1, members):05d}"},
            "occurred_at": now,
            "amount": f"{random.randint(0, 200)}.{random.randint(0, 99):02d}",
            "currency": "USD",
            "metadata": {"cds": random.randint(1, 9)},
        }
        for number in range(size)
    ]
    return json.dumps(events, separators=(",", ":")).encode()
