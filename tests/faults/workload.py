"""Clients that never give up, and the judgement of what the ledger holds in the end.

Each client sends events and redemptions one after the other, with the same id or Idempotency-Key again and again until
it has a definite answer: done, or refused for want of points. Now and then it repeats what was answered already. So in
the end every operation that was done must be in the ledger exactly once, under the entry that was answered, and nothing
else may be there.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from loyalty.ops import demo

COSTS = (5, 40)  # small, so that balances are emptied over and over and overspending is a real temptation
SHARE_OF_EVENTS = 0.6
SHARE_OF_REPETITIONS = 0.1
MOST_DOLLARS = 30
LONGEST_PAUSE_S = 0.5


@dataclass(frozen=True)
class Done:
    """An operation with a definite, good answer."""

    member: str
    entry: str
    points: int
    """What it gave (above zero or zero) or took (below)."""


@dataclass
class Tally:
    """What the clients have seen. `defects` are answers that must never be given."""

    done: list[Done] = field(default_factory=list)
    refused: int = 0
    repeated: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    longest_silence_s: float = 0.0
    """The longest time in which no client got anything done."""


class Workload:
    """`connect` makes a client that carries a key with every scope, to a program of its own."""

    def __init__(self, connect: Callable[[], httpx.Client], *, members: int = 24, clients: int = 8) -> None:
        self._connect = connect
        self._members = [f"fault-{number:03d}" for number in range(members)]
        self._clients = clients
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._rewards: dict[str, int] = {}
        self._last_done = time.monotonic()
        self.tally = Tally()

    def start(self) -> None:
        """Publish the rule, make the rewards, and let the clients run."""
        with self._connect() as api:
            demo.configure(api)
            for cost in COSTS:
                answer = api.post(
                    "/v1/rewards",
                    json={"name": f"Reward for {cost}", "cost": cost},
                    headers={"Idempotency-Key": secrets.token_hex(16)},
                )
                answer.raise_for_status()
                self._rewards[answer.json()["id"]] = cost
        self._last_done = time.monotonic()
        for number in range(self._clients):
            thread = threading.Thread(target=self._run, args=(number,), name=f"client {number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, *, patience_s: float = 120) -> Tally:
        """Let every client finish its operation, and return what they have seen."""
        self._stopping.set()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
            if thread.is_alive():
                self.tally.defects.append(f"{thread.name} got no definite answer within {patience_s} s of the end")
        return self.tally

    def judge(self) -> list[str]:
        """What is wrong with the ledger; empty if nothing is."""
        defects = list(self.tally.defects)
        by_member: dict[str, list[Done]] = {member: [] for member in self._members}
        for done in self.tally.done:
            by_member[done.member].append(done)
        with self._connect() as api:
            for member, operations in by_member.items():
                defects += [f"{member}: {defect}" for defect in _judge_member(api, member, operations)]
        return defects

    def _run(self, number: int) -> None:
        with self._connect() as api:
            count = 0
            while not self._stopping.is_set():
                count += 1
                name = f"{number}-{count}"
                member = random.choice(self._members)
                send = (
                    self._event(member, name) if random.random() < SHARE_OF_EVENTS else self._redemption(member, name)
                )
                try:
                    done = self._until_definite(api, send)
                    if done is not None and random.random() < SHARE_OF_REPETITIONS:
                        self._repeat(api, send, done)
                except Exception as error:  # a client that dies silently would prove nothing
                    self._defect(f"client {number} failed with {error!r}")
                    return

    def _event(self, member: str, name: str) -> _Operation:
        dollars = random.randint(0, MOST_DOLLARS)
        event = {
            "source": "faults",
            "id": name,
            "type": "purchase",
            "member": {"external_id": member},
            "occurred_at": "2026-01-01T12:00:00Z",
            "amount": f"{dollars}.99",
            "currency": "USD",
        }
        return _Operation("/v1/events", event, {}, member, dollars)

    def _redemption(self, member: str, name: str) -> _Operation:
        reward, cost = random.choice(list(self._rewards.items()))
        body = {"member": {"external_id": member}, "reward": reward}
        return _Operation("/v1/redemptions", body, {"Idempotency-Key": f"faults-{name}"}, member, -cost)

    def _until_definite(self, api: httpx.Client, operation: _Operation) -> Done | None:
        while True:
            response = self._attempt(api, operation)
            if response is not None and response.is_success:
                done = operation.read(response.json())
                if done.points != operation.points:
                    self._defect(f"{operation.path} was to move {operation.points} points and moved {done.points}")
                with self._lock:
                    now = time.monotonic()
                    self.tally.longest_silence_s = max(self.tally.longest_silence_s, now - self._last_done)
                    self._last_done = now
                    self.tally.done.append(done)
                return done
            if response is not None and response.status_code in (404, 409):
                # No points, or a customer who has bought nothing yet; both are definite.
                code = response.json()["code"]
                if code in ("insufficient_points", "not_found") and operation.points < 0:
                    with self._lock:
                        self.tally.refused += 1
                    return None
                if code != "request_in_progress":
                    raise AssertionError(f"{operation.path} was refused: {response.text[:300]}")
            time.sleep(random.uniform(0.02, LONGEST_PAUSE_S))  # a till's pace

    def _repeat(self, api: httpx.Client, operation: _Operation, first: Done) -> None:
        """A definite answer must come again, whatever happened since."""
        while (response := self._attempt(api, operation)) is None or not response.is_success:
            if response is not None and response.status_code < 500 and response.status_code != 429:
                self._defect(f"a repetition was refused: {response.text[:300]}")
                return
            time.sleep(random.uniform(0.02, LONGEST_PAUSE_S))  # a till's pace
        again = operation.read(response.json())
        if again != first:
            self._defect(f"a repetition was answered with {again}, the first time with {first}")
        with self._lock:
            self.tally.repeated += 1

    def _attempt(self, api: httpx.Client, operation: _Operation) -> httpx.Response | None:
        """One request; None if there was no answer."""
        try:
            response = api.post(operation.path, json=operation.body, headers=operation.headers)
        except httpx.TransportError as error:
            self._count(type(error).__name__)
            return None
        self._count(str(response.status_code))
        if response.status_code == 500:
            self._defect(f"500 from {operation.path}: {response.text[:300]}")
        if response.status_code == 503 and "Retry-After" not in response.headers:
            self._defect(f"503 without Retry-After from {operation.path}")
        return response

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.tally.attempts[outcome] += 1

    def _defect(self, text: str) -> None:
        with self._lock:
            self.tally.defects.append(text)


@dataclass(frozen=True)
class _Operation:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    member: str
    points: int

    def read(self, answer: dict[str, Any]) -> Done:
        entry = answer["entries"][0] if "entries" in answer else answer["entry"]
        return Done(self.member, entry["id"], entry["points"].get("points", 0))


def _judge_member(api: httpx.Client, member: str, operations: list[Done]) -> list[str]:
    answer = api.get(f"/v1/members/ext:{member}/balance")
    if answer.status_code == 404 and not operations:
        return []
    available = answer.json()["wallets"]["points"]["available"]
    entries = _entries(api, member)
    acknowledged = Counter(done.entry for done in operations)
    found = Counter(entry["id"] for entry in entries)
    defects = [f"{entry} was the answer to {count} operations" for entry, count in acknowledged.items() if count > 1]
    defects += [f"{entry} is in the ledger {count} times" for entry, count in found.items() if count > 1]
    defects += [f"{entry} was acknowledged and is lost" for entry in acknowledged if entry not in found]
    defects += [f"{entry} is in the ledger and nobody was told" for entry in found if entry not in acknowledged]
    moved = {done.entry: done.points for done in operations}
    fold = 0
    for entry in sorted(entries, key=lambda entry: entry["id"]):
        points = entry["points"].get("points", 0)
        if points != moved.get(entry["id"], points):
            defects.append(f"{entry['id']} moved {points} points and was acknowledged with {moved[entry['id']]}")
        fold += points
        if fold < 0:
            defects.append(f"overspent by {-fold} at {entry['id']}")
    if fold != available:
        defects.append(f"the balance says {available} and the entries add up to {fold}")
    return defects


def _entries(api: httpx.Client, member: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    parameters = {"limit": "500"}
    while True:
        answer = api.get(f"/v1/members/ext:{member}/entries", params=parameters)
        answer.raise_for_status()
        page = answer.json()
        entries += page["data"]
        if not page["next_cursor"]:
            return entries
        parameters["cursor"] = page["next_cursor"]
