"""Movements: whatever is done to a wallet, in whatever order, its invariants hold and nothing comes from nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.movements import (
    OverspentRefund,
    activate,
    capture,
    credit,
    debit,
    due,
    due_steps,
    hold,
    next_due,
    release,
    restore,
    reverse,
    settle,
)
from loyalty.ledger.state import (
    SOMEDAY,
    HoldNotOpen,
    HoldTooSmall,
    InsufficientPoints,
    Lot,
    Posting,
    Refusal,
    State,
    fold,
    with_lapses,
)

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def earned(*lots: tuple[int, datetime | None, datetime | None]) -> State:
    """A state with these awards: points, activation, expiry."""
    state = State()
    for sequence, (points, activates_at, expires_at) in enumerate(lots, start=1):
        instants = {"activates_at": activates_at, "expires_at": expires_at}
        state = fold(state, credit(state, "points", points, source="issuance", sequence=sequence, **instants))
    return state


def lots(state: State) -> list[tuple[int, datetime | None, datetime | None]]:
    return [(lot.points, lot.activates_at, lot.expires_at) for lot in state.wallet("points").lots]


@dataclass
class Purse:
    """One wallet under test, driven by random acts."""

    state: State = field(default_factory=State)
    now: datetime = START
    sequence: int = 0
    spends: list[list[Lot]] = field(default_factory=list)

    def apply(self, postings: list[Posting]) -> None:
        self.state = fold(self.state, postings)
        for posting in postings:
            if posting.target == "spent":
                self.spends.append([Lot(posting.lot, posting.points, None, posting.expires_at)])

    def act(self, kind: str, points: int, days: int | None, more: int) -> None:
        self.sequence += 1
        self.state = settle(self.state, self.now)
        wallet = self.state.wallet("points")
        at = None if days is None else self.now + timedelta(days=days)
        if kind == "earn":
            self.apply(credit(self.state, "points", points, source="issuance", sequence=self.sequence, expires_at=at))
        elif kind == "pend":
            activates_at = self.now + timedelta(days=more) if more else SOMEDAY
            expires_at = None if at is None or not more else activates_at + timedelta(days=days or 1)
            instants = {"activates_at": activates_at, "expires_at": expires_at}
            self.apply(credit(self.state, "points", points, source="issuance", sequence=self.sequence, **instants))
        elif kind == "spend":
            self.apply(debit(self.state, "points", points, target="spent"))
        elif kind == "hold":
            until = self.now + timedelta(days=more + 1)
            grace = more % 3
            self.apply(hold(self.state, "points", points, sequence=self.sequence, until=until, grace_days=grace))
        elif kind == "capture" and wallet.holds:
            number = wallet.holds[more % len(wallet.holds)].id
            self.apply(capture(self.state, "points", number, self.now, sequence=self.sequence, points=points))
        elif kind == "release" and wallet.holds:
            number = wallet.holds[more % len(wallet.holds)].id
            self.apply(release(self.state, "points", number, self.now, sequence=self.sequence))
        elif kind == "reverse":
            policies: tuple[OverspentRefund, ...] = ("stop_at_zero", "pending_only", "negative")
            policy = policies[more % 3]
            taken = reverse(self.state, "points", points, activates_at=None, expires_at=at, policy=policy, now=self.now)
            assert sum(posting.points for posting in taken.postings) + taken.shortfall + taken.lapsed == points
            assert policy != "negative" or not taken.shortfall
            self.apply(taken.postings)
        elif kind == "restore" and self.spends:
            parts = self.spends.pop(more % len(self.spends))
            self.apply(restore(self.state, "points", parts, now=self.now, grace_days=more % 3, sequence=self.sequence))
        elif kind == "activate":
            waiting = [lot for lot in wallet.lots if lot.activates_at == SOMEDAY]
            if waiting:
                lot = waiting[0]
                part = min(points, lot.points)
                self.apply(activate(self.state, "points", part, lot=lot.id, expires_at=at, sequence=self.sequence))
        elif kind == "lapse":
            self.state = with_lapses(self.state, {"points": at})
        elif kind == "wait":
            self.now += timedelta(days=more, hours=7)


KINDS = (
    *("earn", "earn", "earn", "pend", "spend", "hold", "capture", "release", "reverse", "restore", "activate", "lapse"),
    *("wait", "wait"),
)
acts = st.tuples(
    st.sampled_from(KINDS),
    st.integers(1, 300),
    st.none() | st.integers(1, 40),
    st.integers(0, 20),
)


@given(st.lists(acts, max_size=40))
def test_no_sequence_of_acts_breaks_an_invariant(sequence: list[tuple[str, int, int | None, int]]) -> None:
    """Case 3.23: after every step the buckets, the lots, the holds and the lifetime totals agree."""
    purse = Purse()
    for step in sequence:
        try:
            purse.act(*step)
        except Refusal:
            continue
        assert purse.state.wallet("points").defects() == []
        assert State.of(purse.state.document()) == purse.state
        assert due(settle(purse.state, purse.now), purse.now) == []


@given(st.lists(acts, max_size=25), st.integers(1, 60))
def test_time_in_one_step_or_in_many_ends_alike(sequence: list[tuple[str, int, int | None, int]], days: int) -> None:
    """Case 3.16: what a job writes every night is what a read finds that no job has prepared."""
    purse = Purse()
    for step in sequence:
        try:
            purse.act(*step)
        except Refusal:
            continue
    slowly = purse.state
    for number in range(days * 4 + 1):
        slowly = settle(slowly, purse.now + timedelta(hours=6 * number))
    assert slowly == settle(purse.state, purse.now + timedelta(days=days))


@given(st.lists(acts, max_size=25))
def test_the_next_change_is_when_something_changes(sequence: list[tuple[str, int, int | None, int]]) -> None:
    purse = Purse()
    for step in sequence:
        try:
            purse.act(*step)
        except Refusal:
            continue
    state = settle(purse.state, purse.now)
    instant = next_due(state)
    if instant is None:
        assert settle(state, START + timedelta(days=10_000)) == state
    else:
        assert settle(state, instant - timedelta(milliseconds=1)) == state
        assert settle(state, instant) != state


def test_steps_come_in_the_order_of_time() -> None:
    state = earned((5, day(3), day(4)), (7, None, day(2)))
    assert [instant for instant, _ in due_steps(state, day(9))] == [day(2), day(3), day(4)]


def test_a_hold_keeps_the_expiry_of_its_points() -> None:
    """Case 3.4: what a partial capture leaves returns to the lots that it came from."""
    state = earned((10, None, day(5)), (10, None, None))
    state = fold(state, hold(state, "points", 15, sequence=3, until=day(1)))
    assert state.wallet("points").held == 15
    state = fold(state, capture(state, "points", 3, day(0.5), sequence=4, points=4))
    assert lots(state) == [(6, None, day(5)), (10, None, None)]
    assert (state.wallet("points").spent, state.wallet("points").held) == (4, 0)


def test_points_do_not_expire_under_a_hold() -> None:
    """Case 3.5: strict by default, with days of grace where the hold grants them."""
    back = (10, None, day(8))
    for grace_days, left in ((0, []), (2, [back])):
        state = earned((10, None, day(5)))
        state = fold(state, hold(state, "points", 10, sequence=2, until=day(9), grace_days=grace_days))
        state = settle(state, day(6))
        assert (state.wallet("points").held, state.wallet("points").expired) == (10, 0)
        state = fold(state, release(state, "points", 2, day(6), sequence=3))
        assert lots(state) == left


def test_a_hold_times_out_by_itself() -> None:
    state = earned((10, None, None))
    state = fold(state, hold(state, "points", 10, sequence=2, until=day(1)))
    assert settle(state, day(1) - timedelta(milliseconds=1)).wallet("points").available == 0
    assert settle(state, day(1)).wallet("points").available == 10


def test_a_hold_is_resolved_once_and_never_beyond_its_points() -> None:
    """Case 3.28."""
    state = earned((10, None, None))
    state = fold(state, hold(state, "points", 10, sequence=2, until=day(1)))
    with pytest.raises(HoldTooSmall):
        capture(state, "points", 2, day(0), sequence=3, points=11)
    resolved = fold(state, release(state, "points", 2, day(0), sequence=3))
    with pytest.raises(HoldNotOpen):
        capture(resolved, "points", 2, day(0), sequence=4)
    with pytest.raises(HoldNotOpen):
        release(resolved, "points", 2, day(0), sequence=4)


def test_what_is_owed_is_paid_by_what_arrives() -> None:
    """Case 3.7: a debt is carried, and never counted against points that expired."""
    state = earned((10, None, None), (50, day(3), None))
    taken = reverse(state, "points", 30, activates_at=None, expires_at=None, policy="negative", now=day(0))
    state = fold(state, taken.postings)
    assert (state.wallet("points").available, state.wallet("points").deficit) == (-20, 20)
    with pytest.raises(InsufficientPoints) as refusal:
        debit(state, "points", 5, target="spent")
    assert refusal.value.missing == 25
    state = fold(state, credit(state, "points", 15, source="issuance", sequence=4))
    assert state.wallet("points").available == -5
    state = settle(state, day(3))
    assert (state.wallet("points").available, state.wallet("points").deficit) == (45, 0)


def test_a_reversal_takes_what_waits_then_its_own_lot_then_the_oldest() -> None:
    """Case 3.10."""
    state = earned((10, None, day(5)), (10, None, day(9)), (10, day(2), day(9)))
    taken = reverse(state, "points", 25, activates_at=day(2), expires_at=day(9), policy="stop_at_zero", now=day(0))
    assert [(posting.source, posting.points, posting.expires_at) for posting in taken.postings] == [
        ("pending", 10, day(9)),
        ("available", 10, day(9)),
        ("available", 5, day(5)),
    ]


def test_a_part_of_waiting_points_is_activated() -> None:
    state = earned((10, SOMEDAY, None))
    state = fold(state, activate(state, "points", 4, lot=1, expires_at=day(30), sequence=2))
    assert lots(state) == [(4, None, day(30)), (6, SOMEDAY, None)]


def test_a_part_is_activated_in_the_entry_that_opened_its_lot() -> None:
    state = earned((10, SOMEDAY, None))
    state = fold(state, activate(state, "points", 4, lot=1, expires_at=day(30), sequence=1))
    assert lots(state) == [(4, None, day(30)), (6, SOMEDAY, None)]
    state = fold(state, activate(state, "points", 6, lot=1, expires_at=day(30), sequence=1))
    assert lots(state) == [(10, None, day(30))]


def test_two_awards_of_one_entry_have_their_own_lots() -> None:
    state = State()
    for expires_at in (day(5), day(6), None):
        postings = credit(state, "points", 5, source="issuance", sequence=1, expires_at=expires_at)
        state = fold(state, postings)
    assert state.wallet("points").defects() == []
    assert lots(state) == [(5, None, day(5)), (5, None, day(6)), (5, None, None)]


def test_an_idle_wallet_lapses_as_a_whole() -> None:
    state = with_lapses(earned((5, None, None), (6, None, day(90)), (7, day(50), None)), {"points": day(30)})
    assert settle(state, day(30)).wallet("points").available == 0
    assert settle(state, day(60)).wallet("points").available == 7


def test_nothing_to_take_back_moves_nothing() -> None:
    state = earned((10, day(2), day(9)))
    taken = reverse(state, "points", 0, activates_at=day(2), expires_at=day(9), policy="negative", now=day(0))
    assert (taken.postings, taken.shortfall, taken.lapsed) == ([], 0, 0)
