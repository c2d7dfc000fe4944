"""Reading chains: their ends, and what stands in them. Always from the ledger itself, never from a projection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.collection import Collection

from loyalty.ledger.entry import SEQUENCE_BITS, Head
from loyalty.ledger.state import Document

_HEAD_FIELDS: Final = {"state": 1, "hash": 1, "recorded_at": 1}


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


def read_head(ledger: Collection[Document], member: int) -> Head:
    """The end of one chain."""
    entry = ledger.find_one(_chain(member), _HEAD_FIELDS, sort=[("_id", -1)])
    return Head.of(entry) if entry else Head.empty(member)


def read_heads(ledger: Collection[Document], members: Iterable[int]) -> dict[int, Head]:
    """The ends of many chains, in one command."""
    numbers = list(members)
    if len(numbers) == 1:
        return {numbers[0]: read_head(ledger, numbers[0])}
    # `$documents` would be shorter, but needs rights that the application's user does not have. Here any one entry is
    # turned into the members asked for; when there is none, every chain is empty.
    stages: list[Document] = [
        {"$limit": 1},
        {"$project": {"_id": {"$literal": numbers}}},
        {"$unwind": "$_id"},
        *head_lookup(),
    ]
    heads = {number: Head.empty(number) for number in numbers}
    heads.update((found["_id"], head_of(found["_id"], found)) for found in ledger.aggregate(stages))
    return heads


def read_entry(ledger: Collection[Document], number: int) -> Document | None:
    """One entry by its `_id`."""
    return ledger.find_one({"_id": number})


def read_entries(ledger: Collection[Document], member: int, *, before: int | None, limit: int) -> list[Document]:
    """A page of a chain, newest first. `before` is the `_id` where the last page ended."""
    chain = _chain(member)
    if before is not None:
        chain["_id"]["$lt"] = before
    return list(ledger.find(chain, sort=[("_id", -1)], limit=limit))


def read_head_at(ledger: Collection[Document], member: int, instant: datetime) -> Head:
    """The end of the chain as it was known at `instant`: the last entry recorded by then."""
    query = {**_chain(member), "recorded_at": {"$lte": instant}}
    entry = ledger.find_one(query, _HEAD_FIELDS, sort=[("_id", -1)])
    return Head.of(entry) if entry else Head.empty(member)


def _chain(member: int) -> Document:
    return {"_id": {"$gt": member << SEQUENCE_BITS, "$lt": (member + 1) << SEQUENCE_BITS}}
