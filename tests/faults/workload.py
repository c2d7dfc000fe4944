"""Clients that earn, hold, capture, redeem, transfer and read at several nodes, and write down all they were told.

Every change has an Idempotency-Key (an event its id) and is sent again under it, to the next node, until the answer is
definite. Some clients give up earlier, as people do: then nobody knows what became of it. Now and then one asks again
for what it was told already. Each sending is a `Call` of the history; `tests.concurrency.check` judges them.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import httpx

from loyalty.infra.ids import entry_id, entry_number
from loyalty.infra.mongo import Document
from loyalty.ledger.entry import business_key
from tests.concurrency.history import Call

WEIGHTS = {
    "earn": 26,
    "again": 6,
    "hold": 14,
    "capture": 10,
    "void": 4,
    "redeem": 18,
    "cancel": 3,
    "transfer": 10,
    "read": 14,
}
COSTS = (5, 40)  # small, so that balances are emptied over and over and overspending is a real temptation
MOST_DOLLARS = 30
SEEDED_DOLLARS = 50
HOLD_SECONDS = 6 * 3600  # longer than any run: what ends a hold is a client
SHARE_THAT_GIVES_UP = 0.3

Connect = Callable[[str], httpx.Client]
"""Makes a client of one node that carries the given key."""


@dataclass(frozen=True)
class Stage:
    """A sandbox program of its own, in which everything was told by the clients. `key` is the id of their key."""

    program: str
    key: str
    secret: str = field(repr=False)
    members: tuple[int, ...]
    rewards: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Request:
    kind: str
    member: int
    detail: Document
    keys: tuple[tuple[int, bytes], ...]
    method: str
    path: str
    body: Document | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Tally:
    """What the clients have seen. `defects` are answers that must never be given."""

    calls: list[Call] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)

    def acknowledged(self) -> list[Call]:
        """The changes that were done, each once, in the order in which that was first known."""
        done = sorted((call for call in self.calls if call.status == "done" and call.keys), key=lambda call: call.ended)
        first: dict[bytes, Call] = {}
        for call in done:
            first.setdefault(call.keys[0][1], call)
        return list(first.values())

    def refused(self) -> int:
        """How many sendings were refused for a reason that the ledger must bear out."""
        return sum(call.status == "refused" for call in self.calls)

    def unknown(self) -> int:
        """How many changes never got a definite answer."""
        known = {call.keys[0][1] for call in self.calls if call.keys and call.status != "unknown"}
        return len({call.keys[0][1] for call in self.calls if call.keys} - known)

    def gap_s(self, began: int, ended: int) -> float:
        """The longest time without an acknowledged change that began or ended between two instants (ns)."""
        ends = [call.ended for call in self.acknowledged() if call.ended <= ended]
        instants = [began, *(instant for instant in ends if instant >= began), ended]
        return max(after - before for before, after in pairwise(instants)) / 1e9


def prepare(api: httpx.Client, *, members: int) -> tuple[Stage, Tally]:
    """Make the program, its rule, rewards and members, who get some points; `api` carries a key that may do so."""
    program = f"faults-{secrets.token_hex(4)}"
    wanted = {
        "id": program,
        "name": "Faults",
        "currency": "USD",
        "mode": "sandbox",
        "policies": {"wallets": {"points": {"transferable": True}}},
    }
    key = _made(api, "/v1/programs", wanted)["key"]
    own = {"Authorization": f"Bearer {key['secret']}"}
    rule = {"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}
    _made(api, "/v1/rules/versions", {"rules": [rule]}, own)
    rewards = []
    for cost in COSTS:
        rewards.append((_made(api, "/v1/rewards", {"name": f"For {cost}", "cost": cost}, own)["id"], cost))
    tally = Tally()
    numbers = []
    for place in range(members):
        event = {"id": f"seed-{place}", "type": "purchase", "amount": f"{SEEDED_DOLLARS}.00"}
        told = {"source": "till", "member": {"external_id": str(place)}, "currency": "USD", **event}
        began = time.monotonic_ns()
        entry = _made(api, "/v1/events", told, own)["entries"][0]
        number = entry_number(entry["id"]) or 0
        name = business_key(program, "event", "till", event["id"])
        call = Call("earn", number >> 24, {"event": event}, ((number >> 24, name),), began, time.monotonic_ns(), "done")
        tally.calls.append(replace(call, entry=number, hash=bytes.fromhex(entry["hash"])))
        numbers.append(number >> 24)
    return Stage(program, key["id"], key["secret"], tuple(numbers), tuple(rewards)), tally


def _made(api: httpx.Client, path: str, body: Document, headers: dict[str, str] | None = None) -> Any:
    answer = api.post(path, json=body, headers={"Idempotency-Key": secrets.token_hex(16), **(headers or {})})
    if not answer.is_success:
        raise RuntimeError(f"{path} was refused: {answer.status_code} {answer.text[:300]}")
    return answer.json()


class Workload:
    """Clients over the nodes that `connects` lead to. Each waits about `pause_s` between two operations."""

    def __init__(
        self, stage: Stage, tally: Tally, connects: Sequence[Connect], *, clients: int = 8, pause_s: float = 0.2
    ) -> None:
        self.stage = stage
        self.tally = tally
        self.pause_s = pause_s
        self.stopping = threading.Event()
        self.expired = threading.Event()
        self.known: dict[tuple[str, int], deque[int]] = defaultdict(lambda: deque(maxlen=4))
        self.lock = threading.Lock()
        self._threads = [
            threading.Thread(target=_Client(self, number, connects).run, name=f"client {number}", daemon=True)
            for number in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, *, patience_s: float = 60) -> Tally:
        """Let every client finish its operation, and return what they have seen.

        Whatever is still without a definite answer after `patience_s` in peace is a defect.
        """
        self.stopping.set()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
            if thread.is_alive():
                self.defect(f"{thread.name} got no definite answer within {patience_s:.0f} s of the end")
        self.expired.set()
        for thread in self._threads:
            thread.join()
        return self.tally

    def defect(self, text: str) -> None:
        """Note what must never happen."""
        with self.lock:
            self.tally.defects.append(text)


class _Client:
    def __init__(self, workload: Workload, number: int, connects: Sequence[Connect]) -> None:
        self.workload = workload
        self.stage = workload.stage
        self.number = number
        self.nodes = [connect(self.stage.secret) for connect in connects]
        self.node = number % len(self.nodes)
        self.random = random.Random(f"{self.stage.program}-{number}")
        self.count = 0
        self.told: deque[_Request] = deque(maxlen=20)

    def run(self) -> None:
        while not self.workload.stopping.is_set():
            kind = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            place = self.random.randrange(len(self.stage.members))
            try:
                request = getattr(self, kind)(place)
                if request is not None:
                    self.send(request)
            except Exception as error:  # a client that dies silently would prove nothing
                self.workload.defect(f"client {self.number} failed with {error!r}")
                break
            self.workload.stopping.wait(self.random.uniform(0, 2 * self.workload.pause_s))
        for node in self.nodes:
            node.close()

    # Each of these is one request, or none if there is nothing to do it to.

    def earn(self, place: int) -> _Request:
        event = {"id": self.name(), "type": "purchase", "amount": f"{self.random.randrange(1, MOST_DOLLARS)}.99"}
        body = {"source": "till", "member": {"external_id": str(place)}, "currency": "USD", **event}
        key = business_key(self.stage.program, "event", "till", event["id"])
        member = self.stage.members[place]
        return _Request("earn", member, {"event": event}, ((member, key),), "POST", "/v1/events", body)

    def again(self, place: int) -> _Request | None:
        """What was done before, as after a lost answer: the same answer must come again, whatever happened since."""
        return self.random.choice(self.told) if self.told else None

    def hold(self, place: int) -> _Request:
        points = self.random.choice([1, 10, 40])
        body = {"member": {"external_id": str(place)}, "points": points, "seconds": HOLD_SECONDS}
        return self.change("hold", place, "/v1/holds", body, {"points": points})

    def capture(self, place: int) -> _Request | None:
        hold = self.recent("hold", place)
        points = self.random.choice([None, 1])
        body = {} if points is None else {"points": points}
        if hold is None:
            return None
        return self.change("capture", place, f"/v1/holds/{entry_id(hold)}/capture", body, {"hold": hold})

    def void(self, place: int) -> _Request | None:
        hold = self.recent("hold", place)
        if hold is None:
            return None
        return self.change("void", place, f"/v1/holds/{entry_id(hold)}/void", None, {"hold": hold})

    def redeem(self, place: int) -> _Request:
        reward, cost = self.random.choice(self.stage.rewards)
        body = {"member": {"external_id": str(place)}, "reward": reward}
        return self.change("redeem", place, "/v1/redemptions", body, {"points": cost})

    def cancel(self, place: int) -> _Request | None:
        bought = self.recent("redeem", place)
        if bought is None:
            return None
        path = f"/v1/redemptions/{entry_id(bought)}/cancel"
        return self.change("cancel", place, path, None, {"redemption": bought})

    def transfer(self, place: int) -> _Request:
        other = (place + self.random.randrange(1, len(self.stage.members))) % len(self.stage.members)
        points = self.random.choice([1, 5, 30])
        body = {"sender": {"external_id": str(place)}, "recipient": {"external_id": str(other)}, "points": points}
        request = self.change("transfer", place, "/v1/transfers", body, {"points": points})
        received = business_key(self.stage.program, "received", request.keys[0][1].hex())
        return replace(request, keys=(*request.keys, (self.stage.members[other], received)))

    def read(self, place: int) -> _Request:
        return _Request("read", self.stage.members[place], {}, (), "GET", f"/v1/members/ext:{place}/balance")

    def name(self) -> str:
        self.count += 1
        return f"{self.number}-{self.count}"

    def change(self, kind: str, place: int, path: str, body: Document | None, detail: Document) -> _Request:
        name, member = self.name(), self.stage.members[place]
        key = business_key(self.stage.program, "request", self.stage.key, name)
        return _Request(kind, member, detail, ((member, key),), "POST", path, body, {"Idempotency-Key": name})

    def recent(self, kind: str, place: int) -> int | None:
        """One of the latest entries of the kind that some client was told of."""
        with self.workload.lock:
            found = list(self.workload.known[kind, self.stage.members[place]])
        return self.random.choice(found) if found else None

    # How

    def send(self, request: _Request) -> None:
        """Send the request until the answer is definite, or until the client has had enough."""
        gives_up = self.random.random() < SHARE_THAT_GIVES_UP
        while True:
            call = self.attempt(request)
            with self.workload.lock:
                self.workload.tally.calls.append(call)
                if call.status == "done" and request.kind in ("hold", "redeem") and call.entry is not None:
                    self.workload.known[request.kind, request.member].append(call.entry)
            if call.status == "done" and request.keys:
                self.told.append(request)
            if call.status != "unknown" or gives_up or self.workload.expired.is_set():
                return
            self.node = (self.node + 1) % len(self.nodes)
            self.workload.expired.wait(self.random.uniform(0.02, 0.3))  # a till's pace

    def attempt(self, request: _Request) -> Call:
        """One sending, and what was answered."""
        call = Call(request.kind, request.member, request.detail, request.keys, began=time.monotonic_ns())
        try:
            node = self.nodes[self.node]
            answer = node.request(request.method, request.path, json=request.body, headers=request.headers)
        except httpx.TransportError as error:
            call.ended = time.monotonic_ns()
            self.count_answer(type(error).__name__)
            return call
        call.ended = time.monotonic_ns()
        self.count_answer(str(answer.status_code))
        if answer.is_success:
            call.status = "done"
            self.understand(call, answer.json())
        elif answer.status_code >= 500 or answer.status_code == 429:
            self.look_at_error(answer, request.path)
        else:
            problem = answer.json()
            if problem["code"] != "request_in_progress":
                call.status, call.code, call.seen = "refused", problem["code"], problem
        return call

    def understand(self, call: Call, answer: Any) -> None:
        if call.kind == "read":
            wallet = answer["wallets"]["points"]
            call.seen = {"available": wallet["available"], "held": wallet["held"]}
            return
        entry = answer["transfer"]["sent"] if "transfer" in answer else answer.get("entry") or answer["entries"][0]
        call.entry, call.hash = entry_number(entry["id"]), bytes.fromhex(entry["hash"])
        call.replayed = answer["replayed"]

    def look_at_error(self, answer: httpx.Response, path: str) -> None:
        if answer.status_code == 500:
            self.workload.defect(f"500 from {path}: {answer.text[:300]}")
        if "problem+json" in answer.headers.get("Content-Type", "") and "Retry-After" not in answer.headers:
            self.workload.defect(f"{answer.status_code} without Retry-After from {path}")

    def count_answer(self, what: str) -> None:
        with self.workload.lock:
            self.workload.tally.answers[what] += 1
