"""/v1/rules"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from loyalty.infra.http.context import version_tag
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import Out, Page, PageQuery, Timestamp
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.problems import NotFound
from loyalty.programs import service as programs
from loyalty.rules import service
from loyalty.rules.model import Rule, RuleSet
from loyalty.rules.service import Version

api = Api("rules", "Rules", "What earns points. Published as numbered versions that never change.")

EXAMPLE = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "rounding": "floor"}]}

VersionNumber = Annotated[int, Field(description="The number of the version, from 1.", examples=[1])]


class RuleVersionOut(Out):
    """A published version of the rules. It never changes."""

    version: int = Field(description="Its number, from 1; the ETag carries it.", examples=[1])
    rules: list[Rule] = Field(description="The rules, in order of evaluation.")
    published_at: Timestamp = Field(description="When it was published.")
    published_by: str = Field(description="The key that published it.")

    @staticmethod
    def of(version: Version) -> RuleVersionOut:
        """The wire form of a version."""
        return RuleVersionOut(
            version=version.version,
            rules=version.rule_set.rules,
            published_at=version.published_at,
            published_by=version.published_by,
        )


class RuleVersionPage(Page[RuleVersionOut]):
    """One page of versions, newest first."""


@api.post(
    "/v1/rules/versions", scope="rules:publish", status=201, if_match="required", idempotent=True, example=EXAMPLE
)
def publish_rules(context: Context, body: RuleSet) -> Reply[RuleVersionOut]:
    """Publish rules

    In force for events recorded from now on; what was awarded stays. `If-Match` names the current version, so that
    nobody's version is replaced unseen; only the first version of a program goes without."""
    db = context.services.db
    version = service.publish(
        db,
        programs.read(db, context.program),
        body,
        expected_version=context.expected_version(required=False),
        published_by=context.caller.key,
        clock=context.services.clock,
    )
    return _answer(version, location=True)


@api.get("/v1/rules/versions", scope="rules:read", problems=(InvalidCursor,))
def list_rule_versions(context: Context, query: PageQuery) -> Reply[RuleVersionPage]:
    """List versions

    Newest first."""
    pager = Pager(context, query, "rules")
    versions = service.list_versions(context.services.db, context.program, limit=pager.limit + 1, after=pager.after)
    last = versions[pager.limit - 1].version if len(versions) > pager.limit else None
    return pager.reply(RuleVersionPage, [RuleVersionOut.of(version) for version in versions[: pager.limit]], last=last)


@api.get("/v1/rules/versions/<int:version>", scope="rules:read", problems=(NotFound,))
def read_rule_version(context: Context, version: VersionNumber) -> Reply[RuleVersionOut]:
    """Read a version"""
    return _answer(service.read(context.services.db, context.program, version))


@api.get("/v1/rules/current", scope="rules:read", problems=(NotFound,))
def read_current_rules(context: Context) -> Reply[RuleVersionOut]:
    """Read the current version"""
    version = service.latest(context.services.db, context.program)
    if version is None:
        raise NotFound("No rules have been published. Publish some with POST /v1/rules/versions.")
    return _answer(version)


def _answer(version: Version, *, location: bool = False) -> Reply[RuleVersionOut]:
    headers = {"Location": f"/v1/rules/versions/{version.version}"} if location else {}
    return Reply(RuleVersionOut.of(version), etag=version_tag(version.version), headers=headers)
