"""Tiers that look at a balance: they follow every entry, and what time does to the points between entries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from hypothesis import example, given, settings
from hypothesis import strategies as st

from loyalty.ledger import movements
from loyalty.ledger.state import Document, State, fold
from loyalty.programs.calendar import Calendar
from loyalty.tiers import engine
from loyalty.tiers.engine import Basis, Downgrade, Level, Scheme, Transition, Window
from tests.unit.tiers.test_walk import EXAMPLES

START = datetime(2024, 3, 29, 11, tzinfo=timezone.utc)
BERLIN = Calendar.of("Europe/Berlin")
JOINED = date(2024, 3, 1)
DAY = timedelta(days=1)
LEVELS = (Level("base", "Base", 0), Level("silver", "Silver", 4), Level("gold", "Gold", 8))


@dataclass(frozen=True)
class Step:
    """An entry `after` the one before: points come (waiting and expiring after so many hours) or go."""

    after: timedelta
    points: int
    waits: int | None = None
    lives: int | None = None


hours = st.sampled_from([0, 1, 5, 24, 30, 72, 200])
steps = st.lists(
    st.builds(
        Step,
        hours.map(lambda number: timedelta(hours=number)),
        st.integers(-9, 9).filter(bool),
        st.none() | st.sampled_from([1, 13, 48, 100]),
        st.none() | st.sampled_from([2, 24, 72, 150]),
    ),
    min_size=1,
    max_size=10,
)
downgrades = st.builds(Downgrade, st.sampled_from(["full", "one_level", "none"]), st.sampled_from([0, 0, 1, 3]))


def scheme(downgrade: Downgrade) -> Scheme:
    return Scheme(1, Basis("balance", "points"), Window(), LEVELS, downgrade, START)


def after(state: State, step: Step, sequence: int, now: datetime) -> State:
    """The settled state after the step; nothing more than there is can go."""
    if step.points < 0:
        points = min(-step.points, state.wallet("points").available)
        return fold(state, movements.debit(state, "points", points, target="spent")) if points else state
    activates_at = now + timedelta(hours=step.waits) if step.waits else None
    expires_at = (activates_at or now) + timedelta(hours=step.lives) if step.lives else None
    return fold(
        state,
        movements.credit(
            state,
            "points",
            step.points,
            source="issuance",
            sequence=sequence,
            activates_at=activates_at,
            expires_at=expires_at,
        ),
    )


def settled(scheme: Scheme, facet: Document | None, state: State, now: datetime) -> tuple[Document, list[Transition]]:
    return engine.settle(facet, scheme, BERLIN, now, joined_on=JOINED, state=state)


def play(taken: list[Step], scheme: Scheme, jobs: list[datetime], end: datetime) -> tuple[Document, list[Transition]]:
    """The facet when each entry, and each run of the job, settles it with the state after it."""
    state, facet, now = State(), None, START
    transitions: list[Transition] = []
    happening: list[tuple[datetime, int, Step | None]] = [(job, 0, None) for job in jobs]
    for number, entry in enumerate(taken, start=1):
        now += entry.after
        happening.append((now, number, entry))
    for instant, number, step in sorted([*happening, (end, 99, None)], key=lambda item: item[:2]):
        state = movements.settle(state, instant)
        if step is not None:
            state = after(state, step, number, instant)
        elif facet is None:
            continue
        facet, more = settled(scheme, facet, state, instant)
        transitions += more
    assert facet is not None
    return facet, transitions


def walk(taken: list[Step], scheme: Scheme, end: datetime) -> list[tuple[datetime, int, int]]:
    """The changes of level, found by looking at the balance at every entry, every movement and every midnight."""
    state, now, rank, drop_at = State(), START, 0, None
    changes: list[tuple[datetime, int, int]] = []
    entries: dict[datetime, list[tuple[int, Step]]] = {}
    for number, step in enumerate(taken, start=1):
        now += step.after
        entries.setdefault(now, []).append((number, step))
    instants = {START + timedelta(hours=number) for number in range(int((end - START) / timedelta(hours=1)) + 1)}
    instants |= {end, *entries}
    for instant in sorted(instants):
        before = state.wallet("points").available
        moments: list[State] = [movements.settle(state, instant)]
        for number, made in entries.get(instant, []):
            moments.append(after(moments[-1], made, number, instant))
        midnight = BERLIN.midnight(BERLIN.day(instant)) == instant
        for place, state in enumerate(moments):
            value = state.wallet("points").available
            best = max(number for number, level in enumerate(LEVELS) if level.threshold <= max(value, 0))
            review = value != before or (midnight and place == 0)
            before = value
            fall = False
            if best > rank:
                changes.append((instant, rank, best))
                rank, drop_at = best, None
            elif best == rank or scheme.downgrade.to == "none":
                drop_at = None
            elif drop_at is not None:
                fall = drop_at <= instant
            elif review and scheme.downgrade.grace_days:
                drop_at = BERLIN.midnight(BERLIN.day(instant) + scheme.downgrade.grace_days * DAY)
            else:
                fall = review
            if fall:
                to = rank - 1 if scheme.downgrade.to == "one_level" else best
                changes.append((instant, rank, to))
                rank, drop_at = to, None
    return changes


def ranks(scheme: Scheme, transitions: list[Transition]) -> list[tuple[datetime, int, int]]:
    return [(made.at, scheme.ranks[made.before], scheme.ranks[made.after]) for made in transitions]


@settings(deadline=None, max_examples=EXAMPLES)
@example(
    [Step(timedelta(0), 8, lives=2), Step(DAY, 1, waits=48, lives=24)], Downgrade("one_level", 3), [], 300
)  # a change that makes no other level is reviewed all the same
@example([Step(timedelta(0), 8, lives=2)], Downgrade("one_level"), [4], 90)  # a job is no reason for a review
@given(steps, downgrades, st.lists(st.integers(0, 400), max_size=5), st.sampled_from([0, 5, 90, 300]))
def test_a_balance_is_followed_through_time(
    taken: list[Step], downgrade: Downgrade, jobs: list[int], rest: int
) -> None:
    """Case 3.14: levels rise and fall with what is there, at the instant, whether or not a job was looking."""
    kind = scheme(downgrade)
    end = START + sum((step.after for step in taken), timedelta(0)) + timedelta(hours=rest)
    expected = walk(taken, kind, end)
    alone, transitions = play(taken, kind, [], end)
    assert ranks(kind, transitions) == expected
    ran = [START + timedelta(hours=job) for job in jobs if START + timedelta(hours=job) <= end]
    assert play(taken, kind, ran, end) == (alone, transitions)


def test_the_projection_sees_expiry_and_activation() -> None:
    """Case 3.19: pending points raise a balance only when they become available."""
    kind = scheme(Downgrade("full", 2))
    state = after(State(), Step(DAY, 5, lives=48), 1, START)
    state = after(state, Step(DAY, 4, waits=80), 2, START)
    facet, _ = settled(kind, None, state, START)
    place = engine.standing(facet, kind, BERLIN, START, joined_on=JOINED, state=state)
    assert (place.level, place.value, place.to_next) == ("silver", 5, 3)
    assert place.drop_at is None  # in the days of grace the other points come
    assert engine.standing(facet, kind, BERLIN, START + 9 * DAY, joined_on=JOINED, state=state).level == "silver"
    strict = scheme(Downgrade("full"))
    facet, _ = settled(strict, None, state, START)
    place = engine.standing(facet, strict, BERLIN, START, joined_on=JOINED, state=state)
    assert (place.drop_at, place.projected_level, place.to_stay) == (START + timedelta(hours=48), "base", 4)


def test_spending_lowers_the_level() -> None:
    """Case 3.14: the documented hazard of such tiers: whoever redeems loses the level."""
    kind = scheme(Downgrade("full"))
    state = after(State(), Step(DAY, 9), 1, START)
    facet, rose = settled(kind, None, state, START)
    state = after(state, Step(DAY, -6), 2, START + DAY)
    facet, fell = settled(kind, facet, state, START + DAY)
    assert [(made.before, made.after, made.value) for made in rose + fell] == [("base", "gold", 9), ("gold", "base", 3)]


def test_a_locked_level_outlives_the_balance() -> None:
    kind = scheme(Downgrade("full"))
    state = after(State(), Step(DAY, 9), 1, START)
    facet, _ = engine.lock(None, kind, BERLIN, START, level="silver", joined_on=JOINED, state=state)
    assert facet["level"] == "gold"
    state = after(state, Step(DAY, -9), 2, START + DAY)
    facet, fell = settled(kind, facet, state, START + DAY)
    assert (facet["level"], fell) == ("gold", [])
