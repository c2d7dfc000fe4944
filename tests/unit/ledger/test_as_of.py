"""What was known and what had happened at an instant, against the chain itself and against naive books."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.append import Operation, preview
from loyalty.ledger.as_of import Effect, happened, replay, view
from loyalty.ledger.entry import Draft, Head
from loyalty.ledger.movements import credit, debit, hold, release, settle
from loyalty.ledger.state import Posting, State
from loyalty.points.lineage import Lineage, lineages

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


@dataclass(frozen=True)
class Step:
    """One act on day `recorded`, told to have happened `late` days before."""

    kind: str
    points: int
    recorded: int
    late: int
    wait: int | None = None
    live: int | None = None

    @property
    def occurred(self) -> int:
        return self.recorded - self.late


def steps(*, late: st.SearchStrategy[int], lives: st.SearchStrategy[int | None]) -> st.SearchStrategy[list[Step]]:
    earn = st.builds(
        Step, st.just("earn"), st.integers(1, 50), st.integers(0, 40), late, st.none() | st.integers(1, 20), lives
    )
    others = st.builds(Step, st.sampled_from(["spend", "hold", "void"]), st.integers(1, 60), st.integers(0, 40), late)
    return st.lists(st.one_of(earn, earn, others), max_size=12).map(
        lambda made: sorted(made, key=lambda step: step.recorded)
    )


def chain(made: Sequence[Step]) -> list[dict[str, Any]]:
    """The entries of the steps that are possible."""
    head, entries = Head.empty(1), []
    for step in made:

        def decide(state: State, sequence: int, now: datetime, step: Step = step) -> Draft:
            return Draft(step.kind, day(step.occurred), movements(step, state, sequence), {})

        entry = preview(head, Operation("bakery", 1, (b"k",), b"r", decide), day(step.recorded))
        entries.append(entry)
        head = Head.of(entry)
    return entries


def movements(step: Step, state: State, sequence: int) -> list[Posting]:
    have = state.wallet("points")
    if step.kind == "earn":
        waits_until = day(step.occurred + step.wait) if step.wait is not None else None
        activates_at = waits_until if waits_until is not None and waits_until > day(step.recorded) else None
        expires_at = day(step.recorded + 20 + step.live) if step.live is not None else None
        options = {"activates_at": activates_at, "expires_at": expires_at}
        return credit(state, "points", step.points, source="issuance", sequence=sequence, **options)
    if step.kind == "spend":
        return debit(state, "points", min(step.points, have.available), target="spent")
    if step.kind == "hold":
        points = min(step.points, have.available)
        return hold(state, "points", points, sequence=sequence, until=day(step.recorded + 7))
    if have.holds:
        return release(state, "points", have.holds[0].id, day(step.recorded), sequence=sequence)
    return []


def wallets(state: State) -> State:
    """Without what movements do not tell: empty wallets."""
    return State({name: replace(wallet, lapses_at=None) for name, wallet in state.wallets.items() if wallet.earned})


ON_TIME = st.just(0)
LATE = st.integers(0, 15)
LIVES = st.none() | st.integers(1, 20)


@given(steps(late=LATE, lives=LIVES), st.integers(0, 90))
def test_what_was_known_is_the_chain_as_it_was(made: list[Step], known: int) -> None:
    entries = [entry for entry in chain(made) if entry["recorded_at"] <= day(known)]
    told = view(replay(entries, day(known)))
    expected = settle(State.of(entries[-1]["state"]), day(known)) if entries else State()
    assert wallets(told) == wallets(expected)


@given(steps(late=ON_TIME, lives=LIVES), st.integers(0, 90))
def test_when_everything_is_told_at_once_both_views_agree(made: list[Step], instant: int) -> None:
    entries = chain(made)
    then = [entry for entry in entries if entry["recorded_at"] <= day(instant)]
    assert view(happened(replay(entries, day(90)), day(instant))) == view(replay(then, day(instant)))


@given(steps(late=LATE, lives=st.none()), st.integers(-20, 90), st.integers(0, 90))
def test_what_had_happened_counts_from_the_day_it_happened(made: list[Step], instant: int, known: int) -> None:
    """Naive books: every posting on its day, activations on theirs; holds end by themselves after 7 days."""
    entries = chain(made)
    told = [entry for entry in entries if entry["recorded_at"] <= day(known)]
    available = total = 0
    for step, entry in zip(made, entries, strict=True):
        if step.recorded > known or step.occurred > instant:
            continue
        own = entry["postings"]
        if step.kind == "earn":
            active = step.wait is None or step.occurred + step.wait <= max(instant, 0)
            told_too_late_to_wait = step.wait is not None and step.occurred + step.wait <= step.recorded
            available += step.points * (active or told_too_late_to_wait)
            total += step.points
        elif step.kind == "spend":
            spent = sum(posting["points"] for posting in own if posting["to"] == "spent")
            available -= spent
            total -= spent
    state = view(happened(replay(told, day(max(instant, known))), day(instant)))
    wallet = state.wallet("points")
    assert wallet.available + wallet.pending + wallet.held == total
    assert wallet.available + wallet.held == available
    assert wallet.defects() == []


def test_an_event_that_was_told_late_changes_only_what_had_happened() -> None:
    """Case 3.20: 10 points on day 1, 5 of day 2 that were told on day 9."""
    entries = chain([Step("earn", 10, 1, 0), Step("earn", 5, 9, 7)])

    def known(number: int) -> int:
        told = [entry for entry in entries if entry["recorded_at"] <= day(number)]
        return view(replay(told, day(number))).wallet("points").available

    def by_then(number: int, known: int = 30) -> int:
        told = [entry for entry in entries if entry["recorded_at"] <= day(known)]
        return view(happened(replay(told, day(number)), day(number))).wallet("points").available

    assert [known(number) for number in (0, 1, 2, 8, 9)] == [0, 10, 10, 10, 15]
    assert [by_then(number) for number in (0, 1, 2, 8, 9)] == [0, 10, 15, 15, 15]
    assert [by_then(number, known=8) for number in (0, 1, 2, 8)] == [0, 10, 10, 10]


def test_points_that_expired_before_they_were_told_were_there_for_their_time() -> None:
    """Case 3.20: born expired: earned on day 2, good until day 5, told on day 9."""

    def decide(state: State, sequence: int, now: datetime) -> Draft:
        postings = [
            Posting("points", "issuance", "available", 8, sequence, expires_at=day(5)),
            Posting("points", "available", "expired", 8, sequence, expires_at=day(5)),
        ]
        return Draft("earn", day(2), postings, {})

    entry = preview(Head.empty(1), Operation("bakery", 1, (b"k",), b"r", decide), day(9))
    shown = [view(happened(replay([entry], day(30)), day(n))).wallet("points").available for n in (1, 2, 4, 5, 9)]
    assert shown == [0, 8, 8, 0, 0]


# -- lineage ----------------------------------------------------------------------------------------------------------


def lineage_of(made: Sequence[Step], until: int) -> tuple[State, dict[tuple[str, int], Lineage]]:
    told: list[Effect] = replay(chain(made), day(until))
    return view(told), lineages(told)


@given(steps(late=LATE, lives=LIVES), st.integers(40, 90))
def test_every_point_of_every_lot_has_its_entry(made: list[Step], until: int) -> None:
    state, found = lineage_of(made, until)
    earned: dict[int, int] = {}
    for sequence, step in enumerate(made, start=1):
        if step.kind == "earn":
            earned[1 << 24 | sequence] = step.points
    for lot in state.wallet("points").lots:
        feeds = found["points", lot.id].fed_by
        assert sum(feed.left for feed in feeds.values()) == lot.points
        assert all(0 <= feed.left <= feed.points for feed in feeds.values())
    gone: dict[int, int] = {}
    for lineage in found.values():
        for use in lineage.consumed_by:
            if use.target in ("spent", "expired"):
                gone[use.source] = gone.get(use.source, 0) + use.points
    for entry, points in gone.items():
        assert points <= earned[entry]


def test_the_first_in_are_the_first_out() -> None:
    made = [Step("earn", 10, 0, 0), Step("earn", 5, 1, 0), Step("spend", 12, 2, 0), Step("earn", 1, 3, 0)]
    state, found = lineage_of(made, 5)
    (lot,) = state.wallet("points").lots
    lineage = found["points", lot.id]
    assert [(number & 0xFFFFFF, feed.points, feed.left) for number, feed in lineage.fed_by.items()] == [
        (1, 10, 0),
        (2, 5, 3),
        (4, 1, 1),
    ]
    assert [(use.entry & 0xFFFFFF, use.target, use.points, use.source & 0xFFFFFF) for use in lineage.consumed_by] == [
        (3, "spent", 10, 1),
        (3, "spent", 2, 2),
    ]


def test_points_that_activate_or_return_keep_the_entry_that_brought_them() -> None:
    made = [Step("earn", 10, 0, 0), Step("earn", 5, 1, 0, wait=3), Step("hold", 12, 6, 0), Step("void", 1, 7, 0)]
    state, found = lineage_of(made, 20)
    (lot,) = state.wallet("points").lots
    feeds = found["points", lot.id].fed_by
    assert {number & 0xFFFFFF: feed.left for number, feed in feeds.items()} == {1: 10, 2: 5}
