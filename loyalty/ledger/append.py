"""The one function that writes the ledger.

An append reads the end of a member's chain, lets the operation decide on it, and inserts the next entry with write
concern majority and journal. That insert is the whole commit: no transaction, no lock, no state in between.

* `_id` taken: somebody was faster. Read the end of the chain again, from the ledger, and decide again.
* A key taken: the operation was done before. Its entry is the answer, or a conflict if the request differs.
* What an entry builds on is what a majority has: an entry is never stored without the one before it.
* Nothing is refused, and nothing is said to have been done before, for what only a primary has that nobody follows.

Many operations go in few inserts (group commit). Those that are alone with their member share one unordered insert.
Several of one member are chained in memory and go in an ordered insert, so that an entry can never be stored after the
one it builds on has failed. A key occurs once in an insert; its repetition waits for the next round and finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from loyalty.infra.clock import Clock
from loyalty.infra.ids import entry_id
from loyalty.ledger.entry import Draft, Head, entry_key, make_entry, member_of
from loyalty.ledger.heads import CONFIRMED, read_head, read_heads
from loyalty.ledger.movements import due, lapsed
from loyalty.ledger.state import Document, Refusal, State, fold, with_facets, with_lapses

Ledger = Collection[Document]

_MOST_IN_AN_INSERT = 1000
_MOST_ROUNDS = 200
_MOST_COMMITS = 10
_TAKEN = frozenset({11000, 112})  # a duplicate key, a write conflict


class Contention(Exception):
    """Other writers of the same members were faster two hundred times; a retry with the same key is safe."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One business act on one member's chain.

    `keys` make it happen once (see `entry.business_key`); `request` tells a repetition from a conflict. `decide` is
    pure: from the settled state, the number of the entry to be, and the instant, to a draft, or it raises Refusal.
    """

    program: str
    member: int
    keys: tuple[bytes, ...]
    request: bytes
    decide: Callable[[State, int, datetime], Draft]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation: `entry` is the one it made, or the one that its key had made before.

    `key` says which of the operation's keys was used before with another request.
    """

    status: Literal["applied", "replayed", "conflict", "refused"]
    entry: Document | None = None
    key: bytes | None = None
    refusal: Refusal | None = None


def append(
    ledger: Ledger, operations: Sequence[Operation], *, clock: Clock, heads: Mapping[int, Head] | None = None
) -> list[Outcome]:
    """Append each operation, or find out why not; outcomes in the order of the operations.

    `heads` are chain ends that the caller has just read from the ledger, to spare reading them again, and which last as
    those of `read_heads` do. An exception of the driver means that the outcome is unknown; the same operations may then
    be appended again.
    """
    return _Append(ledger, operations, clock, dict(heads or {})).run()


class _Append:
    def __init__(self, ledger: Ledger, operations: Sequence[Operation], clock: Clock, heads: dict[int, Head]) -> None:
        self.ledger = ledger
        self.operations = operations
        self.clock = clock
        self.heads = heads
        self.confirmed: set[int] = set()  # members whose chain ends are those that a majority has
        self.outcomes: dict[int, Outcome] = {}

    def run(self) -> list[Outcome]:
        waiting = list(range(len(self.operations)))
        for _ in range(_MOST_ROUNDS):
            if not waiting:
                return [self.outcomes[index] for index in range(len(self.operations))]
            self._read_missing_heads(waiting)
            made, doubtful = self._decide(waiting)
            if self._insert(made) or doubtful:
                unanswered = [index for index in waiting if index not in self.outcomes]
                asked = {index: (self.operations[index].keys, self.operations[index].request) for index in unanswered}
                self.outcomes.update(find_done(self.ledger, asked))
            self._refuse(doubtful)
            waiting = [index for index in waiting if index not in self.outcomes]
        raise Contention

    def _read_missing_heads(self, waiting: Iterable[int]) -> None:
        members = {self.operations[index].member for index in waiting}
        missing = {member for member in members if member not in self.heads}
        if missing - self.confirmed:
            self.heads.update(read_heads(self.ledger, missing - self.confirmed))
        if missing & self.confirmed:
            self.heads.update(read_heads(self.ledger, missing & self.confirmed, concern=CONFIRMED))

    def _decide(self, waiting: Iterable[int]) -> tuple[dict[int, list[tuple[int, Document]]], dict[int, Refusal]]:
        """The next entries of each member, in order, and the refusals, which stand unless the key was done before.

        A refusal counts only against the stored end of a chain: after an entry of this round, which may yet fail, the
        operation waits for the next one.
        """
        now = self.clock()
        heads = dict(self.heads)
        made: dict[int, list[tuple[int, Document]]] = {}
        doubtful: dict[int, Refusal] = {}
        claimed: set[bytes] = set()
        for index in waiting:
            operation = self.operations[index]
            if not claimed.isdisjoint(operation.keys):
                continue
            claimed.update(operation.keys)
            try:
                entry, head = _next_entry(heads[operation.member], operation, now)
            except Refusal as refusal:
                if operation.member not in made:
                    doubtful[index] = refusal
                continue
            heads[operation.member] = head
            made.setdefault(operation.member, []).append((index, entry))
        return made, doubtful

    def _refuse(self, doubtful: Mapping[int, Refusal]) -> None:
        """Refuse what was not done before, but only by an end of the chain that a majority confirms."""
        for index, refusal in doubtful.items():
            if index in self.outcomes:
                continue
            member = self.operations[index].member
            if member in self.confirmed:
                self.outcomes[index] = Outcome("refused", refusal=refusal)
            else:
                self.confirmed.add(member)
                self.heads.pop(member, None)

    def _insert(self, made: Mapping[int, list[tuple[int, Document]]]) -> bool:
        """Insert the entries; True if a key was taken. Members that lost a race are read again in the next round."""
        alone = [entries[0] for entries in made.values() if len(entries) == 1]
        chained = [entry for entries in made.values() if len(entries) > 1 for entry in entries]
        key_taken = False
        for entries, ordered in ((alone, False), (chained, True)):
            for start in range(0, len(entries), _MOST_IN_AN_INSERT):
                part = entries[start : start + _MOST_IN_AN_INSERT]
                stored, by_key = self._insert_part(part, ordered)
                key_taken = key_taken or by_key
                for index, entry in stored:
                    self.outcomes[index] = Outcome("applied", entry)
                    self.heads[member_of(entry["_id"])] = Head.of(entry)
                if len(stored) < len(part):
                    kept = {index for index, _ in stored}
                    for index, entry in part:
                        if index not in kept:
                            self.heads.pop(member_of(entry["_id"]), None)
                    if ordered:
                        return key_taken
        return key_taken

    def _insert_part(self, part: list[tuple[int, Document]], ordered: bool) -> tuple[list[tuple[int, Document]], bool]:
        """What was stored of `part`, and whether a key was taken."""
        documents = [entry for _, entry in part]
        try:
            if len(documents) == 1:
                self.ledger.insert_one(documents[0])
            else:
                self.ledger.insert_many(documents, ordered=ordered)
        except DuplicateKeyError as error:
            return [], "keys" in (error.details or {}).get("keyPattern", {})
        except BulkWriteError as error:
            failures = {failure["index"]: failure for failure in error.details["writeErrors"]}
            if error.details["writeConcernErrors"] or any(f["code"] != 11000 for f in failures.values()):
                raise
            end = min(failures) if ordered else len(part)
            stored = [pair for place, pair in enumerate(part[:end]) if place not in failures]
            return stored, any("keys" in failure["keyPattern"] for failure in failures.values())
        return part, False


def append_together(
    ledger: Ledger,
    operations: Sequence[Operation],
    *,
    clock: Clock,
    also: Callable[[ClientSession], None] = lambda session: None,
) -> list[Outcome]:
    """Append all of the operations or none, in one transaction; outcomes in their order.

    `also` writes other documents in the same transaction, or raises Refusal. When one operation is refused, or done
    before, that is the outcome of all that were not. Each entry's evidence names the others under `with`.
    """
    asked = {index: (operation.keys, operation.request) for index, operation in enumerate(operations)}
    with ledger.database.client.start_session() as session:
        for _ in range(_MOST_ROUNDS):
            entries: list[Document] = []
            done = find_done(ledger, asked)
            if done:
                first = next(iter(done.values()))
                return [done.get(index, first) for index in asked]
            try:
                with session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority", j=True)):
                    heads = {one.member: read_head(ledger, one.member, session=session) for one in operations}
                    entries = _make_together(heads, operations, clock())
                    also(session)
                    ledger.insert_many(entries, session=session)
                    _commit(session)
            except Refusal as refusal:
                if find_done(ledger, asked):
                    continue  # by a twin of this request, meanwhile: that is what there was too little left for
                confirmed = read_heads(ledger, [one.member for one in operations], concern=CONFIRMED)
                if not entries and not _refuses(confirmed, operations, clock()):
                    continue  # it was decided on what had not come to stay
                return [Outcome("refused", refusal=refusal) for _ in operations]
            except PyMongoError as error:
                if _lost_the_race(error):
                    continue
                raise
            return [Outcome("applied", entry) for entry in entries]
    raise Contention


def _make_together(heads: Mapping[int, Head], operations: Sequence[Operation], now: datetime) -> list[Document]:
    """The next entries of the members, each of which must be another one."""
    numbers = {member: entry_key(member, head.sequence + 1) for member, head in heads.items()}
    entries = []
    for operation in operations:
        others = [entry_id(number) for member, number in numbers.items() if member != operation.member]
        entry, _ = _next_entry(heads[operation.member], operation, now, others=others)
        entries.append(entry)
    return entries


def _refuses(heads: Mapping[int, Head], operations: Sequence[Operation], now: datetime) -> bool:
    try:
        _make_together(heads, operations, now)
    except Refusal:
        return True
    return False


def _commit(session: ClientSession) -> None:
    """Commit, and ask again for as long as the answer is unknown: a commit happens once."""
    for _ in range(_MOST_COMMITS):
        try:
            session.commit_transaction()
            return
        except PyMongoError as error:
            if not error.has_error_label("UnknownTransactionCommitResult"):
                raise
            unknown = error
    raise unknown


def _lost_the_race(error: PyMongoError) -> bool:
    """Whether another writer took the place of an entry; then nothing of the transaction happened."""
    if isinstance(error, BulkWriteError):
        return all(failure["code"] in _TAKEN for failure in error.details["writeErrors"])
    return error.has_error_label("TransientTransactionError") or getattr(error, "code", None) in _TAKEN


def find_done(ledger: Ledger, asked: Mapping[int, tuple[Sequence[bytes], bytes]]) -> dict[int, Outcome]:
    """Those of `asked` (keys and request) of which a key is in the ledger already: replays, and conflicts.

    What a majority does not confirm is not said to be done: it may yet be undone.
    """
    wanted = [key for keys, _ in asked.values() for key in keys]
    done = _find_keys(ledger, wanted)
    if done:
        done = _find_keys(_confirmed(ledger), wanted)
    outcomes: dict[int, Outcome] = {}
    for index, (keys, request) in asked.items():
        for key in keys:
            before = done.get(key)
            if before is None:
                continue
            if bytes(before["evidence"]["request"]) != request:
                outcomes[index] = Outcome("conflict", before, key=key)
                break
            outcomes.setdefault(index, Outcome("replayed", before))
    return outcomes


def _confirmed(ledger: Ledger) -> Ledger:
    return ledger.with_options(read_concern=CONFIRMED)


def _find_keys(ledger: Ledger, wanted: Sequence[bytes]) -> dict[bytes, Document]:
    done: dict[bytes, Document] = {}
    for entry in ledger.find({"keys": {"$in": wanted}}, batch_size=len(wanted) + 1):
        done.update((bytes(key), entry) for key in entry["keys"])
    return done


def preview(head: Head, operation: Operation, now: datetime) -> Document:
    """The entry that `append` would make now, without making it. Refusal as in `append`."""
    return _next_entry(head, operation, now)[0]


def _next_entry(
    head: Head, operation: Operation, now: datetime, *, others: Sequence[str] = ()
) -> tuple[Document, Head]:
    """The entry after `head`, and the head after it. Ledger time never runs backwards within a chain."""
    recorded_at = now if head.recorded_at is None else max(now, head.recorded_at)
    settling, over = due(head.state, recorded_at), lapsed(head.state, recorded_at)
    settled = with_lapses(fold(head.state, settling), over)
    draft = operation.decide(settled, head.sequence + 1, recorded_at)
    draft.evidence["request"] = operation.request
    if others:
        draft.evidence["with"] = list(others)
    lapses = {**over, **draft.lapses}
    state = with_facets(with_lapses(fold(settled, draft.postings), draft.lapses), draft.facets)
    entry = make_entry(
        head,
        draft,
        program=operation.program,
        keys=operation.keys,
        state=state,
        postings=[*settling, *draft.postings],
        lapses=lapses,
        recorded_at=recorded_at,
    )
    return entry, Head(head.member, head.sequence + 1, entry["hash"], state, recorded_at)
