"""The engine against a walk from day to day, over random schemes, facts, zones and runs of the job."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.ledger.state import Document, State
from loyalty.programs.calendar import Calendar
from loyalty.tiers.engine import (
    Basis,
    Downgrade,
    Level,
    Running,
    Scheme,
    Transition,
    Window,
    count,
    settle,
    standing,
)
from tests.unit.tiers.naive import DAY, Fact, Naive

EXAMPLES = int(os.environ.get("LOYALTY_TEST_EXAMPLES", "100"))
"""How many stories each test makes up; a long run sets some thousands."""

NOTHING = State()
LEVELS = (Level("base", "Base", 0), Level("silver", "Silver", 4), Level("gold", "Gold", 8), Level("black", "Black", 12))

# Days around which zones change their clocks (Santiago and São Paulo at midnight), and around leap days.
STARTS = {
    "UTC": [datetime(2024, 2, 26, tzinfo=timezone.utc), datetime(2023, 12, 28, 23, 59, tzinfo=timezone.utc)],
    "Europe/Berlin": [datetime(2024, 3, 28, 22, 30, tzinfo=timezone.utc), datetime(2024, 10, 24, tzinfo=timezone.utc)],
    "America/Sao_Paulo": [datetime(2018, 11, 1, 2, tzinfo=timezone.utc), datetime(2018, 2, 14, tzinfo=timezone.utc)],
    "America/Santiago": [datetime(2024, 9, 4, tzinfo=timezone.utc), datetime(2024, 4, 3, 4, tzinfo=timezone.utc)],
    "Asia/Kathmandu": [datetime(2024, 1, 30, 18, 14, tzinfo=timezone.utc)],
}

windows = st.one_of(
    st.builds(Window, st.just("rolling"), days=st.sampled_from([1, 2, 3, 7, 10])),
    st.builds(Window, st.just("rolling"), months=st.sampled_from([1, 2])),
    st.builds(Window, st.just("calendar"), unit=st.sampled_from(["day", "week", "month", "quarter"])),
    st.builds(Window, st.just("anniversary"), months=st.sampled_from([1, 2])),
    st.just(Window("lifetime")),
)
downgrades = st.builds(
    Downgrade, st.sampled_from(["full", "full", "one_level", "one_level", "none"]), st.sampled_from([0, 0, 1, 3, 9])
)


@dataclass
class Story:
    """A scheme, and what happens to one member."""

    scheme: Scheme
    calendar: Calendar
    start: datetime
    joined_on: date
    facts: list[Fact]
    jobs: list[datetime]
    end: datetime


@st.composite
def stories(draw: st.DrawFn) -> Story:
    zone = draw(st.sampled_from(sorted(STARTS)))
    start = draw(st.sampled_from(STARTS[zone]))
    calendar = Calendar.of(zone)
    scheme = Scheme(1, Basis("visits"), draw(windows), LEVELS, draw(downgrades), start)
    joined_on = calendar.day(start) - draw(st.sampled_from([0, 1, 30, 31, 366])) * DAY
    now = start
    facts: list[Fact] = []
    for _ in range(draw(st.integers(0, 12))):
        now += draw(
            st.sampled_from([timedelta(0), timedelta(minutes=7), timedelta(hours=9), DAY, 3 * DAY, 8 * DAY, 30 * DAY])
        )
        purchases = [fact for fact in facts if left(facts, fact) > 0]
        if purchases and draw(st.integers(0, 3)) == 0:
            purchase = draw(st.sampled_from(purchases))
            day, amount = purchase.day, -draw(st.integers(1, left(facts, purchase)))
        else:
            late = draw(st.sampled_from([0, 0, 0, 0, 1, 2, 6, 10, 31, 70]))
            # A clock may be five minutes ahead of ours, and tell of tomorrow.
            day = calendar.day(now + draw(st.sampled_from([timedelta(0), timedelta(minutes=5)])) - late * DAY)
            amount = draw(st.integers(1, 9))
        facts.append(Fact(now, day, amount))
    jobs = [start + timedelta(hours=hours) for hours in draw(st.lists(st.integers(0, 24 * 90), max_size=6))]
    end = now + draw(st.sampled_from([timedelta(0), timedelta(hours=5), DAY, 9 * DAY, 40 * DAY]))
    return Story(scheme, calendar, start, joined_on, facts, sorted(jobs), end)


def left(facts: list[Fact], purchase: Fact) -> int:
    """What was counted on the day of the purchase and not taken back."""
    return sum(fact.amount for fact in facts if fact.day == purchase.day)


def play(story: Story, jobs: list[datetime]) -> tuple[Document | None, list[Transition]]:
    """The facet at the end, when the job ran at `jobs` only."""
    facet: Document | None = None
    transitions: list[Transition] = []
    happening: list[tuple[datetime, int, Fact | None]] = [(fact.told_at, 1, fact) for fact in story.facts]
    happening += [(job, 0, None) for job in jobs if job <= story.end]
    for instant, _, fact in sorted(happening, key=lambda item: item[:2]):
        if fact is not None:
            facet, more = count(
                facet,
                story.scheme,
                story.calendar,
                day=fact.day,
                earned={},
                spend=0,
                visits=fact.amount,
                now=instant,
                joined_on=story.joined_on,
                state=NOTHING,
            )
        elif facet is not None:
            facet, more = settled(story, facet, instant)
        else:
            more = []
        transitions += more
    return facet, transitions


def settled(story: Story, facet: Document | None, now: datetime) -> tuple[Document, list[Transition]]:
    return settle(facet, story.scheme, story.calendar, now, joined_on=story.joined_on, state=NOTHING)


def walked(story: Story, end: datetime) -> Naive:
    since = min(max(story.start, story.calendar.midnight(story.joined_on)), story.facts[0].told_at)
    naive = Naive(story.scheme, story.calendar, story.joined_on, 0, since)
    naive.walk(story.start, end, story.facts)
    return naive


@settings(deadline=None, max_examples=EXAMPLES)
@given(stories().filter(lambda story: bool(story.facts)))
def test_the_engine_agrees_with_a_walk_from_day_to_day(story: Story) -> None:
    naive = walked(story, story.end)
    facet, transitions = play(story, story.jobs)
    facet, more = settled(story, facet, story.end)
    changes = [
        (made.at, story.scheme.ranks[made.before], story.scheme.ranks[made.after]) for made in [*transitions, *more]
    ]
    assert changes == naive.changes
    place = standing(facet, story.scheme, story.calendar, story.end, joined_on=story.joined_on, state=NOTHING)
    today = story.calendar.day(story.end)
    assert place.level == LEVELS[naive.rank].id
    assert place.since == naive.since
    assert place.value == naive.value(today)
    assert facet.get("drop_at") == naive.drop_at
    assert place.to_next == (
        max(LEVELS[naive.rank + 1].threshold - naive.value(today), 0) if naive.rank + 1 < len(LEVELS) else 0
    )


@settings(deadline=None, max_examples=EXAMPLES)
@given(stories().filter(lambda story: bool(story.facts)))
def test_jobs_change_nothing(story: Story) -> None:
    """Settling at once, at random instants or at every midnight comes to the same, and to the same changes."""
    at_once = play(story, [story.end])
    midnights = []
    day = story.calendar.day(story.start)
    while story.calendar.midnight(day) <= story.end:
        midnights.append(story.calendar.midnight(day))
        day += DAY
    assert play(story, [*story.jobs, story.end]) == at_once
    assert play(story, [*midnights, story.end]) == at_once


@settings(deadline=None, max_examples=EXAMPLES)
@given(stories().filter(lambda story: bool(story.facts)))
def test_a_run_in_memory_is_the_same(story: Story) -> None:
    """What a back-test keeps open between the facts comes to what is packed after each."""
    first = story.facts[0].told_at
    running = Running(None, story.scheme, story.calendar, first, joined_on=story.joined_on, state=NOTHING)
    transitions = []
    for fact in story.facts:
        transitions += running.count(
            story.scheme,
            day=fact.day,
            earned={},
            spend=0,
            visits=fact.amount,
            now=fact.told_at,
            state=NOTHING,
        )
    transitions += running.settle(story.scheme, story.end, state=NOTHING)
    facet, expected = play(story, [story.end])
    assert facet is not None
    assert (running.level.id, transitions) == (facet["level"], expected)


@settings(deadline=None, max_examples=EXAMPLES)
@given(stories().filter(lambda story: bool(story.facts)), st.integers(0, 24 * 60))
def test_nothing_happens_before_it_is_due(story: Story, hours: int) -> None:
    facet, _ = play(story, [])
    facet, _ = settled(story, facet, story.end)
    due_at = facet.get("due_at")
    later = story.end + timedelta(hours=hours)
    if due_at is None or later < due_at:
        assert settled(story, facet, later) == (facet, [])
    if due_at is not None:
        assert due_at > story.end
        assert settled(story, facet, due_at)[0] != facet


@settings(deadline=None, max_examples=EXAMPLES)
@given(stories().filter(lambda story: bool(story.facts)))
def test_the_projection_comes_true(story: Story) -> None:
    """If nothing more happens, the level falls when and to what was foretold, and what is missing to stay is enough."""
    facet, _ = play(story, [])
    place = standing(facet, story.scheme, story.calendar, story.end, joined_on=story.joined_on, state=NOTHING)
    naive = walked(story, story.end)
    before = len(naive.changes)
    naive.walk(story.end, story.end + 200 * DAY, [])
    first = naive.changes[before] if len(naive.changes) > before else None
    if place.drop_at is not None:
        assert first is not None
        assert (place.drop_at, place.projected_level) == (first[0], LEVELS[first[2]].id)
        assert place.to_stay > 0
        # Where no higher level comes into it, and what is added today is not gone when it is looked at.
        if all(to <= naive.changes[before - 1][2] for _, _, to in naive.changes) and story.scheme.window.days != 1:
            assert rescued(story, place.drop_at, place.to_stay)
            assert not rescued(story, place.drop_at, place.to_stay - 1)
    elif story.scheme.window.type in ("rolling", "lifetime"):
        assert first is None or LEVELS[first[2]].id == place.projected_level
    elif first is not None and first[2] < first[1]:
        # The window that is under way will pass its review; the next one need not.
        assert naive.together(story.calendar.day(story.end), story.calendar.day(first[0]) - DAY) is False


def rescued(story: Story, drop_at: datetime, amount: int) -> bool:
    """Whether the level is kept beyond `drop_at` if `amount` is added in the moment before that is decided."""
    scheme, calendar = story.scheme, story.calendar
    before = walked(story, story.end)
    moment = story.end
    if before.drop_at is None:
        decided = calendar.midnight(calendar.day(drop_at) - scheme.downgrade.grace_days * DAY)
        moment = max(story.end, decided - timedelta(milliseconds=1))
    facts = [*story.facts, Fact(moment, calendar.day(moment), amount)] if amount else story.facts
    levels = scheme.levels[: before.rank + 1]
    after = walked(replace(story, facts=facts, scheme=replace(scheme, levels=levels)), drop_at)
    return after.rank >= before.rank


@pytest.mark.parametrize("zone", sorted(STARTS))
def test_the_walk_itself_sees_changes(zone: str) -> None:
    """The comparison above is worth something: a plain story has a rise and a fall."""
    start = STARTS[zone][0]
    calendar = Calendar.of(zone)
    scheme = Scheme(1, Basis("visits"), Window("rolling", days=3), LEVELS, Downgrade("full"), start)
    story = Story(scheme, calendar, start, calendar.day(start), [Fact(start, calendar.day(start), 9)], [], start)
    naive = walked(story, start + 9 * DAY)
    assert [(rank, to) for _, rank, to in naive.changes] == [(0, 2), (2, 0)]
    assert naive.changes[1][0] == calendar.midnight(calendar.day(start) + 3 * DAY)
