"""Traffic: processes that all want the same members at the same time, and write down what they were told and when."""

from __future__ import annotations

import multiprocessing
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymongo import DESCENDING

from loyalty.config import load_settings
from loyalty.events import service as events
from loyalty.events.model import NewEvent
from loyalty.events.reading import read
from loyalty.holds import service as holds
from loyalty.infra.clock import system_clock
from loyalty.infra.ids import entry_id
from loyalty.infra.mongo import Document, Mongo, connect
from loyalty.infra.problems import Problem
from loyalty.infra.services import Services
from loyalty.ledger.entry import business_key
from loyalty.members import service as members
from loyalty.migrations import migrate
from loyalty.points import acts, terms
from loyalty.points import service as points
from loyalty.points.acts import Done
from loyalty.programs import service as programs
from loyalty.programs.policies import Policies, WalletPolicy
from loyalty.rewards import service as rewards
from loyalty.rules import service as rules
from loyalty.rules.model import RuleSet
from loyalty.transfers import service as transfers
from tests.concurrency.history import Call

PROGRAM = "hot"
SEEDED = 100
WEIGHTS = {
    "earn": 28,
    "again": 4,
    "hold": 16,
    "capture": 10,
    "void": 5,
    "redeem": 18,
    "cancel": 4,
    "refund": 10,
    "transfer": 10,
    "read": 5,
}
COSTS = (5, 30, 90)


@dataclass(frozen=True)
class Plan:
    """What a process needs to know. `members` are numbers, by which they are also known outside (`ext:<number>`)."""

    uri: str
    database: str
    members: tuple[int, ...]
    rewards: tuple[str, ...]
    seconds: float
    seed: int


def prepare(uri: str, database: str, *, count: int, seconds: float) -> tuple[Plan, list[Call]]:
    """A program with rules, rewards and members that have some points; and the calls that gave them these."""
    db = connect(uri, database, serves_requests=False)
    migrate(db, release="test", clock=system_clock)
    policies = Policies(wallets={"points": WalletPolicy(transferable=True)})
    program = programs.create(db, id=PROGRAM, name="Hot", currency="USD", clock=system_clock, policies=policies)
    rule_set = RuleSet.model_validate(
        {"rules": [{"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}]}
    )
    rules.publish(db, program, rule_set, expected_version=None, published_by="test", clock=system_clock)
    offered = [
        rewards.create(db, PROGRAM, name=f"For {cost}", cost=cost, available=True, clock=system_clock) for cost in COSTS
    ]
    numbers = [
        members.enrol(db, PROGRAM, handles=[f"ext:{place}"], clock=system_clock).number for place in range(count)
    ]
    db.client.close()
    plan = Plan(uri, database, tuple(numbers), tuple(reward.id for reward in offered), seconds, secrets.randbits(32))
    buyer = _Buyer(plan, 0)
    try:
        for place in range(count):
            buyer.earn(place, amount=SEEDED)
    finally:
        buyer.db.client.close()
    return plan, buyer.calls


def run(plan: Plan, processes: int) -> list[Call]:
    """Let so many processes go at the members together; every call that was made, in no order."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.concurrency.traffic"])
    barrier = context.Manager().Barrier(processes)
    with context.Pool(processes) as pool:
        answers = pool.starmap(work, [(plan, number, barrier) for number in range(1, processes + 1)], chunksize=1)
    return [call for calls in answers for call in calls]


def work(plan: Plan, number: int, barrier: Any) -> list[Call]:
    """One process: calls without a pause, beginning when all are there."""
    buyer = _Buyer(plan, number)
    try:
        barrier.wait(timeout=120)
        end = time.monotonic() + plan.seconds
        while time.monotonic() < end:
            buyer.act()
    finally:
        buyer.db.client.close()
    return buyer.calls


class _Buyer:
    """One process's view: it knows the members, and what it finds in the ledger."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.plan = plan
        self.number = number
        self.random = random.Random(plan.seed + number)
        self.calls: list[Call] = []
        settings = load_settings(mongo_uri=plan.uri, mongo_database=plan.database, secret_key=secrets.token_hex(32))
        self.services = Services(settings)
        self.program = programs.get(self.db, PROGRAM)
        self.rewards = [rewards.find(self.db, PROGRAM, name) for name in plan.rewards]
        self.told: list[Document] = []

    @property
    def db(self) -> Mongo:
        return self.services.db

    def act(self) -> None:
        """Something at random."""
        kind = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        place = self.random.randrange(len(self.plan.members))
        getattr(self, kind)(place)

    # Each of these is one call, or none if there is nothing to do it to.

    def earn(self, place: int, amount: int | None = None) -> None:
        amount = amount or self.random.randrange(1, 60)
        event = {"id": f"{self.number}-{len(self.calls)}", "type": "purchase", "amount": f"{amount}.00"}
        self.told.append({"place": place, "event": event})
        self._tell("earn", place, event)

    def again(self, place: int) -> None:
        """What was told before, as after a lost answer."""
        if self.told:
            told = self.random.choice(self.told[-20:])
            self._tell("again", told["place"], told["event"])

    def refund(self, place: int) -> None:
        """Some or all of a purchase that others may refund at this moment."""
        bought = self._recent(place, "earn")
        if bought is None:
            return
        event = {
            "id": f"{self.number}-{len(self.calls)}",
            "type": "refund",
            "refers_to": bought["evidence"]["event"]["id"],
        }
        if self.random.random() < 0.7:
            event["amount"] = f"{self.random.randrange(1, 40)}.00"
        self._tell("refund", place, event)

    def hold(self, place: int) -> None:
        wanted = self.random.choice([1, 20, 80])
        key = self._key()
        act = holds.place(
            self.program,
            member=f"ext:{place}",
            wallet="points",
            points=wanted,
            seconds=3600,
            reference=None,
            key=key,
            by="test",
        )
        call = self._call("hold", place, {"points": wanted}, key)
        self._ask(call, lambda: acts.perform_together(self.services, act))

    def capture(self, place: int) -> None:
        placed = self._recent(place, "hold")
        if placed is not None:
            most = placed["evidence"]["hold"]["points"]
            wanted = self.random.choice([None, 1, most])
            hold = holds.find(self.db, PROGRAM, entry_id(placed["_id"]), now=self.services.clock())
            key = self._key()
            call = self._call("capture", place, {"hold": placed["_id"], "points": wanted}, key)
            self._ask(call, lambda: holds.capture(self.services, self.program, hold, points=wanted, key=key, by="test"))

    def void(self, place: int) -> None:
        placed = self._recent(place, "hold")
        if placed is not None:
            hold = holds.find(self.db, PROGRAM, entry_id(placed["_id"]), now=self.services.clock())
            key = self._key()
            call = self._call("void", place, {"hold": placed["_id"]}, key)
            self._ask(call, lambda: holds.void(self.services, self.program, hold, key=key, by="test"))

    def redeem(self, place: int) -> None:
        reward = self.random.choice(self.rewards)
        key = self._key()
        call = self._call("redeem", place, {"points": reward.cost}, key)
        self._ask(
            call,
            lambda: rewards.redeem(self.services, self.program, reward, member=f"ext:{place}", key=key, by="test"),
        )

    def cancel(self, place: int) -> None:
        bought = self._recent(place, "spend")
        if bought is not None:
            key = self._key()
            call = self._call("cancel", place, {"redemption": bought["_id"]}, key)
            self._ask(call, lambda: rewards.cancel(self.services, self.program, bought, key=key, by="test"))

    def transfer(self, place: int) -> None:
        other = (place + self.random.randrange(1, len(self.plan.members))) % len(self.plan.members)
        wanted = self.random.choice([1, 15, 70])
        key = self._key()
        call = self._call("transfer", place, {"points": wanted}, key)
        sent = call.keys[0][1]
        received = business_key(PROGRAM, "received", sent.hex())
        call.keys = (*call.keys, (self.plan.members[other], received))

        def give() -> Done:
            return transfers.transfer(
                self.services,
                self.program,
                sender=f"ext:{place}",
                recipient=f"ext:{other}",
                wallet="points",
                points=wanted,
                note=None,
                key=key,
                by="test",
            )[1]

        self._ask(call, give)

    def read(self, place: int) -> None:
        call = Call("read", self.plan.members[place], {})
        call.began = time.monotonic_ns()
        _, head = points.find_with_head(self.db, PROGRAM, f"ext:{place}")
        call.ended = time.monotonic_ns()
        wallet = head.state.wallet("points")
        call.status, call.seen = "done", {"available": wallet.available, "held": wallet.held}
        self.calls.append(call)

    # How

    def _key(self) -> tuple[str, ...]:
        return ("request", f"process-{self.number}", str(len(self.calls)))

    def _recent(self, place: int, kind: str) -> Document | None:
        """One of the latest entries of the kind in the member's chain."""
        first = self.plan.members[place] << 24
        found = self.db.ledger.find({"_id": {"$gt": first, "$lt": first + (1 << 24)}, "kind": kind})
        latest = list(found.sort("_id", DESCENDING).limit(4))
        return self.random.choice(latest) if latest else None

    def _call(self, kind: str, place: int, detail: Document, key: tuple[str, ...]) -> Call:
        member = self.plan.members[place]
        return Call(kind, member, detail, ((member, business_key(PROGRAM, *key)),))

    def _tell(self, kind: str, place: int, event: Document) -> None:
        told = {"source": "till", "member": {"external_id": str(place)}, **event}
        if "amount" in event:
            told["currency"] = "USD"
        key = ("event", "till", event["id"])
        call = self._call(kind, place, {"event": event}, key)
        current = terms.current(self.db, PROGRAM)
        fact = read(NewEvent.model_validate(told), current.program, now=self.services.clock())
        self._ask(call, lambda: events.record(self.services, current, fact))

    def _ask(self, call: Call, ask: Callable[[], Done]) -> None:
        self.calls.append(call)
        call.began = time.monotonic_ns()
        try:
            done = ask()
        except Problem as problem:
            call.ended = time.monotonic_ns()
            call.status, call.code, call.seen = "refused", problem.code, dict(problem.extra)
            return
        call.ended = time.monotonic_ns()
        call.status, call.replayed = "done", done.replayed
        call.entry, call.hash = done.entry["_id"], bytes(done.entry["hash"])
