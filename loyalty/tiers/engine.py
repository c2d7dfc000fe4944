"""Standings: pure functions from what a member's tier has counted to the level, at any instant.

A **scheme** says what counts (`Basis`), over which days (`Window`), which value makes which level, and how levels are
lost. What a member has is the facet "tier" of its state: the level, and a series of what was counted, day by day. The
facet names the instant at which time alone changes something (`due_at`), so `settle` has nothing to do before it, and
settling at once or midnight by midnight comes to the same.

* **Value**: the sum of the series over the days of the window that holds now. N rolling days are the N local days up to
  today; rolling months are the days after today less those months; anniversaries are counted from the day of joining.
  A fact counts on its own day, however late it is told, and a refund takes away on the day of its purchase; no place of
  the series falls below zero.
* **Up**: at once, as soon as the value reaches the threshold of a higher level.
* **Down**: only at a review. Calendar and anniversary windows are reviewed when they end, by the value of the window
  that ended; rolling and lifetime windows at each local midnight, by the value; a balance whenever it changes, and at
  midnight. If the value is too low, the level falls at the midnight `grace_days` later (at once for 0), unless the
  value of the current window, or of the last one that ended, has come back by then. A fall of one level ends the
  review; the next one may take the next level.
* **Locked** levels never fall; they still rise.

A new version of the scheme takes over at its publication: facets are settled by the version before up to that instant,
and reviewed by the new one from then on. If it counts something else (another basis), the series starts anew there,
from nothing. A level that it no longer has becomes the one of the same rank. A longer window finds only the days that
the shorter one still needed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Final, Literal

from loyalty.ledger.movements import due_steps
from loyalty.ledger.state import NEVER, Document, State
from loyalty.programs.calendar import Calendar, Unit, first_day, next_first_day, shift
from loyalty.tiers.series import Column, add, day_number, day_of, pack_days, pack_instants, unpack

FACET: Final = "tier"
"""The name of the facet in a member's state."""

MOST_DAYS: Final = 400
"""As long as a rolling window can be, and so as many days as a series ever holds."""

_MOST_STEPS: Final = 100
"""So many future changes of a balance are kept; at the last of them the next ones are looked up."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DAY: Final = timedelta(days=1)
_LIFETIME_KEY: Final = 0
_MOST_FIRST_DAYS: Final = 4096

Reason = Literal["reached", "fell", "locked", "scheme", "merged"]


@dataclass(frozen=True, slots=True)
class Basis:
    """What counts: points `earned` in `wallet`, `spend` in minor units, `visits`, or the `balance` of `wallet`."""

    type: Literal["earned", "spend", "visits", "balance"]
    wallet: str | None = None

    @property
    def key(self) -> str:
        """Names what a series counts: `spend`, `earned:status`."""
        return self.type if self.wallet is None else f"{self.type}:{self.wallet}"


@dataclass(frozen=True, slots=True)
class Window:
    """Which days count. A balance has none: it is `lifetime`."""

    type: Literal["calendar", "rolling", "anniversary", "lifetime"] = "lifetime"
    unit: Unit | None = None
    days: int | None = None
    months: int | None = None

    def first_day(self, day: date) -> int:
        """The first day of the window that holds `day`, as a number; not of an anniversary, which members have."""
        if self.type == "rolling":
            if self.days is not None:
                return day_number(day) - self.days + 1
            return day_number(shift(day, months=-(self.months or 0))) + 1
        if self.type == "calendar" and self.unit is not None:
            return day_number(first_day(self.unit, day))
        return _LIFETIME_KEY


@dataclass(frozen=True, slots=True)
class Level:
    """A level. `threshold` is in points, minor units or visits, as the basis counts; 1,500 milli multiplies by 1.5."""

    id: str
    name: str
    threshold: int
    multiplier_milli: int = 1000


@dataclass(frozen=True, slots=True)
class Downgrade:
    """How far a level falls at a failed review, and how many days later."""

    to: Literal["none", "one_level", "full"] = "one_level"
    grace_days: int = 0


@dataclass(frozen=True)
class Scheme:
    """A published version, ready to use. `levels` ascend from a threshold of 0.

    `previous` is the version before, by which facets are settled up to `published_at`.
    """

    version: int
    basis: Basis
    window: Window
    levels: tuple[Level, ...]
    downgrade: Downgrade
    published_at: datetime
    previous: Scheme | None = field(default=None, repr=False, compare=False)

    @cached_property
    def looks_at_balance(self) -> bool:
        """Whether levels depend on what a wallet holds, so that spending and expiry matter."""
        return self.basis.type == "balance"

    @cached_property
    def since(self) -> datetime:
        """When the program's first scheme was published."""
        return self.published_at if self.previous is None else self.previous.since

    @cached_property
    def thresholds(self) -> tuple[int, ...]:
        """Those of the levels."""
        return tuple([level.threshold for level in self.levels])

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """The place of each level, by id."""
        return {level.id: rank for rank, level in enumerate(self.levels)}

    @cached_property
    def first_day(self) -> Callable[[date], int]:
        """That of the window, which is asked several times for every event of a day."""
        return lru_cache(maxsize=_MOST_FIRST_DAYS)(self.window.first_day)

    def rank_for(self, value: int) -> int:
        """The place of the level that a value makes."""
        return max(bisect_right(self.thresholds, value) - 1, 0)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of level at an instant, and the value at that time, which is of `basis` (a `Basis.key`)."""

    at: datetime
    before: str
    after: str
    reason: Reason
    value: int
    basis: str

    def document(self) -> Document:
        """The form in the evidence of an entry, where `tier` is a list of them."""
        return {
            "at": self.at,
            "from": self.before,
            "to": self.after,
            "reason": self.reason,
            "value": self.value,
            "basis": self.basis,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a member stands at an instant.

    `to_next` is what is missing for the next level, and `to_stay` for not failing the next review, if nothing more
    happens; `drop_at` is when the level falls then (None: it does not), and `projected_level` what it is after that.
    """

    level: str
    since: datetime
    multiplier_milli: int
    value: int
    next_level: str | None
    to_next: int
    to_stay: int
    drop_at: datetime | None
    projected_level: str
    locked: bool


def settle(
    facet: Document | None, scheme: Scheme, calendar: Calendar, now: datetime, *, joined_on: date, state: State
) -> tuple[Document, list[Transition]]:
    """The facet as time has made it by `now`, and the changes of level on the way, the earliest first.

    Equal to `facet` when nothing was due. `state` has the member's wallets at `now`; only schemes that look at the
    balance read it. Such a scheme is to be settled again with the state after every entry.
    """
    if facet is not None and (_is_beyond(facet, scheme) or _is_settled(facet, scheme, now)):
        return facet, []
    tier = _settled(facet, scheme, calendar, now, joined_on, state)
    return tier.document(), tier.transitions


def standing(
    facet: Document | None, scheme: Scheme, calendar: Calendar, now: datetime, *, joined_on: date, state: State
) -> Standing:
    """Where the member stands at `now`. `state` as in `settle`."""
    tier = _settled(facet, scheme, calendar, now, joined_on, state)
    levels = tier.scheme.levels
    level = levels[tier.rank]
    value = tier.value(now)
    following = levels[tier.rank + 1] if tier.rank + 1 < len(levels) else None
    since = tier.since
    to_stay, drop_at, projected = tier.project(now)
    return Standing(
        level=level.id,
        since=since,
        multiplier_milli=level.multiplier_milli,
        value=value,
        next_level=following.id if following else None,
        to_next=max(following.threshold - value, 0) if following else 0,
        to_stay=to_stay,
        drop_at=drop_at,
        projected_level=levels[projected].id,
        locked=tier.locked,
    )


def count(
    facet: Document | None,
    scheme: Scheme,
    calendar: Calendar,
    *,
    day: date,
    earned: Mapping[str, int],
    spend: int,
    visits: int,
    now: datetime,
    joined_on: date,
    state: State,
) -> tuple[Document, list[Transition]]:
    """The facet after a fact of the local `day` that is told `now`; what of it counts, the scheme says.

    `earned` is by wallet, `spend` in minor units; negative ones take back what was counted on that day. `state` has the
    wallets after the fact. A fact of a day that can no longer matter changes nothing.
    """
    if _amount(scheme.basis, earned, spend, visits) == 0 or (facet is not None and _is_beyond(facet, scheme)):
        return settle(facet, scheme, calendar, now, joined_on=joined_on, state=state)
    tier = _settled(facet, scheme, calendar, now, joined_on, state)
    tier.count(day, _amount(tier.scheme.basis, earned, spend, visits), now)
    return tier.document(), tier.transitions


def lock(
    facet: Document | None,
    scheme: Scheme,
    calendar: Calendar,
    now: datetime,
    *,
    level: str,
    joined_on: date,
    state: State,
) -> tuple[Document, list[Transition]]:
    """The facet with the level set to `level` (an id of the scheme) and locked: it may rise, but never fall."""
    tier = _settled(facet, scheme, calendar, now, joined_on, state)
    tier.lock(tier.scheme.ranks[level], now)
    return tier.document(), tier.transitions


def release(
    facet: Document | None, scheme: Scheme, calendar: Calendar, now: datetime, *, joined_on: date, state: State
) -> tuple[Document, list[Transition]]:
    """The facet with the level no longer locked. It stays until a review finds the value too low."""
    tier = _settled(facet, scheme, calendar, now, joined_on, state)
    tier.release(now)
    return tier.document(), tier.transitions


def merge(
    facet: Document | None,
    other: Document | None,
    scheme: Scheme,
    calendar: Calendar,
    now: datetime,
    *,
    joined_on: date,
    others_joined_on: date,
    state: State,
) -> tuple[Document, list[Transition]]:
    """The facet of the member of `facet` and of another one who turn out to be one: what both counted, and the better
    of their levels, which then goes by the reviews of the first. `state` has the wallets of both."""
    tier = _settled(facet, scheme, calendar, now, joined_on, state)
    if other is None:
        return tier.document(), tier.transitions
    gone = _settled(other, scheme, calendar, now, others_joined_on, state)
    if not tier.scheme.looks_at_balance and tier.basis == gone.basis:
        for key, value in zip(gone.keys, gone.values, strict=True):
            tier.values = add(tier.keys, tier.values, key, value)
    tier.join(gone, now)
    return tier.document(), tier.transitions


class Running:
    """A member's tier over many facts in memory: `settle` and `count` without packing the facet in between.

    For back-tests. It comes to what the functions of the same names come to one after the other.
    """

    __slots__ = ("_tier",)

    def __init__(
        self,
        facet: Document | None,
        scheme: Scheme,
        calendar: Calendar,
        now: datetime,
        *,
        joined_on: date,
        state: State,
    ) -> None:
        self._tier = _settled(facet, scheme, calendar, now, joined_on, state)

    @property
    def level(self) -> Level:
        """The level by now."""
        return self._tier.scheme.levels[self._tier.rank]

    def settle(self, scheme: Scheme, now: datetime, *, state: State) -> list[Transition]:
        """Time passes until `now`; the changes of level since the last call."""
        tier = self._tier
        if tier.scheme is not scheme:
            tier.follow(scheme, now)
        if tier.due_at is not None and tier.due_at <= now:
            tier.pass_time(now)
        if tier.scheme.looks_at_balance:
            tier.look_at(state, now)
        return self._taken()

    def count(
        self,
        scheme: Scheme,
        *,
        day: date,
        earned: Mapping[str, int],
        spend: int,
        visits: int,
        now: datetime,
        state: State,
    ) -> list[Transition]:
        """A fact of the local `day`, told `now`; the changes of level since the last call."""
        transitions = self.settle(scheme, now, state=state)
        amount = _amount(scheme.basis, earned, spend, visits)
        if amount:
            self._tier.count(day, amount, now)
            transitions += self._taken()
        return transitions

    def _taken(self) -> list[Transition]:
        transitions = self._tier.transitions
        if not transitions:
            return []
        self._tier.transitions = []
        return transitions


def _amount(basis: Basis, earned: Mapping[str, int], spend: int, visits: int) -> int:
    """What of a fact counts."""
    if basis.type == "earned":
        return earned.get(basis.wallet or "", 0)
    return spend if basis.type == "spend" else visits if basis.type == "visits" else 0


def _is_settled(facet: Document, scheme: Scheme, now: datetime) -> bool:
    """Whether nothing was due by `now`."""
    due_at = facet.get("due_at")
    return not scheme.looks_at_balance and facet["version"] >= scheme.version and (due_at is None or due_at > now)


def _is_beyond(facet: Document, scheme: Scheme) -> bool:
    """Whether the facet counts by a version that this process does not know yet, for some seconds.

    What it counts means nothing to an older version, which therefore leaves it alone.
    """
    return facet["version"] > scheme.version and facet["basis"] != scheme.basis.key


def _settled(
    facet: Document | None, scheme: Scheme, calendar: Calendar, now: datetime, joined_on: date, state: State
) -> _Tier:
    if facet is None:
        tier = _Tier.new(scheme, calendar, now, joined_on)
    else:
        tier = _Tier.of(facet, _own_version(facet["version"], scheme), calendar, joined_on)
        tier.follow(scheme, now)
    tier.pass_time(now)
    if tier.scheme.looks_at_balance:
        tier.look_at(state, now)
    return tier


def _own_version(version: int, scheme: Scheme) -> Scheme:
    """The version that the facet was settled by, or the newest one that this process knows."""
    while scheme.version > version and scheme.previous is not None:
        scheme = scheme.previous
    return scheme


def _versions_after(first: Scheme, last: Scheme) -> list[Scheme]:
    versions = []
    scheme: Scheme | None = last
    while scheme is not None and scheme.version > first.version:
        versions.append(scheme)
        scheme = scheme.previous
    return versions[::-1]


class _Tier:
    """A facet while it is worked on."""

    __slots__ = (
        "basis",
        "calendar",
        "drop_at",
        "due_at",
        "joined_on",
        "keys",
        "locked",
        "rank",
        "scheme",
        "since",
        "transitions",
        "values",
        "version",
    )

    def __init__(self, scheme: Scheme, calendar: Calendar, joined_on: date) -> None:
        self.scheme = scheme
        self.calendar = calendar
        self.joined_on = joined_on
        self.version = scheme.version
        self.basis = scheme.basis.key
        self.rank = 0
        self.since = scheme.since
        self.locked = False
        self.keys: Column = []
        self.values: Column = []
        self.drop_at: datetime | None = None
        self.due_at: datetime | None = None
        self.transitions: list[Transition] = []

    @classmethod
    def new(cls, scheme: Scheme, calendar: Calendar, now: datetime, joined_on: date) -> _Tier:
        """Of a member of whom nothing was counted: the lowest level, since the scheme or the member is there."""
        tier = cls(scheme, calendar, joined_on)
        tier.since = min(max(scheme.since, calendar.midnight(joined_on)), now)
        return tier

    @classmethod
    def of(cls, facet: Document, scheme: Scheme, calendar: Calendar, joined_on: date) -> _Tier:
        """What the facet holds, seen by `scheme`."""
        tier = cls(scheme, calendar, joined_on)
        tier.version = facet["version"]
        tier.basis = facet["basis"]
        tier.rank = scheme.ranks.get(facet["level"], min(facet["rank"], len(scheme.levels) - 1))
        tier.since = facet["since"]
        tier.locked = facet.get("locked", False)
        if _is_beyond(facet, scheme):
            return tier
        tier.keys, tier.values = unpack(facet.get("series"))
        tier.drop_at = facet.get("drop_at")
        tier.due_at = facet.get("due_at")
        return tier

    def document(self) -> Document:
        """The facet."""
        document: Document = {
            "version": self.version,
            "basis": self.basis,
            "level": self.scheme.levels[self.rank].id,
            "rank": self.rank,
            "since": self.since,
        }
        if self.locked:
            document["locked"] = True
        if self.keys:
            packed = pack_instants if self.scheme.looks_at_balance else pack_days
            document["series"] = packed(self.keys, self.values)
        if self.drop_at is not None:
            document["drop_at"] = self.drop_at
        if self.due_at is not None:
            document["due_at"] = self.due_at
        return document

    # -- what happens -------------------------------------------------------------------------------------------------

    def pass_time(self, now: datetime) -> None:
        """Everything that time alone does by `now`."""
        while self.due_at is not None and self.due_at <= now:
            instant = self.due_at
            self._evaluate(instant, review=self._is_reviewed_at(instant))
            self._plan(instant)

    def follow(self, scheme: Scheme, now: datetime) -> None:
        """The versions up to `scheme` that were published by `now` take over, each at its time."""
        for following in _versions_after(self.scheme, scheme):
            if following.published_at > now:
                break
            self.pass_time(following.published_at)
            self.adopt(following)

    def adopt(self, scheme: Scheme) -> None:
        """`scheme` takes over at its publication."""
        at = max(scheme.published_at, self.since)
        before = self.scheme.levels[self.rank].id
        self.rank = scheme.ranks.get(before, min(self.rank, len(scheme.levels) - 1))
        self.scheme = scheme
        self.version = scheme.version
        if self.basis != scheme.basis.key:
            self.basis = scheme.basis.key
            self.keys, self.values = [], []
            self.drop_at = None
        if scheme.levels[self.rank].id != before:
            self._note(at, before, "scheme", self.value(at))
        if scheme.looks_at_balance and not self.keys:
            self.due_at = None  # until a state tells the balance
            return
        self._evaluate(at, review=False)
        self._plan(at)

    def count(self, day: date, amount: int, now: datetime) -> None:
        """A fact of `day`."""
        self.values = add(self.keys, self.values, self._key(day), amount)
        self._evaluate(now, review=False)
        self._plan(now)

    def look_at(self, state: State, now: datetime) -> None:
        """What the wallet holds, and what time alone will make of it."""
        wallet = self.scheme.basis.wallet or ""
        held = state.wallet(wallet).available
        keys, values = [0], [held]
        for instant, postings in due_steps(State({wallet: state.wallet(wallet)}), NEVER - _DAY):
            change = sum(
                posting.points * ((posting.target == "available") - (posting.source == "available"))
                for posting in postings
            )
            held += change
            if instant <= now:
                values[0] = held
            elif change and len(keys) <= _MOST_STEPS:
                keys.append((instant - _EPOCH) // _MILLISECOND)
                values.append(held)
        known = self.value(now) if self.keys else None
        self.keys, self.values = keys, values
        if values[0] != known:
            self._evaluate(now, review=True)
        self._plan(now)

    def lock(self, rank: int, now: datetime) -> None:
        """The level is `rank` and stays there at least."""
        self.locked = True
        self.drop_at = None
        value = self.value(now)
        rank = max(rank, self.scheme.rank_for(value))
        if rank != self.rank:
            self._move(now, rank, "locked", value)
        self._plan(now)

    def release(self, now: datetime) -> None:
        """The level may fall again."""
        self.locked = False
        self._plan(now)

    def join(self, other: _Tier, now: datetime) -> None:
        """The member is also the one of `other`, whose series was added."""
        self.locked = self.locked or other.locked
        if other.rank > self.rank:
            self._move(now, other.rank, "merged", self.value(now))
        self._evaluate(now, review=False)
        self._plan(now)

    def project(self, now: datetime) -> tuple[int, datetime | None, int]:
        """What is missing to stay, when the level falls, and the rank after the next review, if nothing more happens.

        Spoils the object: time passes in it.
        """
        rank, to_stay = self.rank, 0
        if self.drop_at is not None:
            to_stay = self.scheme.thresholds[self.rank] - self.value(now)  # what comes now is of the current window
        while self.due_at is not None:
            instant = self.due_at
            reviewed = self._is_reviewed_at(instant)
            missing = self._missing(instant)
            pending = self.drop_at
            self._evaluate(instant, review=reviewed)
            if self.rank > rank:
                return 0, None, self.rank
            if pending is None and (self.drop_at is not None or self.rank < rank):
                to_stay = missing
            if self.rank < rank:
                return to_stay, instant, self.rank
            if reviewed and self.drop_at is None and self._has_ends:
                break
            self._plan(instant)
        return 0, None, self.rank

    # -- the rules ----------------------------------------------------------------------------------------------------

    def value(self, instant: datetime) -> int:
        """The value of the window that holds the instant."""
        if self.scheme.looks_at_balance:
            place = bisect_right(self.keys, (instant - _EPOCH) // _MILLISECOND)
            return self.values[place - 1] if place else 0
        day = self.calendar.day(instant)
        return self._sum(self._first(day), day_number(day))

    def _evaluate(self, at: datetime, *, review: bool) -> None:
        """Raise the level if the value is high enough; if it is too low, see whether the level is to fall."""
        value = self.value(at)
        best = self.scheme.rank_for(value)
        if best > self.rank:
            self._move(at, best, "reached", value)
            return
        if best == self.rank or self.locked or self.scheme.downgrade.to == "none":
            self.drop_at = None
            return
        if self.drop_at is None and not review:
            return
        supported = max(best, self.scheme.rank_for(self._ended(at)))
        if supported >= self.rank:
            self.drop_at = None
        elif self.drop_at is None and self.scheme.downgrade.grace_days:
            day = self.calendar.day(at) + timedelta(days=self.scheme.downgrade.grace_days)
            self.drop_at = self.calendar.midnight(day)
        elif self.drop_at is None or self.drop_at <= at:
            to = self.rank - 1 if self.scheme.downgrade.to == "one_level" else supported
            self._move(at, to, "fell", value)

    def _move(self, at: datetime, rank: int, reason: Reason, value: int) -> None:
        before = self.scheme.levels[self.rank].id
        self.rank = rank
        self.since = at
        self.drop_at = None
        self._note(at, before, reason, value)

    def _note(self, at: datetime, before: str, reason: Reason, value: int) -> None:
        after = self.scheme.levels[self.rank].id
        self.transitions.append(Transition(at, before, after, reason, value, self.scheme.basis.key))

    def _missing(self, at: datetime) -> int:
        return max(self.scheme.thresholds[self.rank] - max(self.value(at), self._ended(at)), 0)

    def _plan(self, now: datetime) -> None:
        """Drop what can no longer matter, and find the next instant at which something happens by time alone."""
        day = self.calendar.day(now)
        self._prune(day)
        instants = [self.drop_at] if self.drop_at is not None else []
        can_fall = self.rank > 0 and not self.locked and self.scheme.downgrade.to != "none" and self.drop_at is None
        if self.scheme.looks_at_balance:
            instants += self._changes_of_balance(now, can_fall)
        else:
            today = day_number(day)
            ahead = bisect_right(self.keys, today)
            if ahead < len(self.keys):  # told by a clock that is a little ahead
                instants.append(self._midnight(self.keys[ahead]))
            if can_fall:
                failing = self._failing_day(today)
                if failing is not None:
                    instants.append(self._midnight(failing))
        self.due_at = min(instants, default=None)

    def _failing_day(self, today: int) -> int | None:
        """The first day after today at whose midnight a review may fail, if nothing more happens."""
        window = self.scheme.window
        if self._has_ends:
            return self._next_first(day_of(today))
        first = self._first(day_of(today + 1))
        threshold = self.scheme.thresholds[self.rank]
        start, end = bisect_left(self.keys, first), bisect_right(self.keys, today + 1)
        counted = self.values[start:end]
        spare = sum(counted) - threshold
        if spare < 0:
            return today + 1
        if window.type == "lifetime":
            return None
        place = bisect_right(list(accumulate(counted)), spare)
        return self._leaves(self.keys[start + place])

    def _changes_of_balance(self, now: datetime, can_fall: bool) -> list[datetime]:
        """When the balance next makes another level, and when it is reviewed although it does not change."""
        instants = []
        best = self.scheme.rank_for(self.value(now))
        too_low = can_fall and best < self.rank
        place = bisect_right(self.keys, (now - _EPOCH) // _MILLISECOND)
        for key, value in zip(self.keys[place:], self.values[place:], strict=True):
            if too_low or self.scheme.rank_for(value) != best or key == self.keys[-1]:
                instants.append(_EPOCH + key * _MILLISECOND)
                break
        if too_low:
            instants.append(self.calendar.midnight(self.calendar.day(now) + _DAY))
        return instants

    # -- windows ------------------------------------------------------------------------------------------------------

    @property
    def _has_ends(self) -> bool:
        """Whether windows follow one another, so that each has an end at which it is reviewed."""
        return self.scheme.window.type in ("calendar", "anniversary")

    def _is_reviewed_at(self, instant: datetime) -> bool:
        """Whether a review takes place at the instant, which is one at which something is due."""
        if not self._has_ends:
            return True
        return self._midnight(self._first(self.calendar.day(instant))) == instant

    def _first(self, day: date) -> int:
        """The first day of the window that holds `day`, as a number."""
        if self.scheme.window.type == "anniversary":
            return day_number(self._anniversary(day, 0))
        return self.scheme.first_day(day)

    def _next_first(self, day: date) -> int:
        """The first day of the window after the one that holds `day`."""
        window = self.scheme.window
        if window.type == "calendar" and window.unit is not None:
            return day_number(next_first_day(window.unit, first_day(window.unit, day)))
        return day_number(self._anniversary(day, 1))

    def _anniversary(self, day: date, later: int) -> date:
        """Where the anniversary's window that holds `day` begins, or the one so many later. Always from the first day.

        So who joined on 31 January begins at the end of February and again on the 31st of March.
        """
        months = self.scheme.window.months or 1
        joined = self.joined_on
        number = ((day.year - joined.year) * 12 + day.month - joined.month) // months
        if shift(joined, months=number * months) > day:
            number -= 1
        return shift(joined, months=(number + later) * months)

    def _ended(self, at: datetime) -> int:
        """The value of the window that ended before the one that holds `at`; 0 where windows have no end."""
        if not self._has_ends:
            return 0
        first = self._first(self.calendar.day(at))
        return self._sum(self._first(day_of(first - 1)), first - 1)

    def _leaves(self, key: int) -> int:
        """The first day whose rolling window no longer holds the day `key`."""
        window = self.scheme.window
        if window.days is not None:
            return key + window.days
        day = shift(day_of(key), months=window.months or 0)
        # The 31st of a month, a month later, is the end of a shorter one, which still counts it.
        return day_number(day if self._first(day) > key else day + _DAY)

    def _key(self, day: date) -> int:
        """Where a fact of `day` is counted: windows that are only ever looked at as a whole have one place each."""
        return day_number(day) if self.scheme.window.type == "rolling" else self._first(day)

    def _oldest(self, day: date) -> int:
        """The first place of the series that can still matter on that day."""
        first = self._first(day)
        return self._first(day_of(first - 1)) if self._has_ends else first

    def _prune(self, day: date) -> None:
        if self.scheme.looks_at_balance or not self.keys:
            return
        if self.scheme.window.type == "lifetime":
            self.keys, self.values = [_LIFETIME_KEY], [sum(self.values)]
            return
        place = bisect_left(self.keys, self._oldest(day))
        if place:
            del self.keys[:place], self.values[:place]

    def _sum(self, first: int, last: int) -> int:
        return sum(self.values[bisect_left(self.keys, first) : bisect_right(self.keys, last)])

    def _midnight(self, day: int) -> datetime:
        return self.calendar.midnight(day_of(day))
