"""What can be done with the rules of a program: publish a version, read one, and get the current one ready to award."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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
from loyalty.rules.model import ApprovalRequired, RuleSet
from loyalty.tiers import service as tiers

COLLECTION = "rules"
INDEXES = {COLLECTION: [IndexModel([("_id.program", ASCENDING), ("_id.version", DESCENDING)], name="version")]}

_LARGEST_VERSION = 2**31 - 1

# What is current, by database, program, and the version of the program, whose policies it is compiled for.
_cache: TtlCache[tuple[str, str, int], CompiledRules] = TtlCache()


@dataclass(frozen=True, slots=True)
class Version:
    """A published version. It never changes.

    `authors` wrote the draft that it was and `approved_by` agreed with it, all of them keys. `republishes` is the older
    version whose rules it brings back.
    """

    program: str
    version: int
    rule_set: RuleSet
    published_at: datetime
    published_by: str
    note: str | None = None
    authors: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    republishes: int | None = None

    def to_document(self) -> Document:
        """The form that is stored. What says nothing is absent."""
        told = {
            "note": self.note,
            "authors": list(self.authors),
            "approved_by": list(self.approved_by),
            "republishes": self.republishes,
        }
        return {
            "_id": {"program": self.program, "version": self.version},
            **self.rule_set.document(),
            "published_at": self.published_at,
            "published_by": self.published_by,
            **{name: value for name, value in told.items() if value},
        }

    @staticmethod
    def from_document(document: Document) -> Version:
        """The version that a document of `rules` holds."""
        return Version(
            program=document["_id"]["program"],
            version=document["_id"]["version"],
            rule_set=stored_rules(document),
            published_at=document["published_at"],
            published_by=document["published_by"],
            note=document.get("note"),
            authors=tuple(document.get("authors", ())),
            approved_by=tuple(document.get("approved_by", ())),
            republishes=document.get("republishes"),
        )


def stored_rules(document: Document) -> RuleSet:
    """The rules in a stored document, whatever else is in it."""
    return RuleSet.model_validate({name: document[name] for name in RuleSet.model_fields if name in document})


def require_valid(db: Mongo, rule_set: RuleSet, program: Program) -> None:
    """ValidationFailed lists everything that is wrong with the rules for the program."""
    found = defects(rule_set, program.currency, program.policies, tiers.level_ids(db, program.id))
    if found:
        raise ValidationFailed("Correct the fields that `errors` names.", errors=found)


def publish(
    db: Mongo,
    program: Program,
    rule_set: RuleSet,
    *,
    expected_version: int | None,
    published_by: str,
    clock: Clock,
    note: str | None = None,
) -> Version:
    """The next version, in force for events recorded from now on (within 5 s on every node).

    `expected_version` is the current one; None only for the first. ValidationFailed lists what is wrong with the rules,
    PreconditionRequired and PreconditionFailed say that another version is current. ApprovalRequired when the program
    wants four eyes: then only drafts can be published.
    """
    refuse_alone(program)
    require_valid(db, rule_set, program)
    newest = latest(db, program.id)
    if newest is not None and expected_version is None:
        raise PreconditionRequired(f'Version {newest.version} is current. Send If-Match: "v{newest.version}".')
    return put_in_force(
        db, program, rule_set, after=expected_version or 0, published_by=published_by, clock=clock, note=note
    )


def republish(
    db: Mongo,
    program: Program,
    version: int,
    *,
    expected_version: int | None,
    published_by: str,
    clock: Clock,
    note: str | None = None,
) -> Version:
    """The rules of an older version as the next one. Refusals are those of `publish`, and NotFound."""
    refuse_alone(program)
    older = read(db, program.id, version)
    require_valid(db, older.rule_set, program)
    if expected_version is None:
        newest = latest(db, program.id)
        expected_version = newest.version if newest else 0
    return put_in_force(
        db,
        program,
        older.rule_set,
        after=expected_version,
        published_by=published_by,
        clock=clock,
        note=note,
        republishes=version,
    )


def put_in_force(
    db: Mongo,
    program: Program,
    rule_set: RuleSet,
    *,
    after: int,
    published_by: str,
    clock: Clock,
    note: str | None = None,
    authors: tuple[str, ...] = (),
    approved_by: tuple[str, ...] = (),
    republishes: int | None = None,
) -> Version:
    """Valid rules as the version that follows `after`. PreconditionFailed when that is not the current one."""
    newest = latest(db, program.id)
    current_version = newest.version if newest else 0
    if after != current_version:
        raise PreconditionFailed(f"Version {current_version} is current. Read it again.")
    # Instants of publication order the versions, also where the clocks of two nodes do not agree.
    now = clock() if newest is None else max(clock(), newest.published_at)
    version = Version(
        program.id, current_version + 1, rule_set, now, published_by, note, authors, approved_by, republishes
    )
    try:
        db[COLLECTION].insert_one(version.to_document())
    except DuplicateKeyError:
        raise PreconditionFailed("Another version was published in this moment. Read it again.") from None
    _cache.drop((db.name, program.id, program.version))
    return version


def refuse_alone(program: Program) -> None:
    """ApprovalRequired where two people have to decide on the program's rules."""
    if program.policies.rules_four_eyes:
        raise ApprovalRequired(
            "The program wants four eyes on its rules. Save them with POST /v1/rules/drafts, have another key approve "
            "the draft, then publish it."
        )


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


def read_at(db: Mongo, program_id: str, instant: datetime) -> Version:
    """The version that was current at the instant. NotFound before the first."""
    wanted: Document = {"_id.program": program_id, "published_at": {"$lte": instant}}
    found = db[COLLECTION].find(wanted).sort("_id.version", DESCENDING).limit(1)
    for document in found:
        return Version.from_document(document)
    raise NotFound("No rules had been published by then.")


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
