"""Recording: what an event does to a member, from the state before it to the draft of an entry. A pure function.

Live, dry run and back-test decide by this same function. In order: points that pay a part of the purchase leave; the
rules award by the tier that the member had before; what a wallet cannot hold is cut; points are credited with the
instants at which they activate and expire; what waited for this event becomes available; the tier counts it; and what
was told of it before it was told itself happens to it: refunds, and deliveries that its points would wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any, Final

from loyalty.events import refunds
from loyalty.events.fact import Fact
from loyalty.events.refunds import Effect, Purchase, Wanted
from loyalty.infra.ids import entry_number
from loyalty.infra.money import to_minor
from loyalty.ledger import movements
from loyalty.ledger.entry import Draft, entry_key, member_of, sequence_of
from loyalty.ledger.state import SOMEDAY, Document, HoldNotOpen, Lot, Posting, Refusal, State, fold, with_lapses
from loyalty.members.model import Member
from loyalty.points.terms import Terms
from loyalty.programs.lifetimes import activates_at, expires_at, lapses_at
from loyalty.programs.policies import Activity, EventPending, InactivityExpiry, NeverExpiry, NoPending, PointsPayment
from loyalty.rules.award import Award, Credit
from loyalty.rules.caps import FACET as COUNTERS
from loyalty.rules.caps import reader
from loyalty.rules.engine import POINTS_PAYMENT, CompiledRules
from loyalty.rules.facts import Facts, MemberFacts
from loyalty.rules.shares import spread
from loyalty.tiers import engine as tiers
from loyalty.tiers.engine import Transition

PARKED: Final = "parked"
"""The facet that keeps refunds, and what activates points, until their purchase arrives."""

MOST_PARKED: Final = 100
"""So many wait at most, so that a member's state stays small."""


class TooManyWait(Refusal):
    """The member has as many events that wait for their purchase as can be kept."""


def record(
    terms: Terms,
    member: Member,
    fact: Fact,
    state: State,
    sequence: int,
    now: datetime,
    *,
    refers_to: Purchase | None = None,
    waits: bool = False,
    budgets: Mapping[str, int] | None = None,
) -> Draft:
    """The entry of an event that is no refund. `state` is settled, `sequence` the number of the entry to be.

    `refers_to` is the event that this one names, if it awarded points; `waits` that it is not known yet, and that
    points of it wait for this one. `budgets` are the points that campaigns with a budget may still give; what the award
    draws of them is in its evidence. InsufficientPoints, HoldNotOpen, HoldTooSmall where points were to pay;
    TooManyWait; Refusal if a wallet would overflow.
    """
    recording = _Recording(terms, member, fact, state, sequence, now, budgets)
    return recording.draft(refers_to, waits=waits)


def take_back(
    terms: Terms, member: Member, fact: Fact, purchase: Purchase, state: State, sequence: int, now: datetime
) -> Draft:
    """The entry of a refund of `purchase`. Exceeds if more is asked for than is left of it."""
    recording = _Recording(terms, member, fact, state, sequence, now)
    return recording.refund(purchase)


def park(fact: Fact, state: State, sequence: int, now: datetime) -> Draft:
    """The entry of a refund whose purchase is not known yet: it waits for it. TooManyWait."""
    source, event_id = fact.refers_to or ("", "")
    facet = _waiting_too(state.facets.get(PARKED), fact, {"entry": sequence, **Wanted.of(fact).document()})
    evidence = {"event": fact.evidence(), "parked": {"source": source, "id": event_id}}
    return Draft("park", fact.occurred_at or now, [], evidence, facets={PARKED: facet})


def _waiting_too(facet: Document | None, fact: Fact, what: Document) -> Document:
    """The facet with one more that waits for the event that the fact refers to. TooManyWait."""
    source, event_id = fact.refers_to or ("", "")
    waiting = [*_parked(facet), {"source": source, "id": event_id, **what}]
    if len(waiting) > MOST_PARKED:
        raise TooManyWait("too many events wait for their purchase")
    return {"waiting": waiting}


def _parked(facet: Document | None) -> Sequence[Document]:
    return facet["waiting"] if facet else ()


class _Recording:
    """One event on its way into the ledger."""

    def __init__(
        self,
        terms: Terms,
        member: Member,
        fact: Fact,
        state: State,
        sequence: int,
        now: datetime,
        budgets: Mapping[str, int] | None = None,
    ) -> None:
        self.terms = terms
        self.member = member
        self.fact = fact
        self.before = state
        self.state = state
        self.sequence = sequence
        self.now = now
        self.budgets = budgets
        self.occurred_at = fact.occurred_at or now
        self.postings: list[Posting] = []
        self.evidence: Document = {"event": fact.evidence()}
        self.facets: dict[str, Document | None] = {}
        self.lapses: dict[str, datetime | None] = {}
        self.limits: list[str] = []
        self.transitions: list[Transition] = []
        self._unfolded: list[Posting] = []
        self._entering: dict[str, tuple[tuple[datetime | None, datetime | None], int]] = {}

    def draft(self, refers_to: Purchase | None, *, waits: bool) -> Draft:
        """The entry of an event that is no refund."""
        tier = self._tier()
        paid = self._pay()
        award = self._award(tier)
        credited = [self._credit(credit) for credit in self._fitting(award.credits)]
        for wallet in list(self._entering):
            self._enter(wallet)
        self.evidence["award"] = self._award_document(award, credited, paid, tier)
        kind = "earn"
        if refers_to is not None and self._activate(refers_to):
            kind = "activate"
        if self.terms.tiers is not None and self.member.may_earn:
            earned = _by_wallet(credited)
            purchase = self.fact.event.type == "purchase"
            self._count(
                self.occurred_at,
                earned=earned,
                spend=(self.fact.amount or 0) if purchase else 0,
                visits=int(self.fact.event.type == "visit"),
            )
        if PARKED in self.before.facets:
            self._apply_parked()
        if waits:
            what = {"entry": self.sequence, "activates": self.fact.event.type, "at": self.occurred_at}
            parked = self.facets.get(PARKED, self.before.facets.get(PARKED))
            self.facets[PARKED] = _waiting_too(parked, self.fact, what)
            source, event_id = self.fact.refers_to or ("", "")
            self.evidence["parked"] = {"source": source, "id": event_id}
        return self._draft(kind)

    def refund(self, purchase: Purchase) -> Draft:
        """The entry of a refund."""
        self._tier()
        effect = self._take_back(purchase, Wanted.of(self.fact))
        self.evidence["refund"] = effect.evidence
        self.evidence["refunded"] = effect.progress.document()
        return self._draft("refund")

    def _draft(self, kind: str) -> Draft:
        if self.transitions:
            self.evidence["tier"] = [transition.document() for transition in self.transitions]
        return Draft(kind, self.occurred_at, self.postings, self.evidence, self.facets, self.lapses)

    # -- points that pay ----------------------------------------------------------------------------------------------

    def _pay(self) -> list[Document]:
        """Points leave for the part of the purchase that they pay, from a hold or directly."""
        policy = self.terms.policies.points_payment
        if policy is None or not self.fact.payments:
            return []
        paid = []
        for payment, told in zip(self.fact.payments, self.fact.event.payments, strict=True):
            if payment.method != POINTS_PAYMENT or payment.amount == 0:
                continue
            points = points_for(policy, payment.amount, self.terms.program.currency)
            if told.hold is None:
                moves = movements.debit(self._folded(), policy.wallet, points, target="spent")
            else:
                number = entry_number(told.hold)
                if number is None or member_of(number) != self.member.number:
                    raise HoldNotOpen(f"hold {told.hold} is not one of the member")
                moves = movements.capture(
                    self._folded(), policy.wallet, sequence_of(number), self.now, sequence=self.sequence, points=points
                )
            self._move(moves)
            parts = [Lot(move.lot, move.points, None, move.expires_at) for move in moves if move.target == "spent"]
            document: Document = {
                "wallet": policy.wallet,
                "points": points,
                "amount": payment.amount,
                "parts": [part.document() for part in parts],
            }
            if told.hold is not None:
                document["hold"] = told.hold
            paid.append(document)
            self._active(policy.wallet, "spend", self.now)
        return paid

    # -- the award ----------------------------------------------------------------------------------------------------

    def _award(self, tier: tiers.Level | None) -> Award:
        """What the rules give, or why nothing may be given at all."""
        if not self.member.may_earn:
            return Award(limits=("earning_blocked",))
        rules = self.terms.rules
        if rules is None:
            return Award(limits=("no_rules",))
        counters = self.before.facets.get(COUNTERS, {})
        award = rules.award(
            self._facts(rules, counters, tier),
            counters=counters,
            multiplier_milli=1000 if tier is None else tier.multiplier_milli,
            budgets=self.budgets,
        )
        if award.counters is not None:
            self.facets[COUNTERS] = award.counters
        return award

    def _facts(self, rules: CompiledRules, counters: Mapping[str, Any], tier: tiers.Level | None) -> Facts:
        fact, event, calendar, profile = self.fact, self.fact.event, self.terms.calendar, self.member.profile
        birthday = profile.get("birthday")
        return Facts(
            type=event.type,
            source=event.source,
            occurred_at=self.occurred_at,
            calendar=calendar,
            member=MemberFacts(
                status=self.member.status,
                tier=None if tier is None else tier.id,
                joined_on=self._joined_on(),
                birthday=None if birthday is None else date.fromisoformat(birthday),
                language=profile.get("language"),
                attributes=profile.get("attributes", {}),
            ),
            store=event.store,
            amount=fact.amount,
            tax=fact.tax,
            shipping=fact.shipping,
            currency=event.currency,
            metadata=event.metadata,
            lines=fact.lines,
            payments=fact.payments,
            counters=reader(counters, calendar.day(self.occurred_at)),
            segmentation=rules.segments,
        )

    def _fitting(self, credits: Sequence[Credit]) -> list[Credit]:
        """The credits, each reduced to what its wallet may still hold."""
        fitting = []
        room: dict[str, int] = {}
        for credit in credits:
            most = self.terms.policies.wallet(credit.wallet).max_balance
            if most is None:
                fitting.append(credit)
                continue
            have = self._folded().wallet(credit.wallet)
            left = room.get(credit.wallet, max(0, most - have.available - have.pending - have.held))
            points = min(credit.points, left)
            room[credit.wallet] = left - points
            if points < credit.points:
                self._limit(f"max_balance:{credit.wallet}")
                attribution = credit.attribution and spread(points, credit.attribution)
                credit = credit._replace(points=points, attribution=attribution)
            if points:
                fitting.append(credit)
        return fitting

    def _credit(self, credit: Credit) -> Document:
        """Points enter their wallet; what the entry says of it. What has expired by now enters and is gone."""
        policy = self.terms.policies.wallet(credit.wallet)
        pending, expiry = credit.pending or policy.pending, credit.expiry or policy.expiry
        document: Document = {"rule": credit.rule, "wallet": credit.wallet, "points": credit.points}
        if credit.attribution is not None:
            document["attribution"] = list(credit.attribution)
        lapsing = self._active(credit.wallet, "earn", self.occurred_at)
        if isinstance(pending, NoPending) and isinstance(expiry, NeverExpiry) and lapsing is None:  # the plain case
            self._gather(credit, None, None)
            return document
        calendar = self.terms.calendar
        waits_until = activates_at(pending, self.occurred_at, calendar)
        if waits_until == SOMEDAY:
            document |= {"activates_at": SOMEDAY, "expiry": expiry.model_dump(mode="json")}
            if isinstance(pending, EventPending):
                document["awaits"] = pending.event_type
            self._gather(credit, SOMEDAY, None)
            return document
        begins = waits_until or self.occurred_at
        ends = expires_at(expiry, begins, calendar)
        if waits_until is not None and waits_until <= self.now:
            waits_until = None
        if lapsing is not None and begins < lapsing <= self.now:
            # Told so late that the wallet has lapsed since. What was still waiting then has not lapsed with it.
            ends = lapsing if ends is None else min(ends, lapsing)
        if waits_until is not None:
            document["activates_at"] = waits_until
        if ends is not None:
            document["expires_at"] = ends
        if ends is not None and ends <= self.now:
            self._enter(credit.wallet)
            self._move(
                movements.stillborn(
                    self._folded(),
                    credit.wallet,
                    credit.points,
                    source="issuance",
                    sequence=self.sequence,
                    expires_at=ends,
                )
            )
        else:
            self._gather(credit, waits_until, ends)
        return document

    def _gather(self, credit: Credit, waits_until: datetime | None, ends: datetime | None) -> None:
        """The points are to enter their wallet: in one movement with those before them that share their instants."""
        instants = (waits_until, ends)
        gathered, points = self._entering.get(credit.wallet, (instants, 0))
        if gathered != instants:
            self._enter(credit.wallet)
            points = 0
        self._entering[credit.wallet] = (instants, points + credit.points)

    def _enter(self, wallet: str) -> None:
        """What was gathered for the wallet enters it."""
        if wallet not in self._entering:
            return
        (waits_until, ends), points = self._entering.pop(wallet)
        self._move(
            movements.credit(
                self._folded(),
                wallet,
                points,
                source="issuance",
                sequence=self.sequence,
                activates_at=waits_until,
                expires_at=ends,
            )
        )

    def _award_document(
        self, award: Award, credited: Sequence[Document], paid: Sequence[Document], tier: tiers.Level | None
    ) -> Document:
        document: Document = {
            "version": None if self.terms.rules is None else self.terms.rules.version,
            "currency": self.terms.program.currency,
            "lines": [line.document() for line in award.lines],
        }
        limits = [*award.limits, *self.limits]
        optional: Document = {
            "limits": limits,
            "benefits": list(award.benefits),
            "passed": dict(award.passed),
            "drawn": dict(award.drawn),
            "paid": list(paid),
            "unearning": self._unearning() if self.fact.payments else None,
        }
        document |= {name: value for name, value in optional.items() if value}
        if award.lines:
            # Also when it is empty: without it a refund would take what the lines say, which the wallet did not hold.
            document["credits"] = list(credited)
        if tier is not None:
            document["tier"] = tier.id
        return document

    def _unearning(self) -> Document | None:
        """The part of the event that the program's policies let nothing be earned for, because of how it was paid."""
        policies = self.terms.policies
        methods = {*policies.unearning_payment_methods, *(() if policies.earn_on_points_paid else (POINTS_PAYMENT,))}
        paid = [payment for payment in self.fact.payments if payment.method in methods and payment.amount]
        if not paid:
            return None
        return {
            "methods": sorted({payment.method for payment in paid}),
            "amount": sum(payment.amount for payment in paid),
        }

    # -- tiers --------------------------------------------------------------------------------------------------------

    def _tier(self) -> tiers.Level | None:
        """The level before this event; None in a program without tiers."""
        scheme = self.terms.tiers
        if scheme is None:
            return None
        facet, transitions = tiers.settle(
            self.before.facets.get(tiers.FACET),
            scheme,
            self.terms.calendar,
            self.now,
            joined_on=self._joined_on(),
            state=self.before,
        )
        self.transitions += transitions
        self._keep_tier(facet)
        return scheme.levels[scheme.ranks[facet["level"]]]

    def _count(self, at: datetime, *, earned: Mapping[str, int], spend: int, visits: int) -> None:
        scheme = self.terms.tiers
        if scheme is None:
            return
        facet, transitions = tiers.count(
            self.facets.get(tiers.FACET, self.before.facets.get(tiers.FACET)),
            scheme,
            self.terms.calendar,
            day=self.terms.calendar.day(at),
            earned=earned,
            spend=spend,
            visits=visits,
            now=self.now,
            joined_on=self._joined_on(),
            state=with_lapses(self._folded(), self.lapses),
        )
        self.transitions += transitions
        self._keep_tier(facet)

    def _keep_tier(self, facet: Document) -> None:
        if facet != self.before.facets.get(tiers.FACET) or tiers.FACET in self.facets:
            self.facets[tiers.FACET] = facet

    def _joined_on(self) -> date:
        return self.terms.calendar.day(self.member.created_at)

    # -- what became of purchases -------------------------------------------------------------------------------------

    def _activate(self, purchase: Purchase) -> bool:
        """The points that waited for an event like this one become available; whether there were any."""
        effect = self._make_available(purchase, self.fact.event.type, self.occurred_at)
        if effect is None:
            return False
        # Within, because `refunded` is what becomes of this event itself, which can be refunded as well.
        self.evidence["activated"] = {**effect.evidence, "refunded": effect.progress.document()}
        return True

    def _make_available(self, purchase: Purchase, event_type: str, at: datetime) -> Effect | None:
        places = purchase.waiting_for(event_type)
        if not places:
            return None
        effect = refunds.activate(
            purchase,
            places,
            calendar=self.terms.calendar,
            active_at=min(max(at, purchase.occurred_at), self.now),
            state=self._folded(),
            sequence=self.sequence,
            now=self.now,
        )
        self._move(effect.postings)
        return effect

    def _take_back(self, purchase: Purchase, wanted: Wanted, *, lenient: bool = False) -> Effect:
        effect = refunds.refund(
            purchase,
            wanted,
            policies=self.terms.policies,
            state=self._folded(),
            sequence=self.sequence,
            now=self.now,
            lenient=lenient,
        )
        self._move(effect.postings)
        whole = effect.progress.complete and not purchase.progress.complete
        self._count(
            purchase.occurred_at,
            earned={wallet: -points for wallet, points in effect.earned.items()},
            spend=-effect.amount if purchase.type == "purchase" else 0,
            visits=-int(whole and purchase.type == "visit"),
        )
        return effect

    def _apply_parked(self) -> None:
        """What waited for this event happens to it now. Refunds take what they can: they cannot be refused any more."""
        event = self.fact.event
        waiting = _parked(self.before.facets.get(PARKED))
        mine = [found for found in waiting if (found["source"], found["id"]) == (event.source, event.id)]
        if not mine:
            return
        others = [found for found in waiting if found not in mine]
        self.facets[PARKED] = {"waiting": others} if others else None
        as_if_stored = {
            "_id": entry_key(self.member.number, self.sequence),
            "occurred_at": self.occurred_at,
            "evidence": self.evidence,
        }
        purchase = Purchase.of(as_if_stored)
        for found in mine:
            if "activates" in found:
                name, effect = "activations", self._make_available(purchase, found["activates"], found["at"])
                self._count(self.occurred_at, earned={}, spend=0, visits=0)  # a level may go by what is available
            else:
                name, effect = "refunds", self._take_back(purchase, Wanted.from_document(found), lenient=True)
            if effect is None:
                continue
            self.evidence.setdefault(name, []).append({**effect.evidence, "parked": found["entry"]})
            # Entries about the purchase count from it: what happens to it in its own is none of them.
            progress = replace(effect.progress, ordinal=0).document()
            purchase = Purchase.of(as_if_stored, {"refunded": progress})
            self.evidence["refunded"] = progress

    # -- keeping track ------------------------------------------------------------------------------------------------

    def _move(self, postings: Sequence[Posting]) -> None:
        self.postings += postings
        self._unfolded += postings

    def _folded(self) -> State:
        """The state after everything so far. Folding waits until somebody looks."""
        if self._unfolded:
            self.state = fold(self.state, self._unfolded)
            self._unfolded = []
        return self.state

    def _active(self, wallet: str, activity: Activity, at: datetime) -> datetime | None:
        """The member did something at `at`: when the wallet lapses now, perhaps in the past. None if it does not."""
        expiry = self.terms.policies.wallet(wallet).expiry
        if not isinstance(expiry, InactivityExpiry) or activity not in expiry.activity:
            return None
        lapsing = lapses_at(expiry, at, self.terms.calendar)
        known = self.lapses.get(wallet) or self.before.wallet(wallet).lapses_at
        if lapsing is None or (known is not None and known >= lapsing):
            return known
        if lapsing > self.now:
            self.lapses[wallet] = lapsing
        return lapsing

    def _limit(self, name: str) -> None:
        if name not in self.limits:
            self.limits.append(name)


def points_for(policy: PointsPayment, amount: int, currency: str) -> int:
    """The points that pay `amount` minor units; a fraction of a point is paid as a whole one."""
    return -(-amount * policy.points // to_minor(policy.amount, currency))


def _by_wallet(credited: Sequence[Document]) -> dict[str, int]:
    earned: dict[str, int] = {}
    for credit in credited:
        earned[credit["wallet"]] = earned.get(credit["wallet"], 0) + credit["points"]
    return earned
