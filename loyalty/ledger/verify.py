"""Verification of the whole ledger: every chain from its first entry, every seal, and the projection.

The ledger is cut into ranges of members, which several processes read in streams, each with a client of its own.
Memory does not grow with the ledger; 40 bytes an entry are kept in a temporary folder for the seals' turn. What is
reported first is where to look: the first broken entry of each chain, in order of `_id`; then seals, and what must hold
between all chains.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, Final, cast

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.int64 import Int64
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.checks import MALFORMED, Chain
from loyalty.ledger.entry import SEQUENCE_BITS, member_of, sequence_of
from loyalty.ledger.leaves import KeptLeaves, Leaves, kept_leaves
from loyalty.ledger.projection import wallet_document
from loyalty.ledger.seal import POSITION, seal_defects, unpack
from loyalty.ledger.state import SOMEDAY, Document

_BATCH: Final = 1000
_RANGE: Final = 20_000
"""Entries in a range, roughly: small enough to show progress and to keep all processes busy until the end."""
_MOST_RANGES: Final = 4096
_SEALS: Final = 500
"""At most so many seals in a range: they are made every minute, of however little."""

DECODING: Final[CodecOptions[Document]] = CodecOptions(
    # Damaged instants and texts become values that the checks find wrong, instead of an end of the reading.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
"""Without time zones, which take as long to decode as all the rest: within the checks every instant is UTC."""

_SOMEDAY: Final = SOMEDAY.replace(tzinfo=None)
_PROJECTED: Final = ("_id", "program", "recorded_at", "state")

Bounds = tuple[int | None, int | None]
"""From one number (None: whatever comes first, be it a number or not) to before another."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong: `where` is an entry, a seal, a wallet or a sum by its public name."""

    where: str
    what: str


@dataclass(slots=True)
class Verification:
    """What a verification found. `available` and `kinds` are what the ledger says, to compare with other books.

    `transferred` must be 0 for each program and wallet: what one member got, another gave.
    """

    entries: int = 0
    chains: int = 0
    seals: int = 0
    sealed_entries: int = 0
    available: dict[str, int] = field(default_factory=dict)
    transferred: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.defects

    def add(self, part: Verification) -> None:
        """Take what was found in another part of the ledger."""
        self.entries += part.entries
        self.chains += part.chains
        self.seals += part.seals
        self.sealed_entries += part.sealed_entries
        for mine, theirs in (
            (self.available, part.available),
            (self.transferred, part.transferred),
            (self.kinds, part.kinds),
        ):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        self.defects += part.defects


@dataclass(frozen=True, slots=True)
class Witness:
    """A seal as somebody else kept it, outside of the database."""

    number: int
    hash: bytes
    keeper: str


def verify(
    db: Mongo,
    *,
    uri: str | None = None,
    processes: int | None = None,
    seal_key: Ed25519PublicKey | None = None,
    witnesses: Iterable[Witness] = (),
    most_defects: int = 20,
    progress: Callable[[int], None] = lambda entries: None,
) -> Verification:
    """Check chains, postings, states, seals, sums and the projection. Safe while the ledger is written.

    `uri` lets `processes` (default: one a core) share the work, each with a connection of its own; without it, or for
    a small ledger, all is done here. `seal_key` is the public key of the installation; without it seals are not
    checked. `witnesses` are seals that must be in the database as they were kept. `progress` is called with the number
    of entries read. Stops after `most_defects`.
    """
    found = Verification()
    ranges = _ranges(db)
    processes = min(processes or os.cpu_count() or 1, len(ranges))
    with kept_leaves() as leaves, _workers(db, uri if len(ranges) > 1 else None, processes) as run:
        _collect(found, run(partial(_keep_range, leaves), ranges), most_defects, progress)
        if seal_key is not None:
            raw = seal_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            _collect(found, run(partial(verify_seals, leaves, raw), _seal_ranges(db)), most_defects, progress)
            found.defects += _seal_chain_defects(db, found.seals, witnesses)
    if any(found.transferred.values()):
        found.defects += _transfer_defects(db)
    progress(found.entries)
    found.defects.sort(key=_is_derived)  # stable: first where the record itself is broken
    del found.defects[most_defects:]
    return found


def _is_derived(defect: Defect) -> bool:
    """Whether it can be mended, being only a projection of what is the record."""
    return defect.where.startswith("wallets ")


# -- sharing the work -------------------------------------------------------------------------------------------------

Run = Callable[[Callable[[Mongo, Bounds], Verification], Sequence[Bounds]], Iterator[Verification]]

_worker_db: Mongo | None = None


@contextmanager
def _workers(db: Mongo, uri: str | None, processes: int) -> Iterator[Run]:
    """Something that does a work for many ranges, in order: here, or in processes that are gone at the end."""
    if uri is None:
        yield lambda work, ranges: (work(db, bounds) for bounds in ranges)
        return
    # Spawned, because neither threads nor the driver's client survive a fork.
    executor: Executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _begin_worker, (uri, db.name)
    )
    try:
        yield lambda work, ranges: executor.map(partial(_in_worker, work), ranges)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin_worker(uri: str, database: str) -> None:
    global _worker_db
    gc.disable()  # documents have no cycles; looking for some would take as long as checking them
    _worker_db = connect(uri, database, serves_requests=False, pool=2)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers; they would wait for ever for the next range."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _in_worker(work: Callable[[Mongo, Bounds], Verification], bounds: Bounds) -> Verification:
    return work(cast(Mongo, _worker_db), bounds)


def _collect(
    found: Verification, parts: Iterator[Verification], most_defects: int, progress: Callable[[int], None]
) -> None:
    for part in parts:
        found.add(part)
        progress(found.entries)
        if sum(not _is_derived(defect) for defect in found.defects) >= most_defects:
            return


def _ranges(db: Mongo) -> list[Bounds]:
    """Ranges of `_id` that together cover everything, with whole chains and about equally many entries in each.

    A sample says where the entries are. It decides how even the work is, never what is checked.
    """
    wanted = min(db.ledger.estimated_document_count() // _RANGE, _MOST_RANGES)
    if wanted < 2:
        return [(None, None)]
    sample = db.ledger.aggregate([{"$sample": {"size": wanted * 8}}, {"$project": {"_id": 1}}], allowDiskUse=True)
    numbers = sorted(entry["_id"] for entry in sample if isinstance(entry["_id"], int))
    cuts = sorted({Int64(member_of(number) << SEQUENCE_BITS) for number in numbers[8::8]})
    return list(zip([None, *cuts], [*cuts, None], strict=True))


def _seal_ranges(db: Mongo) -> list[Bounds]:
    """Ranges of seals that together cover everything, with about as many entries in each as in a range of those."""
    seals, entries = db.seals.estimated_document_count(), db.ledger.estimated_document_count()
    size = min(max(seals * _RANGE // max(entries, 1), 1), _SEALS)
    cuts = list(range(size + 1, seals + 1, size))
    return list(zip([None, *cuts], [*cuts, None], strict=True))


def _stream(collection: Collection[Document], bounds: Bounds, *, batch: int = _BATCH) -> Iterator[Document]:
    """Everything within bounds in order of `_id`.

    Bounds of the index, unlike a comparison in a query, leave nothing out because its `_id` has another type.
    """
    lower, upper = bounds
    cursor = collection.find_raw_batches({}, sort=[("_id", 1)], hint=[("_id", 1)], batch_size=batch)
    if lower is not None:
        cursor.min([("_id", lower)])
    if upper is not None:
        cursor.max([("_id", upper)])
    for raw in cursor:
        yield from bson.decode_iter(cast(bytes, raw), DECODING)  # one by one: memory that is still in the cache


# -- chains and the projection ----------------------------------------------------------------------------------------


def verify_range(
    db: Mongo, bounds: Bounds, *, keep: Callable[[int, object], None] = lambda number, digest: None
) -> Verification:
    """The chains whose entries are within the bounds, each from its first entry, and what is projected of them.

    `keep` is called with the number of every entry and the hash that it has.
    """
    found = Verification()
    kinds = found.kinds
    wallets = _Wallets(db, bounds)
    chain = Chain(-1)
    last: Document | None = None  # None: the chain is broken, and what follows a broken entry is broken too
    for entry in _stream(db.ledger, bounds):
        found.entries += 1
        number = entry["_id"]
        if type(number) is not Int64 or number < 1 << SEQUENCE_BITS:
            found.defects.append(Defect(f"ledger {number!r:.40}", "its _id is not that of an entry"))
            continue
        keep(number, entry.get("hash"))
        if member_of(number) != chain.member:
            if last is not None:
                _end_chain(found, last, wallets)
            chain = Chain(member_of(number))
            last = entry
            found.chains += 1
        if last is None:
            continue
        defects = chain.step(entry)
        if defects:
            found.defects.append(Defect(entry_id(number), "; ".join(defects)))
            last = None
            continue
        kinds[entry["kind"]] = kinds.get(entry["kind"], 0) + 1
        last = entry
    if last is not None:
        _end_chain(found, last, wallets)
    found.defects += wallets.defects()
    return found


def _keep_range(leaves: Leaves, db: Mongo, bounds: Bounds) -> Verification:
    with leaves.keeper() as keep:
        return verify_range(db, bounds, keep=keep)


def _end_chain(found: Verification, head: Document, wallets: _Wallets) -> None:
    for name, wallet in head["state"]["wallets"].items():
        found.available[name] = found.available.get(name, 0) + wallet["available"]
        transferred = wallet["lifetime"].get("transferred", 0)
        if transferred:
            where = f"{head['program']}/{name}"
            found.transferred[where] = found.transferred.get(where, 0) + transferred
    wallets.compare(head)


class _Wallets:
    """The projection beside the chains, in the same order. A wallet that lags is not wrong: it is looked up."""

    def __init__(self, db: Mongo, bounds: Bounds) -> None:
        lower, upper = (None if number is None else member_of(number) for number in bounds)
        self._db = db
        self._wallets = _stream(db.wallets, (lower, upper), batch=200)
        self._next = next(self._wallets, None)
        self._apart: list[Document] = []
        self._defects: list[Defect] = []

    def compare(self, head: Document) -> None:
        """Compare the wallet of the member whose chain ends with `head`."""
        member = member_of(head["_id"])
        while self._next is not None and (not isinstance(self._next["_id"], int) or self._next["_id"] < member):
            self._set_apart(self._next)  # of a broken chain, or of none
        if self._next is not None and self._next["_id"] == member:
            if self._next.get("sequence") == sequence_of(head["_id"]):
                self._judge(self._next, head)
                self._next = next(self._wallets, None)
            else:
                self._set_apart(self._next)

    def defects(self) -> list[Defect]:
        """What is wrong, once all chains have been compared."""
        while self._next is not None:
            self._set_apart(self._next)
        self._look_up()
        return self._defects

    def _set_apart(self, wallet: Document) -> None:
        self._apart.append(wallet)
        self._next = next(self._wallets, None)
        if len(self._apart) >= _BATCH:
            self._look_up()

    def _look_up(self) -> None:
        """Each wallet document must be the projection of the entry that it names."""
        numbers = [_named_entry(wallet) for wallet in self._apart]
        ledger = self._db.ledger.with_options(codec_options=DECODING)
        entries = {entry["_id"]: entry for entry in ledger.find({"_id": {"$in": numbers}})} if numbers else {}
        for number, wallet in zip(numbers, self._apart, strict=True):
            self._judge(wallet, entries.get(number))
        self._apart.clear()

    def _judge(self, wallet: Document, entry: Document | None) -> None:
        """A wallet document must be the projection of the entry that it names."""
        if entry is not None and _is_projection(wallet, entry):
            return
        where = member_id(wallet["_id"]) if _named_entry(wallet) else repr(wallet["_id"])[:40]
        what = "not the projection of the ledger; `loyalty ledger rebuild` mends it"
        self._defects.append(Defect(f"wallets of {where}", what))


def _is_projection(wallet: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    with suppress(*MALFORMED):  # the entry is broken itself
        projected = wallet_document(entry)
        if projected == wallet and ("due_at" not in projected or projected["due_at"] < _SOMEDAY):
            return True
        # Without its zone an instant for ever away does not look like one, and may be taken for due.
        exact = wallet_document({name: _zoned(entry[name]) for name in _PROJECTED})
        return exact == {name: _zoned(value) for name, value in wallet.items()}
    return False


def _zoned(value: Any) -> Any:
    """The value as everybody else reads it, with the zone that all instants have."""
    if isinstance(value, dict):
        return {name: _zoned(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_zoned(inner) for inner in value]
    return value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else value


def _named_entry(wallet: Mapping[str, Any]) -> int:
    """The `_id` of the entry that a wallet is the projection of; 0, which is nobody's, when it names none."""
    member, sequence = wallet["_id"], wallet.get("sequence")
    if not isinstance(member, int) or not isinstance(sequence, int):
        return 0
    inside = 0 < member < 1 << 39 and 0 < sequence < 1 << SEQUENCE_BITS
    return Int64(member << SEQUENCE_BITS | sequence) if inside else 0


# -- seals ------------------------------------------------------------------------------------------------------------


def verify_seals(leaves: Leaves, key: bytes, db: Mongo, bounds: Bounds) -> Verification:
    """The seals within the bounds: each follows the one before, and its entries are in the ledger as it sealed them."""
    found = Verification()
    public = Ed25519PublicKey.from_public_bytes(key)
    prev, expected = bytes(32), 1
    if bounds[0] is not None:
        before = db.seals.find_one({"_id": bounds[0] - 1}, {"hash": 1})
        prev, expected = bytes(before["hash"]) if before else b"", bounds[0]
    kept = leaves.read()
    for seals in _gathered(_stream(db.seals, bounds, batch=20)):
        hashes = _hashes(db, kept, [number for _, numbers in seals for number in numbers])
        for seal, numbers in seals:
            defects = [f"seal {expected} is missing"] if seal["_id"] != expected else []
            sealed = list(islice(hashes, len(numbers)))
            if None in sealed:
                gone = [number for number, digest in zip(numbers, sealed, strict=True) if digest is None]
                defects.append(f"{len(gone)} sealed entries are gone, the first is {entry_id(gone[0])}")
            else:
                defects += _checked(seal, cast(list[bytes], sealed), prev, public)
            if defects:
                found.defects.append(Defect(f"seal {seal['_id']}", "; ".join(defects)))
            found.seals += 1
            found.sealed_entries += len(numbers)
            prev = seal["hash"] if isinstance(seal.get("hash"), bytes) else b""
            expected = seal["_id"] + 1 if isinstance(seal["_id"], int) else expected
    return found


def _gathered(seals: Iterable[Document]) -> Iterator[list[tuple[Document, tuple[int, ...]]]]:
    """Seals with their entries' numbers, as many together as are worth a question to the ledger."""
    batch: list[tuple[Document, tuple[int, ...]]] = []
    waiting = 0
    for seal in seals:
        try:
            numbers = unpack(seal["entries"])
        except MALFORMED:
            numbers = ()
        batch.append((seal, numbers))
        waiting += len(numbers)
        if waiting >= _BATCH:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _hashes(db: Mongo, kept: KeptLeaves, numbers: Sequence[int]) -> Iterator[bytes | None]:
    """The stored hash of each, None for one that is gone."""
    found = kept.hashes_of(numbers)
    if None not in found:
        return iter(found)
    # Those were sealed since, or are damaged, or gone.
    stored = _stored_hashes(db, [number for number, digest in zip(numbers, found, strict=True) if digest is None])
    return (stored.get(number) if digest is None else digest for number, digest in zip(numbers, found, strict=True))


def _stored_hashes(db: Mongo, numbers: Sequence[int]) -> dict[int, bytes]:
    ledger = db.ledger.with_options(codec_options=DECODING)
    stored: dict[int, bytes] = {}
    for start in range(0, len(numbers), _BATCH):
        wanted = {"_id": {"$in": numbers[start : start + _BATCH]}}
        stored.update((entry["_id"], entry.get("hash") or b"") for entry in ledger.find(wanted, {"hash": 1}))
    return stored


def _checked(seal: Document, hashes: list[bytes], prev: bytes, key: Ed25519PublicKey) -> list[str]:
    try:
        return seal_defects(seal, hashes, prev, key)
    except MALFORMED as error:
        return [f"it has not the form of a seal ({type(error).__name__}: {str(error)[:100]})"]


def _seal_chain_defects(db: Mongo, last: int, witnesses: Iterable[Witness]) -> Iterator[Defect]:
    """Seals that others remember: the last one of all can be missed in no other way."""
    noted = db.positions.find_one({"_id": POSITION})
    kept = [Witness(noted["number"], bytes(noted["hash"]), "the position of the sealing job")] if noted else []
    for witness in (*kept, *witnesses):
        seal = db.seals.find_one({"_id": witness.number}, {"hash": 1})
        if seal is None:
            yield Defect(f"seal {witness.number}", f"it is missing, but {witness.keeper} has it")
        elif seal["hash"] != witness.hash:
            yield Defect(f"seal {witness.number}", f"it is another one than {witness.keeper} has")


# -- sums -------------------------------------------------------------------------------------------------------------


def _transfer_defects(db: Mongo) -> Iterator[Defect]:
    """What was transferred, at one instant: the ranges were read at different ones, so a sum of theirs may be off."""
    sums: dict[str, int] = {}
    with db.client.start_session(snapshot=True) as session:
        ledger = db.ledger.with_options(read_concern=ReadConcern())
        stages: list[Document] = [
            {"$project": {"_id": 1}},  # the index alone answers this
            {"$group": {"_id": {"$trunc": {"$divide": ["$_id", 1 << SEQUENCE_BITS]}}, "head": {"$max": "$_id"}}},
        ]
        numbers = (found["head"] for found in ledger.aggregate(stages, allowDiskUse=True, session=session))
        while batch := list(islice(numbers, _BATCH)):
            fields = {"program": 1, "state.wallets": 1}
            for head in ledger.find({"_id": {"$in": batch}}, fields, session=session):
                with suppress(*MALFORMED):  # it is broken itself, and named already
                    for name, wallet in head["state"]["wallets"].items():
                        where = f"{head['program']}/{name}"
                        sums[where] = sums.get(where, 0) + wallet["lifetime"].get("transferred", 0)
    for where, points in sorted(sums.items()):
        if points:
            yield Defect(f"transfers of {where}", f"members together got {points} points that nobody gave")
