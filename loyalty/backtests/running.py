"""Running a back-test: the ledger is read in ranges of members, in streams, by several processes, and added up.

A process holds the entries of one member at a time and the totals of its range, whatever the length of the history.
Nothing is written.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import groupby
from multiprocessing.connection import wait
from typing import Any, Final, NamedTuple, cast

import bson
from bson.codec_options import CodecOptions
from bson.int64 import Int64

from loyalty.backtests.evaluation import Evaluator, Person, Plan
from loyalty.backtests.totals import Totals
from loyalty.infra.mongo import Document, Mongo, connect
from loyalty.ledger.entry import SEQUENCE_BITS, member_of
from loyalty.points.terms import Terms
from loyalty.programs import service as programs
from loyalty.programs.model import Program
from loyalty.rules.engine import compile_rules
from loyalty.rules.facts import MemberFacts
from loyalty.rules.model import RuleSet
from loyalty.tiers import service as tiers
from loyalty.tiers.engine import FACET as TIER
from loyalty.tiers.model import TierScheme

MEMBERS_IN_PART: Final = 2_000
_BATCH: Final = 2_000
_SKEW: Final = timedelta(minutes=5)
"""How far ahead of ours the clock of a source may be: so much earlier than it happened may a fact be recorded."""

_FIELDS: Final = {
    "occurred_at": 1,
    "recorded_at": 1,
    "postings": 1,
    "evidence.event": 1,
    "evidence.award.lines": 1,
    "evidence.award.limits": 1,
    "evidence.refund": 1,
    "evidence.refunds": 1,
    "evidence.activated": 1,
    "evidence.tier": 1,
}
_BEGINNING: Final = datetime.min.replace(tzinfo=timezone.utc)
_SPEC: Final = ("program", "rules", "version", "tiers", "from", "to", "clock", "segments")
_DECODING: Final[CodecOptions[Document]] = CodecOptions()
_EMPTY: Final[Document] = {"wallets": {}}

Part = tuple[int, int]
"""From one member's number to before another's."""


class Done(NamedTuple):
    """What a part came to."""

    events: int
    totals: Totals


def plan_of(db: Mongo, spec: Mapping[str, Any]) -> Plan:
    """The plan that a back-test's document asks for; `spec` was valid when it was made."""
    program = programs.read(db, spec["program"])
    terms = Terms.of(program)
    rules = compile_rules(
        RuleSet.model_validate(spec["rules"]),
        spec.get("version") or 0,
        program.currency,
        calendar=terms.calendar,
        policies=program.policies,
    )
    live = tiers.load(db, program)
    scheme = live
    if spec.get("tiers") is not None:
        start = spec.get("from")
        scheme = tiers.compile_scheme(
            TierScheme.model_validate(spec["tiers"]),
            live.version + 1 if live else 1,
            program.currency,
            published_at=start or _BEGINNING,
            previous=live if start else None,
        )
    terms = Terms.of(program, rules, scheme)
    return Plan(terms, live, spec.get("from"), spec["to"], spec["clock"], tuple(spec["segments"]))


def parts_of(db: Mongo, program: str) -> list[Part]:
    """The members of the program in ranges of their numbers."""
    found = [
        db.members.find_one({"program": program}, {"_id": 1}, sort=[("_id", direction)], hint="program")
        for direction in (1, -1)
    ]
    if found[0] is None or found[1] is None:
        return []
    first, last = found[0]["_id"], found[1]["_id"]
    return [(number, min(number + MEMBERS_IN_PART, last + 1)) for number in range(first, last + 1, MEMBERS_IN_PART)]


def evaluate_part(db: Mongo, plan: Plan, part: Part) -> Done:
    """What the members of the part come to."""
    totals = Totals()
    evaluator = Evaluator(plan, totals)
    people = _people(db, plan.terms.program, part)
    events = 0
    for number, opening, entries in histories(db, plan, part):
        person = people.get(number)
        if person is not None:
            events += evaluator.member(person, opening, entries)
    return Done(events, totals)


def run(
    db: Mongo,
    spec: Mapping[str, Any],
    parts: Sequence[Part],
    *,
    uri: str | None = None,
    processes: int = 1,
) -> Iterator[Done]:
    """What each of the parts comes to, in their order: here, or shared between processes with connections of their own.

    An exception in a process ends the run.
    """
    if uri is None or not parts:
        plan = plan_of(db, spec)
        for part in parts:
            yield evaluate_part(db, plan, part)
        return
    with _workers(db, uri, min(processes, len(parts)), spec) as share:
        yield from share(parts)


def _people(db: Mongo, program: Program, part: Part) -> dict[int, Person]:
    calendar = Terms.of(program).calendar
    fields = {"status": 1, "created_at": 1, "profile.birthday": 1, "profile.language": 1, "profile.attributes": 1}
    query = {"program": program.id, "_id": {"$gte": part[0], "$lt": part[1]}}
    return {
        document["_id"]: Person(
            document["_id"],
            MemberFacts.of(
                document.get("profile", {}),
                status=document["status"],
                created_at=document["created_at"],
                calendar=calendar,
            ),
            calendar.day(document["created_at"]),
        )
        for document in db.members.find(query, fields, batch_size=_BATCH)
    }


def histories(db: Mongo, plan: Plan, part: Part) -> Iterator[tuple[int, Document, Iterator[Document]]]:
    """The members of whom something is in the span: the number, the state before, and the entries from then on."""
    query: Document = {"_id": _numbers(part), "program": plan.terms.program.id}
    fields: Document = dict(_FIELDS)
    if plan.terms.tiers is not None or plan.live is not None:
        fields["state.facets.tier"] = 1
    if plan.start is None:
        for number, entries in groupby(_stream(db, query, fields), key=lambda entry: member_of(entry["_id"])):
            yield number, _EMPTY, entries
        return
    first = _first_in_span(db, plan.start, plan.end, query)
    before = [Int64(number - 1) for number in first.values() if number - 1 & (1 << SEQUENCE_BITS) - 1]
    openings = {
        member_of(entry["_id"]): entry["state"] for entry in db.ledger.find({"_id": {"$in": before}}, {"state": 1})
    }
    query["recorded_at"] = {"$gte": plan.start - _SKEW}
    for number, entries in groupby(_stream(db, query, fields), key=lambda entry: member_of(entry["_id"])):
        if number in first:
            since = first[number]
            yield number, openings.get(number, _EMPTY), (entry for entry in entries if entry["_id"] >= since)


def _first_in_span(db: Mongo, start: datetime, end: datetime, query: Document) -> dict[int, int]:
    """The first entry of each member that occurred in the span."""
    wanted = {**query, "occurred_at": {"$gte": start, "$lt": end}}
    found: dict[int, int] = {}
    for entry in db.ledger.find(wanted, {"_id": 1}, sort=[("_id", 1)], batch_size=_BATCH):
        found.setdefault(member_of(entry["_id"]), entry["_id"])
    return found


def _numbers(part: Part) -> Document:
    return {"$gte": Int64(part[0] << SEQUENCE_BITS), "$lt": Int64(part[1] << SEQUENCE_BITS)}


def _stream(db: Mongo, query: Document, fields: Document) -> Iterator[Document]:
    for raw in db.ledger.find_raw_batches(query, fields, sort=[("_id", 1)], batch_size=_BATCH):
        for entry in bson.decode_iter(cast(bytes, raw), _DECODING):
            yield _zoned(entry)


def _zoned(entry: Document) -> Document:
    """The entry with the zone that its instants have.

    The driver takes longer to say UTC than to decode all the rest, and its UTC is a slow one: an instant is hashed and
    compared ten times as fast with the one of the standard library.
    """
    utc = timezone.utc
    entry["occurred_at"] = entry["occurred_at"].replace(tzinfo=utc)
    entry["recorded_at"] = entry["recorded_at"].replace(tzinfo=utc)
    for posting in entry["postings"]:
        if "activates_at" in posting:
            posting["activates_at"] = posting["activates_at"].replace(tzinfo=utc)
        if "expires_at" in posting:
            posting["expires_at"] = posting["expires_at"].replace(tzinfo=utc)
    tier = entry["state"]["facets"].get(TIER) if entry.get("state") else None
    if tier is not None:
        for name, value in tier.items():
            if isinstance(value, datetime):
                tier[name] = value.replace(tzinfo=utc)
    return entry


# -- sharing the work -------------------------------------------------------------------------------------------------

_worker: tuple[Mongo, Plan] | None = None


@contextmanager
def _workers(
    db: Mongo, uri: str, processes: int, spec: Mapping[str, Any]
) -> Iterator[Callable[[Sequence[Part]], Iterator[Done]]]:
    # Spawned, because neither threads nor the driver's client survive a fork.
    executor = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        _begin_worker,
        (uri, db.name, {name: spec[name] for name in _SPEC if name in spec}),
    )
    try:
        yield partial(executor.map, _in_worker)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin_worker(uri: str, database: str, spec: Mapping[str, Any]) -> None:
    global _worker
    gc.disable()  # documents have no cycles; looking for some would take as long as deciding them
    db = connect(uri, database, serves_requests=False, from_secondaries=True, pool=2)
    _worker = (db, plan_of(db, spec))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers; they would wait for ever for the next part."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _in_worker(part: Part) -> Done:
    if _worker is None:
        raise RuntimeError("the process was not begun")
    return evaluate_part(*_worker, part)
