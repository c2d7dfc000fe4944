"""API keys: create, import, list, rotate, revoke, and the check that every request begins with.

A key is `lk_` and 43 base64 characters (256 random bits), so a plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from pymongo import ASCENDING, IndexModel, ReturnDocument

from loyalty.auth.model import ApiKey
from loyalty.infra.cache import TtlCache
from loyalty.infra.clock import Clock
from loyalty.infra.http.context import Caller
from loyalty.infra.http.problems import Unauthenticated
from loyalty.infra.ids import new_id
from loyalty.infra.mongo import Mongo
from loyalty.infra.problems import NotFound
from loyalty.infra.redis import RedisLink
from loyalty.infra.services import Services

COLLECTION = "api_keys"
INDEXES = {
    COLLECTION: [
        IndexModel("hash", name="hash", unique=True),
        IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program"),
    ]
}
CHANNEL = "loyalty:keys"
"""Redis channel on which processes tell each other that a key has changed."""

_SECRET = re.compile(r"lk_[A-Za-z0-9_-]{43}")

# What was found valid, by hash: the caller and the instant when the key ends.
_cache: TtlCache[bytes, tuple[Caller, datetime | None]] = TtlCache()
_listening = threading.Lock()
_listener_pid: int | None = None  # the process whose listener runs; a fork does not inherit threads


def hash_secret(secret: str) -> bytes:
    """What is stored in place of the secret."""
    return sha256(secret.encode()).digest()


def authenticate(services: Services, authorization: str | None) -> Caller:
    """The caller behind an `Authorization` header. Unauthenticated says what is wrong with it."""
    if authorization is None:
        raise Unauthenticated("Send the header Authorization: Bearer <API key>.")
    secret = authorization[7:]
    if authorization[:7].lower() != "bearer " or not _SECRET.fullmatch(secret):
        raise Unauthenticated("The Authorization header does not hold an API key: Bearer lk_…")
    digest = sha256(secret.encode()).digest()
    known = _cache.get(digest)
    if known is None:
        known = _look_up(services, digest)
        _cache.put(digest, known)
    caller, ends = known
    if ends is not None and services.clock() >= ends:
        raise Unauthenticated("The API key has expired. Ask for its successor.")
    return caller


def _look_up(services: Services, digest: bytes) -> tuple[Caller, datetime | None]:
    _listen(services.redis)
    document = services.db[COLLECTION].find_one({"hash": digest})
    if document is None:
        raise Unauthenticated("The API key is not known. Check that it was copied whole, and for this site.")
    key = ApiKey.from_document(document)
    now = services.clock()
    if key.revoked_at is not None and key.revoked_at <= now:
        raise Unauthenticated("The API key was revoked. Ask for a new one.")
    ends = min((end for end in (key.expires_at, key.revoked_at) if end is not None), default=None)
    caller = Caller(key=key.id, program=key.program, mode=key.mode, scopes=frozenset(key.scopes))
    return caller, ends


def create_key(
    db: Mongo,
    *,
    program: str,
    mode: str,
    name: str,
    scopes: Iterable[str],
    clock: Clock,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which cannot be had again."""
    secret = "lk_" + secrets.token_urlsafe(32)
    return import_key(
        db, secret=secret, program=program, mode=mode, name=name, scopes=scopes, clock=clock, expires_at=expires_at
    ), secret


def import_key(
    db: Mongo,
    *,
    secret: str,
    program: str,
    mode: str,
    name: str,
    scopes: Iterable[str],
    clock: Clock,
    expires_at: datetime | None = None,
) -> ApiKey:
    """Register a secret that was made elsewhere, such as the one in the site's vault. Again changes nothing."""
    if not _SECRET.fullmatch(secret):
        raise ValueError("an API key is lk_ and 43 characters of URL-safe base64 (32 random bytes)")
    now = clock()
    document: dict[str, Any] = {
        "_id": new_id("key", now),
        "program": program,
        "mode": mode,
        "name": name,
        "scopes": sorted(scopes),
        "created_at": now,
        "expires_at": expires_at,
        "revoked_at": None,
        "successor": None,
    }
    stored: Any = db[COLLECTION].find_one_and_update(
        {"hash": hash_secret(secret)},
        {"$setOnInsert": document},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return ApiKey.from_document(stored)


def list_keys(db: Mongo, *, program: str, limit: int = 0, after: str | None = None) -> list[ApiKey]:
    """The keys of a program, oldest first, revoked ones included: all, or `limit` of them after the id `after`."""
    wanted: dict[str, Any] = {"program": program}
    if after is not None:
        wanted["_id"] = {"$gt": after}
    return [ApiKey.from_document(found) for found in db[COLLECTION].find(wanted).sort("_id", ASCENDING).limit(limit)]


def read_key(db: Mongo, *, program: str, key_id: str) -> ApiKey:
    """One key of a program. NotFound when there is none."""
    document = db[COLLECTION].find_one({"_id": key_id, "program": program})
    if document is None:
        raise NotFound(f"There is no key {key_id!r} in this program.")
    return ApiKey.from_document(document)


def is_same_or_successor(db: Mongo, first: str, second: str) -> bool:
    """Whether `second` is the key `first` or has replaced it, however often: then one client has both."""
    key: str | None = first
    while key is not None and key != second:
        found = db[COLLECTION].find_one({"_id": key}, {"successor": 1})
        key = found.get("successor") if found else None
    return key is not None


def revoke(db: Mongo, *, program: str, key_id: str, clock: Clock, redis: RedisLink | None = None) -> ApiKey:
    """Close a key now. At once in this process, and in the others when Redis is there; within 5 s without it."""
    read_key(db, program=program, key_id=key_id)
    db[COLLECTION].update_one(
        {"_id": key_id, "program": program, "revoked_at": None}, {"$set": {"revoked_at": clock()}}
    )
    _forget(redis)
    return read_key(db, program=program, key_id=key_id)


def rotate(
    db: Mongo, *, program: str, key_id: str, overlap: timedelta, clock: Clock, redis: RedisLink | None = None
) -> tuple[ApiKey, str]:
    """A successor with the same rights. The old key ends after `overlap`, or when it would have ended, if sooner."""
    old = read_key(db, program=program, key_id=key_id)
    if not old.is_valid_at(clock()) or old.successor is not None:
        raise NotFound("The key is revoked, expired or already has a successor. Rotate that one.")
    new, secret = create_key(db, program=program, mode=old.mode, name=old.name, scopes=old.scopes, clock=clock)
    ends = clock() + overlap
    if old.expires_at is not None:
        ends = min(ends, old.expires_at)
    db[COLLECTION].update_one({"_id": key_id}, {"$set": {"successor": new.id, "expires_at": ends}})
    _forget(redis)
    return new, secret


def _forget(redis: RedisLink | None) -> None:
    _cache.clear()
    if redis is not None:
        redis.attempt(lambda client: client.publish(CHANNEL, b"changed"))


def _listen(redis: RedisLink) -> None:
    """Start, once a process, the thread that empties the cache when another process changes a key."""
    global _listener_pid
    if not redis.configured or _listener_pid == os.getpid():
        return
    with _listening:
        if _listener_pid == os.getpid():
            return
        _listener_pid = os.getpid()

        def follow() -> None:
            for _ in redis.listen(CHANNEL):
                _cache.clear()

        threading.Thread(target=follow, name="key-changes", daemon=True).start()
