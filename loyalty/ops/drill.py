"""Writers for a failover drill: what clients of the site notice of it, and whether anything they were told is lost.

    python -m loyalty.ops.drill URL CA_FILE DIRECTORY      # the API key on standard input; CA_FILE "": as this machine

They make a sandbox program of their own, so nobody's points are touched, and each earns a point in it, over and over,
every time with an id of its own, sent again until the answer is definite. DIRECTORY is how they are talked to: they
make `writing` in it as soon as all of them get answers, and when somebody takes it away, again as soon as all of them
were answered since. They end when somebody puts `failures.json` there, which names the failures and when each began and
was over (seconds since 1970). Then they account for every answer and print the result.
"""

from __future__ import annotations

import json
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from loyalty.ops.errors import Failure

WRITERS = 4
PACE_S = 0.05
"""A writer's pause between two writes, and between two attempts: a gap is not measured more finely than this."""
PATIENCE_S = 60


@dataclass
class Writer:
    """One writer's member, the entries that it was told of, and when."""

    member: str
    entries: list[str] = field(default_factory=list)
    told_at: list[float] = field(default_factory=list)
    refused: str = ""

    def was_told_since(self, instant: float) -> bool:
        """Whether a write was acknowledged after an instant."""
        return bool(self.told_at) and self.told_at[-1] > instant

    def gap_s(self, began: float, ended: float) -> float:
        """The longest time without an acknowledged write that began or ended between two instants."""
        within = [at for at in self.told_at if began <= at <= ended]
        before = [at for at in self.told_at if at < began][-1:]
        after = [at for at in self.told_at if at > ended][:1]
        return max((later - earlier for earlier, later in pairwise([*before, *within, *after])), default=ended - began)


def write(api: httpx.Client, writer: Writer, stop: threading.Event) -> None:
    """Earn a point after the other until `stop`; the last write is finished for as long as PATIENCE_S."""
    number = 0
    given_up_at = float("inf")
    while not stop.is_set():
        number += 1
        event = {
            "source": "drill",
            "id": f"{writer.member}-{number}",
            "type": "purchase",
            "member": {"external_id": writer.member},
            "amount": "1.00",
            "currency": "USD",
        }
        while not writer.refused:
            try:
                answer = api.post("/v1/events", json=event)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                writer.told_at.append(time.time())
                writer.entries.append(answer.json()["entries"][0]["id"])
                break
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                writer.refused = f"{answer.status_code} {answer.text[:200]}"
                return
            if stop.is_set():
                given_up_at = min(given_up_at, time.monotonic() + PATIENCE_S)
            if time.monotonic() > given_up_at:
                return
            time.sleep(PACE_S)
        stop.wait(PACE_S)


def lost(api: httpx.Client, writers: Sequence[Writer]) -> list[str]:
    """The entries that were acknowledged and are not in the ledger."""
    missing = []
    for writer in writers:
        there = set()
        parameters = {"limit": "500"}
        while True:
            answer = api.get(f"/v1/members/ext:{writer.member}/entries", params=parameters)
            answer.raise_for_status()
            page = answer.json()
            there |= {entry["id"] for entry in page["data"]}
            if not page["next_cursor"]:
                break
            parameters["cursor"] = page["next_cursor"]
        missing += [entry for entry in writer.entries if entry not in there]
    return missing


def result(
    writers: Sequence[Writer], failures: Mapping[str, Sequence[float]], missing: Sequence[str]
) -> dict[str, Any]:
    """What clients noticed: of each failure the gap of the writer that waited longest, in seconds."""
    return {
        **{
            f"{name}_gap_seconds": round(max(writer.gap_s(began, ended) for writer in writers), 2)
            for name, (began, ended) in failures.items()
        },
        "acknowledged": sum(len(writer.entries) for writer in writers),
        "acknowledged_lost": len(missing),
        "lost": list(missing[:20]),
    }


def run(url: str, ca_file: str, api_key: str, directory: Path) -> dict[str, Any]:
    """Make the program, let the writers write until the failures are over, and account for all answers."""
    trust = ssl.create_default_context(cafile=ca_file or None)

    def connect(key: str) -> httpx.Client:
        return httpx.Client(base_url=url, verify=trust, headers={"Authorization": f"Bearer {key}"}, timeout=10)

    with connect(api_key) as api:
        own_key = _program(api)
    writers = [Writer(f"writer-{number}") for number in range(WRITERS)]
    stop = threading.Event()
    clients = [connect(own_key) for _ in writers]
    threads = [
        threading.Thread(target=write, args=(client, writer, stop), daemon=True)
        for client, writer in zip(clients, writers, strict=True)
    ]
    for thread in threads:
        thread.start()
    failures, writing = directory / "failures.json", directory / "writing"
    asked_at = time.time()
    while not failures.exists():
        if not directory.exists():
            raise Failure("The drill was broken off.")
        if writing.exists():
            asked_at = time.time()
        elif all(writer.was_told_since(asked_at) for writer in writers):
            writing.touch()
        if refused := next((writer.refused for writer in writers if writer.refused), ""):
            raise Failure(f"{url} refused a write: {refused}", "./appliance status")
        time.sleep(PACE_S)
    stop.set()
    for thread in threads:
        thread.join()
    with connect(own_key) as api:
        return result(writers, json.loads(failures.read_text()), lost(api, writers))


def _program(api: httpx.Client) -> str:
    """A key to a new sandbox program that gives a point for a dollar."""
    wanted = {"id": f"drill-{secrets.token_hex(4)}", "name": "Failover drill", "currency": "USD", "mode": "sandbox"}
    key: str = _made(api, "/v1/programs", wanted, {})["key"]["secret"]
    rule = {"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}
    _made(api, "/v1/rules/versions", {"rules": [rule]}, {"Authorization": f"Bearer {key}"})
    return key


def _made(api: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    answer = api.post(path, json=body, headers=headers)
    if not answer.is_success:
        raise Failure(f"{api.base_url}{path} answered {answer.status_code}: {answer.text[:200]}", "./appliance status")
    return answer.json()


if __name__ == "__main__":
    try:
        print(json.dumps(run(sys.argv[1], sys.argv[2], sys.stdin.readline().strip(), Path(sys.argv[3]))))
    except (Failure, httpx.HTTPError) as error:
        sys.exit(str(error))
