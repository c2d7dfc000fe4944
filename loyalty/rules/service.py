"""What can be done with the rules of a program: publish a version, read one, and get the current one ready to award."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from loyalty.infra.cache import TtlCache
from loyalty.infra.clock import Clock
from loyalty.infra.http.problems import PreconditionFailed, PreconditionRequired
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound, ValidationFailed
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.rules.checks import defects
from loyalty.rules.engine import CompiledRules, compile_rules
from loyalty.rules.model import RuleSet

COLLECTION = "rules"
INDEXES = {COLLECTION: [IndexModel([("_id.program", ASCENDING), ("_id.version", DESCENDING)], name="version")]}

_LARGEST_VERSION = 2**31 - 1

# What is current, by database, program, and the version of the program, whose policies it is compiled for.
_cache: TtlCache[tuple[str, str, int], CompiledRules] = TtlCache()


@dataclass(frozen=True, slots=True)
class Version:
    """A published version. It never changes."""

    program: str
    version: int
    rule_set: RuleSet
    published_at: datetime
    published_by: str

    @staticmethod
    def from_document(document: dict[str, Any]) -> Version:
        """The version that a document of `rules` holds."""
        return Version(
            program=document["_id"]["program"],
            version=document["_id"]["version"],
            rule_set=RuleSet.model_validate(
                {name: document[name] for name in RuleSet.model_fields if name in document}
            ),
            published_at=document["published_at"],
            published_by=document["published_by"],
        )


def publish(
    db: Mongo,
    program: Program,
    rule_set: RuleSet,
    *,
    expected_version: int | None,
    published_by: str,
    clock: Clock,
) -> Version:
    """The next version, in force for events recorded from now on (within 5 s on every node).

    `expected_version` is the current one; None only for the first. ValidationFailed lists what is wrong with the rules,
    PreconditionRequired and PreconditionFailed say that another version is current.
    """
    found = defects(rule_set, program.currency, wallets=program.policies.wallets)
    if found:
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found)
    newest = latest(db, program.id)
    current_version = newest.version if newest else 0
    if newest is not None and expected_version is None:
        raise PreconditionRequired(f'Version {newest.version} is current. Send If-Match: "v{newest.version}".')
    if (expected_version or 0) != current_version:
        raise PreconditionFailed(f"Version {current_version} is current. Read it again.")
    version = Version(program.id, current_version + 1, rule_set, clock(), published_by)
    document: Document = {
        "_id": {"program": version.program, "version": version.version},
        **rule_set.document(),
        "published_at": version.published_at,
        "published_by": published_by,
    }
    try:
        db[COLLECTION].insert_one(document)
    except DuplicateKeyError:
        raise PreconditionFailed("Another version was published in this moment. Read it again.") from None
    _cache.drop((db.name, program.id, program.version))
    return version


def latest(db: Mongo, program_id: str) -> Version | None:
    """The current version, or None before the first."""
    found = db[COLLECTION].find({"_id.program": program_id}).sort("_id.version", DESCENDING).limit(1)
    return next((Version.from_document(document) for document in found), None)


def read(db: Mongo, program_id: str, version: int) -> Version:
    """One version. NotFound when there is none of that number."""
    document = None
    if 0 < version <= _LARGEST_VERSION:
        document = db[COLLECTION].find_one({"_id.program": program_id, "_id.version": version})
    if document is None:
        raise NotFound(f"There is no version {version} of the rules.")
    return Version.from_document(document)


def list_versions(db: Mongo, program_id: str, *, limit: int, after: int | None) -> list[Version]:
    """Up to `limit` versions, newest first, beginning below the version `after`."""
    wanted: Document = {"_id.program": program_id}
    if after is not None:
        wanted["_id.version"] = {"$lt": after}
    found = db[COLLECTION].find(wanted).sort("_id.version", DESCENDING).limit(limit)
    return [Version.from_document(document) for document in found]


def current(db: Mongo, program: Program) -> CompiledRules | None:
    """The current version ready to award, at most 5 s old; None before the first.

    That there is none is never remembered: the first version is in force on every node at once.
    """
    cache_key = (db.name, program.id, program.version)
    known = _cache.get(cache_key)
    if known is None:
        newest = latest(db, program.id)
        if newest is None:
            return None
        known = compiled(newest, program)
        _cache.put(cache_key, known)
    return known


def compiled(version: Version, program: Program) -> CompiledRules:
    """A version ready to award, by the program's currency, zone and policies."""
    return compile_rules(
        version.rule_set,
        version.version,
        program.currency,
        calendar=Calendar.of(program.timezone),
        policies=program.policies,
    )
