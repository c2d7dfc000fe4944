"""What can be done with members. Called alike by HTTP, events, the command line and tests."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, DuplicateKeyError

from loyalty.infra.clock import Clock
from loyalty.infra.http.problems import PreconditionFailed
from loyalty.infra.ids import member_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound, ValidationFailed
from loyalty.ledger.entry import business_key
from loyalty.members.model import (
    EXTERNAL,
    IDENTITY_TYPES,
    MOST_ATTRIBUTES,
    MOST_HANDLES,
    IdentityTaken,
    LastIdentity,
    Member,
    MemberErased,
    TooManyIdentities,
    handle,
)

COLLECTION = "members"
COUNTERS = "counters"
INDEXES = {
    COLLECTION: [
        IndexModel([("program", ASCENDING), ("handles", ASCENDING)], name="handles", unique=True),
        IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program"),
        IndexModel([("program", ASCENDING), ("status", ASCENDING), ("_id", ASCENDING)], name="status"),
        IndexModel("absorbed", name="absorbed", sparse=True),
        IndexModel("erased.handles", name="erased", sparse=True),
    ],
    COUNTERS: [],
}

_BLOCK = 64  # numbers a process takes from the counter at a time; those it does not use are lost, which is fine
_DUPLICATE_KEY = 11000

_blocks: dict[str, range] = {}
_blocks_lock = threading.Lock()


# -- finding ----------------------------------------------------------------------------------------------------------


def reference(text: str) -> str:
    """What a path or a body calls a member by, in normal form: `mem_…`, `ext:…`, `card:…`.

    NotFound when it can be none, so that a mistyped reference reads like an unknown one.
    """
    if text.startswith("mem_"):
        if member_number(text) is not None:
            return text
    else:
        kind, colon, value = text.partition(":")
        if colon and (kind == EXTERNAL or kind in IDENTITY_TYPES):
            try:
                return handle(kind, value)
            except ValueError as error:
                raise NotFound(f"There is no member {text!r}: the {kind} {error}.") from None
    raise NotFound(
        f"There is no member {text!r}. Name a member by its id (mem_…), ext:<external id>, or an identity such as "
        "card:<number>."
    )


def resolve(
    db: Mongo, program_id: str, handles: Sequence[str], *, stages: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Member]:
    """The members behind references in normal form, in one query. Unknown ones are absent.

    The id of a member who was merged into another one means that other one, which takes a second query.
    `stages` are appended to the aggregation; what they add is in `Member.found`.
    """
    numbers = {text: number for text in handles if (number := member_number(text)) is not None}
    others = [text for text in handles if text not in numbers]
    by_handle: Document = {"program": program_id, "handles": {"$in": others} if len(others) != 1 else others[0]}
    by_number: Document = {"_id": {"$in": list(numbers.values())}, "program": program_id}
    match = by_handle if not numbers else by_number if not others else {"$or": [by_handle, by_number]}
    found: dict[str, Member] = {}
    moved: dict[int, str] = {}
    wanted = set(others)
    ids = {number: text for text, number in numbers.items()}
    for document in db[COLLECTION].aggregate([{"$match": match}, *stages]):
        member = Member.from_document(document)
        for name in member.handles:
            if name in wanted:
                found[name] = member
        text = ids.get(member.number)
        if text is not None and member.merged_into is None:
            found[text] = member
        elif text is not None:
            moved[member.number] = text
    if moved:
        for document in db[COLLECTION].aggregate([{"$match": {"absorbed": {"$in": list(moved)}}}, *stages]):
            member = Member.from_document(document)
            found.update({moved[number]: member for number in member.absorbed if number in moved})
    return found


def find(db: Mongo, program_id: str, text: str) -> Member:
    """The member that `text` refers to. NotFound when there is none."""
    name = reference(text)
    member = resolve(db, program_id, [name]).get(name)
    if member is None:
        raise NotFound(f"There is no member {text!r} in this program.")
    return member


def list_members(
    db: Mongo,
    program_id: str,
    *,
    limit: int,
    after: int | None,
    status: str | None = None,
    query: str | None = None,
    also: Document | None = None,
) -> list[Member]:
    """Up to `limit` members in the order of their numbers, beginning after the number `after`.

    `also` is another filter that they have to pass.
    """
    wanted = _members_of(program_id, also)
    if after is not None:
        wanted["_id"] = {"$gt": after}
    if status is not None:
        wanted["status"] = status
    if query is not None:
        wanted["handles"] = {"$in": _beginnings(query)}
    cursor = db[COLLECTION].find(wanted).sort("_id", ASCENDING).limit(limit)
    return [Member.from_document(document) for document in cursor]


def count(db: Mongo, program_id: str, *, also: Document) -> int:
    """How many members pass the filter `also`."""
    return db[COLLECTION].count_documents(_members_of(program_id, also))


def _members_of(program_id: str, also: Document | None) -> Document:
    """Those who somebody stands behind."""
    wanted: Document = {"program": program_id, "merged_into": None, "erased": None}
    return wanted if also is None else {**wanted, "$and": [also]}


def _beginnings(query: str) -> list[re.Pattern[str]]:
    """Anchored patterns, which MongoDB answers from the index."""
    kind, colon, value = query.partition(":")
    if colon and (kind == EXTERNAL or kind in IDENTITY_TYPES):
        names = [f"{kind}:{value.lower() if kind == 'email' else value}"]
    else:
        names = [f"{each}:{query.lower() if each == 'email' else query}" for each in (EXTERNAL, *IDENTITY_TYPES)]
    return [re.compile("^" + re.escape(name)) for name in names]


# -- enrolling --------------------------------------------------------------------------------------------------------


def allocate_numbers(db: Mongo, count: int) -> list[int]:
    """Fresh member numbers, never given twice. Small requests are served from a block that this process holds."""
    with _blocks_lock:
        block = _blocks.get(db.name, range(0))
        if len(block) < count:
            size = max(count, _BLOCK)
            counter: Any = db[COUNTERS].find_one_and_update(
                {"_id": COLLECTION}, {"$inc": {"last": size}}, upsert=True, return_document=ReturnDocument.AFTER
            )
            # Numbers begin at 1. A rest too small for this request is dropped.
            block = range(counter["last"] - size + 1, counter["last"] + 1)
        _blocks[db.name] = block[count:]
        return list(block[:count])


def enrol(
    db: Mongo,
    program_id: str,
    *,
    handles: Sequence[str],
    clock: Clock,
    profile: Mapping[str, Any] | None = None,
    status: str = "active",
    request: str | None = None,
) -> Member:
    """A new member. IdentityTaken when one of the handles is another member's.

    `request` names the client's request (its Idempotency-Key). When the same request has enrolled the member before,
    and the answer was lost with the connection to the database, that member is the answer.
    """
    (number,) = allocate_numbers(db, 1)
    document = _document(number, program_id, handles, clock(), status=status, profile=profile)
    if request is not None:
        document["enrolled_by"] = request
    try:
        db[COLLECTION].insert_one(document)
    except DuplicateKeyError as error:
        before = resolve(db, program_id, handles).values() if request is not None else ()
        for member in before:
            if member.found.get("enrolled_by") == request:
                return member
        raise _taken(error, handles) from None
    return Member.from_document(document)


def auto_enrol(db: Mongo, program_id: str, handles: Sequence[str], now: datetime) -> dict[str, Member]:
    """A member for every handle: those that are missing are enrolled with that handle alone.

    One insert for all. Where somebody else was faster, theirs is the member. Handles of those who were erased are
    absent: an event brings nobody back.
    """
    gone = erased(db, program_id, handles)
    names = [name for name in dict.fromkeys(handles) if name not in gone]
    numbers = allocate_numbers(db, len(names))
    documents = {name: _document(number, program_id, [name], now) for name, number in zip(names, numbers, strict=True)}
    taken: list[str] = []
    if documents:
        try:
            db[COLLECTION].insert_many(documents.values(), ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            failures = details.get("writeErrors", [])
            if details.get("writeConcernErrors") or any(failure["code"] != _DUPLICATE_KEY for failure in failures):
                raise
            taken = [names[failure["index"]] for failure in failures]
            for name in taken:
                del documents[name]
    members = {name: Member.from_document(document) for name, document in documents.items()}
    if taken:
        members |= resolve(db, program_id, taken)
    return members


def erased(db: Mongo, program_id: str, handles: Sequence[str]) -> set[str]:
    """Those of the handles by which somebody was found who was erased."""
    digests = {_digest(program_id, name): name for name in handles}
    found: set[str] = set()
    for document in db[COLLECTION].find({"erased.handles": {"$in": list(digests)}}, {"erased.handles": 1}):
        found.update(digests[bytes(one)] for one in document["erased"]["handles"] if bytes(one) in digests)
    return found


def _digest(program_id: str, handle: str) -> bytes:
    return business_key(program_id, "erased", handle)


# -- changing ---------------------------------------------------------------------------------------------------------


def change(
    db: Mongo,
    member: Member,
    *,
    clock: Clock,
    expected_version: int | None = None,
    profile: Mapping[str, Any] | None = None,
    status: str | None = None,
) -> Member:
    """Change the status and fields of the profile; None removes a field, and attributes are changed one by one.

    PreconditionFailed when the member is not at `expected_version` (None: whichever it is).
    """
    _require_somebody(member)
    fields: dict[str, Any] = dict(profile or {})
    attributes = fields.pop("attributes", {})
    if len(member.profile.get("attributes", {}).keys() | attributes.keys()) > MOST_ATTRIBUTES:
        detail = f"A member has at most {MOST_ATTRIBUTES} attributes. Remove some with null first."
        raise ValidationFailed(
            detail, errors=[{"pointer": "/profile/attributes", "code": "too_long", "detail": detail}]
        )
    fields.update({f"attributes.{name}": value for name, value in attributes.items()})
    setting: Document = {"updated_at": clock()}
    setting.update({f"profile.{name}": value for name, value in fields.items() if value is not None})
    if status is not None:
        setting["status"] = status
    update: Document = {"$set": setting, "$inc": {"version": 1}}
    removing = {f"profile.{name}": "" for name, value in fields.items() if value is None}
    if removing:
        update["$unset"] = removing
    return _update(db, member, {} if expected_version is None else {"version": expected_version}, update)


def freeze(db: Mongo, number: int, *, entry: str, why: str, at: datetime) -> bool:
    """Let nothing be spent of the member `number`, whose `entry` is broken; False if that is so already, or nobody.

    A member into which that one was merged has its points, and is frozen too.
    """
    mark = {"at": at, "entry": entry, "why": why}
    result = db[COLLECTION].update_many(
        {"$or": [{"_id": Int64(number)}, {"absorbed": Int64(number)}], "frozen": None},
        {"$set": {"frozen": mark, "updated_at": at}, "$inc": {"version": 1}},
    )
    return result.modified_count > 0


def unfreeze(db: Mongo, member: Member, *, clock: Clock) -> Member:
    """Let the member spend again. One that is not frozen stays as it is."""
    if member.frozen is None:
        return member
    update: Document = {"$unset": {"frozen": ""}, "$set": {"updated_at": clock()}, "$inc": {"version": 1}}
    return _update(db, member, {}, update)


def add_identity(db: Mongo, member: Member, *, handle: str, clock: Clock) -> tuple[Member, bool]:
    """The member with the handle, and whether it is new. IdentityTaken when it is another member's."""
    _require_somebody(member)
    if handle in member.handles:
        return member, False
    if len(member.handles) >= MOST_HANDLES:
        raise TooManyIdentities(f"A member has at most {MOST_HANDLES} identities. Remove one first.")
    update: Document = {"$addToSet": {"handles": handle}, "$set": {"updated_at": clock()}, "$inc": {"version": 1}}
    try:
        return _update(db, member, {f"handles.{MOST_HANDLES - 1}": {"$exists": False}}, update), True
    except DuplicateKeyError as error:
        raise _taken(error, [handle]) from None


def remove_identity(db: Mongo, member: Member, *, handle: str, clock: Clock) -> Member:
    """The member without the handle. NotFound when it has none such, LastIdentity when it has no other."""
    if handle.startswith(f"{EXTERNAL}:") or handle not in member.handles:
        raise NotFound(f"The member has no identity {handle!r}.")
    update: Document = {"$pull": {"handles": handle}, "$set": {"updated_at": clock()}, "$inc": {"version": 1}}
    try:
        return _update(db, member, {"handles": handle, "handles.1": {"$exists": True}}, update)
    except PreconditionFailed:
        raise LastIdentity("Add another identity to the member before removing this one.") from None


def absorb(db: Mongo, gone: Member, stays: Member, *, now: datetime, session: ClientSession) -> None:
    """Let every reference to `gone` mean `stays`: its id, its external id and all its identities. Nothing else of the
    person moves.

    TooManyIdentities; PreconditionFailed when one of them has changed since it was read.
    """
    handles = [*stays.handles, *gone.handles]
    if len(handles) > MOST_HANDLES:
        raise TooManyIdentities(
            f"Together they have {len(handles)} identities, and a member has at most {MOST_HANDLES}."
        )
    closing: Document = {
        # A handle that no reference can name, as none at all would be a value that only one member can have.
        "handles": [f"merged:{gone.id}"],
        "status": "blocked",
        "merged_into": Int64(stays.number),
        "updated_at": now,
    }
    numbers = [Int64(number) for number in (*stays.absorbed, gone.number, *gone.absorbed)]
    going_on: Document = {"handles": handles, "absorbed": numbers, "updated_at": now}
    for member, setting in ((gone, closing), (stays, going_on)):
        update: Document = {"$set": setting, "$inc": {"version": 1}}
        if member is gone:
            update["$unset"] = {"absorbed": ""}
        changed = db[COLLECTION].update_one(
            {"_id": Int64(member.number), "program": member.program, "version": member.version}, update, session=session
        )
        if not changed.modified_count:
            raise PreconditionFailed(f"The member {member.id} has changed since it was read. Read it again.")


def forget(db: Mongo, member: Member, *, now: datetime, session: ClientSession) -> None:
    """Remove all that tells who the member is, and who those were that were merged into it.

    Digests of the handles stay, so that `auto_enrol` lets nobody in by them. PreconditionFailed when the member has
    changed since it was read.
    """
    nobody: Document = {
        "handles": [f"erased:{member.id}"],  # no reference can name it; see `absorb`
        "status": "blocked",
        "profile": {},
        "updated_at": now,
        "erased": {"at": now, "handles": [Binary(_digest(member.program, name)) for name in member.handles]},
    }
    changed = db[COLLECTION].update_one(
        {"_id": Int64(member.number), "program": member.program, "version": member.version},
        {"$set": nobody, "$unset": {"enrolled_by": ""}, "$inc": {"version": 1}},
        session=session,
    )
    if not changed.modified_count:
        raise PreconditionFailed(f"The member {member.id} has changed since it was read. Read it again.")
    absorbed = [Int64(number) for number in member.absorbed]
    if absorbed:
        db[COLLECTION].update_many(
            {"_id": {"$in": absorbed}}, {"$set": {"profile": {}}, "$unset": {"enrolled_by": ""}}, session=session
        )


def _require_somebody(member: Member) -> None:
    if member.erased_at is not None:
        raise MemberErased("Nobody stands behind the member any more: the person was forgotten.")


def _update(db: Mongo, member: Member, condition: Document, update: Document) -> Member:
    document = db[COLLECTION].find_one_and_update(
        {"_id": Int64(member.number), "program": member.program, **condition},
        update,
        return_document=ReturnDocument.AFTER,
    )
    if document is None:
        raise PreconditionFailed("The member has changed since it was read. Read it again.")
    return Member.from_document(document)


def _document(
    number: int,
    program_id: str,
    handles: Sequence[str],
    now: datetime,
    *,
    status: str = "active",
    profile: Mapping[str, Any] | None = None,
) -> Document:
    return {
        "_id": Int64(number),
        "program": program_id,
        "handles": list(handles),
        "status": status,
        "profile": dict(profile or {}),
        "created_at": now,
        "updated_at": now,
        "version": 1,
    }


def _taken(error: DuplicateKeyError, handles: Sequence[str]) -> IdentityTaken:
    value = (error.details or {}).get("keyValue", {}).get("handles")
    name = value if isinstance(value, str) else ", ".join(handles)
    return IdentityTaken(f"Another member of this program has {name}. Read it at /v1/members/{name}.", handle=name)
