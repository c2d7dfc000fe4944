"""/v1/keys"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from loyalty.auth import service
from loyalty.auth.model import KeyOut, NewKey, NewKeyOut, Rotation
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import Page, PageQuery
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import Forbidden
from loyalty.infra.problems import NotFound

api = Api("keys", "API keys", "Keys of a program: scoped, expiring, rotated with an overlap, revoked at once.")


KeyPath = Annotated[str, Field(description="The id of a key.", examples=["key_01kav7g1c0v9x2m4n6p8q0r2s4"])]


class KeyPage(Page[KeyOut]):
    """One page of keys, oldest first, revoked ones included."""


@api.get("/v1/keys", scope="keys:write")
def list_keys(context: Context, query: PageQuery) -> Reply[KeyPage]:
    """List keys

    Those of the caller's program, oldest first, revoked ones included. Secrets cannot be read again."""
    pager = Pager(context, query, "keys")
    keys = service.list_keys(context.services.db, program=context.program, limit=pager.limit + 1, after=pager.after)
    last = keys[pager.limit - 1].id if len(keys) > pager.limit else None
    return pager.reply(KeyPage, [KeyOut.of(key) for key in keys[: pager.limit]], last=last)


@api.post(
    "/v1/keys",
    scope="keys:write",
    status=201,
    idempotent=True,
    example={"name": "till 3", "scopes": ["events:write", "members:read"]},
)
def create_key(context: Context, body: NewKey) -> Reply[NewKeyOut]:
    """Create a key

    For the caller's program, with scopes that the caller has. The secret is in this answer and nowhere else."""
    beyond = sorted(set(body.scopes) - context.caller.scopes)
    if beyond:
        raise Forbidden(f"A key can only pass on scopes that it has; it lacks {', '.join(beyond)}.")
    key, secret = service.create_key(
        context.services.db,
        program=context.program,
        mode=context.caller.mode,
        name=body.name,
        scopes=body.scopes,
        expires_at=body.expires_at,
        clock=context.services.clock,
    )
    return Reply(NewKeyOut.of(key, secret), headers={"Location": f"/v1/keys/{key.id}"}, stored=NewKeyOut.of(key, None))


@api.get("/v1/keys/<key_id>", scope="keys:write", problems=(NotFound,))
def read_key(context: Context, key_id: KeyPath) -> KeyOut:
    """Read a key"""
    return KeyOut.of(service.read_key(context.services.db, program=context.program, key_id=key_id))


@api.delete("/v1/keys/<key_id>", scope="keys:write", idempotent=True, problems=(NotFound,))
def revoke_key(context: Context, key_id: KeyPath) -> KeyOut:
    """Revoke a key

    It stops working at once on this process and within 5 seconds everywhere."""
    services = context.services
    return KeyOut.of(
        service.revoke(services.db, program=context.program, key_id=key_id, clock=services.clock, redis=services.redis)
    )


@api.post(
    "/v1/keys/<key_id>/rotate",
    scope="keys:write",
    status=201,
    idempotent=True,
    problems=(NotFound,),
    example={"overlap_seconds": 86400},
)
def rotate_key(context: Context, key_id: KeyPath, body: Rotation) -> Reply[NewKeyOut]:
    """Rotate a key

    Makes a successor with the same name and scopes; the old key keeps working for the overlap."""
    services = context.services
    key, secret = service.rotate(
        services.db,
        program=context.program,
        key_id=key_id,
        overlap=timedelta(seconds=body.overlap_seconds),
        clock=services.clock,
        redis=services.redis,
    )
    return Reply(NewKeyOut.of(key, secret), headers={"Location": f"/v1/keys/{key.id}"}, stored=NewKeyOut.of(key, None))
