"""What can be done with programs. Called alike by HTTP, the command line and tests."""

from __future__ import annotations

from typing import Any

from pymongo import IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from loyalty.infra.cache import TtlCache
from loyalty.infra.clock import Clock
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.mongo import Mongo
from loyalty.infra.problems import NotFound
from loyalty.programs.model import Program, ProgramExists

COLLECTION = "programs"
INDEXES: dict[str, list[IndexModel]] = {COLLECTION: []}

_cache: TtlCache[tuple[str, str], Program] = TtlCache()


def create(
    db: Mongo,
    *,
    id: str,
    name: str,
    currency: str,
    clock: Clock,
    timezone: str = "UTC",
    backdating_days: int | None = None,
    auto_enrol: bool = True,
    mode: str = "live",
) -> Program:
    """Create a program. ProgramExists when the id is taken."""
    program = Program(
        id=id,
        name=name,
        currency=currency,
        timezone=timezone,
        backdating_days=backdating_days,
        auto_enrol=auto_enrol,
        mode=mode,
        created_at=clock(),
        version=1,
    )
    try:
        db[COLLECTION].insert_one(program.to_document())
    except DuplicateKeyError:
        raise ProgramExists(f"There is a program {id!r} already. Choose another id.") from None
    return program


def get(db: Mongo, program_id: str) -> Program:
    """The program, at most 5 s old. NotFound when there is none."""
    cache_key = (db.name, program_id)
    program = _cache.get(cache_key)
    if program is None:
        program = read(db, program_id)
        _cache.put(cache_key, program)
    return program


def read(db: Mongo, program_id: str) -> Program:
    """The program as it is now. NotFound when there is none."""
    document = db[COLLECTION].find_one({"_id": program_id})
    if document is None:
        raise NotFound(f"There is no program {program_id!r}.")
    return Program.from_document(document)


def change(db: Mongo, program_id: str, *, expected_version: int | None, changes: dict[str, Any]) -> Program:
    """Change fields of a program. PreconditionFailed when it is not at `expected_version` (None: whichever it is)."""
    wanted: dict[str, Any] = {"_id": program_id}
    if expected_version is not None:
        wanted["version"] = expected_version
    document = db[COLLECTION].find_one_and_update(
        wanted,
        {"$set": changes, "$inc": {"version": 1}} if changes else {"$inc": {"version": 1}},
        return_document=ReturnDocument.AFTER,
    )
    _cache.drop((db.name, program_id))
    if document is None:
        current = read(db, program_id)
        raise PreconditionFailed(f"The program is at version {current.version} now. Read it again.")
    return Program.from_document(document)
