"""One member of a program, said a second time: a list of what was told and done, and what it comes to.

`Member.facts` is all that is kept. What the member has is found by going through all of it again, in the order in which
it became known, and letting time pass between one fact and the next, instant by instant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any

from tests.model.naive import (
    DAY,
    SOMEDAY,
    Heap,
    NoSuchHold,
    Purse,
    TooFew,
    begins,
    days_back,
    ends,
    first_after,
    first_of,
    local_day,
    midnight,
    months_later,
)
from tests.model.naive_rules import Counters, Given, Json, Person, award, minor, spread

NEVER: Json = {"type": "never"}
BEFORE_ALL = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Refused(Exception):
    """It is not possible, and nothing happened."""


@dataclass
class Awarded:
    """Points that an event gave. `target` is how many refunds have taken of them by now."""

    rule: str
    wallet: str
    points: int
    by_line: list[int] | None
    begins: datetime | None
    ends: datetime | None
    awaits: str | None
    expiry: Json
    target: int = 0


@dataclass
class Paid:
    """Points that paid a part of an event, in the order in which they went; `back` have come back."""

    wallet: str
    parts: list[Heap]
    back: int = 0


@dataclass
class Known:
    """An event that can be refunded, and what was refunded of it; `cut`: a cap took of what it would have given."""

    event: Json
    occurred_at: datetime
    awards: list[Awarded]
    paid: list[Paid]
    pieces: list[int]
    amount: int = 0
    complete: bool = False
    cut: bool = False

    def price(self) -> int:
        """What it cost."""
        return minor(self.event.get("amount")) or 0

    def returned(self) -> int:
        """What the returned pieces cost."""
        items = self.event.get("items", [])
        costs = [minor(item["amount"]) or 0 for item in items]
        returned = 0
        for item, cost, pieces in zip(items, costs, self.pieces, strict=True):
            returned += cost * pieces // item.get("quantity", 1)
        return returned * self.price() // sum(costs) if sum(costs) > self.price() else returned

    def left(self) -> int:
        """What of the price can still be refunded."""
        return 0 if self.complete else self.price() - self.returned() - self.amount


@dataclass
class Standing:
    """A level. `counted` is all that ever counted: (local day, how much)."""

    rank: int = 0
    drop_at: datetime | None = None
    counted: list[tuple[date, int]] = field(default_factory=list)
    falls: list[tuple[datetime, int, int]] = field(default_factory=list)
    seen: int | None = None  # of a balance, at the last look: it is reviewed when it changes


class World:
    """What the member has after some facts, at some instant."""

    def __init__(self, program: Json, joined_on: date) -> None:
        self.program = program
        self.zone: str = program["zone"]
        self.policies: Json = program["policies"]
        self.joined_on = joined_on
        self.now = BEFORE_ALL
        self.purses = {name: Purse() for name in self.policies["wallets"]}
        self.counters = Counters(self.zone)
        self.known: dict[str, Known] = {}
        self.parked: list[Json] = []
        self.standing = Standing()
        self.spent: dict[Any, tuple[str, list[Heap]]] = {}

    def wallet(self, name: str) -> Json:
        """The policy of the wallet."""
        policy: Json = self.policies["wallets"].get(name, {})
        return policy

    # Time

    def pass_time(self, now: datetime) -> None:
        """Instant by instant: points begin and end, then the level is looked at."""
        while True:
            instants = [when for purse in self.purses.values() for when in purse.instants()]
            instants += self.midnights_that_matter(now)
            coming = [when for when in instants if when <= now]
            if not coming:
                break
            instant = min(coming)
            for purse in self.purses.values():
                purse.pass_time(instant)
            self.now = max(self.now, instant)
            self.look_at_level(instant, by_time=True)
        self.now = max(self.now, now)

    def midnights_that_matter(self, now: datetime) -> list[datetime]:
        """The next midnight, if a level could fall (or rise by a fact from a clock that is ahead)."""
        if not self.program.get("tiers"):
            return []
        today = local_day(self.zone, self.now)
        ahead = any(day > today for day, _ in self.standing.counted)
        if self.standing.rank == 0 and not ahead:
            return []
        return [midnight(self.zone, today + DAY)]

    # Tiers

    def level_for(self, value: int) -> int:
        """The highest level whose threshold the value reaches."""
        found = 0
        for rank, level in enumerate(self.program["tiers"]["levels"]):
            if value >= level["threshold"]:
                found = rank
        return found

    def window(self, day: date) -> tuple[date, date]:
        """The first and the last day that count on `day`."""
        window = self.program["tiers"]["window"]
        if window["type"] == "rolling":
            if window.get("days"):
                return day - (window["days"] - 1) * DAY, day
            return days_back(day, months=window["months"]) + DAY, day
        if window["type"] == "calendar":
            return first_of(window["unit"], day), first_after(window["unit"], day) - DAY
        if window["type"] == "anniversary":
            first, turn = self.joined_on, 1
            while months_later(self.joined_on, turn * window["months"]) <= day:
                first = months_later(self.joined_on, turn * window["months"])
                turn += 1
            return first, months_later(self.joined_on, turn * window["months"]) - DAY
        return date.min, date.max

    def value(self, instant: datetime) -> int:
        """What counts for the level at the instant."""
        scheme = self.program["tiers"]
        if scheme["basis"]["type"] == "balance":
            return self.purses[scheme["basis"]["wallet"]].available()
        first, last = self.window(local_day(self.zone, instant))
        return sum(amount for day, amount in self.standing.counted if first <= day <= last)

    def value_before(self, instant: datetime) -> int:
        """What counted in the window that ended before this one; windows that roll do not end."""
        if self.program["tiers"]["window"]["type"] not in ("calendar", "anniversary"):
            return 0
        first, _ = self.window(local_day(self.zone, instant))
        if first == self.joined_on and self.program["tiers"]["window"]["type"] == "anniversary":
            return 0
        start, last = self.window(first - DAY)
        return sum(amount for day, amount in self.standing.counted if start <= day <= last)

    def look_at_level(self, instant: datetime, *, by_time: bool = False) -> None:
        """Up at once; down at a review, after the days of grace, unless the value has come back."""
        scheme = self.program.get("tiers")
        if not scheme:
            return
        standing = self.standing
        day = local_day(self.zone, instant)
        balance = scheme["basis"]["type"] == "balance"
        value = self.value(instant)
        review = balance and value != standing.seen
        standing.seen = value
        if by_time and midnight(self.zone, day) == instant:
            ending = scheme["window"]["type"] in ("calendar", "anniversary")
            review = balance or not ending or self.window(day)[0] == day
        best = self.level_for(value)
        if best > standing.rank:
            standing.falls.append((instant, standing.rank, best))
            standing.rank, standing.drop_at = best, None
            return
        downgrade = scheme.get("downgrade", {"to": "one_level"})
        if best == standing.rank or downgrade["to"] == "none":
            standing.drop_at = None
            return
        supported = max(best, self.level_for(self.value_before(instant)))
        if standing.drop_at is not None and supported >= standing.rank:
            standing.drop_at = None
        elif standing.drop_at is not None:
            if standing.drop_at <= instant:
                self.fall(instant, supported)
        elif review and supported < standing.rank:
            grace = downgrade.get("grace_days", 0)
            if grace:
                standing.drop_at = midnight(self.zone, day + grace * DAY)
            else:
                self.fall(instant, supported)

    def fall(self, instant: datetime, supported: int) -> None:
        """To the level below, or to what the value supports."""
        standing = self.standing
        to = standing.rank - 1 if self.program["tiers"]["downgrade"]["to"] == "one_level" else supported
        standing.falls.append((instant, standing.rank, to))
        standing.rank, standing.drop_at = to, None

    def count_for_level(self, day: date, earned: dict[str, int], spend: int, visits: int) -> None:
        """What of a fact counts, on its day."""
        scheme = self.program.get("tiers")
        if not scheme:
            return
        basis = scheme["basis"]
        amount = {"earned": earned.get(basis.get("wallet", ""), 0), "spend": spend, "visits": visits}
        if basis["type"] in amount and amount[basis["type"]]:
            self.standing.counted.append((day, amount[basis["type"]]))
        self.look_at_level(self.now)

    # Events

    def event(self, event: Json, now: datetime) -> None:
        """A fact that a source tells at `now`."""
        self.pass_time(now)
        occurred_at: datetime = event.get("occurred_at") or now
        if event["type"] == "refund":
            self.refund(event, now)
        else:
            self.purchase(event, occurred_at, now)

    def purchase(self, event: Json, occurred_at: datetime, now: datetime) -> None:
        """An event that rules look at."""
        tier, multiplier = None, 1000
        if self.program.get("tiers"):
            level = self.program["tiers"]["levels"][self.standing.rank]
            tier, multiplier = level["id"], level["multiplier_milli"]
        paid = self.pay(event, now)
        rules = self.program["rules"]
        person = Person(tier, multiplier, self.joined_on, rules.get("segments", []))
        given = award(rules, self.policies, self.zone, event, occurred_at, self.counters, person)
        awards = [self.credit(one, occurred_at, now) for one in self.fitting(given)]
        self.count_event(event, occurred_at, given)
        earned: dict[str, int] = {}
        for awarded in awards:
            earned[awarded.wallet] = earned.get(awarded.wallet, 0) + awarded.points
        if event.get("refers_to") in self.known:
            self.activate(self.known[event["refers_to"]], event["type"], occurred_at, now)
        spend = minor(event.get("amount")) or 0 if event["type"] == "purchase" else 0
        self.count_for_level(local_day(self.zone, occurred_at), earned, spend, int(event["type"] == "visit"))
        known = Known(event, occurred_at, awards, paid, [0] * len(event.get("items", [])))
        known.cut = any(one.points < one.wanted for one in given)
        self.known[event["id"]] = known
        waiting = [one for one in self.parked if one["refers_to"] == event["id"]]
        self.parked = [one for one in self.parked if one["refers_to"] != event["id"]]
        for one in waiting:
            if one["type"] == "refund":
                self.take_back(known, one, now, lenient=True)
            else:
                self.activate(known, one["type"], one["occurred_at"], now)
                self.look_at_level(self.now)
        refers_to = event.get("refers_to")
        if refers_to is not None and refers_to not in self.known and self.waits_for(event["type"]):
            self.parked.append({**event, "occurred_at": occurred_at})

    def waits_for(self, what: str) -> bool:
        """Whether any points of the program wait for such events."""
        policies = [self.wallet(name).get("pending") for name in self.purses]
        policies += [rule.get("pending") for rule in self.program["rules"]["rules"]]
        return any(policy and policy.get("event_type") == what for policy in policies)

    def credit(self, one: Given, occurred_at: datetime, now: datetime) -> Awarded:
        """Points come in, and wait and end as the rule says, or else the policies of their wallet."""
        wallet = one.rule["wallet"]
        policy, purse = self.wallet(wallet), self.purses[wallet]
        pending = one.rule.get("pending") or policy.get("pending", {"type": "none"})
        expiry = one.rule.get("expiry") or policy.get("expiry", NEVER)
        start: datetime | None = begins(self.zone, pending, occurred_at)
        end = None
        if start is not None and start != SOMEDAY:
            end = ends(self.zone, expiry, start)
            lapsing = self.be_active(wallet, "earn", occurred_at, now)
            if lapsing is not None and start < lapsing <= now:
                end = lapsing if end is None else min(end, lapsing)
            if start <= max(now, occurred_at):
                start = None
        else:
            self.be_active(wallet, "earn", occurred_at, now)
        if start is None and end is not None and end <= now:
            purse.moves += [("issuance", "available", one.points), ("available", "expired", one.points)]
        else:
            purse.put("issuance", one.points, begins=start, ends=end)
        awaits = pending["event_type"] if pending["type"] == "event" else None
        return Awarded(one.rule["id"], wallet, one.points, one.by_line, start, end, awaits, expiry)

    def fitting(self, given: list[Given]) -> list[Given]:
        """As much of an award as the wallets may hold; what waits and what is set aside is in them."""
        found = []
        for name, purse in self.purses.items():
            most = self.wallet(name).get("max_balance")
            room = None if most is None else max(0, most - purse.available() - purse.pending() - purse.held())
            for one in given:
                if one.rule["wallet"] != name:
                    continue
                points = one.points if room is None else min(one.points, room)
                by_line = one.by_line
                if points < one.points and by_line is not None:
                    by_line = spread(points, by_line)
                if room is not None:
                    room -= points
                if points:
                    found.append(Given(one.rule, points, by_line, one.wanted))
        return [fit for one in given for fit in found if fit.rule is one.rule]

    def count_event(self, event: Json, at: datetime, given: list[Any]) -> None:
        """For the conditions that look at what the member had before."""
        for unit in ("day", "week", "month", "quarter", "year", "ever"):
            if event["type"] == "purchase":
                self.counters.add("purchases", unit, at, 1)
                self.counters.add("spend", unit, at, minor(event.get("amount")) or 0)
            if event["type"] == "visit":
                self.counters.add("visits", unit, at, 1)
            for name in self.purses:
                points = sum(one.points for one in given if one.rule["wallet"] == name)
                self.counters.add(f"points.{name}", unit, at, points)

    def be_active(self, wallet: str, what: str, at: datetime, now: datetime) -> datetime | None:
        """Inactivity starts anew, if this is activity: when the wallet lapses now, which may be in the past."""
        policy = self.wallet(wallet).get("expiry", NEVER)
        if policy["type"] != "inactivity" or what not in policy.get("activity", ["earn", "spend"]):
            return None
        day = months_later(local_day(self.zone, at), policy.get("months") or 0) + (policy.get("days") or 0) * DAY
        lapsing = midnight(self.zone, day + DAY)
        known = self.purses[wallet].lapses_at
        if known is not None and known >= lapsing:
            return known
        if lapsing > now:
            self.purses[wallet].lapses_at = lapsing
        return lapsing

    def pay(self, event: Json, now: datetime) -> list[Paid]:
        """Points that pay a part of the event leave; a part of a point costs a whole one."""
        policy = self.policies.get("points_payment")
        paid = []
        for payment in event.get("payments", []):
            if policy and payment["method"] == "points" and minor(payment["amount"]):
                points = -(-(minor(payment["amount"]) or 0) * policy["points"] // (minor(policy["amount"]) or 1))
                purse = self.purses[policy["wallet"]]
                try:
                    if "hold" in payment:
                        parts = purse.capture(payment["hold"], points, now)
                    else:
                        parts = purse.take(points, "spent")
                except (TooFew, NoSuchHold) as reason:
                    raise Refused from reason
                paid.append(Paid(policy["wallet"], parts))
                self.be_active(policy["wallet"], "spend", now, now)
        return paid

    # Refunds

    def refund(self, event: Json, now: datetime) -> None:
        """Takes back an event that is known; waits for one that is not."""
        known = self.known.get(event["refers_to"])
        if known is None:
            self.parked.append(event)
        else:
            self.take_back(known, event, now, lenient=False)

    def take_back(self, known: Known, event: Json, now: datetime, *, lenient: bool) -> None:
        """All refunds so far together decide how much all refunds so far take."""
        left_before, was_complete = known.left(), known.complete
        self.advance(known, event, lenient=lenient)
        gone = known.price() - known.left()
        for paid in known.paid:
            points = sum(part.points for part in paid.parts)
            back = points if known.complete else max(paid.back, points * gone // known.price() if known.price() else 0)
            parts = last_points(paid.parts, paid.back, back)
            paid.back = back
            grace = self.wallet(paid.wallet).get("restore_grace_days", 0)
            self.purses[paid.wallet].come_back("spent", parts, now, grace)
        earned: dict[str, int] = {}
        for one in known.awards:
            target = max(one.target, self.target(known, one))
            points = target - one.target
            one.target = target
            if points:
                policy = self.wallet(one.wallet).get("overspent_refund", "stop_at_zero")
                self.purses[one.wallet].take_back(points, one.begins, one.ends, policy, now)
                earned[one.wallet] = earned.get(one.wallet, 0) - points
        spend = known.left() - left_before if known.event["type"] == "purchase" else 0
        visits = -1 if known.event["type"] == "visit" and known.complete and not was_complete else 0
        self.count_for_level(local_day(self.zone, known.occurred_at), earned, spend, visits)

    def advance(self, known: Known, event: Json, *, lenient: bool) -> None:
        """What has been refunded now. Refused if that is more than there was."""
        if known.complete and not lenient:
            raise Refused
        items = known.event.get("items", [])
        pieces, amount, complete = list(known.pieces), known.amount, known.complete
        for wanted in event.get("items", []):
            missing = wanted.get("quantity", 1)
            for place, item in enumerate(items):
                if item["line_id"] == wanted["line_id"]:
                    part = min(missing, item.get("quantity", 1) - pieces[place])
                    pieces[place] += part
                    missing -= part
            if missing and not lenient:
                raise Refused
        if not event.get("items") and event.get("amount") is not None:
            wanted_amount = minor(event["amount"]) or 0
            amount += min(wanted_amount, known.left()) if lenient else wanted_amount
        elif not event.get("items"):
            complete = True
        before = (known.pieces, known.amount, known.complete)
        known.pieces, known.amount, known.complete = pieces, amount, complete
        if known.left() < 0 and not lenient:
            known.pieces, known.amount, known.complete = before
            raise Refused
        all_pieces = all(piece == item.get("quantity", 1) for piece, item in zip(pieces, items, strict=True))
        if known.left() <= 0 and (known.price() or all_pieces):
            known.complete = True

    def target(self, known: Known, one: Awarded) -> int:
        """How many of the points all refunds so far take: by line where lines earned them, else by amount."""
        price, returned = known.price(), known.returned()
        if known.complete:
            return one.points
        if one.by_line is None:
            return one.points * (returned + known.amount) // price if price else 0
        by_line = 0
        for points, item, pieces in zip(one.by_line, known.event["items"], known.pieces, strict=True):
            by_line += points * pieces // item.get("quantity", 1)
        rest = price - returned
        return by_line + ((one.points - by_line) * known.amount // rest if rest else 0)

    def activate(self, known: Known, what: str | None, at: datetime, now: datetime) -> None:
        """Points that waited for such an event (None: for anything) begin, and their time runs from it."""
        for one in known.awards:
            if one.begins == SOMEDAY and what in (None, one.awaits):
                one.awaits, one.begins = None, None
                one.ends = ends(self.zone, one.expiry, min(max(at, known.occurred_at), now))
                points = one.points - one.target
                self.purses[one.wallet].begin(points, SOMEDAY, None, new_end=one.ends)
                self.purses[one.wallet].pass_time(now)

    # Acts

    def approve(self, number: str, now: datetime) -> None:
        """Somebody makes the points of an event available that wait."""
        self.pass_time(now)
        known = self.known.get(number)
        if known is None or all(one.begins != SOMEDAY for one in known.awards):
            raise Refused
        self.activate(known, None, now, now)
        self.look_at_level(self.now)

    def wait(self, now: datetime) -> None:
        """Nothing happens until `now`."""
        self.pass_time(now)

    def spend(self, wallet: str, points: int, now: datetime, label: Any) -> None:
        """A redemption."""
        self.pass_time(now)
        try:
            self.spent[label] = (wallet, self.purses[wallet].take(points, "spent"))
        except TooFew as reason:
            raise Refused from reason
        self.after_spending(wallet, now)

    def cancel(self, label: Any, now: datetime) -> None:
        """A redemption is undone, once."""
        self.pass_time(now)
        if label not in self.spent:
            raise Refused
        wallet, parts = self.spent.pop(label)
        grace = self.wallet(wallet).get("restore_grace_days", 0)
        self.purses[wallet].come_back("spent", parts, now, grace)
        self.look_at_level(self.now)

    def hold(self, wallet: str, points: int, seconds: int, now: datetime, label: int) -> None:
        """Points are set aside for a while."""
        self.pass_time(now)
        grace = self.wallet(wallet).get("restore_grace_days", 0)
        try:
            self.purses[wallet].hold(label, points, now + timedelta(seconds=seconds), grace)
        except TooFew as reason:
            raise Refused from reason
        self.look_at_level(self.now)

    def capture(self, wallet: str, label: int, points: int | None, now: datetime) -> None:
        """Points that were set aside are spent."""
        self.pass_time(now)
        try:
            self.purses[wallet].capture(label, points, now)
        except (TooFew, NoSuchHold) as reason:
            raise Refused from reason
        self.after_spending(wallet, now)

    def void(self, wallet: str, label: int, now: datetime) -> None:
        """Points that were set aside come back."""
        self.pass_time(now)
        try:
            self.purses[wallet].release(label, now)
        except NoSuchHold as reason:
            raise Refused from reason
        self.look_at_level(self.now)

    def adjust(self, wallet: str, points: int, now: datetime, expires_at: datetime | None = None) -> None:
        """Points are given or taken by hand."""
        self.pass_time(now)
        if points > 0:
            self.purses[wallet].put("adjusted", points, ends=expires_at)
        else:
            try:
                self.purses[wallet].take(-points, "adjusted")
            except TooFew as reason:
                raise Refused from reason
        self.look_at_level(self.now)

    def give_away(self, wallet: str, points: int, now: datetime) -> list[Heap]:
        """Points leave for another member; they are the same points there."""
        self.pass_time(now)
        try:
            parts = self.purses[wallet].take(points, "transferred")
        except TooFew as reason:
            raise Refused from reason
        self.look_at_level(self.now)
        return parts

    def get(self, wallet: str, parts: list[Heap], now: datetime) -> None:
        """Points come from another member."""
        self.pass_time(now)
        for part in parts:
            self.purses[wallet].put("transferred", part.points, ends=part.ends)
        self.look_at_level(self.now)

    def after_spending(self, wallet: str, now: datetime) -> None:
        """Spending is activity."""
        self.be_active(wallet, "spend", now, now)
        self.look_at_level(self.now)


class Member:
    """What is known of one member. `do` tells a fact, unless it is impossible; `world` answers every question."""

    def __init__(self, program: Json, joined_on: date) -> None:
        self.program = program
        self.joined_on = joined_on
        self.facts: list[tuple[str, tuple[Any, ...]]] = []
        self.world = World(program, joined_on)

    def do(self, what: str, *details: Any) -> None:
        """One more fact: the name of an act of `World`, and its details. Refused, and then it is none."""
        try:
            getattr(self.world, what)(*details)
        except Refused:
            self.world = self.again()
            raise
        self.facts.append((what, details))

    def again(self) -> World:
        """Everything from the beginning."""
        world = World(self.program, self.joined_on)
        for what, details in self.facts:
            getattr(world, what)(*details)
        return world


def last_points(parts: list[Heap], start: int, stop: int) -> list[Heap]:
    """The points from the `start`-th to the `stop`-th, counted from the last one."""
    found = []
    passed = 0
    for part in reversed(parts):
        points = min(passed + part.points, stop) - max(passed, start)
        if points > 0:
            found.append(Heap(points, None, part.ends))
        passed += part.points
    return found
