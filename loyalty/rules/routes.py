"""/v1/rules"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from loyalty.infra.http.context import version_tag
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.model import Body, Out, Page, PageQuery, Query, Timestamp
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.problems import InvalidCursor
from loyalty.infra.problems import NotFound, ValidationFailed
from loyalty.programs import service as programs
from loyalty.rules import budgets, checks, diff, drafts, service
from loyalty.rules.drafts import Draft
from loyalty.rules.model import (
    ApprovalRequired,
    Campaign,
    DraftOutdated,
    Note,
    OwnDraft,
    Proposal,
    Rule,
    RuleSet,
    Segment,
)
from loyalty.rules.service import Version
from loyalty.tiers import service as tiers

api = Api("rules", "Rules", "What earns points. Published as numbered versions that never change.")

EXAMPLE = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "rounding": "floor"}]}
RICH_EXAMPLE = {
    "rules": [
        {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "basis": {"exclude_tax": True}},
        {
            "type": "multiplier",
            "id": "weekend-music",
            "factor": "2.000",
            "where": 'category in ("music", "books")',
            "when": "time.weekday in (sat, sun) and event.amount >= 20.00",
            "campaign": "spring",
        },
        {"type": "fixed", "id": "birthday", "points": 100, "events": ["birthday"], "caps": {"per_year": 100}},
    ],
    "campaigns": [{"id": "spring", "starts_at": "2026-03-01T00:00:00Z", "ends_at": "2026-06-01T00:00:00Z"}],
    "note": "Spring campaign",
}

VersionNumber = Annotated[int, Field(description="The number of the version, from 1.", examples=[1])]
DraftPath = Annotated[str, Field(description="The id of a draft.", examples=["drf_01j00000000000000000000000"])]


def _absent(value: object) -> bool:
    return value is None or value in ([], {})


def _where_told(default: Any, description: str, **options: Any) -> Any:
    """A field that answers leave out where there is nothing to say."""
    return Field(default, description=description, exclude_if=_absent, **options)


class _RulesOut(Out):
    """Rules with all around them."""

    rules: list[Rule] = Field(description="The rules.")
    campaigns: list[Campaign] = _where_told([], "The campaigns that rules are part of.")
    segments: list[Segment] = _where_told([], "The segments that conditions ask for.")
    stacking: Literal["multiply", "add", "best"] | None = _where_told(
        None, "How several multipliers of a rule act together, where it is not `multiply`."
    )
    groups: dict[str, Literal["best", "first"]] = _where_told({}, "Which rule of a group gives.")
    texts: dict[str, str] = _where_told(
        {}, "The text of each condition, by its place.", examples=[{"/rules/0/when": "event.amount >= 50.00"}]
    )
    note: str | None = _where_told(None, "Why the rules are so.")


class RuleVersionOut(_RulesOut):
    """A published version of the rules. It never changes."""

    version: int = Field(description="Its number, from 1; the ETag carries it.", examples=[1])
    published_at: Timestamp = Field(description="When it was published.")
    published_by: str = Field(description="The key that published it.")
    authors: list[str] = _where_told([], "The keys that wrote the draft that it was.")
    approved_by: list[str] = _where_told([], "The keys that approved the draft.")
    republishes: int | None = _where_told(None, "The older version whose rules it brings back.")

    @staticmethod
    def of(version: Version) -> RuleVersionOut:
        """The wire form of a version."""
        return RuleVersionOut(
            version=version.version,
            published_at=version.published_at,
            published_by=version.published_by,
            authors=list(version.authors),
            approved_by=list(version.approved_by),
            republishes=version.republishes,
            note=version.note,
            **_rules(version.rule_set),
        )


class RuleVersionPage(Page[RuleVersionOut]):
    """One page of versions, newest first."""


class ApprovalOut(Out):
    """Somebody agreed with a draft as it is."""

    key: str = Field(description="The key.")
    at: Timestamp = Field(description="When.")


class RuleDraftOut(_RulesOut):
    """Rules that are not in force."""

    id: str = Field(description="The draft's id.", examples=["drf_01j00000000000000000000000"])
    version: int = Field(description="Grows with every change; the ETag carries it.")
    based_on: int = Field(description="The version that was current when it was saved, which it is meant to follow.")
    authors: list[str] = Field(description="The keys that wrote any of it.")
    approvals: list[ApprovalOut] = Field(description="Who has agreed with it as it is.")
    created_at: Timestamp = Field(description="When it was created.")
    changed_at: Timestamp = Field(description="When it was last saved.")

    @staticmethod
    def of(draft: Draft) -> RuleDraftOut:
        """The wire form of a draft."""
        return RuleDraftOut(
            id=draft.id,
            version=draft.version,
            based_on=draft.based_on,
            authors=list(draft.authors),
            approvals=[ApprovalOut(key=key, at=at) for key, at in sorted(draft.approvals.items())],
            created_at=draft.created_at,
            changed_at=draft.changed_at,
            note=draft.note,
            **_rules(draft.rule_set),
        )


class RuleDraftPage(Page[RuleDraftOut]):
    """One page of drafts, newest first."""


class RuleDefect(Out):
    """One thing that is wrong."""

    pointer: str = Field(description="Where, as a JSON pointer.", examples=["/rules/0/when"])
    code: str = Field(description="What kind of defect it is.", examples=["invalid_value"])
    detail: str = Field(description="What would be right; of a text with line, column and a suggestion.")


class RuleValidationOut(Out):
    """Whether rules could be saved as they are."""

    valid: bool = Field(description="Whether nothing is wrong with them.")
    errors: list[RuleDefect] = Field(description="Everything that is.")
    texts: dict[str, str] = Field(description="The text of each condition, by its place; none where one is wrong.")


class BudgetOut(Out):
    """What a campaign with a budget has given."""

    campaign: str = Field(description="The campaign.", examples=["spring"])
    budget_points: int = Field(description="The points that it may give to all members together.", examples=[100_000])
    given_points: int = Field(description="The points that it has given; refunds do not take from it.", examples=[2500])
    left_points: int = Field(description="The points that it may still give.", examples=[97_500])


class BudgetsOut(Out):
    """The budgets of the rules in force."""

    data: list[BudgetOut] = Field(description="By the id of the campaign.")


class FieldChange(Out):
    """One field that differs."""

    field: str = Field(description="Which, as a JSON pointer.", examples=["/points"])
    before: Any = Field(description="What it was; null if it was absent.", examples=[1])
    after: Any = Field(description="What it is; null if it is absent.", examples=[2])


class MemberChange(Out):
    """A rule, a campaign or a segment that differs."""

    id: str = Field(description="Its id.", examples=["base"])
    fields: list[FieldChange] = Field(description="Its fields that differ.")


class ListChange(Out):
    """What became of rules, campaigns or segments. Conditions are shown as texts."""

    added: list[dict[str, Any]] = Field(description="Those that are new.")
    removed: list[dict[str, Any]] = Field(description="Those that are gone.")
    changed: list[MemberChange] = Field(description="Those that differ.")


class RuleDiffOut(Out):
    """What has to be done to the first rules to make the second of them."""

    rules: ListChange = Field(description="The rules, by their ids.")
    campaigns: ListChange = Field(description="The campaigns, by their ids.")
    segments: ListChange = Field(description="The segments, by their ids.")
    settings: list[FieldChange] = Field(description="How multipliers stack, and which rules of groups give.")


class Republication(Body):
    """Why an older version comes back."""

    note: Note | None = Field(None, description="Why, for those who read the versions later.")


class CurrentQuery(Query):
    """Of when."""

    at: Timestamp | None = Field(None, description="An instant: the version that was current then; now if absent.")


# -- versions ---------------------------------------------------------------------------------------------------------


@api.post(
    "/v1/rules/versions",
    scope="rules:publish",
    status=201,
    if_match="required",
    idempotent=True,
    problems=(ApprovalRequired,),
    example=EXAMPLE,
)
def publish_rules(context: Context, body: Proposal) -> Reply[RuleVersionOut]:
    """Publish rules

    In force for events recorded from now on; what was awarded stays. `If-Match` names the current version, so that
    nobody's version is replaced unseen; only the first version of a program goes without. Where the program's policy
    is `rules_four_eyes`, publish a draft instead."""
    db = context.services.db
    version = service.publish(
        db,
        programs.read(db, context.program),
        body,
        expected_version=context.expected_version(required=False),
        published_by=context.caller.key,
        clock=context.services.clock,
        note=body.note,
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


@api.get("/v1/rules/versions/<int:version>/diff/<int:other>", scope="rules:read", problems=(NotFound,))
def compare_rule_versions(context: Context, version: VersionNumber, other: VersionNumber) -> RuleDiffOut:
    """Compare versions

    What the second one has, and the first one has not."""
    db = context.services.db
    before, after = (service.read(db, context.program, number).rule_set for number in (version, other))
    return _difference(before, after)


@api.post(
    "/v1/rules/versions/<int:version>/republish",
    scope="rules:publish",
    status=201,
    if_match="required",
    idempotent=True,
    problems=(NotFound, ApprovalRequired),
    example={"note": "The spring campaign is over"},
)
def republish_rules(context: Context, version: VersionNumber, body: Republication) -> Reply[RuleVersionOut]:
    """Bring a version back

    Publishes the rules of an older version as a new one: the way back when something went wrong. `If-Match` names the
    current version."""
    db = context.services.db
    made = service.republish(
        db,
        programs.read(db, context.program),
        version,
        expected_version=context.expected_version(),
        published_by=context.caller.key,
        clock=context.services.clock,
        note=body.note,
    )
    return _answer(made, location=True)


@api.get("/v1/rules/current", scope="rules:read", problems=(NotFound,))
def read_current_rules(context: Context, query: CurrentQuery) -> Reply[RuleVersionOut]:
    """Read the current version

    Or, with `at`, the one that was current then."""
    db = context.services.db
    if query.at is not None:
        return _answer(service.read_at(db, context.program, query.at))
    version = service.latest(db, context.program)
    if version is None:
        raise NotFound("No rules have been published. Publish some with POST /v1/rules/versions.")
    return _answer(version)


# -- drafts -----------------------------------------------------------------------------------------------------------


@api.post("/v1/rules/validate", scope="rules:read", problems=(ValidationFailed,), example=RICH_EXAMPLE)
def validate_rules(context: Context, raw: bytes) -> RuleValidationOut:
    """Validate rules

    Says everything that is wrong with them at once, and saves nothing. Answers 200 whether they are right or not."""
    program = programs.read(context.services.db, context.program)
    levels = tiers.level_ids(context.services.db, context.program)
    rule_set, found = checks.inspect(raw, program.currency, program.policies, levels)
    return RuleValidationOut(
        valid=not found,
        errors=[RuleDefect(**defect) for defect in found],
        texts={} if found or rule_set is None else checks.texts(rule_set),
    )


@api.post("/v1/rules/drafts", scope="rules:write", status=201, idempotent=True, example=RICH_EXAMPLE)
def create_rule_draft(context: Context, body: Proposal) -> Reply[RuleDraftOut]:
    """Create a draft

    Rules that can be read, tried on history and approved before they are in force."""
    db = context.services.db
    program = programs.read(db, context.program)
    draft = drafts.create(db, program, body, by=context.caller.key, clock=context.services.clock)
    return _draft(draft, location=True)


@api.get("/v1/rules/drafts", scope="rules:read", problems=(InvalidCursor,))
def list_rule_drafts(context: Context, query: PageQuery) -> Reply[RuleDraftPage]:
    """List drafts

    Newest first."""
    pager = Pager(context, query, "rule_drafts")
    found = drafts.list_drafts(context.services.db, context.program, limit=pager.limit + 1, after=pager.after)
    last = found[pager.limit - 1].id if len(found) > pager.limit else None
    return pager.reply(RuleDraftPage, [RuleDraftOut.of(draft) for draft in found[: pager.limit]], last=last)


@api.get("/v1/rules/drafts/<draft>", scope="rules:read", problems=(NotFound,))
def read_rule_draft(context: Context, draft: DraftPath) -> Reply[RuleDraftOut]:
    """Read a draft"""
    return _draft(drafts.read(context.services.db, context.program, draft))


@api.get("/v1/rules/drafts/<draft>/diff", scope="rules:read", problems=(NotFound,))
def compare_rule_draft(context: Context, draft: DraftPath) -> RuleDiffOut:
    """Compare a draft

    What it has, and the current version has not."""
    db = context.services.db
    found, current = drafts.read(db, context.program, draft), service.latest(db, context.program)
    return _difference(RuleSet.model_construct(rules=[]) if current is None else current.rule_set, found.rule_set)


@api.declare(
    "PUT",
    "/v1/rules/drafts/<draft>",
    scope="rules:write",
    if_match="required",
    idempotent=True,
    problems=(NotFound,),
    example=RICH_EXAMPLE,
)
def replace_rule_draft(context: Context, draft: DraftPath, body: Proposal) -> Reply[RuleDraftOut]:
    """Save a draft

    All of it is replaced. It is meant to follow the version that is current now, and nobody has approved it any
    more."""
    db = context.services.db
    changed = drafts.replace(
        db,
        programs.read(db, context.program),
        draft,
        body,
        expected_version=context.expected_version(),
        by=context.caller.key,
        clock=context.services.clock,
    )
    return _draft(changed)


@api.delete("/v1/rules/drafts/<draft>", scope="rules:write", if_match="required", idempotent=True, problems=(NotFound,))
def delete_rule_draft(context: Context, draft: DraftPath) -> Reply[RuleDraftOut]:
    """Throw a draft away

    The answer is what it was."""
    db = context.services.db
    return _draft(drafts.delete(db, context.program, draft, expected_version=context.expected_version()))


@api.post(
    "/v1/rules/drafts/<draft>/approve",
    scope="rules:publish",
    if_match="required",
    idempotent=True,
    problems=(NotFound, OwnDraft),
)
def approve_rule_draft(context: Context, draft: DraftPath) -> Reply[RuleDraftOut]:
    """Approve a draft

    With another key than those that wrote it, or their successors. `If-Match` names what was read; a change of the
    draft takes the approval back."""
    approved = drafts.approve(
        context.services.db,
        context.program,
        draft,
        expected_version=context.expected_version(),
        by=context.caller.key,
        clock=context.services.clock,
    )
    return _draft(approved)


@api.post(
    "/v1/rules/drafts/<draft>/publish",
    scope="rules:publish",
    status=201,
    if_match="required",
    idempotent=True,
    problems=(NotFound, ApprovalRequired, DraftOutdated, ValidationFailed),
)
def publish_rule_draft(context: Context, draft: DraftPath) -> Reply[RuleVersionOut]:
    """Publish a draft

    It becomes the next version and is no draft any more. Refused when another version was published since it was
    saved, and, where the program's policy is `rules_four_eyes`, when nobody else has approved it."""
    db = context.services.db
    version = drafts.publish(
        db,
        programs.read(db, context.program),
        draft,
        expected_version=context.expected_version(),
        published_by=context.caller.key,
        clock=context.services.clock,
    )
    return _answer(version, location=True)


@api.get("/v1/rules/budgets", scope="rules:read")
def read_budgets(context: Context) -> BudgetsOut:
    """Read the budgets

    What the campaigns of the rules in force may give to all members together, and have given."""
    db = context.services.db
    rules = service.current(db, programs.get(db, context.program))
    limits = {} if rules is None else rules.budgets
    given = budgets.given(db, context.program, limits)
    return BudgetsOut(
        data=[
            BudgetOut(
                campaign=campaign,
                budget_points=limit,
                given_points=given[campaign],
                left_points=max(0, limit - given[campaign]),
            )
            for campaign, limit in sorted(limits.items())
        ]
    )


def _answer(version: Version, *, location: bool = False) -> Reply[RuleVersionOut]:
    headers = {"Location": f"/v1/rules/versions/{version.version}"} if location else {}
    return Reply(RuleVersionOut.of(version), etag=version_tag(version.version), headers=headers)


def _draft(draft: Draft, *, location: bool = False) -> Reply[RuleDraftOut]:
    headers = {"Location": f"/v1/rules/drafts/{draft.id}"} if location else {}
    return Reply(RuleDraftOut.of(draft), etag=version_tag(draft.version), headers=headers)


def _rules(rule_set: RuleSet) -> dict[str, Any]:
    return {
        "rules": rule_set.rules,
        "campaigns": rule_set.campaigns,
        "segments": rule_set.segments,
        "stacking": None if rule_set.stacking == "multiply" else rule_set.stacking,
        "groups": dict(rule_set.groups),
        "texts": checks.texts(rule_set),
    }


def _difference(before: RuleSet, after: RuleSet) -> RuleDiffOut:
    difference = diff.compare(before, after)
    return RuleDiffOut(
        rules=_list_change(difference.rules),
        campaigns=_list_change(difference.campaigns),
        segments=_list_change(difference.segments),
        settings=[_field_change(change) for change in difference.settings],
    )


def _list_change(changes: diff.Changes) -> ListChange:
    return ListChange(
        added=changes.added,
        removed=changes.removed,
        changed=[
            MemberChange(id=name, fields=[_field_change(change) for change in fields])
            for name, fields in changes.changed.items()
        ],
    )


def _field_change(change: diff.Change) -> FieldChange:
    return FieldChange(field=change.field, before=change.before, after=change.after)
