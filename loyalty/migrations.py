"""Bringing the database to what this release needs: collections, validators and indexes, each declared by its owner.

Only ever adds, so that the release before keeps working while this one is started beside it. What a run added is
recorded in `migrations`. An older release that is deployed again finds there that a newer one has been, and leaves the
newer validators in their place. Needs the rights of `loyalty_migrator`; the application itself has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pymongo import IndexModel
from pymongo.errors import CollectionInvalid

from loyalty import jobs, ledger
from loyalty.adjustments import service as adjustments
from loyalty.auth import service as auth
from loyalty.backtests import service as backtests
from loyalty.files import service as files
from loyalty.infra.clock import Clock
from loyalty.infra.http import idempotency
from loyalty.infra.mongo import Mongo
from loyalty.members import service as members
from loyalty.programs import service as programs
from loyalty.proofs import service as proofs
from loyalty.rewards import service as rewards
from loyalty.rules import budgets, drafts
from loyalty.rules import service as rules
from loyalty.tiers import service as tiers

SCHEMA: Final = 1
"""Grows by one whenever a validator changes."""

INDEXES: Final[Sequence[Mapping[str, Sequence[IndexModel]]]] = (
    adjustments.INDEXES,
    auth.INDEXES,
    backtests.INDEXES,
    budgets.INDEXES,
    files.INDEXES,
    idempotency.INDEXES,
    jobs.INDEXES,
    ledger.INDEXES,
    members.INDEXES,
    programs.INDEXES,
    proofs.INDEXES,
    rewards.INDEXES,
    rules.INDEXES,
    drafts.INDEXES,
    tiers.INDEXES,
)


def declared() -> dict[str, list[IndexModel]]:
    """Every collection of the application with its indexes beside `_id`."""
    collections: dict[str, list[IndexModel]] = {"migrations": []}
    for owner in INDEXES:
        for collection, indexes in owner.items():
            collections.setdefault(collection, []).extend(indexes)
    return collections


def migrate(db: Mongo, *, release: str, clock: Clock) -> list[str]:
    """Add what is missing; one line for each thing that was added. Again changes nothing.

    An index that exists under the same name with other keys or options is refused by MongoDB (OperationFailure).
    """
    added = []
    newest = db.migrations.find_one({"schema": {"$exists": True}}, sort=[("schema", -1)])
    is_behind = newest is not None and newest["schema"] > SCHEMA
    existing = set(db.list_collection_names())
    for name, indexes in sorted(declared().items()):
        if name not in existing:
            try:
                db.create_collection(name, check_exists=False)
                added.append(f"collection {name}")
            except CollectionInvalid:
                pass  # another migration was faster
        validator = ledger.VALIDATORS.get(name, {})
        if not is_behind and db[name].options().get("validator", {}) != validator:
            db.command("collMod", name, validator=validator)
            added.append(f"validator of {name}")
        before = set(db[name].index_information())
        if indexes:
            # Also those that exist: MongoDB compares them, and says so if one is declared differently.
            db[name].create_indexes(indexes)
        new = (index.document["name"] for index in indexes)
        added += [f"index {name}.{index}" for index in new if index not in before]
    if added:
        db.migrations.insert_one({"release": release, "schema": SCHEMA, "applied_at": clock(), "added": added})
    return added
