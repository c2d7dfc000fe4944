"""Reading chains: their ends, and what stands in them. Always from the ledger itself, never from a projection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from loyalty.ledger.entry import SEQUENCE_BITS, Head, entry_key, member_of
from loyalty.ledger.state import Document

_HEAD_FIELDS: Final = {"state": 1, "hash": 1, "recorded_at": 1}
_MOVEMENT_FIELDS: Final = {"occurred_at": 1, "recorded_at": 1, "postings": 1, "lapses": 1}
LASTING: Final = ReadConcern("majority")
"""What an entry builds on has to last. An insert whose primary is lost is sent to the next one, by the driver too;
that would take it, though what it builds on was undone with the old primary, and the chain would have a hole for ever.
An end that is older than it might be only loses a race."""

CONFIRMED: Final = ReadConcern("linearizable")
"""A primary that the others have left does not know it for a while, and has entries that will never have been. With
this only one whom a majority confirms at that moment answers; where there is none, the driver raises an exception. The
promise is for the first batch of an answer."""

_LOOK_AHEAD: Final = 4
"""How many consecutive entries are read of each of many chains: the projection may be so many behind, less one."""


def head_lookup(number: str = "$_id") -> list[Document]:
    """Aggregation stages that add `head`, a list with the last entry of the member `number`, to each document.

    With them a caller that looks members up has their chain ends in the same command.
    """
    return [
        {
            "$lookup": {
                "from": "ledger",
                "let": {
                    "first": {"$multiply": [number, 1 << SEQUENCE_BITS]},
                    "last": {"$multiply": [{"$add": [number, 1]}, 1 << SEQUENCE_BITS]},
                },
                "pipeline": [
                    {"$match": {"$expr": {"$and": [{"$gt": ["$_id", "$$first"]}, {"$lt": ["$_id", "$$last"]}]}}},
                    {"$sort": {"_id": -1}},
                    {"$limit": 1},
                    {"$project": _HEAD_FIELDS},
                ],
                "as": "head",
            }
        }
    ]


def head_of(member: int, found: Mapping[str, Any]) -> Head:
    """The chain end that `head_lookup` added to the document `found` of `member`."""
    return Head.of(found["head"][0]) if found["head"] else Head.empty(member)


def read_head(ledger: Collection[Document], member: int, *, session: ClientSession | None = None) -> Head:
    """The end of one chain."""
    entry = ledger.find_one(_chain(member), _HEAD_FIELDS, sort=[("_id", -1)], session=session)
    return Head.of(entry) if entry else Head.empty(member)


def read_heads(
    ledger: Collection[Document], members: Iterable[int], *, concern: ReadConcern = LASTING
) -> dict[int, Head]:
    """The ends of many chains, to build on.

    Chains have no gaps, so an entry without a successor is an end, and reading a few consecutive `_id`s finds it: a
    twelfth of the database's processor time that `head_lookup` was measured to take for each. Where to look, the
    wallets' projection says. It decides nothing: chains that have outrun it are searched in the ledger alone.
    """
    numbers = list(members)
    ledger = ledger.with_options(read_concern=concern)
    if len(numbers) == 1:
        return {numbers[0]: read_head(ledger, numbers[0])}
    hints = dict.fromkeys(numbers, 1)
    for wallet in ledger.database.wallets.find({"_id": {"$in": numbers}}, {"sequence": 1}):
        hints[wallet["_id"]] = wallet["sequence"]
    wanted = [entry_key(number, hint + step) for number, hint in hints.items() for step in range(_LOOK_AHEAD)]
    ends: dict[int, Document] = {}
    for entry in ledger.find({"_id": {"$in": wanted}}, _HEAD_FIELDS, batch_size=len(wanted) + 1):
        number = member_of(entry["_id"])
        if number not in ends or entry["_id"] > ends[number]["_id"]:
            ends[number] = entry
    outrun = [
        number
        for number, hint in hints.items()
        if (number in ends and ends[number]["_id"] == entry_key(number, hint + _LOOK_AHEAD - 1))
        or (number not in ends and hint > 1)
    ]
    heads = {number: Head.of(ends[number]) if number in ends else Head.empty(number) for number in numbers}
    heads.update(_look_up(ledger, outrun))
    return heads


def _look_up(ledger: Collection[Document], numbers: Sequence[int]) -> dict[int, Head]:
    """The ends of chains, by search. The first stages turn any one entry into the members asked for.

    `$documents` would be shorter, but needs rights that the application's user does not have.
    """
    if not numbers:
        return {}
    stages: list[Document] = [
        {"$limit": 1},
        {"$project": {"_id": {"$literal": numbers}}},
        {"$unwind": "$_id"},
        *head_lookup(),
    ]
    found = ledger.aggregate(stages, batchSize=len(numbers) + 1)
    return {member["_id"]: head_of(member["_id"], member) for member in found}


def read_entry(ledger: Collection[Document], number: int) -> Document | None:
    """One entry by its `_id`."""
    return ledger.find_one({"_id": number})


def read_entries(
    ledger: Collection[Document],
    member: int,
    *,
    before: int | None,
    limit: int,
    known: datetime | None = None,
    happened: datetime | None = None,
) -> list[Document]:
    """A page of a chain, newest first. `before` is the `_id` where the last page ended.

    Only entries that were recorded by `known`, and those of what had happened by `happened`.
    """
    chain = _chain(member)
    if before is not None:
        chain["_id"]["$lt"] = before
    if known is not None:
        chain["recorded_at"] = {"$lte": known}
    if happened is not None:
        chain["occurred_at"] = {"$lte": happened}
    return list(ledger.find(chain, sort=[("_id", -1)], limit=limit))


def read_movements(ledger: Collection[Document], member: int, *, known: datetime | None = None) -> Iterator[Document]:
    """The whole chain from its first entry on, or as it was known at an instant: only what moved points, and when."""
    query = {**_chain(member), **({"recorded_at": {"$lte": known}} if known else {})}
    yield from ledger.find(query, _MOVEMENT_FIELDS, sort=[("_id", 1)], batch_size=1000)


def read_first_after(ledger: Collection[Document], number: int, wanted: Mapping[str, Any]) -> Document | None:
    """The first entry after `number` in the same chain that is as `wanted`."""
    query = {"$and": [{"_id": {"$gt": number, "$lt": (member_of(number) + 1) << SEQUENCE_BITS}}, wanted]}
    return ledger.find_one(query, sort=[("_id", 1)])


def read_by_key(ledger: Collection[Document], key: bytes) -> Document | None:
    """The entry that has this business key."""
    return ledger.find_one({"keys": key})


def read_head_at(ledger: Collection[Document], member: int, instant: datetime) -> Head:
    """The end of the chain as it was known at `instant`: the last entry recorded by then."""
    query = {**_chain(member), "recorded_at": {"$lte": instant}}
    entry = ledger.find_one(query, _HEAD_FIELDS, sort=[("_id", -1)])
    return Head.of(entry) if entry else Head.empty(member)


def _chain(member: int) -> Document:
    return {"_id": {"$gt": member << SEQUENCE_BITS, "$lt": (member + 1) << SEQUENCE_BITS}}
