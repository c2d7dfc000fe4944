"""The first answer again: `Idempotency-Key` for changes that do not go through the ledger.

A record is inserted before the work starts and completed with the answer. Two requests with one key therefore never
run together, and a retry after a lost answer changes nothing. (The ledger has a stronger fence: there the key is
part of the entry itself.) Refusals that only say "later" or "look again" are not kept.

An answer is kept beside the names of the members that it tells about, so that it goes when one of them is forgotten.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import sha256

import orjson
from bson.binary import Binary
from flask import Response
from pymongo import IndexModel
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError, PyMongoError

from loyalty.infra.clock import Clock
from loyalty.infra.http.problems import RequestInProgress
from loyalty.infra.http.render import problem_response
from loyalty.infra.mongo import Document, Mongo, database_is_away
from loyalty.infra.patience import ANSWER_SECONDS, TimeUp, attempt, persistently
from loyalty.infra.problems import IdempotencyConflict, Problem

COLLECTION = "idempotency_keys"
KEPT = timedelta(days=35)
TAKEN_OVER_AFTER = timedelta(seconds=10)
"""Whoever holds a record longer has crashed, or does not know what was done: no request lives for 5 s, and the clocks
of two nodes do not differ by as much again."""
INDEXES = {
    COLLECTION: [
        IndexModel("created_at", name="expiry", expireAfterSeconds=int(KEPT.total_seconds())),
        IndexModel("about", name="about", sparse=True),
    ]
}

_NOT_KEPT = frozenset({412, 428, 429})
_KEPT_HEADERS = ("Content-Type", "ETag", "Location")
_MEMBERS = re.compile(rb'mem_[0-9a-z]{8}|"handle":("(?:[^"\\]|\\.)*")')
"""In an answer: their ids, and the identities that refusals name."""


def fingerprint(*parts: str | bytes) -> bytes:
    """What makes two requests the same request."""
    digest = sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def once(
    db: Mongo,
    *,
    program: str,
    key: str,
    fingerprint: bytes,
    clock: Clock,
    perform: Callable[[], tuple[Response, bytes]],
) -> Response:
    """The answer of `perform`, run at most once for a key.

    `perform` gives the response and the bytes of it that may be stored. IdempotencyConflict when the key was used
    for another request, RequestInProgress while the first one runs.
    """
    records = db[COLLECTION]
    now = clock()
    record_id = Binary(sha256(f"{program}\0{key}".encode()).digest())
    mine: Document = {
        "_id": record_id,
        "fingerprint": fingerprint,
        "created_at": now,
        "started_at": now,
        "by": secrets.token_bytes(12),
    }

    def claim() -> Document | None:
        """The record: this request's own, also when an answer was lost on the way, or an earlier one's."""
        try:
            records.insert_one(mine)
        except DuplicateKeyError:
            return records.find_one({"_id": record_id})
        return mine

    found = persistently(claim)
    if found is None or found.get("by") != mine["by"]:
        if found is not None:
            if found["fingerprint"] != fingerprint:
                raise IdempotencyConflict("Use a new Idempotency-Key for a new request.")
            if "status" in found:
                return _replay(found)
        abandoned = records.find_one_and_update(
            {"_id": record_id, "status": {"$exists": False}, "started_at": {"$lt": now - TAKEN_OVER_AFTER}},
            {"$set": {"started_at": now, "by": mine["by"]}},
        )
        if abandoned is None:
            raise RequestInProgress(
                "The first request with this Idempotency-Key has not been answered yet.", headers={"Retry-After": "1"}
            )
    own = {"_id": record_id, "by": mine["by"]}
    try:
        with attempt(ANSWER_SECONDS):
            response, body = perform()
    except Problem as problem:
        if problem.status >= 500 or problem.status in _NOT_KEPT:
            records.delete_one(own)
            raise
        response = problem_response(problem)
        body = response.get_data()
    except (PyMongoError, TimeUp) as error:
        if isinstance(error, PyMongoError) and not database_is_away(error):
            records.delete_one(own)
        raise  # else nobody knows what was done; the record stays until it may be taken over
    except BaseException:
        records.delete_one(own)
        raise
    answer = _kept(response, body)
    about = sorted({orjson.loads(found[1]) if found[1] else found[0].decode() for found in _MEMBERS.finditer(body)})
    if about:
        answer |= {"program": program, "about": about}
    persistently(lambda: records.update_one(own, {"$set": answer}))
    return response


def forget(db: Mongo, *, program: str, names: Sequence[str], refusal: Problem, session: ClientSession) -> None:
    """Who repeats a request whose answer told about one of `names`, ids or identities of members, gets `refusal`."""
    response = problem_response(refusal)
    answer = _kept(response, response.get_data())
    db[COLLECTION].update_many(
        {"about": {"$in": list(names)}, "program": program}, {"$set": answer, "$unset": {"about": ""}}, session=session
    )


def _kept(response: Response, body: bytes) -> Document:
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    return {"status": response.status_code, "headers": headers, "body": body}


def _replay(record: dict) -> Response:  # type: ignore[type-arg]
    response = Response(record["body"], record["status"], record["headers"])
    response.headers["Idempotent-Replayed"] = "true"
    response.headers["Cache-Control"] = "no-store"
    return response
