"""/v1/tiers, /v1/members/{m}/tier"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from loyalty.infra import money
from loyalty.infra.http.context import version_tag
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import Page, PageQuery, Query, Timestamp, format_instant
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.ids import entry_id
from loyalty.infra.problems import NotFound
from loyalty.members.model import MemberPath
from loyalty.programs import service as programs
from loyalty.programs.model import Program
from loyalty.tiers import service
from loyalty.tiers.model import (
    LockReason,
    NextTierOut,
    ProjectedTierOut,
    TierChangeOut,
    TierLevelOut,
    TierLock,
    TierLockOut,
    TierOut,
    TierScheme,
    TiersNotPublished,
    TierVersionOut,
)
from loyalty.tiers.service import Change, Locked, Place, Version

api = Api("tiers", "Tiers", "Levels that members reach and keep. Published as numbered versions that never change.")

EXAMPLE = {
    "basis": {"type": "spend"},
    "window": {"type": "rolling", "days": 365},
    "levels": [
        {"id": "base", "name": "Member", "threshold": "0"},
        {"id": "silver", "name": "Silver", "threshold": "250.00", "earn_multiplier": "1.250"},
        {"id": "gold", "name": "Gold", "threshold": "1000.00", "earn_multiplier": "1.500"},
    ],
    "downgrade": {"to": "one_level", "grace_days": 30},
}

VersionNumber = Annotated[int, Field(description="The number of the version, from 1.", examples=[1])]


class TierVersionPage(Page[TierVersionOut]):
    """One page of versions, newest first."""


class TierHistoryPage(Page[TierChangeOut]):
    """One page of changes of level, newest first."""


class TierQuery(Query):
    """When to look."""

    at: Timestamp | None = Field(None, description="An instant of the past: what was known then.")
    happened_at: Timestamp | None = Field(
        None,
        description="An instant of the past: what had happened by then, also what was told later.",
    )


class CurrentTiersQuery(Query):
    """Of when."""

    at: Timestamp | None = Field(None, description="An instant: the version that was current then; now if absent.")


class ReleaseQuery(Query):
    """Why a lock is released."""

    reason: LockReason


@api.post(
    "/v1/tiers/versions", scope="tiers:publish", status=201, if_match="required", idempotent=True, example=EXAMPLE
)
def publish_tiers(context: Context, body: TierScheme) -> Reply[TierVersionOut]:
    """Publish tiers

    In force from now on; `If-Match` names the current version, and only the first one of a program goes without.
    What members have stays: the new thresholds count from now on. A scheme in which something else counts begins
    counting now, from nothing, so that levels last no longer than its reviews and their days of grace let them."""
    version = service.publish(
        context.services.db,
        programs.read(context.services.db, context.program),
        body,
        expected_version=context.expected_version(required=False),
        published_by=context.caller.key,
        clock=context.services.clock,
    )
    return _answer(version, location=True)


@api.get("/v1/tiers/versions", scope="tiers:read", problems=(InvalidCursor,))
def list_tier_versions(context: Context, query: PageQuery) -> Reply[TierVersionPage]:
    """List versions of the tiers

    Newest first."""
    pager = Pager(context, query, "tiers")
    versions = service.list_versions(context.services.db, context.program, limit=pager.limit + 1, after=pager.after)
    last = versions[pager.limit - 1].version if len(versions) > pager.limit else None
    return pager.reply(TierVersionPage, [_version_out(version) for version in versions[: pager.limit]], last=last)


@api.get("/v1/tiers/versions/<int:version>", scope="tiers:read", problems=(NotFound,))
def read_tier_version(context: Context, version: VersionNumber) -> Reply[TierVersionOut]:
    """Read a version of the tiers"""
    return _answer(service.read(context.services.db, context.program, version))


@api.get("/v1/tiers/current", scope="tiers:read", problems=(NotFound,))
def read_current_tiers(context: Context, query: CurrentTiersQuery) -> Reply[TierVersionOut]:
    """Read the current tiers

    Or, with `at`, those that were current then."""
    if query.at is not None:
        return _answer(service.read_at(context.services.db, context.program, query.at))
    version = service.latest(context.services.db, context.program)
    if version is None:
        raise NotFound("No tiers have been published. Publish some with POST /v1/tiers/versions.")
    return _answer(version)


@api.get("/v1/members/<member>/tier", scope="ledger:read", problems=(NotFound,))
def read_tier(context: Context, member: MemberPath, query: TierQuery) -> Reply[TierOut]:
    """Read a member's tier

    As it is at this moment, whether or not a job has written it down: the level, what is missing for the next one and
    to stay, and what becomes of it if nothing more happens."""
    program = programs.get(context.services.db, context.program)
    now = context.services.clock()
    place = service.place(context.services.db, program, member, now=now, at=query.at, happened_at=query.happened_at)
    return Reply(_tier_out(place, program))


@api.get("/v1/members/<member>/tier/history", scope="ledger:read", problems=(NotFound, InvalidCursor))
def list_tier_changes(context: Context, member: MemberPath, query: PageQuery) -> Reply[TierHistoryPage]:
    """List changes of a member's tier

    Newest first, from the ledger."""
    program = programs.get(context.services.db, context.program)
    pager = Pager(context, query, f"tier-history|{member}")
    changes = service.history(
        context.services.db,
        program,
        member,
        now=context.services.clock(),
        limit=pager.limit + 1,
        after=tuple(pager.after) if pager.after else None,
    )
    last = list(changes[pager.limit - 1][0]) if len(changes) > pager.limit else None
    return pager.reply_json([_change_json(change, program) for _, change in changes[: pager.limit]], last=last)


@api.put(
    "/v1/members/<member>/tier/lock",
    scope="tiers:lock",
    problems=(NotFound, TiersNotPublished),
    idempotency_header=True,
    example={"level": "gold", "reason": "Founding customer"},
)
def lock_tier(context: Context, member: MemberPath, body: TierLock) -> Reply[TierLockOut]:
    """Lock a member's tier

    The member has at least this level until the lock is released: it can rise, but never falls. The reason and the key
    that asked are kept in the ledger for ever."""
    return _set_lock(context, member, level=body.level, reason=body.reason)


@api.delete(
    "/v1/members/<member>/tier/lock",
    scope="tiers:lock",
    problems=(NotFound, TiersNotPublished),
    idempotency_header=True,
)
def release_tier(context: Context, member: MemberPath, query: ReleaseQuery) -> Reply[TierLockOut]:
    """Release a member's tier

    The level stays until a review finds the value too low."""
    return _set_lock(context, member, level=None, reason=query.reason)


def _set_lock(context: Context, member: str, *, level: str | None, reason: str) -> Reply[TierLockOut]:
    program = programs.get(context.services.db, context.program)
    locked = service.set_lock(
        context.services.db,
        program,
        member,
        level=level,
        reason=reason,
        key=context.business_key(),
        by=context.caller.key,
        clock=context.services.clock,
    )
    headers = {"Idempotent-Replayed": "true"} if locked.replayed else {}
    return Reply(_lock_out(locked, program), headers=headers)


def _version_out(version: Version) -> TierVersionOut:
    return TierVersionOut(
        version=version.version,
        basis=version.scheme.basis,
        window=version.scheme.window,
        levels=version.scheme.levels,
        downgrade=version.scheme.downgrade,
        published_at=version.published_at,
        published_by=version.published_by,
    )


def _answer(version: Version, *, location: bool = False) -> Reply[TierVersionOut]:
    headers = {"Location": f"/v1/tiers/versions/{version.version}"} if location else {}
    return Reply(_version_out(version), etag=version_tag(version.version), headers=headers)


def _tier_out(place: Place, program: Program) -> TierOut:
    standing, scheme = place.standing, place.scheme
    level = scheme.levels[scheme.ranks[standing.level]]
    whole, thousandths = divmod(level.multiplier_milli, 1000)
    following = None
    if standing.next_level is not None:
        following = NextTierOut(level=standing.next_level, missing=_value(standing.to_next, scheme.basis.key, program))
    return TierOut(
        member=place.member.id,
        as_of=place.at,
        version=scheme.version,
        tier=TierLevelOut(id=level.id, name=level.name, earn_multiplier=f"{whole}.{thousandths:03d}"),
        since=standing.since,
        value=_value(standing.value, scheme.basis.key, program),
        to_next=following,
        to_stay=_value(standing.to_stay, scheme.basis.key, program),
        projected=ProjectedTierOut(level=standing.projected_level),
        drop_at=standing.drop_at,
        locked=standing.locked,
    )


def _change_json(change: Change, program: Program) -> dict[str, Any]:
    """A `TierChangeOut`."""
    written = change.transition
    return {
        "at": format_instant(written["at"]),
        "from": written["from"],
        "to": written["to"],
        "reason": written["reason"],
        "value": _value(written["value"], written["basis"], program),
        "entry": entry_id(change.entry) if change.entry is not None else None,
    }


def _lock_out(locked: Locked, program: Program) -> TierLockOut:
    return TierLockOut(
        tier=_tier_out(locked.place, program), entry=entry_id(locked.entry["_id"]), replayed=locked.replayed
    )


def _value(value: int, basis: str, program: Program) -> int | str:
    """As people write what counts: an amount where spend does."""
    return money.to_text(value, program.currency) if basis == "spend" else value
