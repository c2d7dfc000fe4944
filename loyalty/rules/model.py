"""Rules: what earns points. A program's rules are published together as an immutable, numbered version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from loyalty.infra.http.model import Body, Timestamp
from loyalty.infra.problems import Problem
from loyalty.programs.policies import EventType, LotExpiryPolicy, PaymentMethod, PendingPolicy, WalletName
from loyalty.rules.expressions import OfMember, When, Where

RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Amount = Annotated[str, StringConstraints(pattern=r"^\d{1,15}(\.\d{1,6})?$")]
Factor = Annotated[str, StringConstraints(pattern=r"^\d{1,3}(\.\d{1,3})?$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Rounding = Literal["floor", "half_up", "ceil"]
Cap = Annotated[int, Field(ge=1, le=1 << 53)]

MOST_RULES = 200


def _unique(values: list[str]) -> list[str]:
    if len(set(values)) != len(values):
        raise ValueError("names something twice")
    return values


EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=20), AfterValidator(_unique)]


def _optional(default: Any, description: str, **options: Any) -> Any:
    """A field that documents and answers leave out where it says nothing: simple rules stay short."""
    return Field(default, description=description, exclude_if=lambda value: value == default, **options)


class Caps(Body):
    """Limits on points. Those of a period reduce what is given to what is left; the one per event refuses it."""

    per_event: Cap | None = _optional(None, "Points that one event may give. One that would give more gives none.")
    per_day: Cap | None = _optional(None, "Points a member may get in a day of the program's zone.")
    per_week: Cap | None = _optional(None, "Points a member may get in a week, Monday to Sunday.")
    per_month: Cap | None = _optional(None, "Points a member may get in a calendar month.", examples=[500])
    per_year: Cap | None = _optional(None, "Points a member may get in a calendar year.")
    per_member: Cap | None = _optional(None, "Points a member may ever get.")
    over: Literal["reduce", "reject"] | None = _optional(
        None, "What happens above any of the caps, where the usual does not suit: give what is left, or nothing."
    )


class Basis(Body):
    """Which part of a purchase counts."""

    exclude_tax: bool = _optional(False, "Whether the tax is taken off.")
    exclude_shipping: bool = _optional(False, "Whether shipping is taken off.")
    only: Where | None = _optional(None, "Only the lines for which this holds count.")
    exclude: Where | None = _optional(
        None, "The lines for which this holds do not count.", examples=['category = "tobacco"']
    )
    exclude_payments: list[PaymentMethod] = _optional(
        [], "Parts that were paid by these means do not count, beside those that the program names.", max_length=20
    )


class _Rule(Body):
    """What all rules have."""

    id: RuleId = Field(description="Names the rule in explanations; unique in the version.", examples=["base"])
    name: Name | None = _optional(None, "What people call it.")
    when: When | None = _optional(
        None, "The condition under which the rule applies: a tree, or its text.", examples=["event.amount >= 50.00"]
    )
    events: EventTypes | None = _optional(None, "The types of events that it looks at, where the usual do not suit.")
    priority: int = _optional(
        0, "Rules are looked at from the highest to the lowest; equal ones by their ids.", ge=-1000, le=1000
    )
    group: RuleId | None = _optional(None, "Of the rules of a group only one gives: see `groups`.")
    stop: bool = _optional(False, "Whether the rules after it are left out when it applies.")
    starts_at: Timestamp | None = _optional(None, "From when on it applies, by the time of the event.")
    ends_at: Timestamp | None = _optional(None, "From when on it no longer applies.")
    campaign: RuleId | None = _optional(None, "The campaign that it is part of, which limits it.")


class _Earning(_Rule):
    """What all rules have that give points."""

    wallet: WalletName = Field("points", description="The wallet that the points enter.")
    points: int = Field(ge=1, le=1_000_000, description="The points.", examples=[1])
    caps: Caps | None = _optional(None, "Limits on what the rule gives.")
    pending: PendingPolicy | None = _optional(None, "When its points become available, if not as the wallet says.")
    expiry: LotExpiryPolicy | None = _optional(None, "When its points expire, if not as the wallet says.")
    tier_multiplier: bool = _optional(True, "Whether the multiplier of the member's tier counts.")


class PointsPerSpend(_Earning):
    """`points` for every `per` of what a purchase counts, rounded once for the whole award."""

    type: Literal["points_per_spend"] = Field(description="The kind of rule.")
    points: int = Field(ge=1, le=1_000_000, description="Points for every `per`.", examples=[1])
    per: Amount = Field(description="An amount in the program's currency, above zero.", examples=["1.00"])
    rounding: Rounding = Field("floor", description="How a fraction of a point is rounded: `half_up` rounds .5 up.")
    minimum: Amount = Field("0", description="Purchases that count for less earn nothing.", examples=["5.00"])
    basis: Basis | None = _optional(None, "Which part of a purchase counts, if not all of it.")


class PointsPerItem(_Earning):
    """`points` for every piece of the lines of a purchase, or of some of them."""

    type: Literal["points_per_item"] = Field(description="The kind of rule.")
    points: int = Field(ge=1, le=1_000_000, description="Points for every piece.", examples=[1])
    where: Where | None = _optional(
        None, "Only the pieces of lines for which this holds count.", examples=['category = "coffee"']
    )
    rounding: Rounding = Field("floor", description="How a fraction of a point is rounded: `half_up` rounds .5 up.")


class PointsPerVisit(_Earning):
    """`points` for every visit."""

    type: Literal["points_per_visit"] = Field(description="The kind of rule.")


class FixedPoints(_Earning):
    """`points` for an event for which the condition holds."""

    type: Literal["fixed"] = Field(description="The kind of rule.")


class Multiplier(_Rule):
    """Multiplies what other rules of its wallet give."""

    type: Literal["multiplier"] = Field(description="The kind of rule.")
    wallet: WalletName = Field("points", description="The wallet whose rules it multiplies.")
    factor: Factor = Field(description="By how much, with up to three decimals.", examples=["2.000"])
    applies_to: Literal["all"] | list[RuleId] = Field("all", description="The rules that it multiplies, or `all`.")
    where: Where | None = _optional(
        None, "Only what lines earn for which this holds is multiplied.", examples=['brand = "acme"']
    )


class Benefit(_Rule):
    """Grants something that is not points; it is named in the entry of the event."""

    type: Literal["benefit"] = Field(description="The kind of rule.")
    benefit: RuleId = Field(description="Names what is granted.", examples=["free-shipping"])


Rule = Annotated[
    PointsPerSpend | PointsPerItem | PointsPerVisit | FixedPoints | Multiplier | Benefit, Field(discriminator="type")
]
Earning = (PointsPerSpend, PointsPerItem, PointsPerVisit, FixedPoints)


class Budget(Body):
    """What a campaign may cost."""

    points: Cap | None = _optional(None, "Points that it may give to all members together.", examples=[1_000_000])
    amount: Amount | None = _optional(
        None, "What these points may be worth, by the program's points_payment.", examples=["10000.00"]
    )


class Campaign(Body):
    """Rules that run together for a time, with limits of their own."""

    id: RuleId = Field(description="Names the campaign; unique in the version.", examples=["spring"])
    name: Name | None = _optional(None, "What people call it.")
    starts_at: Timestamp | None = _optional(None, "From when on its rules apply, by the time of the event.")
    ends_at: Timestamp | None = _optional(None, "From when on they no longer apply.")
    when: When | None = _optional(None, "The condition under which its rules apply.")
    wallet: WalletName = Field("points", description="The wallet whose points its limits count.")
    caps: Caps | None = _optional(None, "Limits on what its rules give a member together.")
    budget: Budget | None = _optional(
        None, "Limits on what its rules give to all members together, over all versions that name the campaign."
    )


class Segment(Body):
    """Members who have something in common. Conditions ask for them: `member.segments contains "newcomers"`."""

    id: RuleId = Field(description="Names the segment; unique in the version.", examples=["newcomers"])
    name: Name | None = _optional(None, "What people call it.")
    when: OfMember = Field(
        description="The condition that its members fulfil, at any moment: a tree, or its text. It looks at what is "
        "known of a person, not at points.",
        examples=["member.days_since_joined < 30"],
    )


class RuleSet(Body):
    """The rules of one version. Each one that applies adds its points."""

    rules: list[Rule] = Field(min_length=1, max_length=MOST_RULES, description="The rules; their order means nothing.")
    campaigns: list[Campaign] = _optional([], "The campaigns that rules are part of.", max_length=100)
    segments: list[Segment] = _optional([], "The segments that conditions ask for.", max_length=100)
    stacking: Literal["multiply", "add", "best"] = _optional(
        "multiply",
        "How several multipliers of a rule, that of the tier included, act together: one after the other, by the sum "
        "of what each adds, or only the largest.",
    )
    groups: dict[RuleId, Literal["best", "first"]] = _optional(
        {},
        "Which rule of a group gives: the one with the most points (the usual), or the first that applies.",
        max_length=100,
    )

    def document(self) -> dict[str, Any]:
        """The form that is stored, and compared."""
        return self.model_dump(mode="json", by_alias=True, include=set(RuleSet.model_fields))


Note = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Proposal(RuleSet):
    """Rules, and why they are so."""

    note: Note | None = _optional(None, "Why, for those who read the versions later.", examples=["Spring campaign"])


class ApprovalRequired(Problem):
    """The program wants four eyes on its rules: another key than the authors' has to approve a draft first."""

    code = "approval_required"
    status = 409
    title = "Somebody else has to approve the rules"


class OwnDraft(Problem):
    """Two people decide: a key that wrote a draft cannot approve it. Use another key."""

    code = "own_draft"
    status = 409
    title = "The draft is the key's own"


class DraftOutdated(Problem):
    """A version was published since the draft was written. Compare it with the current version, then save it again."""

    code = "draft_outdated"
    status = 409
    title = "The draft was written for another version"
