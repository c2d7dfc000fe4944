"""What can be done with back-tests: ask for one, read it, and do the next one that waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo import ASCENDING, IndexModel

from loyalty.backtests.model import NewBacktest, result_json
from loyalty.backtests.running import parts_of, run
from loyalty.backtests.totals import Totals
from loyalty.infra.clock import Clock, to_milliseconds
from loyalty.infra.ids import new_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound, ValidationFailed
from loyalty.infra.suggestions import suggestion
from loyalty.programs.model import Program
from loyalty.rules import drafts
from loyalty.rules import service as rules
from loyalty.rules.checks import defects
from loyalty.tiers import service as tiers

COLLECTION: Final = "backtests"
KEPT: Final = timedelta(days=90)
INDEXES: Final = {
    COLLECTION: [
        IndexModel([("status", ASCENDING), ("_id", ASCENDING)], name="status"),
        IndexModel("requested_at", name="expiry", expireAfterSeconds=int(KEPT.total_seconds())),
    ]
}

Stop = Callable[[], None]


def spec_of(db: Mongo, program: Program, wanted: NewBacktest, *, now: datetime) -> Document:
    """What the back-test goes by, complete. NotFound for a draft or a version; ValidationFailed lists every defect."""
    if wanted.rules is not None:
        rule_set = wanted.rules
    elif wanted.draft is not None:
        rule_set = drafts.read(db, program.id, wanted.draft).rule_set
    else:
        rule_set = rules.read(db, program.id, wanted.version or 0).rule_set
    scheme = wanted.tiers
    levels = [level.id for level in scheme.levels] if scheme is not None else tiers.level_ids(db, program.id)
    found = [("/rules", defect) for defect in defects(rule_set, program.currency, program.policies, levels)]
    if wanted.tiers is not None:
        found += [("/tiers", defect) for defect in tiers.defects(wanted.tiers, program)]
    known = [f"segments.{segment.id}" for segment in rule_set.segments]
    for index, name in enumerate(wanted.segments):
        if name.startswith("segments.") and name not in known:
            detail = f"The rules that are tried have no such segment.{suggestion(name, known)}"
            found.append(("", {"pointer": f"/segments/{index}", "code": "unknown_segment", "detail": detail}))
    if found:
        errors = [{**defect, "pointer": place + defect["pointer"]} for place, defect in found]
        raise ValidationFailed("Correct the fields that `errors` names.", errors=errors)
    spec: Document = {
        "program": program.id,
        "rules": rule_set.document(),
        "tiers": wanted.tiers.model_dump(mode="json") if wanted.tiers is not None else None,
        "from": to_milliseconds(wanted.start) if wanted.start is not None else None,
        "to": to_milliseconds(wanted.end) if wanted.end is not None else now,
        "clock": wanted.clock,
        "segments": wanted.segments,
    }
    return spec | {
        name: value for name, value in (("draft", wanted.draft), ("version", wanted.version)) if value is not None
    }


def request(db: Mongo, program: Program, wanted: NewBacktest, *, by: str, clock: Clock) -> Document:
    """A back-test that waits for the jobs process. Refusals are those of `spec_of`."""
    now = clock()
    document = {
        "_id": new_id("bkt", now),
        **spec_of(db, program, wanted, now=now),
        "status": "waiting",
        "requested_at": now,
        "requested_by": by,
    }
    db[COLLECTION].insert_one(document)
    return document


def read(db: Mongo, program: str, backtest: str) -> Document:
    """One back-test. NotFound when there is none, or no more."""
    document = db[COLLECTION].find_one({"_id": backtest, "program": program})
    if document is None:
        raise NotFound(f"There is no back-test {backtest!r}. They are kept for {KEPT.days} days.")
    return document


def next_pending(db: Mongo) -> Document | None:
    """The one that was asked for first of those that are not finished."""
    return db[COLLECTION].find_one({"status": {"$in": ["waiting", "running"]}}, sort=[("_id", 1)])


def evaluate(
    db: Mongo, spec: Mapping[str, Any], *, uri: str | None, processes: int, progress: Callable[[int], None]
) -> Document:
    """The result of a back-test that is not kept. `progress` is called with the per cent that are done."""
    parts = parts_of(db, spec["program"])
    totals = Totals()
    for number, done in enumerate(run(db, spec, parts, uri=uri, processes=processes), start=1):
        totals.merge(done.totals)
        progress(100 * number // len(parts))
    return result_json(totals, spec["segments"])


def complete(
    db: Mongo, document: Mapping[str, Any], *, uri: str | None, processes: int, clock: Clock, check: Stop
) -> None:
    """Do a back-test, or go on with one that was cut off, and keep the result. `check` may end it by an exception.

    After each part the totals so far are stored, so that nothing has to be done twice.
    """
    parts = [tuple(part) for part in document["ranges"]] if "ranges" in document else parts_of(db, document["program"])
    begun = document.get("parts_done", 0)
    totals = Totals.from_document(document["totals"]) if begun else Totals()
    events = document.get("events", 0)
    this = {"_id": document["_id"]}
    if not begun:
        started = {"status": "running", "started_at": clock(), "ranges": parts, "parts": len(parts)}
        db[COLLECTION].update_one(this, {"$set": started})
    for number, done in enumerate(run(db, document, parts[begun:], uri=uri, processes=processes), start=begun + 1):
        check()
        totals.merge(done.totals)
        events += done.events
        progress = {"parts_done": number, "events": events, "totals": totals.document()}
        # Bound to the part before: whoever lost the lease meanwhile cannot undo what a successor has added.
        before = number - 1 if number > 1 else None
        if not db[COLLECTION].update_one({**this, "parts_done": before}, {"$set": progress}).matched_count:
            return
    result = result_json(totals, document["segments"])
    db[COLLECTION].update_one(
        {**this, "status": "running"},
        {
            "$set": {"status": "done", "finished_at": clock(), "result": result},
            "$unset": {"totals": "", "ranges": ""},
        },
    )


def fail(db: Mongo, document: Mapping[str, Any], error: Exception, *, clock: Clock) -> None:
    """Say why a back-test cannot be done, unless another process has done it."""
    told = {"status": "failed", "finished_at": clock(), "error": f"{type(error).__name__}: {error}"[:500]}
    unfinished = {"_id": document["_id"], "status": {"$in": ["waiting", "running"]}}
    db[COLLECTION].update_one(unfinished, {"$set": told, "$unset": {"totals": "", "ranges": ""}})
