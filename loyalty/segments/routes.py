"""/v1/segments"""

from __future__ import annotations

from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import PageQuery
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.problems import NotFound
from loyalty.members.model import MemberOut, MemberPage
from loyalty.programs import service as programs
from loyalty.rules import service as rules
from loyalty.rules.expressions import render
from loyalty.segments import service
from loyalty.segments.model import SegmentOut, SegmentPath, SegmentsOut

api = Api(
    "segments",
    "Segments",
    "Who is in the segments that the rules ask for. They are published with the rules, in `segments` of a version.",
)


@api.get("/v1/segments", scope="rules:read")
def list_segments(context: Context) -> SegmentsOut:
    """List segments

    Those of the rules in force, with the number of their members. Nobody is put into a segment: whoever fulfils its
    condition is in it, from that moment on."""
    db, now = context.services.db, context.services.clock()
    version = rules.latest(db, context.program)
    found = service.sizes(db, programs.get(db, context.program), version, now=now)
    return SegmentsOut(
        rules_version=None if version is None else version.version,
        data=[
            SegmentOut(id=segment.id, name=segment.name, condition=render(segment.when, "member"), members=count)
            for segment, count in found
        ],
    )


@api.get("/v1/segments/<segment>/members", scope="members:read", problems=(NotFound, InvalidCursor))
def list_segment_members(context: Context, segment: SegmentPath, query: PageQuery) -> Reply[MemberPage]:
    """List members of a segment

    As it is at this moment, in the order of their ids."""
    pager = Pager(context, query, f"segment|{segment}")
    members = service.list_members(
        context.services.db,
        programs.get(context.services.db, context.program),
        segment,
        now=context.services.clock(),
        limit=pager.limit + 1,
        after=pager.after,
    )
    last = members[pager.limit - 1].number if len(members) > pager.limit else None
    return pager.reply(MemberPage, [MemberOut.of(member) for member in members[: pager.limit]], last=last)
