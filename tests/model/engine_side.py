"""The engine, driven in memory: a program in its own types, and one member's chain that events and acts grow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from loyalty.events import engine, refunds
from loyalty.events.activation import _waiting
from loyalty.events.model import NewEvent
from loyalty.events.reading import read
from loyalty.events.refunds import Purchase
from loyalty.holds import service as holds
from loyalty.infra.ids import entry_id
from loyalty.ledger import movements
from loyalty.ledger.entry import Draft
from loyalty.ledger.state import Document, Lot, Posting, Refusal, State
from loyalty.members.model import Member
from loyalty.points import wallets
from loyalty.points.acts import _reviewing
from loyalty.points.settling import Tiering
from loyalty.points.terms import Terms
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.programs.policies import Policies
from loyalty.rules.caps import FACET as COUNTERS
from loyalty.rules.caps import Tally
from loyalty.rules.checks import defects
from loyalty.rules.engine import compile_rules
from loyalty.rules.model import RuleSet
from loyalty.tiers import engine as tiers
from loyalty.tiers.engine import Basis, Downgrade, Level, Scheme, Standing, Window
from loyalty.transfers import service as transfers
from tests.model.chain import MEMBER, Chain, Decide

Json = dict[str, Any]
CURRENCY = "USD"


def terms_of(program: Json, start: datetime) -> Terms:
    """The program as the engine takes it."""
    policies = Policies.model_validate(program["policies"])
    calendar = Calendar.of(program["zone"])
    rule_set = RuleSet.model_validate(program["rules"])
    wrong = defects(rule_set, CURRENCY)
    assert wrong == [], wrong
    made = Program(
        id="program",
        name="A program",
        currency=CURRENCY,
        timezone=program["zone"],
        backdating_days=None,
        auto_enrol=True,
        mode="live",
        created_at=start,
        version=1,
        policies=policies,
    )
    rules = compile_rules(rule_set, 1, CURRENCY, calendar=calendar, policies=policies)
    scheme = None if program["tiers"] is None else scheme_of(program["tiers"], start)
    return Terms(made, calendar, policies, rules, scheme)


def scheme_of(told: Json, start: datetime) -> Scheme:
    """The tiers as the engine takes them."""
    return Scheme(
        version=1,
        basis=Basis(**told["basis"]),
        window=Window(**told["window"]),
        levels=tuple(
            Level(level["id"], level["id"], level["threshold"], level["multiplier_milli"]) for level in told["levels"]
        ),
        downgrade=Downgrade(**told["downgrade"]),
        published_at=start,
    )


class Engine:
    """One member of the program, as the application would keep it."""

    def __init__(self, program: Json, start: datetime) -> None:
        self.terms = terms_of(program, start)
        self.member = Member(MEMBER, "program", ("ext:7",), "active", {}, start, start, 1)
        self.chain = Chain()
        self.events: dict[str, Document] = {}
        self.latest: dict[int, Document] = {}
        self.redemptions: dict[Any, Document] = {}

    @property
    def joined_on(self) -> Any:
        """The day of enrolment."""
        return self.terms.calendar.day(self.member.created_at)

    def at(self, now: datetime) -> State:
        """What the member has at `now`."""
        return self.chain.at(now)

    def standing(self, now: datetime) -> Standing:
        """The member's tier at `now`."""
        scheme = self.terms.tiers
        assert scheme is not None
        state = self.at(now)
        facet = state.facets.get(tiers.FACET)
        return tiers.standing(facet, scheme, self.terms.calendar, now, joined_on=self.joined_on, state=state)

    def counted(self, key: str, now: datetime) -> int | None:
        """What a counter has in the period of `now`."""
        return Tally(self.chain.head.state.facets.get(COUNTERS, {}), self.terms.calendar.day(now)).value(key)

    # Events

    def event(self, told: Json, now: datetime) -> Document:
        """An event of the wire. Refusal, and nothing happened."""
        event = NewEvent.model_validate({"source": "till", "member": {"external_id": "7"}, **told})
        fact = read(event, self.terms.program, now=now)
        found = self.events.get(event.refers_to or "")
        purchase = None if found is None else Purchase.of(found, self.latest.get(found["_id"]))

        def decide(state: State, sequence: int, now: datetime) -> Draft:
            if fact.is_refund and purchase is None:
                return engine.park(fact, state, sequence, now)
            if fact.is_refund and purchase is not None:
                return engine.take_back(self.terms, self.member, fact, purchase, state, sequence, now)
            waits = fact.refers_to is not None and purchase is None and self.terms.awaits(event.type)
            about = purchase if purchase is not None and purchase.waiting_for(event.type) else None
            return engine.record(self.terms, self.member, fact, state, sequence, now, refers_to=about, waits=waits)

        entry = self.chain.append(decide, now)
        evidence = entry["evidence"]
        if not fact.is_refund:
            self.events[event.id] = entry
        if found is not None and ("refund" in evidence or "activated" in evidence):
            self.latest[found["_id"]] = evidence
        return entry

    # Acts

    def approve(self, number: str, now: datetime) -> None:
        """Somebody makes the points of an event available that wait."""
        found = self.events.get(number)
        purchase = None if found is None else Purchase.of(found, self.latest.get(found["_id"]))
        places = [] if purchase is None else _waiting(purchase)

        def decide(state: State, sequence: int, now: datetime) -> Draft:
            if purchase is None or not places:
                raise Refusal("nothing waits")
            effect = refunds.activate(
                purchase,
                places,
                calendar=self.terms.calendar,
                active_at=now,
                state=state,
                sequence=sequence,
                now=now,
            )
            evidence = {"activated": {**effect.evidence, "refunded": effect.progress.document()}}
            return Draft("activate", now, effect.postings, evidence)

        entry = self._append(decide, now)
        if found is not None:
            self.latest[found["_id"]] = entry["evidence"]

    def spend(self, wallet: str, points: int, now: datetime, label: Any) -> None:
        """A redemption."""

        def decide(state: State, sequence: int, now: datetime) -> Draft:
            moves = movements.debit(state, wallet, points, target="spent")
            lapses = wallets.lapses(self.terms.program, state, wallet, now)
            return Draft("spend", now, moves, {}, lapses=lapses)

        self.redemptions[label] = self._append(decide, now)

    def cancel(self, label: Any, now: datetime) -> None:
        """A redemption is undone."""
        entry = self.redemptions.pop(label)
        spent = [Posting.of(posting) for posting in entry["postings"]]
        parts = [
            (posting.wallet, Lot(posting.lot, posting.points, None, posting.expires_at))
            for posting in spent
            if (posting.source, posting.target) == ("available", "spent")
        ]
        wallet = parts[0][0]
        grace = self.terms.policies.wallet(wallet).restore_grace_days

        def decide(state: State, sequence: int, now: datetime) -> Draft:
            lots = [lot for _, lot in parts]
            moves = movements.restore(state, wallet, lots, now=now, grace_days=grace, sequence=sequence)
            return Draft("cancel", now, moves, {})

        self._append(decide, now)

    def hold(self, wallet: str, points: int, seconds: int, now: datetime) -> int:
        """Points are set aside; the number of the hold."""
        act = holds.place(
            self.terms.program,
            member="ext:7",
            wallet=wallet,
            points=points,
            seconds=seconds,
            reference=None,
            key=("request", "test", str(len(self.chain.entries))),
            by="test",
        )
        self._append(act.decide(self.member), now)
        return self.chain.head.sequence

    def capture(self, wallet: str, number: int, points: int | None, now: datetime) -> None:
        """Points that were set aside are spent."""

        def decide(state: State, sequence: int, now: datetime) -> Draft:
            moves = movements.capture(state, wallet, number, now, sequence=sequence, points=points)
            lapses = wallets.lapses(self.terms.program, state, wallet, now)
            return Draft("capture", now, moves, {}, lapses=lapses)

        self._append(decide, now)

    def void(self, wallet: str, number: int, now: datetime) -> None:
        """Points that were set aside come back."""
        self._move(
            "void", now, lambda state, sequence, at: movements.release(state, wallet, number, at, sequence=sequence)
        )

    def adjust(self, wallet: str, points: int, now: datetime, expires_at: datetime | None) -> None:
        """Points are given or taken by hand."""

        def moves(state: State, sequence: int, at: datetime) -> list[Posting]:
            if points < 0:
                return movements.debit(state, wallet, -points, target="adjusted")
            return movements.credit(state, wallet, points, source="adjusted", sequence=sequence, expires_at=expires_at)

        self._move("adjust", now, moves)

    def give(self, other: Engine, wallet: str, points: int, now: datetime) -> None:
        """Points go to another member, in an entry each."""
        given: list[Posting] = []

        def leave(state: State, sequence: int, at: datetime) -> list[Posting]:
            given[:] = movements.debit(state, wallet, points, target="transferred")
            return list(given)

        self._move("transfer", now, leave)
        other._move("transfer", now, lambda state, sequence, at: transfers.receive(state, given, sequence))

    def settle(self, now: datetime) -> None:
        """What the job does."""
        self._move("settle", now, lambda state, sequence, at: [])

    def hold_id(self, number: int) -> str:
        """How a payment names the hold."""
        return entry_id(MEMBER << 24 | number)

    def _append(self, decide: Decide, now: datetime) -> Document:
        """Acts that are no events have the tier reviewed after them, as `points.acts` does."""
        if self.terms.tiers is not None:
            looks = self.terms.tiers.looks_at_balance or tiers.FACET in self.chain.head.state.facets
            if looks:
                decide = _reviewing(decide, Tiering(self.terms.tiers, self.terms.calendar, self.joined_on))
        return self.chain.append(decide, now)

    def _move(self, kind: str, now: datetime, moves: Any) -> None:
        def decide(state: State, sequence: int, at: datetime) -> Draft:
            return Draft(kind, at, moves(state, sequence, at), {})

        self._append(decide, now)
