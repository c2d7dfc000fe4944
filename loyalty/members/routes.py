"""/v1/members"""

from __future__ import annotations

from loyalty.infra.http.context import version_tag
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.problems import NotFound
from loyalty.members import service
from loyalty.members.model import (
    Identity,
    IdentityPath,
    IdentityTaken,
    LastIdentity,
    Member,
    MemberChange,
    MemberErased,
    MemberOut,
    MemberPage,
    MemberPath,
    MemberQuery,
    NewMember,
    TooManyIdentities,
)

api = Api(
    "members",
    "Members",
    "Who collects points. Wherever a member id stands, `ext:<external id>` or `<identity type>:<value>` may stand too.",
)

EXAMPLE = {
    "external_id": "00001",
    "identities": [{"type": "card", "value": "4711-0815"}],
    "profile": {"given_name": "Ada", "email": "ada@example.org"},
}


@api.post("/v1/members", scope="members:write", status=201, idempotent=True, problems=(IdentityTaken,), example=EXAMPLE)
def enrol_member(context: Context, body: NewMember) -> Reply[MemberOut]:
    """Enrol a member

    With an external id, identities, or both. Each belongs to one member of the program."""
    member = service.enrol(
        context.services.db,
        context.program,
        handles=body.handles,
        profile=body.profile.model_dump(mode="json", exclude_unset=True, exclude_none=True),
        status=body.status,
        request=context.idempotency_key(),
        clock=context.services.clock,
    )
    return _answer(member, location=True)


@api.get("/v1/members", scope="members:read", problems=(InvalidCursor,))
def list_members(context: Context, query: MemberQuery) -> Reply[MemberPage]:
    """List members

    In the order of their ids. Pages never repeat or skip a member because others are enrolled meanwhile."""
    pager = Pager(context, query, "members")
    members = service.list_members(
        context.services.db,
        context.program,
        limit=pager.limit + 1,
        after=pager.after,
        status=query.status,
        query=query.query,
    )
    last = members[pager.limit - 1].number if len(members) > pager.limit else None
    return pager.reply(MemberPage, [MemberOut.of(member) for member in members[: pager.limit]], last=last)


@api.get("/v1/members/<member>", scope="members:read", problems=(NotFound,))
def read_member(context: Context, member: MemberPath) -> Reply[MemberOut]:
    """Read a member"""
    return _answer(service.find(context.services.db, context.program, member))


@api.patch(
    "/v1/members/<member>",
    scope="members:write",
    if_match="optional",
    idempotent=True,
    problems=(NotFound, MemberErased),
    example={"profile": {"language": "en"}, "status": "active"},
)
def change_member(context: Context, member: MemberPath, body: MemberChange) -> Reply[MemberOut]:
    """Change a member

    Only the fields that are sent change; null removes a field of the profile. `If-Match` guards against changes in
    between, if you send it."""
    changes = body.model_dump(mode="json", exclude_unset=True)
    return _answer(
        service.change(
            context.services.db,
            service.find(context.services.db, context.program, member),
            expected_version=context.expected_version(required=False),
            profile=changes.get("profile"),
            status=changes.get("status"),
            clock=context.services.clock,
        )
    )


@api.post(
    "/v1/members/<member>/identities",
    scope="members:write",
    status=201,
    answers={200: "The member had the identity already."},
    idempotent=True,
    problems=(NotFound, IdentityTaken, TooManyIdentities, MemberErased),
    example={"type": "phone", "value": "+49 30 1234567"},
)
def add_identity(context: Context, member: MemberPath, body: Identity) -> Reply[MemberOut]:
    """Add an identity

    From now on the member is found by it too."""
    db = context.services.db
    found = service.find(db, context.program, member)
    changed, is_new = service.add_identity(db, found, handle=body.handle, clock=context.services.clock)
    return _answer(changed, status=201 if is_new else 200)


@api.delete(
    "/v1/members/<member>/identities/<identity>",
    scope="members:write",
    idempotent=True,
    problems=(NotFound, LastIdentity),
)
def remove_identity(context: Context, member: MemberPath, identity: IdentityPath) -> Reply[MemberOut]:
    """Remove an identity

    Named as `<type>:<value>`, such as `card:4711-0815`. The member's points stay."""
    db = context.services.db
    found = service.find(db, context.program, member)
    handle = service.reference(identity)
    return _answer(service.remove_identity(db, found, handle=handle, clock=context.services.clock))


def _answer(member: Member, *, status: int | None = None, location: bool = False) -> Reply[MemberOut]:
    headers = {"Location": f"/v1/members/{member.id}"} if location else {}
    return Reply(MemberOut.of(member), status=status, etag=version_tag(member.version), headers=headers)
