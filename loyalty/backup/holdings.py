"""What a database says that its ledger came to: in members, entries, points and seals, as of one moment.

It is read from the wallets, one document a member, and not from the ledger, which would take hours where there are
hundreds of millions of entries. So it counts what the projection had followed at that moment; decision 0036 says why
that is exact all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pymongo import ReadPreference
from pymongo.database import Database

from loyalty.backup.manifest import ClusterTime, Holdings, Seal

Document = dict[str, Any]

_WITHIN_MS: Final = 30_000

_SIZE: Final[Sequence[Document]] = (
    {"$group": {"_id": None, "members": {"$sum": 1}, "entries": {"$sum": "$sequence"}}},
)
_POINTS: Final[Sequence[Document]] = (
    {"$project": {"program": 1, "wallet": {"$objectToArray": "$wallets"}}},
    {"$unwind": "$wallet"},
    {
        "$group": {
            "_id": {"$concat": ["$program", "/", "$wallet.k"]},
            "available": {"$sum": "$wallet.v.available"},
        }
    },
)
_LAST_SEAL: Final[Sequence[Document]] = ({"$sort": {"_id": -1}}, {"$limit": 1}, {"$project": {"hash": 1}})


def holdings(database: Database[Document], at: ClusterTime | None = None) -> Holdings:
    """What it holds at that moment, or now where nobody writes.

    PyMongoError when the server does not keep the moment any more, or takes longer than half a minute.
    """
    size = next(_ask(database, "wallets", _SIZE, at), {"members": 0, "entries": 0})
    seal = next(_ask(database, "seals", _LAST_SEAL, at), None)
    return Holdings(
        members=size["members"],
        entries=size["entries"],
        available={found["_id"]: found["available"] for found in _ask(database, "wallets", _POINTS, at)},
        seal=Seal(seal["_id"], bytes(seal["hash"]).hex()) if seal else None,
    )


def differences(said: Holdings, here: Holdings) -> Iterator[str]:
    """A sentence for each thing that is other than was said."""
    for name in ("members", "entries"):
        then, now = getattr(said, name), getattr(here, name)
        if then != now:
            yield f"{name}: the source had {then:,}, {now:,} came back"
    for wallet in sorted({*said.available, *here.available}):
        then, now = said.available.get(wallet, 0), here.available.get(wallet, 0)
        if then != now:
            yield f"points of {wallet}: the source had {then:,}, {now:,} came back"
    if said.seal != here.seal:
        numbers = [f"{seal.number} ({seal.hash[:8]}…)" if seal else "none" for seal in (said.seal, here.seal)]
        yield f"seals: the last of the source was {numbers[0]}, the last that came back is {numbers[1]}"


def _ask(
    database: Database[Document], collection: str, stages: Sequence[Document], at: ClusterTime | None
) -> Iterator[Document]:
    """What an aggregation answers. As a command, since the driver has no sessions with snapshots on a hidden member."""
    concern = {"readConcern": {"level": "snapshot", "atClusterTime": at.timestamp}} if at else {}
    answer = database.command(
        {"aggregate": collection, "pipeline": list(stages), "cursor": {"batchSize": 10_000}, **concern},
        maxTimeMS=_WITHIN_MS,
        read_preference=ReadPreference.NEAREST,
    )
    yield from answer["cursor"]["firstBatch"]
