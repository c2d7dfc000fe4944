"""Facts: everything that a condition can look at, made once per event. Live, dry run and back-test make them alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

from loyalty.programs.calendar import Calendar

Kind = Literal["text", "texts", "amount", "integer", "boolean", "date", "time", "weekday", "status", "anything"]
"""The type of a field. `texts` is a set of texts; `anything` a text, a whole number or a boolean (open maps)."""

Scope = Literal["event", "line", "member"]
"""What a condition is about: an event with all around it, one line of a purchase, or a member alone."""

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
STATUSES: Final = ("active", "earning_blocked", "spending_blocked", "blocked")
PERIODS: Final = ("day", "week", "month", "quarter", "year", "ever")

NOTHING: Final[Mapping[str, Any]] = {}
"""Metadata or attributes that hold nothing. Never written to."""


class Line(NamedTuple):
    """One line of a purchase. Amounts in minor units of the program's currency; None is what nobody told."""

    line_id: str
    amount: int
    quantity: int = 1
    sku: str | None = None
    category: str | None = None
    brand: str | None = None
    tax: int | None = None
    metadata: Mapping[str, Any] = NOTHING

    @property
    def unit_amount(self) -> int:
        """What one piece cost, cut to whole minor units."""
        return self.amount // self.quantity


class Payment(NamedTuple):
    """One part of how a purchase was paid; the amount in minor units."""

    method: str
    amount: int


class MemberFacts(NamedTuple):
    """The member before the event. `joined_on` is the day of enrolment in the program's zone."""

    status: str | None = None
    tier: str | None = None
    joined_on: date | None = None
    birthday: date | None = None
    language: str | None = None
    attributes: Mapping[str, Any] = NOTHING

    @staticmethod
    def of(
        profile: Mapping[str, Any],
        *,
        status: str,
        created_at: datetime,
        calendar: Calendar,
        tier: str | None = None,
    ) -> MemberFacts:
        """The facts of a member with the profile that is stored, enrolled at the instant `created_at`."""
        born = profile.get("birthday")
        return MemberFacts(
            status,
            tier,
            calendar.day(created_at),
            None if born is None else date.fromisoformat(born),
            profile.get("language"),
            profile.get("attributes") or NOTHING,
        )


NOBODY: Final = MemberFacts()
"""A customer of whom nothing is known: every field of the member is missing."""


def no_counters(name: str) -> int | None:
    """Counters of which nothing is known: every one is missing."""
    return None


@dataclass(eq=False)
class Facts:
    """One event, its member and its moment. Never changed once it is made; not frozen, as that costs a call a field.

    Amounts are minor units of the program's currency. `occurred_at` is the instant in UTC and `calendar` that of the
    program's zone. `counters` answers `purchases.month`, `spend.day`, `points.<wallet>.ever` … with what the
    member had *before* this event, or None when it is not kept. `segmentation` says of each segment whether the
    member is in it. What is derived is computed on first use.
    """

    type: str
    source: str
    occurred_at: datetime
    calendar: Calendar
    member: MemberFacts = NOBODY
    store: str | None = None
    amount: int | None = None
    tax: int | None = None
    shipping: int | None = None
    currency: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    payments: tuple[Payment, ...] = ()
    counters: Callable[[str], int | None] = no_counters
    segmentation: Mapping[str, Callable[[Facts], bool]] = field(default_factory=dict)

    @cached_property
    def segments(self) -> frozenset[str]:
        """The segments that the member is in."""
        return frozenset([name for name, holds in self.segmentation.items() if holds(self)])

    @cached_property
    def quantity(self) -> int:
        """Pieces on all lines."""
        return sum(line.quantity for line in self.lines)

    @cached_property
    def line_count(self) -> int:
        """How many lines there are."""
        return len(self.lines)

    @cached_property
    def payment_methods(self) -> frozenset[str]:
        """Every way in which it was paid."""
        return frozenset(payment.method for payment in self.payments)

    @cached_property
    def paid(self) -> int | None:
        """The sum of the payments; None when none were told."""
        return sum(payment.amount for payment in self.payments) if self.payments else None

    @cached_property
    def cheapest(self) -> Line | None:
        """The line with the lowest price a piece, compared exactly; the first of equals."""
        found: Line | None = None
        for line in self.lines:
            if found is None or line.amount * found.quantity < found.amount * line.quantity:
                found = line
        return found

    @cached_property
    def most_expensive(self) -> Line | None:
        """The line with the highest price a piece, compared exactly; the first of equals."""
        found: Line | None = None
        for line in self.lines:
            if found is None or line.amount * found.quantity > found.amount * line.quantity:
                found = line
        return found

    @cached_property
    def local(self) -> datetime:
        """What clocks in the program's zone show."""
        return self.calendar.local(self.occurred_at)

    @cached_property
    def date(self) -> date:
        """The local day."""
        return self.calendar.day(self.occurred_at)

    @cached_property
    def minute(self) -> int:
        """Minutes on the clock since 00:00; 02:30 is 150 on days with a change of the clock too."""
        return self.local.hour * 60 + self.local.minute

    @cached_property
    def weekday(self) -> str:
        """`mon` to `sun`."""
        return WEEKDAYS[self.date.weekday()]

    @cached_property
    def days_since_joined(self) -> int | None:
        """Local days since the day of enrolment, which is day 0."""
        joined = self.member.joined_on
        return None if joined is None else (self.date - joined).days

    @cached_property
    def is_birthday(self) -> bool | None:
        """Whether the local day is the birthday; born on 29 February, it is on the 28th in common years."""
        born = self.member.birthday
        return None if born is None else birthday_in(born, self.date.year) == self.date

    @cached_property
    def is_birth_month(self) -> bool | None:
        """Whether the local day lies in the month of the birthday."""
        born = self.member.birthday
        return None if born is None else born.month == self.date.month


def birthday_in(born: date, year: int) -> date:
    """The birthday in a year, clamped like all month arithmetic: 29 February becomes the 28th in common years."""
    try:
        return born.replace(year=year)
    except ValueError:
        return date(year, 2, 28)


class Field(NamedTuple):
    """A name that conditions can use: its type, and where it is read (from Facts, for `line.` from a Line)."""

    kind: Kind
    read: Callable[[Any], Any]
    meaning: str


def _counter(name: str) -> Callable[[Facts], int | None]:
    return lambda facts: facts.counters(name)


def _entry(attribute: str, name: str) -> Callable[[Any], Any]:
    mapping = attrgetter(attribute)
    return lambda subject: mapping(subject).get(name)


_COUNTED: Final[tuple[tuple[str, Kind, str], ...]] = (
    ("purchases", "integer", "Purchases"),
    ("spend", "amount", "Amount of the purchases"),
    ("visits", "integer", "Visits"),
)

FIELDS: Final[Mapping[str, Field]] = {
    "event.type": Field("text", attrgetter("type"), "What kind of event it is: `purchase`, `visit`, …"),
    "event.source": Field("text", attrgetter("source"), "Who told it."),
    "event.store": Field("text", attrgetter("store"), "Where it happened."),
    "event.amount": Field("amount", attrgetter("amount"), "What was paid."),
    "event.tax": Field("amount", attrgetter("tax"), "The tax in it."),
    "event.shipping": Field("amount", attrgetter("shipping"), "The shipping in it."),
    "event.currency": Field("text", attrgetter("currency"), "ISO 4217 code."),
    "order.amount": Field("amount", attrgetter("amount"), "What was paid, as `event.amount`."),
    "order.quantity": Field("integer", attrgetter("quantity"), "Pieces on all lines."),
    "order.lines": Field("integer", attrgetter("line_count"), "How many lines there are."),
    "payments.method": Field("texts", attrgetter("payment_methods"), "Every way in which it was paid."),
    "payments.amount": Field("amount", attrgetter("paid"), "The sum of the payments."),
    "line.line_id": Field("text", attrgetter("line_id"), "Names the line."),
    "line.sku": Field("text", attrgetter("sku"), "The article."),
    "line.category": Field("text", attrgetter("category"), "Its category."),
    "line.brand": Field("text", attrgetter("brand"), "Its brand."),
    "line.quantity": Field("integer", attrgetter("quantity"), "How many pieces."),
    "line.amount": Field("amount", attrgetter("amount"), "What the line cost."),
    "line.unit_amount": Field("amount", attrgetter("unit_amount"), "What one piece cost, cut to minor units."),
    "line.tax": Field("amount", attrgetter("tax"), "The tax in it."),
    "member.status": Field("status", attrgetter("member.status"), "What the member may do."),
    "member.tier": Field("text", attrgetter("member.tier"), "The tier before this event."),
    "member.joined_on": Field("date", attrgetter("member.joined_on"), "The local day of enrolment."),
    "member.birthday": Field("date", attrgetter("member.birthday"), "The day of birth."),
    "member.language": Field("text", attrgetter("member.language"), "BCP 47 tag."),
    "member.segments": Field("texts", attrgetter("segments"), "The segments the member is in."),
    "member.days_since_joined": Field("integer", attrgetter("days_since_joined"), "Local days since enrolment."),
    "member.is_birthday": Field("boolean", attrgetter("is_birthday"), "Whether the local day is the birthday."),
    "member.is_birth_month": Field("boolean", attrgetter("is_birth_month"), "Whether it is the month of the birthday."),
    "time.date": Field("date", attrgetter("date"), "The local day."),
    "time.time": Field("time", attrgetter("minute"), "The local time, to the minute."),
    "time.weekday": Field("weekday", attrgetter("weekday"), "`mon` to `sun`."),
    "time.day": Field("integer", attrgetter("date.day"), "Day of the month, 1 to 31."),
    "time.month": Field("integer", attrgetter("date.month"), "1 to 12."),
    "time.year": Field("integer", attrgetter("date.year"), "The year."),
    **{
        f"counters.{name}.{period}": Field(kind, _counter(f"{name}.{period}"), f"{text} before this event ({period}).")
        for name, kind, text in _COUNTED
        for period in PERIODS
    },
}
"""Every name there is but those of open maps."""

OPEN: Final[Mapping[str, str]] = {
    "event.metadata": "metadata",
    "line.metadata": "metadata",
    "member.attributes": "member.attributes",
}
"""Maps whose names the program chooses: `event.metadata.channel` is the entry `channel`."""

_OPEN_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]{0,63}", re.ASCII)
_POINTS = re.compile(r"counters\.(points\.[a-z][a-z0-9_]{0,31}\.(?:" + "|".join(PERIODS) + r"))", re.ASCII)
_NOT_OF_A_MEMBER_ALONE: Final = frozenset({"member.tier", "member.segments"})
"""What depends on points, or on other conditions."""
_ROOTS: Final[Mapping[Scope, tuple[str, ...]]] = {
    "event": ("event", "order", "payments", "member", "time", "counters"),
    "line": ("line",),
    "member": ("member",),
}


def full_path(path: str, over: Scope) -> str:
    """The path with its root. About a line, the root may be left out: `category` is `line.category`."""
    return f"line.{path}" if over == "line" and not path.startswith("line.") else path


def find_field(path: str, over: Scope = "event") -> Field | None:
    """The field of that name in a condition over an event, a line or a member; None when there is none."""
    path = full_path(path, over)
    root, _, _ = path.partition(".")
    if root not in _ROOTS[over] or (over == "member" and path in _NOT_OF_A_MEMBER_ALONE):
        return None
    if path in FIELDS:
        return FIELDS[path]
    for prefix, attribute in OPEN.items():
        if path.startswith(f"{prefix}.") and _OPEN_NAME.fullmatch(path, len(prefix) + 1):
            return Field("anything", _entry(attribute, path[len(prefix) + 1 :]), "An entry of an open map.")
    points = _POINTS.fullmatch(path)
    return Field("integer", _counter(points[1]), "Points earned before this event.") if points else None


def names(over: Scope = "event") -> list[str]:
    """Every name that a condition can use, open ones with `…` at the end; for suggestions and the handbook."""
    roots = _ROOTS[over]
    known = [path for path in FIELDS if path.partition(".")[0] in roots and find_field(path, over) is not None]
    if "counters" in roots:
        known += [f"counters.points.….{period}" for period in PERIODS]
    return known + [f"{prefix}.…" for prefix in OPEN if prefix.partition(".")[0] in roots]
