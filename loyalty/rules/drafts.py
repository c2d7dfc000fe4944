"""Drafts: rules on their way to a version. Whoever may write them saves them here; publishing puts them in force."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import DESCENDING, IndexModel, ReturnDocument

from loyalty.auth import service as auth
from loyalty.infra.clock import Clock
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.ids import new_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound
from loyalty.programs.model import Program
from loyalty.rules import service
from loyalty.rules.model import ApprovalRequired, DraftOutdated, OwnDraft, Proposal, RuleSet
from loyalty.rules.service import Version

COLLECTION = "rule_drafts"
INDEXES = {COLLECTION: [IndexModel([("program", 1), ("_id", DESCENDING)], name="program")]}


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft. `based_on` is the version that it is meant to follow, 0 for the first; `approvals` are by key.

    `authors` are the keys that wrote any of it. A change takes the approvals back.
    """

    id: str
    rule_set: RuleSet
    note: str | None
    based_on: int
    authors: tuple[str, ...]
    approvals: dict[str, datetime]
    created_at: datetime
    changed_at: datetime
    version: int

    @staticmethod
    def from_document(document: Document) -> Draft:
        """The draft that a document of `rule_drafts` holds."""
        return Draft(
            id=document["_id"],
            rule_set=service.stored_rules(document),
            note=document["note"],
            based_on=document["based_on"],
            authors=tuple(document["authors"]),
            approvals=document["approvals"],
            created_at=document["created_at"],
            changed_at=document["changed_at"],
            version=document["version"],
        )


def create(db: Mongo, program: Program, proposal: Proposal, *, by: str, clock: Clock) -> Draft:
    """Save a new draft, meant to follow the current version. ValidationFailed lists what is wrong with the rules."""
    now = clock()
    document: Document = {
        "_id": new_id("drf", now),
        "program": program.id,
        **_content(db, program, proposal),
        "authors": [by],
        "approvals": {},
        "created_at": now,
        "changed_at": now,
        "version": 1,
    }
    db[COLLECTION].insert_one(document)
    return Draft.from_document(document)


def read(db: Mongo, program_id: str, draft: str) -> Draft:
    """One draft. NotFound when there is none, or no more: a draft that was published is gone."""
    document = db[COLLECTION].find_one({"_id": draft, "program": program_id})
    if document is None:
        raise NotFound(f"There is no draft {draft!r}. One that was published is a version now: GET /v1/rules/versions.")
    return Draft.from_document(document)


def list_drafts(db: Mongo, program_id: str, *, limit: int, after: str | None) -> list[Draft]:
    """Up to `limit` drafts, newest first, beginning after the draft `after`."""
    wanted: Document = {"program": program_id}
    if after is not None:
        wanted["_id"] = {"$lt": after}
    return [Draft.from_document(found) for found in db[COLLECTION].find(wanted).sort("_id", DESCENDING).limit(limit)]


def replace(
    db: Mongo,
    program: Program,
    draft: str,
    proposal: Proposal,
    *,
    expected_version: int | None,
    by: str,
    clock: Clock,
) -> Draft:
    """Give the draft other content, meant to follow the version that is current now. Nobody has approved it any more.

    ValidationFailed lists what is wrong with the rules; PreconditionFailed when it is not at `expected_version`.
    """
    content = _content(db, program, proposal)
    gone = {name: "" for name in RuleSet.model_fields if name not in content}
    change: Document = {
        "$set": {**content, "approvals": {}, "changed_at": clock()},
        "$addToSet": {"authors": by},
        "$inc": {"version": 1},
        **({"$unset": gone} if gone else {}),
    }
    return _changed(db, program.id, draft, expected_version, change)


def delete(db: Mongo, program_id: str, draft: str, *, expected_version: int | None) -> Draft:
    """Throw the draft away; what it was. PreconditionFailed when it is not at `expected_version`."""
    found = read(db, program_id, draft)
    if expected_version is not None and found.version != expected_version:
        raise _moved(found)
    if not db[COLLECTION].delete_one({"_id": draft, "version": found.version}).deleted_count:
        raise _moved(read(db, program_id, draft))
    return found


def approve(db: Mongo, program_id: str, draft: str, *, expected_version: int | None, by: str, clock: Clock) -> Draft:
    """Somebody else than its authors agrees with the draft as it is. OwnDraft for a key that wrote any of it.

    The version stays, so that several can approve what all of them have read.
    """
    found = read(db, program_id, draft)
    if any(auth.is_same_or_successor(db, author, by) for author in found.authors):
        raise OwnDraft("This key wrote the draft. Approve it with the key of somebody else.")
    version = found.version if expected_version is None else expected_version
    return _changed(db, program_id, draft, version, {"$set": {f"approvals.{by}": clock()}})


def publish(
    db: Mongo, program: Program, draft: str, *, expected_version: int | None, published_by: str, clock: Clock
) -> Version:
    """Put the draft in force as the next version; the draft is gone then.

    PreconditionFailed when it is not at `expected_version`, ValidationFailed when the program has changed so that it
    is wrong now, ApprovalRequired when the program wants four eyes and nobody has approved it, DraftOutdated when it
    was written for another version than the current one.
    """
    found = read(db, program.id, draft)
    if expected_version is not None and found.version != expected_version:
        raise _moved(found)
    if program.policies.rules_four_eyes and not found.approvals:
        raise ApprovalRequired(
            f"Have another key approve the draft as it is: POST /v1/rules/drafts/{found.id}/approve."
        )
    service.require_valid(db, found.rule_set, program)  # the program may have changed since the draft was saved
    try:
        version = service.put_in_force(
            db,
            program,
            found.rule_set,
            after=found.based_on,
            published_by=published_by,
            clock=clock,
            note=found.note,
            authors=found.authors,
            approved_by=tuple(found.approvals),
        )
    except PreconditionFailed:
        raise DraftOutdated(
            f"It was written to follow version {found.based_on}, which is not the current one. See "
            f"GET /v1/rules/drafts/{found.id}/diff, then save the draft again with PUT."
        ) from None
    # Whoever has changed it in this moment keeps a draft, which is outdated now.
    db[COLLECTION].delete_one({"_id": found.id, "version": found.version})
    return version


def _content(db: Mongo, program: Program, proposal: Proposal) -> Document:
    service.require_valid(db, proposal, program)
    current = service.latest(db, program.id)
    return {**proposal.document(), "note": proposal.note, "based_on": current.version if current else 0}


def _changed(db: Mongo, program_id: str, draft: str, expected_version: int | None, change: dict[str, Any]) -> Draft:
    wanted: Document = {"_id": draft, "program": program_id}
    if expected_version is not None:
        wanted["version"] = expected_version
    document = db[COLLECTION].find_one_and_update(wanted, change, return_document=ReturnDocument.AFTER)
    if document is None:
        raise _moved(read(db, program_id, draft))
    return Draft.from_document(document)


def _moved(draft: Draft) -> PreconditionFailed:
    return PreconditionFailed(f"The draft is at version {draft.version} now. Read it again.")
