"""A scheme of tiers on the wire: what counts, over which window, which levels there are and how they are lost."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from loyalty.infra.http.model import Body, Out, Timestamp
from loyalty.infra.problems import Problem
from loyalty.programs.policies import WalletName
from loyalty.tiers.engine import MOST_DAYS

MOST_LEVELS: Final = 20
MOST_ROLLING_MONTHS: Final = 13
MOST_MONTHS: Final = 120
MOST_GRACE_DAYS: Final = 3660
MOST_VALUE: Final = 1 << 53

LevelId = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$"),
    Field(description="The id of a level.", examples=["gold"]),
]
Amount = Annotated[str, StringConstraints(pattern=r"^\d{1,15}(\.\d{1,6})?$")]
Count = Annotated[int, Field(ge=0, le=MOST_VALUE)]
Threshold = Count | Amount
Multiplier = Annotated[str, StringConstraints(pattern=r"^\d{1,3}(\.\d{1,3})?$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
LockReason = Annotated[
    str,
    StringConstraints(min_length=3, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Field(description="Why, for whoever reads the ledger later.", examples=["Founding customer"]),
]


class TiersNotPublished(Problem):
    """The program has no tiers. Publish them with POST /v1/tiers/versions."""

    code = "tiers_not_published"
    status = 409
    title = "The program has no tiers"


class EarnedBasis(Body):
    """Points that events earned in a wallet count, whatever became of them."""

    type: Literal["earned"] = Field(description="What counts.")
    wallet: WalletName


class SpendBasis(Body):
    """The amounts of purchases count, in the program's currency."""

    type: Literal["spend"] = Field(description="What counts.")


class VisitsBasis(Body):
    """Events of the type `visit` count, each as one."""

    type: Literal["visits"] = Field(description="What counts.")


class BalanceBasis(Body):
    """The points that are available in a wallet count. Spending and expiry lower the level; there is no window."""

    type: Literal["balance"] = Field(description="What counts.")
    wallet: WalletName


BasisBody = Annotated[EarnedBasis | SpendBasis | VisitsBasis | BalanceBasis, Field(discriminator="type")]


class CalendarWindow(Body):
    """Each week (from Monday), month, quarter or year of the program's zone counts from nothing."""

    type: Literal["calendar"] = Field(description="The kind of window.")
    unit: Literal["day", "week", "month", "quarter", "year"] = Field(description="Which.", examples=["year"])


class RollingWindow(Body):
    """The days up to today count, each for so long."""

    type: Literal["rolling"] = Field(description="The kind of window.")
    days: int | None = Field(None, ge=1, le=MOST_DAYS, description="So many days, today among them.", examples=[365])
    months: int | None = Field(
        None, ge=1, le=MOST_ROLLING_MONTHS, description="Or the days after today less so many months."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> RollingWindow:
        if (self.months is None) == (self.days is None):
            raise ValueError("give either months or days")
        return self


class AnniversaryWindow(Body):
    """Each span of so many months since the member joined counts from nothing."""

    type: Literal["anniversary"] = Field(description="The kind of window.")
    months: int = Field(12, ge=1, le=MOST_MONTHS, description="So many months.")


class LifetimeWindow(Body):
    """Everything counts, for ever."""

    type: Literal["lifetime"] = Field(description="The kind of window.")


WindowBody = Annotated[CalendarWindow | RollingWindow | AnniversaryWindow | LifetimeWindow, Field(discriminator="type")]


class LevelBody(Body):
    """A level and what it gives."""

    id: LevelId
    name: Name = Field(description="The name that members see.", examples=["Gold"])
    threshold: Threshold = Field(
        description="From this value on: a whole number of points or visits, or an amount such as `500.00` where spend "
        "counts. The lowest level has 0.",
        examples=[500],
    )
    earn_multiplier: Multiplier = Field(
        "1.000", description="Multiplies what rules give while a member has the level.", examples=["1.500"]
    )


class DowngradeBody(Body):
    """How levels are lost. The value is reviewed when a window ends, and in rolling windows at each midnight."""

    to: Literal["none", "one_level", "full"] = Field(
        "one_level", description="Never, one level at a review, or to the level that the value makes."
    )
    grace_days: int = Field(
        0, ge=0, le=MOST_GRACE_DAYS, description="So many days after the review, unless the value comes back by then."
    )


class TierScheme(Body):
    """The tiers of a version."""

    basis: BasisBody = Field(description="What counts.")
    window: WindowBody | None = Field(None, description="Which days count. A balance has no window; all others have.")
    levels: list[LevelBody] = Field(
        min_length=1, max_length=MOST_LEVELS, description="The levels, the lowest first, with growing thresholds."
    )
    downgrade: DowngradeBody = Field(default_factory=lambda: DowngradeBody(), description="How levels are lost.")


class TierVersionOut(Out):
    """A published version of the tiers. It never changes."""

    version: int = Field(description="Its number, from 1; the ETag carries it.", examples=[1])
    basis: BasisBody = Field(description="What counts.")
    window: WindowBody | None = Field(description="Which days count; null for a balance.")
    levels: list[LevelBody] = Field(description="The levels, the lowest first.")
    downgrade: DowngradeBody = Field(description="How levels are lost.")
    published_at: Timestamp = Field(description="When it was published.")
    published_by: str = Field(description="The key that published it.")


class TierLevelOut(Out):
    """A level."""

    id: str = Field(description="Its id.", examples=["gold"])
    name: str = Field(description="The name that members see.", examples=["Gold"])
    earn_multiplier: str = Field(description="Multiplies what rules give.", examples=["1.500"])


class NextTierOut(Out):
    """The next level."""

    level: str = Field(description="Its id.", examples=["gold"])
    missing: int | str = Field(
        description="What is missing: points or visits, or an amount where spend counts.", examples=[120]
    )


class ProjectedTierOut(Out):
    """What the next review makes of the level if nothing more happens."""

    level: str = Field(description="The id of the level after it.", examples=["silver"])


class TierOut(Out):
    """Where a member stands."""

    member: str = Field(description="The member.", examples=["mem_00000001"])
    as_of: Timestamp = Field(description="The instant that the answer is about.")
    version: int = Field(description="The version of the tiers that decides.", examples=[1])
    tier: TierLevelOut = Field(description="The level.")
    since: Timestamp = Field(description="Since when the member has it.")
    value: int | str = Field(
        description="What counts now: points or visits, or an amount where spend counts.", examples=[380]
    )
    to_next: NextTierOut | None = Field(description="The next level; null at the highest.")
    to_stay: int | str = Field(
        description="What is missing to stay at the next review, if nothing more happens; 0 when nothing is.",
        examples=[0],
    )
    projected: ProjectedTierOut = Field(description="After the next review, if nothing more happens.")
    drop_at: Timestamp | None = Field(description="When the level falls, if nothing more happens; null: it does not.")
    locked: bool = Field(description="Whether the level never falls.")


class TierChangeOut(Out):
    """A change of level."""

    at: Timestamp = Field(description="When.")
    level_before: str = Field(alias="from", description="The level before.", examples=["silver"])
    level_after: str = Field(alias="to", description="The level after.", examples=["gold"])
    reason: str = Field(
        description="`reached` the threshold, `fell` after a review, `locked` by hand, a new `scheme`, or `merged`.",
        examples=["reached"],
    )
    value: int | str = Field(description="What counted then.", examples=[512])
    entry: str | None = Field(
        description="The entry of the ledger that holds it; null while time's changes are not written down.",
        examples=["ent_00000000g0001"],
    )


class TierLock(Body):
    """A level to lock."""

    level: LevelId
    reason: LockReason


class TierLockOut(Out):
    """A lock that was set or released."""

    tier: TierOut = Field(description="Where the member stands after it.")
    entry: str = Field(description="The entry of the ledger that it is.", examples=["ent_00000000g0001"])
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")
