"""Programs and purchases for tests of the engine: from events as they are told to entries, without a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson

from loyalty.events import engine, reading
from loyalty.events.fact import Fact
from loyalty.events.model import NewEvent
from loyalty.events.refunds import Purchase
from loyalty.ledger import movements
from loyalty.ledger.append import Operation, preview
from loyalty.ledger.entry import Draft, Head
from loyalty.ledger.state import Document, State, Wallet
from loyalty.members.model import Member
from loyalty.points.terms import Terms
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.programs.policies import Policies
from loyalty.rules.engine import compile_rules
from loyalty.rules.model import RuleSet
from loyalty.tiers.engine import Scheme

Json = dict[str, Any]

START = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
BASE: Json = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}


def terms(*rules: Json, zone: str = "UTC", tiers: Scheme | None = None, **policies: Any) -> Terms:
    """The terms of a program in USD with these rules and policies."""
    program = Program("main", "Main", "USD", zone, None, True, "live", START, 1, Policies.model_validate(policies))
    calendar = Calendar.of(zone)
    rule_set = RuleSet.model_validate_json(orjson.dumps({"rules": list(rules or (BASE,))}))
    compiled = compile_rules(rule_set, 1, "USD", calendar=calendar, policies=program.policies)
    return Terms(program, calendar, program.policies, compiled, tiers)


def points(**policy: Any) -> Json:
    """The policies of a program whose one wallet has this policy."""
    return {"wallets": {"points": policy}}


@dataclass
class Till:
    """One member of a program, told of events at instants of its own; it keeps the chain that they make."""

    terms: Terms
    now: datetime = START
    head: Head = field(default_factory=lambda: Head.empty(7))
    entries: list[Document] = field(default_factory=list)
    member: Member = field(default_factory=lambda: Member(7, "main", ("ext:ada",), "active", {}, START, START, 1))

    def tell(self, name: str, kind: str = "purchase", amount: str | None = None, **fields: Any) -> Document:
        """The entry of an event that happens now, or at `occurred_at`."""
        event: Json = {"source": "till", "id": name, "type": kind, "member": {"external_id": "ada"}, **fields}
        if amount is not None:
            event |= {"amount": amount, "currency": "USD"}
        fact = reading.read(NewEvent.model_validate_json(orjson.dumps(event)), self.terms.program, now=self.now)
        return self.append(self.decide(fact))

    def buy(self, name: str, amount: str, **fields: Any) -> Document:
        """The entry of a purchase."""
        return self.tell(name, amount=amount, **fields)

    def refund(self, name: str, of: str, amount: str | None = None, **fields: Any) -> Document:
        """The entry of a refund."""
        return self.tell(name, "refund", amount, refers_to=of, **fields)

    def decide(self, fact: Fact) -> Any:
        """What the service would have decided, from the entries here."""
        purchase = self.purchase(fact.event.refers_to) if fact.event.refers_to else None

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            if not fact.is_refund:
                waits = fact.refers_to is not None and purchase is None and self.terms.awaits(fact.event.type)
                return engine.record(
                    self.terms, self.member, fact, state, sequence, now, refers_to=purchase, waits=waits
                )
            if purchase is None:
                return engine.park(fact, state, sequence, now)
            return engine.take_back(self.terms, self.member, fact, purchase, state, sequence, now)

        return draft

    def append(self, decide: Any) -> Document:
        """The next entry of the chain."""
        entry = preview(self.head, Operation("main", 7, (), b"", decide), self.now)
        self.head = Head.of(entry)
        for wallet in self.head.state.wallets.values():
            assert wallet.defects() == []
        self.entries.append(entry)
        return entry

    def purchase(self, name: str) -> Purchase | None:
        """The purchase of this name, and what has become of it."""
        made = [entry for entry in self.entries if "award" in entry["evidence"]]
        found = [entry for entry in made if entry["evidence"]["event"]["id"] == name]
        if not found:
            return None
        later = [entry["evidence"] for entry in self.entries if _about(entry["evidence"]) == name]
        return Purchase.of(found[0], later[-1] if later else None)

    def bought(self, name: str) -> Purchase:
        """The purchase of this name, which is known."""
        found = self.purchase(name)
        assert found is not None
        return found

    def spend(self, number: int) -> None:
        """So many points are spent."""

        def draft(state: State, sequence: int, now: datetime) -> Draft:
            return Draft("spend", now, movements.debit(state, "points", number, target="spent"), {})

        self.append(draft)

    def wait(self, **time: float) -> Till:
        """Time passes."""
        self.now += timedelta(**time)
        return self

    def wallet(self, name: str = "points") -> Wallet:
        """What the member has now, whether or not an entry says so."""
        return movements.settle(self.head.state, self.now).wallet(name)

    @property
    def available(self) -> int:
        """The points that the member can spend now."""
        return self.wallet().available


def _about(evidence: Document) -> str | None:
    for name in ("refund", "activated"):
        if name in evidence:
            of: str = evidence[name]["of"]["id"]
            return of
    return None
