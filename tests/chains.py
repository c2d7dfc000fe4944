"""Ledgers with every kind of entry, made at random but the same for the same seed, for tests and benches.

The acts are those of the engine's own arithmetic, without rules: what matters here is what entries can look like.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from pymongo.write_concern import WriteConcern

from loyalty.infra.ids import entry_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.ledger import movements
from loyalty.ledger.append import Operation, preview
from loyalty.ledger.entry import Draft, Head, entry_key
from loyalty.ledger.state import SOMEDAY, Lot, Posting, Refusal, State

BEGIN = datetime(2026, 1, 1, 9, 30, tzinfo=timezone.utc)
KINDS = (
    *("earn", "spend", "hold", "capture", "void", "cancel", "refund", "park", "adjust", "transfer", "settle"),
    *("activate", "tier", "merge"),
)
_LIKELY = (30, 4, 3, 2, 1, 1, 3, 1, 1, 2, 2, 1, 1, 1)
_OPENING = (
    *("adjust", "earn", "earn", "earn", "earn", "spend", "hold", "capture", "hold", "void", "cancel", "refund", "park"),
    *("transfer", "settle", "activate", "tier", "merge"),
)
_BATCH = 1000


def fill(db: Mongo, *, members: int, length: int, seed: int = 1, first: int = 1) -> int:
    """Chains of about `length` entries for the members from `first` on, straight into the ledger; how many entries."""
    ledger = db.ledger.with_options(write_concern=WriteConcern(w=1))
    batch: list[Document] = []
    count = 0
    for entry in make(members=members, length=length, seed=seed, first=first):
        batch.append(entry)
        count += 1
        if len(batch) == _BATCH:
            ledger.insert_many(batch)
            batch = []
    if batch:
        ledger.insert_many(batch)
    return count


def make(*, members: int, length: int, seed: int = 1, first: int = 1) -> Iterator[Document]:
    """The entries, members in pairs that transfer to each other."""
    random_ = random.Random(f"{seed} {first}")
    for number in range(first, first + members, 2):
        pair = _Pair(random_, number)
        # Every kind once with one of the two, as far as its state allows it, then as they come.
        for kind in _OPENING[:length]:
            yield from pair.act(kind, 0)
        for kind in random_.choices(KINDS, _LIKELY, k=max(0, 2 * length - len(_OPENING))):
            yield from pair.act(kind, random_.randrange(2))


class _Pair:
    """Two members whose chains grow in turn."""

    def __init__(self, random_: random.Random, number: int) -> None:
        self.random = random_
        self.heads = [Head.empty(number), Head.empty(number + 1)]
        self.now = BEGIN

    def act(self, kind: str, giver: int) -> list[Document]:
        """The entries of one act: one, two that belong together, or none if the state does not allow it."""
        self.now += timedelta(hours=self.random.randrange(60), seconds=self.random.randrange(3600))
        try:
            if kind != "transfer":
                return [self._append(giver, kind, self.random.randrange(1, 200))]
            points = min(self._available(giver), self.random.randrange(1, 50))
            heads = list(self.heads)
            try:
                return [self._append(giver, kind, -points), self._append(1 - giver, kind, points)]
            except Refusal:
                self.heads = heads  # both or neither
                raise
        except Refusal:
            return []

    def _available(self, which: int) -> int:
        return movements.settle(self.heads[which].state, self.now).wallet("points").available

    def _append(self, which: int, kind: str, points: int) -> Document:
        head = self.heads[which]
        other = self.heads[1 - which]

        def decide(state: State, sequence: int, now: datetime) -> Draft:
            draft = self._decide(kind, state, sequence, now, points)
            if kind == "transfer":
                draft.evidence["with"] = [entry_id(entry_key(other.member, other.sequence + 1))]
            return draft

        key = self.random.randbytes(16)
        entry = preview(head, Operation("main", head.member, (key,), self.random.randbytes(16), decide), self.now)
        self.heads[which] = Head.of(entry)
        return entry

    def _decide(self, kind: str, state: State, sequence: int, now: datetime, points: int) -> Draft:
        wallet = state.wallet("points")
        month_end = (now.replace(day=1) + timedelta(days=370)).replace(day=1, hour=0, minute=0, second=0)
        if kind == "earn":
            waits = self.random.choice([None, None, now + timedelta(days=14), SOMEDAY])
            state_points = movements.credit(
                state, "points", points, source="issuance", sequence=sequence, activates_at=waits, expires_at=month_end
            )
            stamps = movements.credit(state, "stamps", 1, source="issuance", sequence=sequence)
            return self._draft(
                kind,
                now,
                [*state_points, *(stamps if points % 3 == 0 else [])],
                {
                    "award": {
                        "version": 3,
                        "currency": "EUR",
                        "lines": [{"rule": "base", "wallet": "points", "points": points, "basis": points * 100 + 17}],
                    },
                    "event": {"source": "till", "id": f"{sequence}", "type": "purchase", "amount": points * 100 + 17},
                },
                facets={"counters": {"base.day": {now.date().isoformat(): points}}},
                lapses={"points": month_end} if points % 5 == 0 else {},
            )
        if kind == "spend":
            return self._draft(kind, now, movements.debit(state, "points", points // 4 + 1, target="spent"))
        if kind == "hold":
            until = now + timedelta(hours=400)
            asked = points // 8 + 1
            return self._draft(
                kind, now, movements.hold(state, "points", asked, sequence=sequence, until=until, grace_days=2)
            )
        if kind in ("capture", "void"):
            if not wallet.holds:
                raise Refusal("nothing is held")
            number = wallet.holds[0].id
            if kind == "void":
                return self._draft(kind, now, movements.release(state, "points", number, now, sequence=sequence))
            some = self.random.randrange(1, wallet.holds[0].points + 1)
            postings = movements.capture(state, "points", number, now, sequence=sequence, points=some)
            return self._draft(kind, now, postings)
        if kind == "cancel":
            back = [Lot(sequence, min(wallet.spent, points), None, month_end)] if wallet.spent else []
            if not back:
                raise Refusal("nothing was spent")
            return self._draft(
                kind, now, movements.restore(state, "points", back, now=now, grace_days=0, sequence=sequence)
            )
        if kind == "refund":
            policy: movements.OverspentRefund = "negative" if self.random.random() < 0.1 else "stop_at_zero"
            taken = movements.reverse(
                state, "points", points, activates_at=None, expires_at=month_end, policy=policy, now=now
            )
            return self._draft(
                kind, now, taken.postings, {"refunded": {"amount": points, "shortfall": taken.shortfall}}
            )
        if kind == "park":
            return self._draft(kind, now, [], {"note": "früher"}, facets={"parked": {"e1": {"amount": points}}})
        if kind == "adjust":
            postings = movements.credit(state, "points", points, source="adjusted", sequence=sequence)
            return self._draft(kind, now, postings, {"reason": "goodwill"})
        if kind == "transfer":
            if points == 0:
                raise Refusal("nothing to give")
            if points < 0:
                return self._draft(kind, now, movements.debit(state, "points", -points, target="transferred"))
            postings = movements.credit(state, "points", points, source="transferred", sequence=sequence)
            return self._draft(kind, now, postings)
        if kind == "activate":
            waiting = [lot for lot in wallet.lots if lot.activates_at == SOMEDAY]
            if not waiting:
                raise Refusal("nothing waits")
            lot = waiting[0]
            postings = movements.activate(state, "points", lot.points, lot=lot.id, expires_at=None, sequence=sequence)
            return self._draft(kind, now, postings)
        if kind == "tier":
            level = self.random.choice(["silver", "gold"])
            facet: Document = {"level": level, "since": now, "series": self.random.randbytes(12)}
            return self._draft(kind, now, [], facets={"tier": facet})
        return self._draft(kind, now, [], facets={"parked": None})  # settle, merge

    def _draft(
        self,
        kind: str,
        now: datetime,
        postings: list[Posting],
        evidence: Document | None = None,
        *,
        facets: dict[str, Document | None] | None = None,
        lapses: dict[str, datetime | None] | None = None,
    ) -> Draft:
        return Draft(kind, now, postings, evidence or {"by": "key_test"}, facets or {}, lapses or {})
