"""A chain of the ledger in memory, made by the very functions that make the stored one, and checked entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from loyalty.ledger.append import Operation, preview
from loyalty.ledger.entry import Draft, Head, entry_hash
from loyalty.ledger.movements import settle
from loyalty.ledger.state import Document, Posting, State, fold, with_facets, with_lapses

Decide = Callable[[State, int, datetime], Draft]

MEMBER = 7


def check(entry: Document, head: Head) -> None:
    """The entry follows `head`, and what it says of the state is what its postings make of the state before."""
    assert entry["prev"] == head.hash
    assert entry["hash"] == entry_hash(entry)
    stored = State.of(entry["state"])
    assert stored.document() == entry["state"]
    folded = with_lapses(fold(head.state, map(Posting.of, entry["postings"])), entry.get("lapses", {}))
    touched = {name: stored.facets.get(name) for name in entry.get("touches", ())}
    assert with_facets(folded, touched).document() == entry["state"]
    for wallet in stored.wallets.values():
        assert wallet.defects() == []


@dataclass
class Chain:
    """One member's chain. `log` is what was asked of it, so that it can be asked again of an empty one."""

    member: int = MEMBER
    entries: list[Document] = field(default_factory=list)
    log: list[tuple[Decide, datetime]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.head = Head.empty(self.member)

    def append(self, decide: Decide, now: datetime) -> Document:
        """The next entry. Whatever `decide` refuses is raised, and nothing happened."""
        entry = preview(self.head, self._operation(decide), now)
        check(entry, self.head)
        self.head = Head.of(entry)
        self.entries.append(entry)
        self.log.append((decide, now))
        return entry

    def at(self, now: datetime) -> State:
        """What the member has at `now`, whether or not an entry says so."""
        return settle(self.head.state, now)

    def replayed(self) -> Chain:
        """Another chain, made from this one's log."""
        again = Chain(self.member)
        for decide, now in self.log:
            again.append(decide, now)
        return again

    def _operation(self, decide: Decide) -> Operation:
        return Operation("program", self.member, (), b"request", decide)
