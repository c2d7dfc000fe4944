"""Refunds: how much of an award a refund takes back, and how much of the points that paid come back. Pure functions.

Everything is decided by the evidence of the purchase, never by today's rules. Refunds are **cumulative**: what all
refunds together have to take is worked out from all that was refunded so far, and what the ones before took is
subtracted. So however a purchase is refunded, in one or in many, by line, by amount or both, the end is the same, to
the point.

What happens to a purchase after it is a chain of its own: refunds, and the activation of points that waited for an
event. Each names the purchase and its place in that chain in a key, so that two at once collide and the slower one
decides again, and each keeps the `Progress` so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter

from loyalty.events.fact import Fact
from loyalty.infra.ids import entry_id
from loyalty.infra.money import to_minor, to_text
from loyalty.ledger import movements
from loyalty.ledger.entry import member_of
from loyalty.ledger.state import DEFICIT, SOMEDAY, Document, Lot, Posting, Refusal, State, fold
from loyalty.programs.calendar import Calendar
from loyalty.programs.lifetimes import expires_at as expiry_of
from loyalty.programs.policies import ExpiryPolicy, NeverExpiry, Policies

DEFAULT_EXPIRY: Final = NeverExpiry()

_EXPIRY: Final[TypeAdapter[ExpiryPolicy]] = TypeAdapter(ExpiryPolicy)


class Exceeds(Refusal):
    """More would be refunded than is left: `amount` in minor units, and pieces by line."""

    def __init__(self, amount: int, items: Sequence[tuple[str, int]]) -> None:
        super().__init__("the refund exceeds what is left of the purchase")
        self.amount = amount
        self.items = tuple(items)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a refund asks for: an amount in minor units, or pieces of lines, or everything that is left."""

    amount: int | None = None
    items: tuple[tuple[str, int], ...] | None = None

    @classmethod
    def of(cls, fact: Fact) -> Wanted:
        """What the event asks for."""
        items = tuple((item.line_id, item.quantity) for item in fact.event.items)
        return cls(fact.amount, items or None)

    def document(self) -> Document:
        """The form that waits for its purchase."""
        document: Document = {}
        if self.amount is not None:
            document["amount"] = self.amount
        if self.items is not None:
            document["items"] = [{"line_id": line_id, "quantity": quantity} for line_id, quantity in self.items]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Wanted:
        """What `document` wrote."""
        items = document.get("items")
        return cls(
            document.get("amount"),
            None if items is None else tuple((item["line_id"], item["quantity"]) for item in items),
        )


@dataclass(frozen=True, slots=True)
class Awarded:
    """Points that the purchase gave: `attribution` by line where known.

    They activate and expire at these instants. Those that wait for an event or for a person do when that comes: an
    event of the type `awaits`, None for a person; then their time runs as `expiry` says.
    """

    rule: str
    wallet: str
    points: int
    attribution: tuple[int, ...] | None = None
    activates_at: datetime | None = None
    expires_at: datetime | None = None
    awaits: str | None = None
    expiry: ExpiryPolicy = DEFAULT_EXPIRY


@dataclass(frozen=True, slots=True)
class Paid:
    """Points that paid a part of the purchase, in the order in which they were consumed."""

    wallet: str
    parts: tuple[Lot, ...]

    @property
    def points(self) -> int:
        """How many."""
        return sum(part.points for part in self.parts)

    def last(self, start: int, stop: int) -> list[Lot]:
        """The parts from the `start`-th point to the `stop`-th, counted from the last one consumed."""
        parts = []
        passed = 0
        for part in reversed(self.parts):
            points = min(passed + part.points, stop) - max(passed, start)
            if points > 0:
                parts.append(replace(part, points=points))
            passed += part.points
        return parts


@dataclass(frozen=True, slots=True)
class Bought:
    """One line of the purchase; what it cost, in minor units."""

    line_id: str
    quantity: int
    amount: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What has become of a purchase. `amount` is what was refunded without naming lines, `quantities` the pieces by
    line, `credits` the points taken back (or found missing) of each award, `paid` those that came back of each payment,
    `activated` by award the expiry of points that waited for an event which has come."""

    ordinal: int = 0
    amount: int = 0
    quantities: tuple[int, ...] = ()
    credits: tuple[int, ...] = ()
    paid: tuple[int, ...] = ()
    complete: bool = False
    activated: Mapping[int, datetime | None] = field(default_factory=dict)

    def document(self) -> Document:
        """The form in the evidence of an entry."""
        document: Document = {"ordinal": self.ordinal, "amount": self.amount, "credits": list(self.credits)}
        if any(self.quantities):
            document["quantities"] = list(self.quantities)
        if self.paid:
            document["paid"] = list(self.paid)
        if self.complete:
            document["complete"] = True
        if self.activated:
            document["activated"] = [
                {"credit": place} if expires_at is None else {"credit": place, "expires_at": expires_at}
                for place, expires_at in sorted(self.activated.items())
            ]
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any], lines: int) -> Progress:
        """What `document` wrote, of a purchase with so many lines."""
        return cls(
            document["ordinal"],
            document["amount"],
            tuple(document.get("quantities", [0] * lines)),
            tuple(document["credits"]),
            tuple(document.get("paid", ())),
            document.get("complete", False),
            {found["credit"]: found.get("expires_at") for found in document.get("activated", ())},
        )


@dataclass(frozen=True, slots=True)
class Purchase:
    """An event that awarded points, by its entry, and what has become of it since."""

    source: str
    id: str
    entry: int
    occurred_at: datetime
    amount: int
    currency: str | None
    type: str
    lines: tuple[Bought, ...]
    credits: tuple[Awarded, ...]
    paid: tuple[Paid, ...]
    progress: Progress

    @classmethod
    def of(cls, entry: Mapping[str, Any], latest: Mapping[str, Any] | None = None) -> Purchase:
        """The purchase that `entry` recorded; `latest` is the evidence of the last entry about it, if there is one."""
        evidence = entry["evidence"]
        event, award = evidence["event"], evidence["award"]
        lines = tuple(
            Bought(item["line_id"], item["quantity"], to_minor(item["amount"], event["currency"]))
            for item in event.get("items", ())
        )
        # Entries of earlier releases have no `credits`: what a line says entered its wallet, for good.
        given = award.get("credits", [line for line in award["lines"] if line["points"] > 0])
        credits = tuple(
            Awarded(
                found["rule"],
                found["wallet"],
                found["points"],
                tuple(found["attribution"]) if "attribution" in found else None,
                found.get("activates_at"),
                found.get("expires_at"),
                found.get("awaits"),
                _EXPIRY.validate_python(found["expiry"]) if "expiry" in found else DEFAULT_EXPIRY,
            )
            for found in given
        )
        paid = tuple(
            Paid(found["wallet"], tuple(Lot.of(part) for part in found["parts"])) for found in award.get("paid", ())
        )
        about = evidence if latest is None else latest.get("activated", latest)
        stored = about.get("refunded")
        progress = (
            Progress(quantities=(0,) * len(lines), credits=(0,) * len(credits), paid=(0,) * len(paid))
            if stored is None
            else Progress.of(stored, len(lines))
        )
        return cls(
            event["source"],
            event["id"],
            entry["_id"],
            entry["occurred_at"],
            event.get("amount", 0),
            event.get("currency"),
            event["type"],
            lines,
            tuple(
                replace(credit, activates_at=None, expires_at=progress.activated[place], awaits=None)
                if place in progress.activated
                else credit
                for place, credit in enumerate(credits)
            ),
            paid,
            progress,
        )

    @property
    def member(self) -> int:
        """Whose it is, by number."""
        return member_of(self.entry)

    def returned(self, progress: Progress) -> int:
        """What the returned pieces cost, in minor units; lines that cost more than the purchase did count in part."""
        returned = sum(
            line.amount * quantity // line.quantity
            for line, quantity in zip(self.lines, progress.quantities, strict=True)
        )
        listed = sum(line.amount for line in self.lines)
        return returned if listed <= self.amount else returned * self.amount // listed

    def left(self, progress: Progress) -> int:
        """What can still be refunded, in minor units."""
        return 0 if progress.complete else self.amount - self.returned(progress) - progress.amount

    def left_items(self, progress: Progress) -> list[tuple[str, int]]:
        """The pieces that can still be returned, by line."""
        pairs = zip(self.lines, progress.quantities, strict=True)
        left = [(line.line_id, line.quantity - quantity) for line, quantity in pairs]
        return [] if progress.complete else [(line_id, quantity) for line_id, quantity in left if quantity]

    def waiting_for(self, event_type: str) -> list[int]:
        """The places of the awards whose points wait for an event of the type."""
        return [place for place, credit in enumerate(self.credits) if credit.awaits == event_type]

    def document(self) -> Document:
        """How an entry names it."""
        return {"source": self.source, "id": self.id, "entry": entry_id(self.entry)}


@dataclass(frozen=True, slots=True)
class Effect:
    """What a refund or an activation does: what moves, and what the entry says of it. `earned` is what counted as
    earned and no longer does, by wallet; `amount` what was paid and no longer is."""

    postings: list[Posting]
    evidence: Document
    progress: Progress
    earned: Mapping[str, int] = field(default_factory=dict)
    amount: int = 0


def refund(
    purchase: Purchase,
    wanted: Wanted,
    *,
    policies: Policies,
    state: State,
    sequence: int,
    now: datetime,
    lenient: bool = False,
) -> Effect:
    """What the refund does to a member whose settled state is `state`.

    Points that paid come back first, so that they can make up for what the award no longer gives. Exceeds if more is
    asked for than is left; a `lenient` refund, which cannot be refused any more, then takes what is left.
    """
    before = purchase.progress
    after = advance(purchase, before, wanted, lenient=lenient)
    postings: list[Posting] = []
    restored = []
    for paid, already, target in zip(purchase.paid, before.paid, after.paid, strict=True):
        if target > already:
            grace_days = policies.wallet(paid.wallet).restore_grace_days
            parts = paid.last(already, target)
            moves = movements.restore(state, paid.wallet, parts, now=now, grace_days=grace_days, sequence=sequence)
            state = fold(state, moves)
            postings += moves
            back: Document = {"wallet": paid.wallet, "points": target - already}
            late = sum(part.points for part in parts if part.expires_at is not None and part.expires_at <= now)
            if late:
                back |= {"late": late, "grace_days": grace_days}
            restored.append(back)
    taken: list[Document] = []
    earned: dict[str, int] = {}
    for credit, already, target in zip(purchase.credits, before.credits, after.credits, strict=True):
        if target <= already:
            continue
        reversal = movements.reverse(
            state,
            credit.wallet,
            target - already,
            activates_at=credit.activates_at,
            expires_at=credit.expires_at,
            policy=policies.wallet(credit.wallet).overspent_refund,
            now=now,
        )
        state = fold(state, reversal.postings)
        postings += reversal.postings
        document: Document = {"rule": credit.rule, "wallet": credit.wallet, "points": target - already}
        owed = sum(posting.points for posting in reversal.postings if posting.lot == DEFICIT)
        for name, points in (("shortfall", reversal.shortfall), ("owed", owed), ("lapsed", reversal.lapsed)):
            if points:
                document[name] = points
        if reversal.shortfall or owed:
            document["policy"] = policies.wallet(credit.wallet).overspent_refund
        taken.append(document)
        earned[credit.wallet] = earned.get(credit.wallet, 0) + target - already
    amount = purchase.left(before) - purchase.left(after)
    evidence: Document = {"of": purchase.document(), "credits": taken}
    if purchase.currency is not None:
        evidence |= {"amount": to_text(amount, purchase.currency), "currency": purchase.currency}
    if wanted.items is not None:
        evidence["items"] = wanted.document()["items"]
    if restored:
        evidence["restored"] = restored
    return Effect(postings, evidence, after, earned, amount)


def advance(purchase: Purchase, before: Progress, wanted: Wanted, *, lenient: bool = False) -> Progress:
    """What has become of the purchase after the refund; see `refund`."""
    amount, quantities, complete = before.amount, list(before.quantities), before.complete
    exceeds = Exceeds(purchase.left(before), purchase.left_items(before))
    if complete and not lenient:
        raise exceeds
    if wanted.items is not None:
        for line_id, pieces in wanted.items:
            missing = pieces
            for place, line in enumerate(purchase.lines):
                if line.line_id == line_id:
                    taken = min(missing, line.quantity - quantities[place])
                    quantities[place] += taken
                    missing -= taken
            if missing and not lenient:
                raise exceeds
    elif wanted.amount is not None:
        amount += min(wanted.amount, purchase.left(before)) if lenient else wanted.amount
    else:
        complete = True
    after = replace(before, ordinal=before.ordinal + 1, amount=amount, quantities=tuple(quantities), complete=complete)
    left = purchase.left(after)
    if left < 0:
        if not lenient:
            raise exceeds
        left = 0
    if left == 0 and (purchase.amount or not purchase.left_items(after)):
        after = replace(after, complete=True)
    targets = [
        max(already, _target(purchase, credit, after))
        for credit, already in zip(purchase.credits, before.credits, strict=True)
    ]
    gone = purchase.amount - purchase.left(after)
    paid = [
        paid.points if after.complete else max(already, paid.points * gone // purchase.amount if purchase.amount else 0)
        for paid, already in zip(purchase.paid, before.paid, strict=True)
    ]
    return replace(after, credits=tuple(targets), paid=tuple(paid))


def activate(
    purchase: Purchase,
    places: Sequence[int],
    *,
    calendar: Calendar,
    active_at: datetime,
    state: State,
    sequence: int,
    now: datetime,
) -> Effect:
    """The awards at `places`, which waited for an event, become available, less what was refunded of them before.

    Their time runs from `active_at`. Points whose time is over already expire at once.
    """
    before = purchase.progress
    postings: list[Posting] = []
    activated = dict(before.activated)
    done = []
    for place in places:
        credit = purchase.credits[place]
        points = credit.points - before.credits[place]
        expires_at = expiry_of(credit.expiry, active_at, calendar)
        activated[place] = expires_at
        waiting = state.wallet(credit.wallet).open_lot(SOMEDAY, None)
        if waiting is None or points == 0:
            continue
        moves = movements.activate(
            state, credit.wallet, points, lot=waiting.id, expires_at=expires_at, sequence=sequence
        )
        state = fold(state, moves)
        postings += moves
        if expires_at is not None and expires_at <= now:
            late = [
                Posting(credit.wallet, "available", "expired", move.points, lot, expires_at=expires_at)
                for move in moves
                if (lot := move.lot if move.into is None else move.into) != DEFICIT
            ]
            state = fold(state, late)
            postings += late
        done.append({"rule": credit.rule, "wallet": credit.wallet, "points": points})
    progress = replace(before, ordinal=before.ordinal + 1, activated=activated)
    return Effect(postings, {"of": purchase.document(), "credits": done}, progress)


def _target(purchase: Purchase, credit: Awarded, progress: Progress) -> int:
    """How many points of the award all refunds so far have to take."""
    if progress.complete:
        return credit.points
    returned = purchase.returned(progress)
    if credit.attribution is None:
        return credit.points * (returned + progress.amount) // purchase.amount if purchase.amount else 0
    by_line = sum(
        points * quantity // line.quantity
        for points, line, quantity in zip(credit.attribution, purchase.lines, progress.quantities, strict=True)
    )
    rest = purchase.amount - returned
    return by_line + ((credit.points - by_line) * progress.amount // rest if rest else 0)
