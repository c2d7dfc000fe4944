"""Replay the purchase history of a real shop through the public API, and check what came of it.

The history is loyalty/ops/demo_data: one `purchase` event a row, source `cdnow`, the event's id the number of
the row (five digits, zero-padded, the first purchase is 00001), the day's events at noon UTC. An event's
(source, id) is its idempotency key, so the load can be repeated, interrupted and retried: what was applied is
replayed, never applied again.

The program gives one point per whole dollar of each purchase. Purchases of one member all go through one
connection, in their order in time, so the connections never compete for a member.
"""

from __future__ import annotations

import gzip
import os
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx

from loyalty.ops.errors import Failure

HISTORY = Path(__file__).with_name("demo_data") / "cdnow.txt.gz"
SOURCE = "cdnow"
CURRENCY = "USD"
RULE = {
    "type": "points_per_spend",
    "id": "base",
    "points": 1,
    "per": "1.00",
    "rounding": "floor",
    "minimum": "0",
}

BATCH_EVENTS = 1000  # a fifth of what the API takes: large enough for group commit, small enough to show progress
CLIENTS = 4
PATIENCE_S = 180  # how long one batch is retried; a server that reboots is back long before
LONGEST_PAUSE_S = 10.0

Progress = Callable[[int, int], None]


class Purchase(NamedTuple):
    """One row: `customer` as in the file, zero-padded; `amount` a decimal string in dollars."""

    row: int
    customer: str
    at: datetime
    items: int
    amount: str

    @property
    def points(self) -> int:
        """What the rule of the demo gives for it."""
        return int(self.amount.partition(".")[0])

    def event(self) -> dict[str, Any]:
        return {
            "source": SOURCE,
            "id": f"{self.row:05d}",
            "type": "purchase",
            "member": {"external_id": self.customer},
            "occurred_at": self.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "amount": self.amount,
            "currency": CURRENCY,
            "metadata": {"cds": self.items},
        }


@dataclass(frozen=True)
class Loaded:
    """What a load did. `points` is the sum over all events, whether applied now or before."""

    events: int
    applied: int
    replayed: int
    members: int
    points: int
    seconds: float


def purchases(limit: int | None = None) -> list[Purchase]:
    """The history in the order in which it happened; with `limit`, its first purchases only."""
    with gzip.open(HISTORY, "rt", encoding="ascii") as lines:
        next(lines)
        rows = [_purchase(number, line) for number, line in enumerate(lines, start=1)]
    rows.sort(key=lambda purchase: (purchase.at, purchase.row))
    return rows[:limit]


def _purchase(number: int, line: str) -> Purchase:
    customer, day, items, amount = line.split()
    at = datetime(int(day[:4]), int(day[4:6]), int(day[6:]), 12, tzinfo=timezone.utc)
    return Purchase(number, customer, at, int(items), amount)


def load(
    *,
    url: str,
    ca_file: str | Path | None,
    api_key: str,
    progress: Progress = lambda done, total: None,
    limit: int | None = None,
    clients: int = CLIENTS,
) -> Loaded:
    """Send the history (or its first `limit` purchases) and verify members and points.

    `ca_file` is the certificate authority of the site, None that of the machine. `progress` is called with
    the number of events answered and their total. Raises Failure when the server refuses an event, stays away
    for PATIENCE_S, or holds something else than the history says.
    """
    started = time.monotonic()
    history = purchases(limit)
    tally = _Tally(len(history), progress)
    verify = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)

    def client() -> httpx.Client:
        return httpx.Client(
            base_url=url,
            verify=verify,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(60, connect=5),
        )

    with client() as api:
        configure(api)
    lanes = _lanes(history, clients)
    with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
        running = [pool.submit(_send_lane, client, lane, tally) for lane in lanes]
        finished, _ = wait(running, return_when=FIRST_EXCEPTION)
        tally.abandoned = any(future.exception() for future in finished)
    for future in running:
        future.result()
    with client() as api:
        _verify(api, history, tally)
    return Loaded(
        events=len(history),
        applied=tally.applied,
        replayed=tally.replayed,
        members=len({purchase.customer for purchase in history}),
        points=tally.points,
        seconds=time.monotonic() - started,
    )


def _lanes(history: Sequence[Purchase], clients: int) -> list[list[Purchase]]:
    """The history split by member, each part in order of time."""
    lanes: list[list[Purchase]] = [[] for _ in range(clients)]
    for purchase in history:
        lanes[int(purchase.customer) % clients].append(purchase)
    return [lane for lane in lanes if lane] or [[]]


class _Tally:
    """What the connections have achieved together."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.abandoned = False
        self.applied = self.replayed = self.points = 0
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, results: Sequence[dict[str, Any]]) -> None:
        replayed = sum(1 for result in results if result["replayed"])
        with self._lock:
            self.replayed += replayed
            self.applied += len(results) - replayed
            self.points += sum(result["points"] for result in results)
            self._progress(self.applied + self.replayed, self._total)


def _send_lane(connect: Callable[[], httpx.Client], lane: Sequence[Purchase], tally: _Tally) -> None:
    with connect() as api:
        for start in range(0, len(lane), BATCH_EVENTS):
            if tally.abandoned:
                return
            tally.add(_send_batch(api, [purchase.event() for purchase in lane[start : start + BATCH_EVENTS]]))


def _send_batch(api: httpx.Client, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of all `events`; whatever the server could not do now is sent again with the same ids."""
    results: list[dict[str, Any]] = []
    pauses = _pauses()
    while events:
        answer = _request(api, "POST", "/v1/events/batch", pauses, json=events)
        later = []
        for result in answer["results"]:
            if result["status"] < 400:
                results.append(result)
            elif _worth_retrying(result["status"]):
                later.append(events[result["index"]])
            else:
                event, problem = events[result["index"]], result["problem"]
                raise Failure(
                    f"The server refused event {event['id']}: {problem['detail']} ({problem['code']})",
                    "Load the demo into a program of its own, with no other rules.",
                )
        if later:
            _pause(pauses, None)
        events = later
    return results


def _request(api: httpx.Client, method: str, path: str, pauses: Iterator[float], **arguments: Any) -> Any:
    """The JSON of a 2xx answer. Retries while the server is away or asks for patience (else: Failure)."""
    while True:
        try:
            response = api.request(method, path, **arguments)
        except httpx.TransportError as error:
            if _is_about_trust(error):
                raise Failure(
                    f"The certificate of {api.base_url} is not trusted: {error}.",
                    "Give its CA with --ca-file.",
                ) from None
            _pause(pauses, None, cause=str(error) or type(error).__name__)
            continue
        if response.is_success:
            return response.json()
        if not _worth_retrying(response.status_code):
            remedy = "Check the key and its scopes." if response.status_code in (401, 403) else ""
            raise Failure(f"{method} {path} was answered {response.status_code}: {_detail(response)}", remedy)
        cause = f"{response.status_code} {_detail(response)}"
        _pause(pauses, response.headers.get("Retry-After"), cause=cause)


def _worth_retrying(status: int) -> bool:
    return status == 429 or status >= 500


def _is_about_trust(error: httpx.TransportError) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _detail(response: httpx.Response) -> str:
    if "json" in response.headers.get("Content-Type", ""):
        return str(response.json().get("detail", ""))
    return response.reason_phrase


def _pauses() -> Iterator[float]:
    """Seconds to wait before each retry: doubling, with jitter so that clients do not return in step."""
    end = time.monotonic() + PATIENCE_S
    pause = 0.25
    while time.monotonic() < end:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, LONGEST_PAUSE_S)


def _pause(pauses: Iterator[float], retry_after: str | None, *, cause: str = "") -> None:
    seconds = next(pauses, None)
    if seconds is None:
        raise Failure(
            f"The server was not able to answer for {PATIENCE_S} s. {cause}".strip(),
            "See `./appliance status`; then load again: what was applied is not applied twice.",
        )
    if retry_after and retry_after.isdigit():
        seconds = max(seconds, float(retry_after))
    time.sleep(seconds)


def configure(api: httpx.Client) -> None:
    """Give the program the rule of the demo and open it to its past, through the public API.

    Rules that somebody has published are left alone: what was awarded before stays, and `load` notices other awards.
    """
    (program,) = _request(api, "GET", "/v1/programs", _pauses())["data"]
    if program["currency"] != CURRENCY:
        raise Failure(
            f"The program {program['id']} counts in {program['currency']} and the demo's shop sold in {CURRENCY}.",
            f"Load the demo into a program in {CURRENCY}.",
        )
    if program["backdating_days"] is not None or not program["auto_enrol"]:
        headers = {"If-Match": f'"v{program["version"]}"'}
        policies = {"backdating_days": None, "auto_enrol": True}
        _request(api, "PATCH", f"/v1/programs/{program['id']}", _pauses(), json=policies, headers=headers)
    if not _request(api, "GET", "/v1/rules/versions", _pauses(), params={"limit": "1"})["data"]:
        _request(api, "POST", "/v1/rules/versions", _pauses(), json={"rules": [RULE]})


def _verify(api: httpx.Client, history: Sequence[Purchase], tally: _Tally) -> None:
    expected_points = sum(purchase.points for purchase in history)
    if tally.points != expected_points:
        raise Failure(
            f"The history is worth {expected_points:,} points and the server gave {tally.points:,}.",
            "Load the demo into a program of its own, with no other rules.",
        )
    missing = {purchase.customer for purchase in history} - _external_ids(api)
    if missing:
        raise Failure(f"{len(missing):,} customers of the history are no members, for example {min(missing)}.")


def _external_ids(api: httpx.Client) -> set[str]:
    """The external ids of all members of the program."""
    found: set[str] = set()
    parameters = {"limit": "500"}
    while True:
        page = _request(api, "GET", "/v1/members", _pauses(), params=parameters)
        found.update(member["external_id"] for member in page["data"] if member["external_id"])
        if not page["next_cursor"]:
            return found
        parameters["cursor"] = page["next_cursor"]


@click.command()
@click.option("--url", required=True, help="Where the site answers, for example https://loyalty.example.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False), help="The site's CA certificate.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first purchases.")
@click.option("--clients", type=click.IntRange(1, 64), default=CLIENTS, show_default=True, help="Connections.")
def main(url: str, ca_file: str | None, limit: int | None, clients: int) -> None:
    """Replay a real shop's purchases through the API of a running site. Its key is in LOYALTY_API_KEY."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    api_key = os.environ.get("LOYALTY_API_KEY")
    if not api_key:
        raise click.UsageError("Put the API key into the environment: export LOYALTY_API_KEY=lk_…")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns) as bars:
            bar = bars.add_task("Purchases", total=None)
            loaded = load(
                url=url,
                ca_file=ca_file,
                api_key=api_key,
                progress=lambda done, total: bars.update(bar, completed=done, total=total),
                limit=limit,
                clients=clients,
            )
    except Failure as failure:
        click.echo(f"{failure.problem}\n{failure.remedy}".strip(), err=True)
        sys.exit(1)
    click.echo(
        f"{loaded.events:,} purchases of {loaded.members:,} members, {loaded.points:,} points: "
        f"{loaded.applied:,} applied and {loaded.replayed:,} known before, in {loaded.seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
