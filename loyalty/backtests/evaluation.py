"""One member's history under other rules: a pure function from entries of the ledger to totals.

Events are decided anew by the very function that decides live ones (`rules.engine`), tiers by theirs; everything else
that moved points is taken as it happened. What the draft gives and what was really given go through two purses with the
same arithmetic, so that a difference between them is one of the rules. Written for speed: a shop's years are tens of
millions of events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from operator import itemgetter
from typing import Any, Final, Literal

from loyalty.backtests.books import Purse
from loyalty.backtests.totals import DRAFT, REAL, Difference, Totals
from loyalty.events import refunds
from loyalty.events.refunds import Purchase, Wanted
from loyalty.infra.money import to_minor
from loyalty.ledger.state import SOMEDAY, Document, State
from loyalty.points.terms import Terms
from loyalty.programs.calendar import Calendar
from loyalty.programs.lifetimes import activates_at, expires_at
from loyalty.programs.policies import EventPending, NeverExpiry, NoPending, RollingExpiry, WalletPolicy
from loyalty.rules.award import Award, Credit
from loyalty.rules.caps import FACET as COUNTERS
from loyalty.rules.caps import reader
from loyalty.rules.facts import Facts, Line, MemberFacts, Payment
from loyalty.rules.shares import spread
from loyalty.tiers import engine as tiers
from loyalty.tiers.engine import FACET as TIER
from loyalty.tiers.engine import Level, Running, Scheme, Transition

Clock = Literal["recorded", "occurred"]

NO_TIER: Final = "none"
UNKNOWN: Final = "unknown"
IN: Final = "in"
OUT: Final = "out"
_NOTHING: Final = State()
_NO_METADATA: Final[Mapping[str, Any]] = {}
_BEGINNING: Final = datetime.min.replace(tzinfo=timezone.utc)
_AT_ONCE: Final = NoPending()
_FOR_EVER: Final = NeverExpiry()
_MEMBERS_OWN: Final = frozenset({"pending", "available", "held"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tested: `terms` with the draft's rules and tiers, over what occurred from `start` up to `end`.

    `live` are the tiers that were in force. Members are told apart by `segments`: `tier`, `status`, `language`,
    `attributes.<name>`, `segments.<id>` (those of the draft, at the end). The clock says when an event is decided: when
    it was recorded, as it really was, or when it occurred, as if each had been told at once and in its order.
    """

    terms: Terms
    live: Scheme | None
    start: datetime | None
    end: datetime
    clock: Clock = "recorded"
    segments: tuple[str, ...] = ("tier",)


@dataclass(frozen=True, slots=True)
class Person:
    """What conditions and segments look at of a member, as it is today."""

    number: int
    facts: MemberFacts
    joined_on: date


Instants = tuple[datetime | None, datetime | None]
"""When points activate and expire; None for at once and never."""


class _Lasting:
    """How the points of a rule last. Those of one local day mostly do alike, so it is worked out once for each day."""

    __slots__ = ("_by_day", "_calendar", "_exact", "expiry", "most", "pending", "plain")

    def __init__(self, credit: Credit, policy: WalletPolicy, calendar: Calendar) -> None:
        self.pending = credit.pending or policy.pending
        self.expiry = credit.expiry or policy.expiry
        self.most = policy.max_balance
        self.plain = self.pending == _AT_ONCE and self.expiry == _FOR_EVER
        self._calendar = calendar
        self._exact = isinstance(self.expiry, RollingExpiry) and self.expiry.round_up_to is None
        self._by_day: dict[date, Instants] = {}

    def instants(self, occurred_at: datetime, day: date) -> Instants:
        """Those of points of an event; `day` is the local day of it."""
        known = None if self._exact else self._by_day.get(day)
        if known is None:
            begins = activates_at(self.pending, occurred_at, self._calendar)
            ends = None
            if begins != SOMEDAY:
                ends = expires_at(self.expiry, begins or occurred_at, self._calendar)
            known = self._by_day[day] = (begins, ends)
        return known


class Evaluator:
    """Evaluates members by one plan and adds up what they come to. Keeps what all of them have in common."""

    def __init__(self, plan: Plan, totals: Totals) -> None:
        self.plan = plan
        self.totals = totals
        self._lasting: dict[str, _Lasting] = {}

    def member(self, person: Person, opening: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> int:
        """Add what one member's entries come to; how many events were decided.

        `opening` is the state before the first of them, as in the ledger. Entries in the order of the chain; those
        outside of the span are passed over.
        """
        if self.plan.clock == "occurred":
            entries = sorted(entries, key=itemgetter("occurred_at", "_id"))
        history = _History(self, person, opening)
        for entry in entries:
            history.tell(entry)
        history.close()
        return history.events

    def lasting(self, credit: Credit) -> _Lasting:
        """How the points of a rule last."""
        known = self._lasting.get(credit.rule)
        if known is None:
            terms = self.plan.terms
            known = _Lasting(credit, terms.policies.wallet(credit.wallet), terms.calendar)
            self._lasting[credit.rule] = known
        return known


class _History:
    """A member on the way through the entries."""

    __slots__ = (
        "_awards",
        "_balance",
        "_calendar",
        "_counters",
        "_draft",
        "_evaluator",
        "_facts",
        "_issued",
        "_now",
        "_opening",
        "_person",
        "_plan",
        "_real",
        "_real_tier",
        "_rules",
        "_tier",
        "_totals",
        "events",
    )

    def __init__(self, evaluator: Evaluator, person: Person, opening: Mapping[str, Any]) -> None:
        plan = evaluator.plan
        facets = opening.get("facets", {})
        self._evaluator = evaluator
        self._plan = plan
        self._person = person
        self._totals = evaluator.totals
        self._rules = plan.terms.rules
        self._calendar = plan.terms.calendar
        self._counters: Document = facets.get(COUNTERS, {})
        self._opening: Document | None = facets.get(TIER)
        self._real_tier: Document | None = self._opening
        self._tier: Running | None = None
        self._facts: dict[str | None, MemberFacts] = {None: person.facts}
        self._balance = plan.terms.tiers is not None and plan.terms.tiers.looks_at_balance
        self._draft, self._real = Purse.of(opening["wallets"]), Purse.of(opening["wallets"])
        self._issued: dict[str, list[int]] = {}  # issued by draft and really, taken back by draft and really
        self._awards: dict[tuple[str, str], Purchase | tuple[Mapping[str, Any], list[tuple[Credit, Instants]]]] = {}
        self._now = plan.start or _BEGINNING
        self.events = 0

    def tell(self, entry: Mapping[str, Any]) -> None:
        """One entry."""
        plan, occurred_at = self._plan, entry["occurred_at"]
        if occurred_at >= plan.end:
            return
        now = self._now = occurred_at if plan.clock == "occurred" else entry["recorded_at"]
        within = plan.start is None or occurred_at >= plan.start
        evidence = entry["evidence"]
        event, award = evidence.get("event"), evidence.get("award")
        decided = within and event is not None and award is not None
        self._move(entry, now, decided=decided)
        if decided:
            self.events += 1
            self._note_real(award)
            if award.get("limits") != ["earning_blocked"]:
                self._decide(entry, event, now)
        if len(evidence) > 2 or not decided:
            self._follow(evidence, now, within=within)
        if "state" in entry:
            self._real_tier = entry["state"].get("facets", {}).get(TIER, self._real_tier)
        if self._balance:
            self._settle(now)

    def _follow(self, evidence: Mapping[str, Any], now: datetime, *, within: bool) -> None:
        """What the entry did to purchases before it, and what it really did to the tier."""
        event = evidence.get("event")
        if "refund" in evidence:
            self._refund(evidence["refund"], event or {}, now)
        if "activated" in evidence:
            self._activate(evidence["activated"]["of"], event or {}, now)
        for parked in evidence.get("refunds", ()):  # they came before their purchase; what they took is in minor units
            amount = to_minor(parked["amount"], parked["currency"]) if "amount" in parked else None
            self._refund(parked, {"amount": amount, "items": parked.get("items", ())}, now)
        if within:
            for change in evidence.get("tier", ()):
                self._totals.add(1, "moves", change["from"], change["to"], REAL)

    def close(self) -> None:
        """The end of the span: what is open, where everybody stands, who got more and who less."""
        plan, totals = self._plan, self._totals
        at = plan.end if plan.clock == "occurred" else max(plan.end, self._now)
        self._settle(at)
        if plan.live is not None and self._real_tier is not None and plan.clock == "recorded":
            state = self._real.state(at) if plan.live.looks_at_balance else _NOTHING
            self._real_tier, changes = tiers.settle(
                self._real_tier, plan.live, self._calendar, at, joined_on=self._person.joined_on, state=state
            )
            for change in changes:
                totals.add(1, "moves", change.before, change.after, REAL)
        sums = totals.sums
        for side, purse in ((DRAFT, self._draft), (REAL, self._real)):
            for wallet, points in purse.open(plan.end).items():
                sums["open", wallet, side] += points
        draft = self._tier.level.id if self._tier is not None else NO_TIER
        real = NO_TIER if self._real_tier is None else self._real_tier["level"]
        sums["levels", draft, DRAFT] += 1
        sums["levels", real, REAL] += 1
        sums["members",] += 1
        sums["events",] += self.events
        if self._issued:
            self._compare()

    def _compare(self) -> None:
        totals, sums = self._totals, self._totals.sums
        segments = tuple([totals.value(name, self._segment(name)) for name in self._plan.segments])
        for wallet, (issued_draft, issued_real, reversed_draft, reversed_real) in self._issued.items():
            sums["issued", wallet, DRAFT] += issued_draft
            sums["issued", wallet, REAL] += issued_real
            sums["reversed", wallet, DRAFT] += reversed_draft
            sums["reversed", wallet, REAL] += reversed_real
            draft, real = issued_draft - reversed_draft, issued_real - reversed_real
            difference = draft - real
            totals.differ(wallet, Difference(difference, self._person.number, draft, real, segments))
            outcome = "winners" if difference > 0 else "losers" if difference < 0 else "unchanged"
            for name, value in zip(self._plan.segments, segments, strict=True):
                sums["segments", name, value, wallet, outcome] += 1
                sums["segments", name, value, wallet, DRAFT] += draft
                sums["segments", name, value, wallet, REAL] += real

    def _segment(self, name: str) -> str:
        facts = self._person.facts
        if name == "tier":
            return NO_TIER if self._real_tier is None else str(self._real_tier["level"])
        if name == "status":
            return facts.status or UNKNOWN
        if name == "language":
            return facts.language or UNKNOWN
        if name.startswith("segments."):
            return IN if name.partition(".")[2] in self._at_the_end().segments else OUT
        value = facts.attributes.get(name.partition(".")[2])
        return UNKNOWN if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    def _at_the_end(self) -> Facts:
        """The member when the span ends, without an event."""
        segmentation = {} if self._rules is None else self._rules.segments
        person = self._person.facts
        return Facts("", "", self._plan.end, self._calendar, person, segmentation=segmentation)

    # -- what was not decided by rules --------------------------------------------------------------------------------

    def _move(self, entry: Mapping[str, Any], now: datetime, *, decided: bool) -> None:
        """The movements of the entry in both purses; those that time alone made, the purses know by themselves."""
        for posting in entry["postings"]:
            source, wallet, points = posting["from"], posting["wallet"], posting["points"]
            ends = posting.get("expires_at")
            if source == "issuance":
                begins = posting.get("activates_at")
                self._real.add(wallet, points, begins, ends, posting["lot"])
                if decided:
                    self._issue(wallet, points, REAL)
                else:
                    self._draft.add(wallet, points, begins, ends, posting["lot"])
                continue
            target = posting["to"]
            if target == "expired":
                if ends is None or ends > entry["recorded_at"]:  # it lapsed, or was forfeited
                    self._draft.lapse(wallet, now)
                    self._real.lapse(wallet, now)
            elif target == "reversed":
                self._real.reverse(wallet, points, None, ends, now)
                if not self._knows(entry["evidence"]):
                    self._draft.reverse(wallet, points, None, ends, now)
            elif source in _MEMBERS_OWN and target not in _MEMBERS_OWN:
                self._real.take(wallet, points, now)
                missing = self._draft.take(wallet, points, now)
                if missing:
                    self._totals.add(missing, "unpaid", wallet)
            elif source not in _MEMBERS_OWN:
                for purse in (self._draft, self._real):
                    purse.add(wallet, points, posting.get("activates_at"), ends, posting["lot"])
            elif source == "pending" and self._real.waits(wallet, posting["lot"]):
                number = posting.get("into", posting["lot"])
                self._real.activate(wallet, points, ends, number)
                if "activated" not in entry["evidence"]:
                    self._draft.activate(wallet, points, ends, number)

    def _knows(self, evidence: Mapping[str, Any]) -> bool:
        """Whether the purchase that the entry takes back was decided by the draft."""
        if "refund" not in evidence:
            return "refunds" in evidence
        of = evidence["refund"]["of"]
        return (of["source"], of["id"]) in self._awards

    def _note_real(self, award: Mapping[str, Any]) -> None:
        """What the rules really gave."""
        totals, sums = self._totals, self._totals.sums
        for line in award["lines"]:
            key = ("rules", line["rule"], line["wallet"], REAL)
            sums[key] += line["points"]
            if "wanted" in line:
                _note_cap(totals, line["rule"], line["reason"], line["wanted"] - line["points"], REAL)

    # -- what the draft decides ---------------------------------------------------------------------------------------

    def _decide(self, entry: Mapping[str, Any], event: Mapping[str, Any], now: datetime) -> None:
        rules, calendar = self._rules, self._calendar
        if rules is None:
            return
        occurred_at = entry["occurred_at"]
        day = calendar.day(occurred_at)
        level = self._settle(now)
        tier = None if level is None else level.id
        member = self._facts.get(tier)
        if member is None:
            member = self._facts[tier] = self._person.facts._replace(tier=tier)
        currency = event.get("currency") or self._plan.terms.program.currency
        items, payments = event.get("items"), event.get("payments")
        facts = Facts(
            event["type"],
            event["source"],
            occurred_at,
            calendar,
            member,
            event.get("store"),
            event.get("amount"),
            event.get("tax"),
            event.get("shipping"),
            event.get("currency"),
            event.get("metadata", _NO_METADATA),
            tuple([_line(item, currency) for item in items]) if items else (),
            tuple([Payment(one["method"], to_minor(one["amount"], currency)) for one in payments]) if payments else (),
            reader(self._counters, day),
            rules.segments,
        )
        award = rules.award(
            facts,
            counters=self._counters,
            multiplier_milli=1000 if level is None else level.multiplier_milli,
            budgets=_UNLIMITED,
        )
        if award.counters is not None:
            self._counters = award.counters
        totals, sums = self._totals, self._totals.sums
        for line in award.lines:
            key = ("rules", line.rule, line.wallet, DRAFT)
            sums[key] += line.points
            if line.wanted is not None:
                _note_cap(totals, line.rule, line.reason or "", line.wanted - line.points, DRAFT)
        for campaign, points in award.drawn:
            totals.add(points, "budgets", campaign)
        earned = self._credit_all(entry, award, now, day)
        if level is not None:
            kind = event["type"]
            spend = event.get("amount", 0) if kind == "purchase" else 0
            self._count(day, earned, spend, int(kind == "visit"), now)

    def _credit_all(self, entry: Mapping[str, Any], award: Award, now: datetime, day: date) -> dict[str, int]:
        """The credits enter the draft's purse; the points by wallet."""
        earned: dict[str, int] = {}
        given: list[tuple[Credit, Instants]] = []
        for credit in award.credits:
            lasting = self._evaluator.lasting(credit)
            if lasting.most is not None:
                credit = self._fitting(credit, lasting.most, now)
                if not credit.points:
                    continue
            wallet, points = credit.wallet, credit.points
            begins = ends = None
            if not lasting.plain:
                begins, ends = lasting.instants(entry["occurred_at"], day)
                if begins is not None and begins <= now:
                    begins = None
            given.append((credit, (begins, ends)))
            self._draft.add(wallet, points, begins, ends, 0)
            self._issue(wallet, points, DRAFT)
            earned[wallet] = earned.get(wallet, 0) + points
        event = entry["evidence"]["event"]
        self._awards[event["source"], event["id"]] = (entry, given)
        return earned

    def _fitting(self, credit: Credit, most: int, now: datetime) -> Credit:
        have = self._draft.open(now).get(credit.wallet, 0)
        points = min(credit.points, max(0, most - have))
        if points == credit.points:
            return credit
        _note_cap(self._totals, credit.rule, "max_balance", credit.points - points, DRAFT)
        attribution = credit.attribution and spread(points, credit.attribution)
        return credit._replace(points=points, attribution=attribution)

    def _purchase(self, of: Mapping[str, Any]) -> tuple[tuple[str, str], Purchase] | None:
        """The purchase, as the draft has decided it; None when it did not."""
        key = (of["source"], of["id"])
        found = self._awards.get(key)
        if found is None:
            return None
        if isinstance(found, Purchase):
            return key, found
        entry, given = found
        credits = [self._credit_document(credit, instants) for credit, instants in given]
        evidence = {"event": entry["evidence"]["event"], "award": {"lines": [], "credits": credits}}
        return key, Purchase.of({"_id": entry["_id"], "occurred_at": entry["occurred_at"], "evidence": evidence})

    def _credit_document(self, credit: Credit, instants: Instants) -> Document:
        """The credit as an entry would keep it."""
        begins, ends = instants
        document: Document = {"rule": credit.rule, "wallet": credit.wallet, "points": credit.points}
        if begins is not None:
            document["activates_at"] = begins
        if ends is not None:
            document["expires_at"] = ends
        if begins == SOMEDAY:
            lasting = self._evaluator.lasting(credit)
            document["expiry"] = lasting.expiry.model_dump(mode="json", exclude_none=True)
            if isinstance(lasting.pending, EventPending):
                document["awaits"] = lasting.pending.event_type
        if credit.attribution is not None:
            document["attribution"] = credit.attribution
        return document

    def _refund(self, refund: Mapping[str, Any], wanted: Mapping[str, Any], now: datetime) -> None:
        """A purchase is taken back, in the draft by what the draft gave for it."""
        for credit in refund["credits"]:
            self._take_back(credit["wallet"], credit["points"], REAL)
        known = self._purchase(refund["of"])
        if known is None:
            for credit in refund["credits"]:
                self._take_back(credit["wallet"], credit["points"], DRAFT)
            return
        key, purchase = known
        items = tuple([(item["line_id"], item["quantity"]) for item in wanted.get("items", ())])
        after = refunds.advance(purchase, purchase.progress, Wanted(wanted.get("amount"), items or None), lenient=True)
        earned: dict[str, int] = {}
        for credit, before, target in zip(purchase.credits, purchase.progress.credits, after.credits, strict=True):
            points = target - before
            if points > 0:
                self._draft.reverse(credit.wallet, points, credit.activates_at, credit.expires_at, now)
                self._take_back(credit.wallet, points, DRAFT)
                earned[credit.wallet] = earned.get(credit.wallet, 0) - points
        amount = purchase.left(purchase.progress) - purchase.left(after)
        whole = after.complete and not purchase.progress.complete
        self._awards[key] = replace(purchase, progress=after)
        self._count(
            self._calendar.day(purchase.occurred_at),
            earned,
            -amount if purchase.type == "purchase" else 0,
            -int(whole and purchase.type == "visit"),
            now,
        )

    def _activate(self, of: Mapping[str, Any], event: Mapping[str, Any], now: datetime) -> None:
        """The points of a purchase that waited for this event become available."""
        known = self._purchase(of)
        if known is None:
            return
        _, purchase = known
        for place in purchase.waiting_for(event["type"]):
            credit = purchase.credits[place]
            ends = expires_at(credit.expiry, now, self._calendar)
            self._draft.activate(credit.wallet, credit.points - purchase.progress.credits[place], ends, 0)

    def _issue(self, wallet: str, points: int, side: str) -> None:
        issued = self._issued.get(wallet)
        if issued is None:
            issued = self._issued[wallet] = [0, 0, 0, 0]
        issued[side == REAL] += points

    def _take_back(self, wallet: str, points: int, side: str) -> None:
        issued = self._issued.setdefault(wallet, [0, 0, 0, 0])
        issued[2 + (side == REAL)] += points

    # -- the draft's tier ---------------------------------------------------------------------------------------------

    def _settle(self, now: datetime) -> Level | None:
        """The level before what happens now; None where there are no tiers."""
        scheme = self._scheme(now)
        if scheme is None:
            return None
        state = self._draft.state(now) if self._balance else _NOTHING
        if self._tier is None:
            joined_on = self._person.joined_on
            self._tier = Running(self._opening, scheme, self._calendar, now, joined_on=joined_on, state=state)
        changes = self._tier.settle(scheme, now, state=state)
        if changes:
            self._note_moves(changes)
        return self._tier.level

    def _count(self, day: date, earned: Mapping[str, int], spend: int, visits: int, now: datetime) -> None:
        scheme = self._scheme(now)
        if scheme is None or self._tier is None:
            return
        state = self._draft.state(now) if self._balance else _NOTHING
        changes = self._tier.count(scheme, day=day, earned=earned, spend=spend, visits=visits, now=now, state=state)
        if changes:
            self._note_moves(changes)

    def _scheme(self, now: datetime) -> Scheme | None:
        """The tiers by which it is decided: those of the time, or today's where events are told as if at once."""
        scheme = self._plan.terms.tiers
        if self._plan.clock == "occurred":
            return scheme
        while scheme is not None and scheme.published_at > now:
            scheme = scheme.previous
        return scheme

    def _note_moves(self, changes: Iterable[Transition]) -> None:
        for change in changes:
            self._totals.add(1, "moves", change.before, change.after, DRAFT)


def _note_cap(totals: Totals, rule: str, reason: str, withheld: int, side: str) -> None:
    totals.add(1, "caps", rule, reason, "hits", side)
    totals.add(withheld, "caps", rule, reason, "withheld", side)


def _line(item: Mapping[str, Any], currency: str) -> Line:
    tax = item.get("tax")
    return Line(
        item["line_id"],
        to_minor(item["amount"], currency),
        item.get("quantity", 1),
        item.get("sku"),
        item.get("category"),
        item.get("brand"),
        None if tax is None else to_minor(tax, currency),
        item.get("metadata", _NO_METADATA),
    )


class _Unlimited(dict[str, int]):
    """Budgets of campaigns are of all members together; a back-test says what they would have come to instead."""

    def get(self, campaign: str, default: Any = None) -> int:
        return 1 << 53


_UNLIMITED: Final = _Unlimited()
