"""The arithmetic of points: invariants under any sequence of credits, debits and passing time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.movements import credit, debit, due
from loyalty.ledger.state import InsufficientPoints, LedgerDefect, Lot, Posting, State, Wallet, fold

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


days = st.integers(0, 40)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("earn"), st.integers(0, 500), st.none() | days, st.none() | st.integers(1, 60)),
        st.tuples(st.just("spend"), st.integers(1, 600), st.none(), st.none()),
        st.tuples(st.just("adjust"), st.integers(-300, 300), st.none(), st.none()),
        st.tuples(st.just("wait"), days, st.none(), st.none()),
    ),
    max_size=30,
)


def run(steps_taken: list[tuple[str, int, int | None, int | None]]) -> tuple[State, list[int], datetime]:
    """The state after the steps, what a naive purse would have available after each, and the time then."""
    state, now = State(), START
    naive: list[tuple[int, int, datetime | None, datetime | None]] = []  # sequence, points, activates, expires
    totals = []
    for sequence, (kind, amount, activates, expires) in enumerate(steps_taken, start=1):
        if kind == "wait":
            now += timedelta(days=amount)
        state = fold(state, due(state, now))
        naive = [lot for lot in naive if lot[3] is None or lot[3] > now or (lot[2] is not None and lot[2] > now)]
        if kind == "earn":
            activates_at = now + timedelta(days=activates) if activates else None
            begin = activates_at or now
            expires_at = begin + timedelta(days=expires) if expires else None
            options = {"activates_at": activates_at, "expires_at": expires_at}
            state = fold(state, credit(state, "points", amount, source="issuance", sequence=sequence, **options))
            naive.append((sequence, amount, activates_at, expires_at))
        elif kind == "adjust" and amount > 0:
            state = fold(state, credit(state, "points", amount, source="adjusted", sequence=sequence))
            naive.append((sequence, amount, None, None))
        elif kind in ("spend", "adjust"):
            amount = abs(amount)
            usable = sum(points for _, points, active, _ in naive if active is None or active <= now)
            target = "spent" if kind == "spend" else "adjusted"
            if amount > usable:
                with pytest.raises(InsufficientPoints) as refusal:
                    debit(state, "points", amount, target=target)
                assert refusal.value.missing == amount - usable
            else:
                state = fold(state, debit(state, "points", amount, target=target))
                naive = take(naive, amount, now)
        totals.append(sum(points for _, points, active, _ in naive if active is None or active <= now))
        assert state.wallet("points").available == totals[-1]
    return state, totals, now


def take(
    naive: list[tuple[int, int, datetime | None, datetime | None]], amount: int, now: datetime
) -> list[tuple[int, int, datetime | None, datetime | None]]:
    """Remove points from the lots that are usable, earliest expiry first."""
    never = datetime.max.replace(tzinfo=timezone.utc)
    kept = []
    for sequence, points, activates_at, expires_at in sorted(naive, key=lambda lot: (lot[3] or never, lot[0])):
        taken = min(amount, points) if activates_at is None or activates_at <= now else 0
        amount -= taken
        if points > taken:
            kept.append((sequence, points - taken, activates_at, expires_at))
    return kept


@given(steps)
def test_available_is_what_a_naive_purse_has_and_no_invariant_breaks(
    taken: list[tuple[str, int, int | None, int | None]],
) -> None:
    state, _, _ = run(taken)
    assert state.wallet("points").defects() == []


@given(steps)
def test_a_state_survives_its_document(taken: list[tuple[str, int, int | None, int | None]]) -> None:
    state, _, _ = run(taken)
    assert State.of(state.document()) == state


@given(steps, days)
def test_settling_twice_is_settling_once(taken: list[tuple[str, int, int | None, int | None]], later: int) -> None:
    state, _, now = run(taken)
    instant = now + timedelta(days=later)
    settled = fold(state, due(state, instant))
    assert due(settled, instant) == []
    assert settled.wallet("points").defects() == []


@given(steps)
def test_waiting_in_one_step_or_in_many_ends_alike(taken: list[tuple[str, int, int | None, int | None]]) -> None:
    state, _, now = run(taken)
    at_once = fold(state, due(state, now + timedelta(days=70)))
    slowly = state
    for number in range(1, 71):
        slowly = fold(slowly, due(slowly, now + timedelta(days=number)))
    counted = ("available", "pending", "held", "earned", "spent", "expired", "adjusted")
    for name in counted:
        assert getattr(at_once.wallet("points"), name) == getattr(slowly.wallet("points"), name)


def test_a_lot_is_gone_at_the_very_instant_of_its_expiry() -> None:
    state = fold(State(), credit(State(), "points", 10, source="issuance", sequence=1, expires_at=day(5)))
    assert due(state, day(5) - timedelta(milliseconds=1)) == []
    assert due(state, day(5)) == [Posting("points", "available", "expired", 10, 1, expires_at=day(5))]


def test_earliest_expiry_is_spent_first_and_never_expiring_points_last() -> None:
    state = State()
    for sequence, expires in ((1, None), (2, day(20)), (3, day(10)), (4, day(20))):
        state = fold(state, credit(state, "points", 10, source="issuance", sequence=sequence, expires_at=expires))
    spent = debit(state, "points", 35, target="spent")
    assert [(posting.lot, posting.points) for posting in spent] == [(3, 10), (2, 20), (1, 5)]


def test_points_with_the_same_expiry_share_a_lot() -> None:
    state = State()
    for sequence in range(1, 200):
        state = fold(state, credit(state, "points", 1, source="issuance", sequence=sequence))
    assert state.wallet("points").lots == (Lot(1, 199),)


def test_activated_points_join_the_lot_that_is_already_available() -> None:
    state = fold(State(), credit(State(), "points", 5, source="issuance", sequence=1))
    state = fold(state, credit(state, "points", 7, source="issuance", sequence=2, activates_at=day(3)))
    state = fold(state, due(state, day(3)))
    assert state.wallet("points").lots == (Lot(1, 12),)


def test_pending_points_cannot_be_spent() -> None:
    state = fold(State(), credit(State(), "points", 7, source="issuance", sequence=1, activates_at=day(3)))
    with pytest.raises(InsufficientPoints):
        debit(state, "points", 1, target="spent")


@pytest.mark.parametrize(
    "posting",
    [
        Posting("points", "available", "spent", 11, 1),
        Posting("points", "available", "spent", 5, 2),
        Posting("points", "available", "spent", 0, 1),
        Posting("points", "available", "spent", -5, 1),
        Posting("points", "spent", "issuance", 5, 1),
        Posting("points", "pending", "available", 5, 1),
        Posting("points", "issuance", "available", 5, 1, expires_at=day(1)),
        Posting("points", "issuance", "pending", 5, 9),
    ],
    ids=[
        "more than the lot",
        "no such lot",
        "nothing",
        "negative",
        "no such move",
        "not pending",
        "other expiry",
        "when?",
    ],
)
def test_what_cannot_happen_is_a_defect(posting: Posting) -> None:
    state = fold(State(), credit(State(), "points", 10, source="issuance", sequence=1))
    with pytest.raises(LedgerDefect):
        fold(state, [posting])


@pytest.mark.parametrize(
    "damage",
    [
        {"available": 11},
        {"pending": 1},
        {"held": -1},
        {"deficit": 1},
        {"earned": 11},
        {"lots": (Lot(1, 4), Lot(2, 6, expires_at=day(1)))},
    ],
)
def test_a_damaged_wallet_is_noticed(damage: dict[str, object]) -> None:
    sound = Wallet(available=10, earned=10, lots=(Lot(1, 10),))
    assert sound.defects() == []
    fields = {name: getattr(sound, name) for name in Wallet.__slots__}
    assert Wallet(**{**fields, **damage}).defects() != []
