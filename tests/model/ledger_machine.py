"""The movements of the ledger against the naive purse: any acts in any order, at any time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loyalty.ledger import movements
from loyalty.ledger.entry import Draft
from loyalty.ledger.state import SOMEDAY, HoldNotOpen, HoldTooSmall, InsufficientPoints, Lot, Posting, State
from tests.model.chain import Chain
from tests.model.naive import Heap, NoSuchHold, Purse, TooFew

START = datetime(2028, 2, 27, 22, tzinfo=timezone.utc)
WALLET = "points"

points = st.integers(1, 300)
days = st.integers(0, 6)
grace = st.integers(0, 3)
Moves = Callable[[State, int, datetime], list[Posting]]


class LedgerAgainstPurse(RuleBasedStateMachine):
    """Whole days make instants meet; the millisecond before and after them is visited as well."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain()
        self.purse = Purse()
        self.now = START
        self.holds: list[int] = []
        self.spent: list[tuple[int, list[Heap]]] = []
        self.awards: list[tuple[int, datetime | None, datetime | None]] = []
        self.waiting = 0

    def act(self, moves: Moves, kind: str = "adjust", lapses: dict[str, datetime | None] | None = None) -> int:
        """One entry; its number."""

        def decide(state: State, sequence: int, now: datetime) -> Draft:
            return Draft(kind, now, moves(state, sequence, now), {}, lapses=lapses or {})

        self.chain.append(decide, self.now)
        return self.chain.head.sequence

    def later(self, days: int | None) -> datetime | None:
        return None if days is None else self.now + timedelta(days=days)

    @rule(days=days, milliseconds=st.sampled_from([-1, 0, 1, 3_600_000]))
    def wait(self, days: int, milliseconds: int) -> None:
        self.now = max(self.now, self.now + timedelta(days=days, milliseconds=milliseconds))
        self.purse.pass_time(self.now)

    @rule()
    def wait_for_what_comes(self) -> None:
        instant = movements.next_due(self.chain.head.state)
        if instant is not None:
            self.now = max(self.now, instant)
            self.purse.pass_time(self.now)

    @rule()
    def settle(self) -> None:
        self.act(lambda state, sequence, now: [], "settle")

    @rule(points=points, begins=st.none() | days, ends=st.none() | days)
    def earn(self, points: int, begins: int | None, ends: int | None) -> None:
        activates_at = self.later(begins) if begins else None
        base = begins or 0
        expires_at = self.later(base + ends + 1) if ends is not None else None
        self.act(
            lambda state, sequence, now: movements.credit(
                state,
                WALLET,
                points,
                source="issuance",
                sequence=sequence,
                activates_at=activates_at,
                expires_at=expires_at,
            )
        )
        self.purse.put("issuance", points, begins=activates_at, ends=expires_at)
        self.awards.append((points, activates_at, expires_at))

    @rule(points=points, owing=st.booleans())
    def spend(self, points: int, owing: bool) -> None:
        missing = points - self.purse.available()
        if missing > 0 and not owing:
            with pytest.raises(InsufficientPoints) as refusal:
                self.act(lambda state, sequence, now: movements.debit(state, WALLET, points, target="spent"))
            assert refusal.value.missing == missing
            return
        parts = self.purse.take(points, "spent", owe=owing)
        self.act(lambda state, sequence, now: movements.debit(state, WALLET, points, target="spent", owing=owing))
        self.spent.append((self.chain.head.sequence, parts))

    @rule(points=points, until=days, grace=grace)
    def hold(self, points: int, until: int, grace: int) -> None:
        end = self.now + timedelta(days=until, hours=1)

        def moves(state: State, sequence: int, now: datetime) -> list[Posting]:
            return movements.hold(state, WALLET, points, sequence=sequence, until=end, grace_days=grace)

        if points > self.purse.available():
            with pytest.raises(InsufficientPoints):
                self.act(moves)
            return
        number = self.act(moves)
        self.purse.hold(number, points, end, grace)
        self.holds.append(number)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), points=st.none() | points)
    def capture(self, data: st.DataObject, points: int | None) -> None:
        number = data.draw(st.sampled_from(self.holds))

        def moves(state: State, sequence: int, now: datetime) -> list[Posting]:
            return movements.capture(state, WALLET, number, now, sequence=sequence, points=points)

        try:
            parts = self.purse.capture(number, points, self.now)
        except (NoSuchHold, TooFew) as reason:
            expected = HoldNotOpen if isinstance(reason, NoSuchHold) else HoldTooSmall
            with pytest.raises(expected):
                self.act(moves)
            return
        self.act(moves)
        self.spent.append((self.chain.head.sequence, parts))

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.holds))

        def moves(state: State, sequence: int, now: datetime) -> list[Posting]:
            return movements.release(state, WALLET, number, now, sequence=sequence)

        try:
            self.purse.release(number, self.now)
        except NoSuchHold:
            with pytest.raises(HoldNotOpen):
                self.act(moves)
            return
        self.act(moves)

    @precondition(lambda self: self.spent)
    @rule(data=st.data(), grace=grace)
    def restore(self, data: st.DataObject, grace: int) -> None:
        """What was spent comes back, as the parts that it was."""
        place = data.draw(st.integers(0, len(self.spent) - 1))
        number, parts = self.spent.pop(place)
        lots = [Lot(number, part.points, None, part.ends) for part in parts]
        self.act(
            lambda state, sequence, now: movements.restore(
                state, WALLET, lots, now=now, grace_days=grace, sequence=sequence
            )
        )
        self.purse.come_back("spent", parts, self.now, grace)

    @precondition(lambda self: self.awards)
    @rule(data=st.data(), share=st.integers(0, 3), policy=st.sampled_from(["stop_at_zero", "pending_only", "negative"]))
    def reverse(self, data: st.DataObject, share: int, policy: movements.OverspentRefund) -> None:
        points, activates_at, expires_at = data.draw(st.sampled_from(self.awards))
        points -= points * share // 4
        found: list[movements.Reversal] = []

        def moves(state: State, sequence: int, now: datetime) -> list[Posting]:
            found.append(
                movements.reverse(
                    state, WALLET, points, activates_at=activates_at, expires_at=expires_at, policy=policy, now=now
                )
            )
            return found[-1].postings

        self.act(moves)
        missing, lapsed = self.purse.take_back(points, activates_at, expires_at, policy, self.now)
        assert (found[-1].shortfall, found[-1].lapsed) == (missing, lapsed)

    @rule(points=points)
    def earn_for_someday(self, points: int) -> None:
        self.act(
            lambda state, sequence, now: movements.credit(
                state, WALLET, points, source="issuance", sequence=sequence, activates_at=SOMEDAY
            )
        )
        self.purse.put("issuance", points, begins=SOMEDAY)
        self.waiting += points

    @rule(share=st.integers(1, 4), ends=st.none() | days)
    def activate(self, share: int, ends: int | None) -> None:
        lot = self.chain.at(self.now).wallet(WALLET).open_lot(SOMEDAY, None)
        if lot is None:
            return
        points = max(1, lot.points * share // 4)
        expires_at = self.later(ends + 1) if ends is not None else None
        self.act(
            lambda state, sequence, now: movements.activate(
                state, WALLET, points, lot=lot.id, expires_at=expires_at, sequence=sequence
            )
        )
        self.purse.begin(points, SOMEDAY, None, new_end=expires_at)

    @rule(days=st.none() | days)
    def lapse(self, days: int | None) -> None:
        """From now on the wallet lapses then, or does not by inactivity."""
        instant = self.later(days + 1) if days is not None else None
        self.act(lambda state, sequence, now: [], lapses={WALLET: instant})
        self.purse.lapses_at = instant

    @invariant()
    def agree(self) -> None:
        wallet = self.chain.at(self.now).wallet(WALLET)
        purse = self.purse
        assert wallet.defects() == []
        assert (wallet.available, wallet.pending, wallet.held) == (purse.available(), purse.pending(), purse.held())
        assert wallet.deficit == purse.debt
        assert {lot.expires_at: lot.points for lot in wallet.lots if lot.activates_at is None} == purse.by_end()
        assert {
            (lot.activates_at, lot.expires_at): lot.points for lot in wallet.lots if lot.activates_at
        } == purse.waiting()
        assert wallet.earned == purse.moved("issuance", None)
        assert wallet.spent == purse.moved(None, "spent")
        assert wallet.restored == purse.moved("spent", None)
        assert wallet.expired == purse.moved(None, "expired")
        assert wallet.reversed == purse.moved(None, "reversed")

    def teardown(self) -> None:
        assert [entry["hash"] for entry in self.chain.replayed().entries] == [
            entry["hash"] for entry in self.chain.entries
        ]
