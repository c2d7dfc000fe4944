"""Rules: what earns points. A program's rules are published together as an immutable, numbered version."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from loyalty.infra.http.model import Body

RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Amount = Annotated[str, StringConstraints(pattern=r"^\d{1,15}(\.\d{1,6})?$")]
Rounding = Literal["floor", "half_up", "ceil"]


class PointsPerSpend(Body):
    """`points` for every `per` of the purchase's amount, rounded once for the whole award."""

    type: Literal["points_per_spend"] = Field(description="The kind of rule.")
    id: RuleId = Field(description="Names the rule in explanations; unique in the version.", examples=["base"])
    wallet: Literal["points"] = Field("points", description="The wallet that the points enter.")
    points: int = Field(ge=1, le=1_000_000, description="Points for every `per`.", examples=[1])
    per: Amount = Field(description="An amount in the program's currency, above zero.", examples=["1.00"])
    rounding: Rounding = Field("floor", description="How a fraction of a point is rounded: `half_up` rounds .5 up.")
    minimum: Amount = Field("0", description="Purchases below this amount earn nothing.", examples=["5.00"])


class RuleSet(Body):
    """The rules of one version. Each one that applies adds its points."""

    rules: list[PointsPerSpend] = Field(min_length=1, max_length=100, description="The rules, in order of evaluation.")
