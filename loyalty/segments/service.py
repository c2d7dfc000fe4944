"""Who is in a segment: the condition that decides live, asked of all members at once as a filter of the database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound
from loyalty.infra.suggestions import suggestion
from loyalty.members import service as members
from loyalty.members.model import Member
from loyalty.programs.calendar import Calendar
from loyalty.programs.model import Program
from loyalty.rules import service as rules
from loyalty.rules.filters import mongo_filter
from loyalty.rules.model import Segment
from loyalty.rules.service import Version


def sizes(db: Mongo, program: Program, version: Version | None, *, now: datetime) -> Iterator[tuple[Segment, int]]:
    """The segments of the version by their ids, each with the number of its members at `now`."""
    found = [] if version is None else version.rule_set.segments
    for segment in sorted(found, key=lambda segment: segment.id):
        yield segment, members.count(db, program.id, also=_filter(segment, program, now))


def list_members(
    db: Mongo, program: Program, segment: str, *, now: datetime, limit: int, after: int | None
) -> list[Member]:
    """Up to `limit` members who are in the segment at `now`, in the order of their numbers, beginning after `after`.

    NotFound when the rules in force have no such segment.
    """
    version = rules.latest(db, program.id)
    known = {} if version is None else {found.id: found for found in version.rule_set.segments}
    if segment not in known:
        raise NotFound(f"The rules in force have no segment {segment!r}.{suggestion(segment, known)}")
    wanted = _filter(known[segment], program, now)
    return members.list_members(db, program.id, limit=limit, after=after, also=wanted)


def _filter(segment: Segment, program: Program, now: datetime) -> Document:
    return mongo_filter(segment.when, calendar=Calendar.of(program.timezone), now=now)
