"""The configuration of a program as one document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from loyalty.infra.http.model import Body, Out
from loyalty.programs.model import AutoEnrol, BackdatingDays, Currency, ProgramName, TimeZone
from loyalty.programs.policies import Policies, WalletName
from loyalty.rewards.model import Cost, Limit, RewardName, Stock
from loyalty.rules.model import RuleSet
from loyalty.tiers.model import TierScheme


class Settings(Body):
    """What the program is."""

    name: ProgramName
    currency: Currency
    timezone: TimeZone
    backdating_days: BackdatingDays = None
    auto_enrol: AutoEnrol = True
    policies: Policies = Field(default_factory=Policies, description="How its points behave.")


class RewardSettings(Body):
    """A reward on offer, known by its name."""

    name: RewardName = Field(description="What it is called; unique in the document.", examples=["Coffee"])
    cost: Cost
    wallet: WalletName = Field("points", description="The wallet that pays for it.")
    available: bool = Field(True, description="Whether it can be redeemed.")
    stock: Stock = None
    limit_per_member: Limit = None


def _unique_names(rewards: list[RewardSettings]) -> list[RewardSettings]:
    if len({reward.name for reward in rewards}) != len(rewards):
        raise ValueError("names a reward twice")
    return rewards


class Configuration(Body):
    """All that decides points in a program. A part that is absent is left as it is."""

    format: Literal[1] = Field(description="The version of this format.")
    program: Settings | None = Field(None, description="What the program is.")
    rules: RuleSet | None = Field(None, description="What earns points.")
    tiers: TierScheme | None = Field(None, description="The levels of members.")
    rewards: Annotated[list[RewardSettings], AfterValidator(_unique_names)] | None = Field(
        None, max_length=1000, description="What points buy. Rewards that it does not name are taken off the offer."
    )


class DifferenceOut(Out):
    """One field that differs."""

    path: str = Field(description="Where.", examples=["/rules/rules/[base]/points"])
    change: Literal["added", "removed", "changed"] = Field(description="What happens to it.")
    before: Any = Field(None, description="The value now; absent when it is added.")
    after: Any = Field(None, description="The value of the document; absent when it is removed.")


class PlanOut(Out):
    """What applying a configuration changes."""

    differences: list[DifferenceOut] = Field(description="Every difference; none when the program is as it says.")


class AppliedOut(PlanOut):
    """What applying a configuration has changed."""

    parts: list[Literal["program", "rules", "tiers", "rewards"]] = Field(description="The parts that were changed.")
