"""Standings in plain examples: what counts, when a level rises and falls, locks, versions of a scheme."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.state import Document, State
from loyalty.programs.calendar import Calendar
from loyalty.tiers import engine
from loyalty.tiers.engine import MOST_DAYS, Basis, Downgrade, Level, Scheme, Standing, Transition, Window
from loyalty.tiers.series import add, day_number, day_of, pack_days, pack_instants, unpack

BERLIN = Calendar.of("Europe/Berlin")
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
LEVELS = (Level("base", "Base", 0), Level("silver", "Silver", 100, 1250), Level("gold", "Gold", 500, 1500))
YEAR = Window("calendar", unit="year")
MILLISECOND = timedelta(milliseconds=1)


def scheme(window: Window = YEAR, *, basis: Basis | None = None, **changes: Any) -> Scheme:
    fields: dict[str, Any] = {
        "version": 1,
        "basis": basis or Basis("spend"),
        "window": window,
        "levels": LEVELS,
        "downgrade": Downgrade("full"),
        "published_at": START,
        **changes,
    }
    return Scheme(**fields)


class Anna:
    """A member of a program in Berlin, who joined on 29 February."""

    def __init__(self, scheme: Scheme, joined_on: date = date(2024, 2, 29)) -> None:
        self.scheme = scheme
        self.joined_on = joined_on
        self.facet: Document | None = None
        self.changes: list[Transition] = []

    def told(self, now: datetime, amount: int, day: date | None = None) -> str:
        """The level after an amount, of today if no day is given."""
        self.facet, changes = engine.count(
            self.facet,
            self.scheme,
            BERLIN,
            day=day or BERLIN.day(now),
            earned={"status": amount},
            spend=amount,
            visits=amount,
            now=now,
            joined_on=self.joined_on,
            state=State(),
        )
        self.changes += changes
        return str(self.facet["level"])

    def at(self, now: datetime) -> Standing:
        """Where she stands, read without writing anything."""
        return engine.standing(self.facet, self.scheme, BERLIN, now, joined_on=self.joined_on, state=State())

    def level(self, now: datetime) -> str:
        return self.at(now).level

    def lock(self, now: datetime, level: str | None) -> str:
        if level is None:
            self.facet, changes = engine.release(
                self.facet, self.scheme, BERLIN, now, joined_on=self.joined_on, state=State()
            )
        else:
            self.facet, changes = engine.lock(
                self.facet, self.scheme, BERLIN, now, level=level, joined_on=self.joined_on, state=State()
            )
        self.changes += changes
        return str(self.facet["level"])


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    """An instant by the clocks of Berlin."""
    return datetime(year, month, day, hour, minute, tzinfo=ZoneInfo("Europe/Berlin")).astimezone(timezone.utc)


class TestValue:
    def test_a_member_of_whom_nothing_is_known(self) -> None:
        place = Anna(scheme()).at(at(2025, 5, 1))
        assert place == Standing("base", START, 1000, 0, "silver", 100, 0, None, "base", False)

    @pytest.mark.parametrize(
        ("basis", "value"), [(Basis("earned", "status"), 7), (Basis("earned", "points"), 0), (Basis("visits"), 7)]
    )
    def test_what_counts(self, basis: Basis, value: int) -> None:
        anna = Anna(scheme(basis=basis))
        anna.told(at(2025, 5, 1, 12), 7)
        assert anna.at(at(2025, 5, 1, 12)).value == value

    def test_a_rolling_window_ends_at_local_midnight(self) -> None:
        """Case 3.16: the third day begins the window's last one, and its end is the member's midnight."""
        anna = Anna(scheme(Window("rolling", days=3)))
        assert anna.told(at(2025, 3, 28, 23, 59), 100) == "silver"
        midnight = at(2025, 3, 31)  # in Berlin the day before has 23 hours
        assert anna.level(midnight - MILLISECOND) == "silver"
        place = anna.at(midnight)
        assert (place.level, place.since, place.value) == ("base", midnight, 0)

    @pytest.mark.parametrize(
        ("counted", "gone"),
        [((2024, 1, 31), (2024, 3, 1)), ((2024, 2, 29), (2024, 3, 29)), ((2025, 1, 30), (2025, 3, 1))],
    )
    def test_a_rolling_month_clamps(self, counted: tuple[int, int, int], gone: tuple[int, int, int]) -> None:
        """Case 3.17."""
        anna = Anna(scheme(Window("rolling", months=1), published_at=at(2024, 1, 1)))
        anna.told(at(*counted, 15), 100)
        assert anna.level(at(*gone) - MILLISECOND) == "silver"
        assert anna.level(at(*gone)) == "base"

    def test_anniversaries_count_from_the_first_day(self) -> None:
        """Case 3.17: who joined on 29 February begins a year on the 28th, and on the 29th where there is one."""
        anna = Anna(scheme(Window("anniversary", months=12)))
        anna.told(at(2026, 2, 27, 12), 100)
        assert anna.at(at(2026, 2, 28) - MILLISECOND).value == 100
        assert anna.at(at(2026, 2, 28)).value == 0
        anna.told(at(2028, 2, 28, 12), 5)
        assert anna.at(at(2028, 2, 29) - MILLISECOND).value == 5
        assert anna.at(at(2028, 2, 29)).value == 0

    def test_a_late_fact_counts_on_its_own_day(self) -> None:
        """Case 3.20."""
        anna = Anna(scheme(Window("rolling", days=10)))
        assert anna.told(at(2025, 6, 10, 9), 100, day=date(2025, 6, 1)) == "silver"
        assert anna.level(at(2025, 6, 11)) == "base"
        assert anna.told(at(2025, 6, 12), 100, day=date(2025, 6, 2)) == "base"

    def test_the_day_before_tomorrow(self) -> None:
        """Case 3.20: a till whose clock is four minutes ahead tells of tomorrow, which counts from tomorrow on."""
        anna = Anna(scheme(Window("rolling", days=2)))
        assert anna.told(at(2025, 6, 10, 23, 58), 100, day=date(2025, 6, 11)) == "base"
        place = anna.at(at(2025, 6, 11))
        assert (place.level, place.since) == ("silver", at(2025, 6, 11))
        assert anna.level(at(2025, 6, 13)) == "base"

    def test_no_day_falls_below_zero(self) -> None:
        anna = Anna(scheme(Window("rolling", days=10)))
        anna.told(at(2025, 6, 10), 100, day=date(2025, 6, 9))
        anna.told(at(2025, 6, 10), -70, day=date(2025, 6, 8))
        assert anna.at(at(2025, 6, 10)).value == 100
        anna.told(at(2025, 6, 10), -101, day=date(2025, 6, 9))
        assert anna.at(at(2025, 6, 10)).value == 0

    def test_the_series_stays_small(self) -> None:
        """However often and long she comes, and however the windows are."""
        for window, most in (
            (Window("rolling", days=MOST_DAYS), 2 + 6 * MOST_DAYS),
            (Window("rolling", months=13), 2 + 6 * 397),
            (YEAR, 2 + 6 * 2),
            (Window("calendar", unit="week"), 2 + 6 * 2),
            (Window("anniversary", months=12), 2 + 6 * 2),
            (Window("lifetime"), 2 + 6),
        ):
            anna = Anna(scheme(window))
            for day in range(900):
                anna.told(START + timedelta(days=day), 1)
            assert anna.facet is not None
            assert len(anna.facet["series"]) <= most


class TestLevels:
    def test_the_level_rises_at_once(self) -> None:
        anna = Anna(scheme())
        assert anna.told(at(2025, 5, 1, 12), 99) == "base"
        assert anna.told(at(2025, 5, 2, 12), 1) == "silver"
        assert anna.told(at(2025, 5, 3, 12), 900) == "gold"
        assert [(made.at, made.before, made.after, made.value) for made in anna.changes] == [
            (at(2025, 5, 2, 12), "base", "silver", 100),
            (at(2025, 5, 3, 12), "silver", "gold", 1000),
        ]

    def test_a_calendar_year_is_reviewed_when_it_ends(self) -> None:
        """Reached in one year, a level is kept through the next, and judged by what that one brings."""
        anna = Anna(scheme())
        anna.told(at(2025, 11, 30, 12), 500)
        place = anna.at(at(2026, 5, 1))
        assert (place.level, place.value, place.to_stay) == ("gold", 0, 500)
        assert (place.drop_at, place.projected_level) == (at(2027, 1, 1), "base")
        anna.told(at(2026, 5, 1), 120)
        place = anna.at(at(2026, 5, 1))
        assert (place.to_stay, place.drop_at, place.projected_level) == (380, at(2027, 1, 1), "silver")
        assert anna.level(at(2027, 1, 1) - MILLISECOND) == "gold"
        assert anna.level(at(2027, 1, 1)) == "silver"

    def test_grace_and_recovery(self) -> None:
        anna = Anna(scheme(downgrade=Downgrade("full", 30)))
        anna.told(at(2025, 6, 1), 500)
        anna.told(at(2026, 6, 1), 450)
        pending = anna.at(at(2027, 1, 10))
        assert (pending.level, pending.drop_at, pending.projected_level) == ("gold", at(2027, 1, 31), "silver")
        assert pending.to_stay == 500  # in this year; or 50 that are told late of the last one
        late = Anna(anna.scheme)
        late.facet = anna.facet
        late.told(at(2027, 1, 20), 50, day=date(2026, 12, 31))
        assert late.at(at(2027, 2, 1)).level == "gold"
        anna.told(at(2027, 1, 20), 500)
        assert anna.at(at(2027, 2, 1)).level == "gold"
        assert anna.at(at(2027, 2, 1)).drop_at is None

    def test_one_level_at_a_review(self) -> None:
        anna = Anna(scheme(downgrade=Downgrade("one_level")))
        anna.told(at(2025, 6, 1), 500)
        levels = [anna.level(at(year, 1, 1)) for year in (2026, 2027, 2028, 2029)]
        assert levels == ["gold", "silver", "base", "base"]

    def test_never_down(self) -> None:
        anna = Anna(scheme(downgrade=Downgrade("none")))
        anna.told(at(2025, 6, 1), 500)
        place = anna.at(at(2040, 1, 1))
        assert (place.level, place.drop_at, place.to_stay) == ("gold", None, 0)
        assert anna.facet is not None
        assert "due_at" not in anna.facet

    def test_a_refund_takes_away_where_it_was_counted(self) -> None:
        """Case 3.13: the value is that without the purchase; the level goes by the review and its days of grace."""
        anna = Anna(scheme(Window("rolling", days=365), downgrade=Downgrade("full", 10)))
        anna.told(at(2025, 6, 1, 12), 80)
        assert anna.told(at(2025, 6, 2, 12), 430) == "gold"
        assert anna.told(at(2025, 6, 20, 12), -430, day=date(2025, 6, 2)) == "gold"
        place = anna.at(at(2025, 6, 20, 12))
        assert (place.value, place.to_stay, place.drop_at) == (80, 420, at(2025, 7, 1))
        assert anna.level(at(2025, 7, 1) - MILLISECOND) == "gold"
        assert anna.level(at(2025, 7, 1)) == "base"
        assert anna.told(at(2025, 7, 2), 20) == "silver"  # she can come back to a level that she had

    def test_a_lifetime_falls_by_refunds_only(self) -> None:
        """Case 3.13: what was bought, made a level, and was brought back, does not leave the level behind for ever."""
        anna = Anna(scheme(Window("lifetime")))
        anna.told(at(2025, 6, 1, 12), 500)
        assert anna.level(at(2075, 6, 1)) == "gold"
        anna.told(at(2025, 6, 5, 12), -1, day=date(2025, 6, 1))
        assert anna.level(at(2025, 6, 6) - MILLISECOND) == "gold"
        assert anna.level(at(2025, 6, 6)) == "silver"

    def test_spending_does_not_matter_to_what_was_earned(self) -> None:
        """Case 3.14: only a tier that looks at the balance reads the wallets."""
        anna = Anna(scheme(basis=Basis("earned", "status")))
        anna.told(at(2025, 6, 1), 500)
        assert not anna.scheme.looks_at_balance
        assert anna.level(at(2025, 6, 2)) == "gold"  # read with a state that has no points


class TestLock:
    def test_a_locked_level_never_falls(self) -> None:
        anna = Anna(scheme(Window("rolling", days=2)))
        assert anna.lock(at(2025, 6, 1), "silver") == "silver"
        place = anna.at(at(2035, 6, 1))
        assert (place.level, place.locked, place.drop_at, place.to_stay) == ("silver", True, None, 0)

    def test_it_can_rise(self) -> None:
        anna = Anna(scheme())
        anna.lock(at(2025, 6, 1), "silver")
        assert anna.told(at(2025, 6, 2), 500) == "gold"
        assert anna.level(at(2035, 6, 1)) == "gold"

    def test_it_is_never_below_what_the_value_makes(self) -> None:
        anna = Anna(scheme())
        anna.told(at(2025, 6, 1), 150)
        assert anna.lock(at(2025, 6, 2), "gold") == "gold"
        assert anna.lock(at(2025, 6, 3), "base") == "silver"

    def test_it_ends_a_fall_that_was_announced(self) -> None:
        anna = Anna(scheme(Window("rolling", days=2), downgrade=Downgrade("full", 30)))
        anna.told(at(2025, 6, 1), 500)
        assert anna.at(at(2025, 6, 10)).drop_at == at(2025, 7, 3)
        anna.lock(at(2025, 6, 10), "gold")
        assert anna.level(at(2025, 8, 1)) == "gold"
        anna.lock(at(2025, 8, 1, 12), None)
        assert anna.at(at(2025, 8, 2)).drop_at == at(2025, 9, 1)


class TestVersions:
    def test_new_thresholds_apply_from_the_publication(self) -> None:
        first = scheme()
        lower = (LEVELS[0], Level("silver", "Silver", 50), Level("gold", "Gold", 300))
        second = scheme(version=2, levels=lower, published_at=at(2025, 7, 1, 10), previous=first)
        anna = Anna(first)
        anna.told(at(2025, 6, 1), 400)
        anna.scheme = second
        assert anna.level(at(2025, 7, 1, 10)) == "gold"
        assert anna.at(at(2026, 3, 3)).since == second.published_at
        higher = (LEVELS[0], Level("silver", "Silver", 450), Level("gold", "Gold", 900))
        anna.scheme = scheme(version=3, levels=higher, published_at=at(2025, 8, 1), previous=second)
        assert anna.level(at(2025, 12, 31)) == "gold"
        assert anna.level(at(2026, 1, 1)) == "base"

    def test_what_the_version_before_decided_stands(self) -> None:
        """Reading late, when a new version is there already, gives what a job would have found in time."""
        first = scheme(Window("rolling", days=30))
        anna = Anna(first)
        anna.told(at(2025, 6, 1), 500)
        lower = (LEVELS[0], Level("silver", "Silver", 1), Level("gold", "Gold", 2))
        anna.scheme = scheme(version=2, levels=lower, published_at=at(2026, 1, 1), previous=first)
        place = anna.at(at(2026, 1, 2))
        assert (place.level, place.since) == ("base", at(2025, 7, 1))

    def test_another_basis_begins_from_nothing(self) -> None:
        first = scheme(Window("rolling", days=30))
        anna = Anna(first)
        anna.told(at(2025, 6, 1), 500)
        anna.scheme = scheme(
            Window("rolling", days=30),
            basis=Basis("visits"),
            version=2,
            downgrade=Downgrade("full", 5),
            published_at=at(2025, 6, 10, 12),
            previous=first,
        )
        place = anna.at(at(2025, 6, 10, 12))
        assert (place.level, place.value) == ("gold", 0)
        assert place.drop_at == at(2025, 6, 16)  # reviewed at the next midnight, and then the days of grace
        assert anna.level(at(2025, 6, 16)) == "base"

    def test_a_level_that_is_gone_becomes_the_one_of_its_rank(self) -> None:
        first = scheme()
        anna = Anna(first)
        anna.told(at(2025, 6, 1), 150)
        renamed = (LEVELS[0], Level("bronze", "Bronze", 100), Level("gold", "Gold", 500))
        anna.scheme = scheme(version=2, levels=renamed, published_at=at(2025, 7, 1), previous=first)
        anna.told(at(2025, 8, 1), 1)
        assert [(made.before, made.after, made.reason) for made in anna.changes[1:]] == [("silver", "bronze", "scheme")]

    def test_a_process_that_does_not_know_the_new_version_yet(self) -> None:
        """For some seconds: what a newer version has begun to count is left alone."""
        first = scheme()
        anna = Anna(first)
        anna.told(at(2025, 6, 1), 500)
        anna.scheme = scheme(basis=Basis("visits"), version=2, published_at=at(2025, 7, 1), previous=first)
        anna.told(at(2025, 7, 2), 3)
        newer = anna.facet
        anna.scheme = first
        anna.told(at(2025, 7, 2), 400)
        assert anna.facet == newer
        assert anna.at(at(2025, 7, 2)).level == "gold"


columns = st.dictionaries(st.integers(0, 65_535), st.integers(1, 1 << 60), max_size=30)


@given(columns)
def test_a_series_is_read_as_it_was_written(found: dict[int, int]) -> None:
    keys = sorted(found)
    values = [found[key] for key in keys]
    assert tuple(map(list, unpack(pack_days(keys, values)))) == (keys, values)
    below = [-value for value in values]
    assert tuple(map(list, unpack(pack_instants(keys, below)))) == (keys, below)


@given(columns, st.lists(st.tuples(st.integers(0, 65_535), st.integers(-(1 << 34), 1 << 34)), max_size=20))
def test_a_series_counts_like_a_dictionary(found: dict[int, int], added: list[tuple[int, int]]) -> None:
    """Also where values outgrow their column."""
    packed = pack_days(sorted(found), [found[key] for key in sorted(found)])
    for key, amount in added:
        keys, values = unpack(packed)
        values = add(keys, values, key, amount)
        packed = pack_days(keys, values)
        found[key] = max(found.get(key, 0) + amount, 0)
    keys, values = unpack(packed)
    assert dict(zip(keys, values, strict=True)) == {key: value for key, value in found.items() if value}
    assert list(keys) == sorted(keys)


@given(st.dates())
def test_days_are_numbered(day: date) -> None:
    assert day_of(day_number(day)) == day
