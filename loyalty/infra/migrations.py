"""Bringing the database to the form the code expects: numbered steps, each recorded, each safe to repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from pymongo import IndexModel
from pymongo.errors import CollectionInvalid

from loyalty.infra.clock import Clock, system_clock
from loyalty.infra.mongo import Document, Mongo

COLLECTION = "migrations"

log = structlog.get_logger(__name__)

Indexes = Mapping[str, Sequence[IndexModel]]


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `apply` must do nothing on a database that has it already: a crash may come before the record."""

    number: int
    name: str
    apply: Callable[[Mongo], None]


def migrate(
    db: Mongo,
    *,
    migrations: Sequence[Migration],
    indexes: Sequence[Indexes],
    validators: Mapping[str, Document],
    clock: Clock = system_clock,
) -> list[str]:
    """Apply what is missing: collections, validators and indexes as declared, then the numbered steps in order.

    Returns a line for everything that was done; an empty list means the database was up to date.
    """
    done = [
        *_collections(db, sorted({name for group in indexes for name in group} | set(validators) | {COLLECTION})),
        *_validators(db, validators),
        *(line for group in indexes for name, models in group.items() for line in _indexes(db, name, models)),
    ]
    applied = {record["_id"] for record in db[COLLECTION].find({}, {"_id": 1})}
    for migration in sorted(migrations, key=lambda step: step.number):
        if migration.number not in applied:
            migration.apply(db)
            db[COLLECTION].insert_one({"_id": migration.number, "name": migration.name, "applied_at": clock()})
            done.append(f"migration {migration.number}: {migration.name}")
    for line in done:
        log.info("migrated", step=line)
    return done


def _collections(db: Mongo, names: Sequence[str]) -> list[str]:
    existing = set(db.list_collection_names())
    done = []
    for name in names:
        if name in existing:
            continue
        try:
            db.create_collection(name)
        except CollectionInvalid:
            continue  # another node was first
        done.append(f"collection {name}")
    return done


def _validators(db: Mongo, validators: Mapping[str, Document]) -> list[str]:
    done = []
    current = {found["name"]: found.get("options", {}).get("validator") for found in db.list_collections()}
    for name, validator in validators.items():
        if current.get(name) != validator:
            db.command("collMod", name, validator=validator, validationLevel="strict", validationAction="error")
            done.append(f"validator of {name}")
    return done


def _indexes(db: Mongo, name: str, models: Sequence[IndexModel]) -> list[str]:
    existing = set(db[name].index_information())
    missing = [model for model in models if model.document["name"] not in existing]
    if missing:
        db[name].create_indexes(missing)
    return [f"index {name}.{model.document['name']}" for model in missing]
