"""The policies of a program: every behaviour in which loyalty programs differ, each with a default.

They are part of the program's document. A program without any, or without some, goes by the defaults that stand here.
All days are days of the program's time zone.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from loyalty.infra.http.model import Body

MOST_WALLETS: Final = 10
MOST_DAYS: Final = 3660
MOST_MONTHS: Final = 120


def _check_day(value: str) -> str:
    date.fromisoformat(value)
    return value


def _check_day_of_year(value: str) -> str:
    date.fromisoformat(f"2024-{value}")  # a leap year: 02-29 is a day of the year, which common years end on the 28th
    return value


WalletName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$"), Field(description="A wallet.", examples=["points"])
]
Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$"), AfterValidator(_check_day)]
DayOfYear = Annotated[str, StringConstraints(pattern=r"^\d\d-\d\d$"), AfterValidator(_check_day_of_year)]
EventType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]
PaymentMethod = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Decimal = Annotated[str, StringConstraints(pattern=r"^\d{1,15}(\.\d{1,6})?$")]
Months = Annotated[int, Field(ge=1, le=MOST_MONTHS)]
Days = Annotated[int, Field(ge=1, le=MOST_DAYS)]


class NoPending(Body):
    """Points are available at once."""

    type: Literal["none"] = Field("none", description="The kind of waiting.")


class PeriodPending(Body):
    """Points become available when the day begins that is `days` after the day of the event."""

    type: Literal["period"] = Field(description="The kind of waiting.")
    days: Days = Field(description="So many days.")


class DatePending(Body):
    """Points become available when a given day begins; those of later events are available at once."""

    type: Literal["date"] = Field(description="The kind of waiting.")
    date: Day = Field(description="The day, YYYY-MM-DD.", examples=["2027-01-01"])


class EventPending(Body):
    """Points wait for an event of this type that refers to theirs (`refers_to`)."""

    type: Literal["event"] = Field(description="The kind of waiting.")
    event_type: EventType = Field(
        description="The type of the event that makes them available.", examples=["delivered"]
    )


class ManualPending(Body):
    """Points wait until somebody makes them available."""

    type: Literal["manual"] = Field(description="The kind of waiting.")


PendingPolicy = Annotated[
    NoPending | PeriodPending | DatePending | EventPending | ManualPending, Field(discriminator="type")
]


class NeverExpiry(Body):
    """Points never expire."""

    type: Literal["never"] = Field("never", description="The kind of expiry.")


class _Duration(Body):
    months: Months | None = Field(None, description="So many months, to the last day of a shorter one.")
    days: Days | None = Field(None, description="Or so many days.")

    @model_validator(mode="after")
    def _one_of_both(self) -> _Duration:
        if (self.months is None) == (self.days is None):
            raise ValueError("give either months or days")
        return self


class RollingExpiry(_Duration):
    """Points expire so long after they became available, at the end of the day, month, quarter or year of that day."""

    type: Literal["rolling"] = Field(description="The kind of expiry.")
    round_up_to: Literal["day", "month", "quarter", "year"] | None = Field(
        "day", description="The period at whose end they expire; null for the very instant."
    )


class DatesExpiry(Body):
    """Points expire at the end of the next of these days of the year."""

    type: Literal["dates"] = Field(description="The kind of expiry.")
    dates: list[DayOfYear] = Field(
        min_length=1, max_length=12, description="Days of the year, MM-DD.", examples=[["03-31", "12-31"]]
    )
    at_least_days: int = Field(
        0, ge=0, le=MOST_DAYS, description="A day nearer than this to the day they became available is passed over."
    )


Activity = Literal["earn", "spend"]


def _any_activity() -> list[Activity]:
    return ["earn", "spend"]


class InactivityExpiry(_Duration):
    """All available points of the wallet lapse at the end of the day so long after the member's last activity in it.

    To a refund, points that lapsed are points that were spent."""

    type: Literal["inactivity"] = Field(description="The kind of expiry.")
    activity: list[Activity] = Field(
        default_factory=_any_activity, min_length=1, max_length=2, description="What counts as activity."
    )


LotExpiryPolicy = Annotated[NeverExpiry | RollingExpiry | DatesExpiry, Field(discriminator="type")]
"""What a rule can say of its own points. Inactivity is of a whole wallet."""

ExpiryPolicy = Annotated[NeverExpiry | RollingExpiry | DatesExpiry | InactivityExpiry, Field(discriminator="type")]


class WalletPolicy(Body):
    """How the points of one wallet behave."""

    spendable: bool = Field(True, description="Whether they pay for rewards, holds and purchases.")
    transferable: bool = Field(False, description="Whether members may give them to each other.")
    pending: PendingPolicy = Field(default_factory=NoPending, description="When earned points become available.")
    expiry: ExpiryPolicy = Field(default_factory=NeverExpiry, description="When available points expire.")
    max_balance: int | None = Field(
        None,
        ge=1,
        le=1 << 53,
        description="What the wallet holds at most, pending and held points included; awards are reduced to fit.",
    )
    overspent_refund: Literal["stop_at_zero", "pending_only", "negative"] = Field(
        "stop_at_zero",
        description="When a refund takes back points that were spent: stop at zero and record the shortfall, take only "
        "from points that still wait, or go below zero so that what is earned next makes up for it.",
    )
    restore_grace_days: int = Field(
        0,
        ge=0,
        le=MOST_DAYS,
        description="How long points that come back after their expiry are good for; 0: not at all.",
    )


class PointsPayment(Body):
    """What points are worth as a means of payment (`method: points`)."""

    wallet: WalletName = Field("points", description="The wallet that pays.")
    points: int = Field(ge=1, le=1_000_000_000, description="So many points …", examples=[100])
    amount: Decimal = Field(description="… pay this amount, in the program's currency.", examples=["1.00"])
    max_share_percent: int = Field(100, ge=1, le=100, description="The largest part of a purchase that points can pay.")


class Policies(Body):
    """The policies of a program. What is absent has its default."""

    wallets: dict[WalletName, WalletPolicy] = Field(
        default_factory=lambda: {"points": WalletPolicy()},
        min_length=1,
        max_length=MOST_WALLETS,
        description="The wallets that members have, and how each behaves.",
    )
    earn_on_points_paid: bool = Field(
        False, description="Whether the part of a purchase that points paid earns points."
    )
    unearning_payment_methods: list[PaymentMethod] = Field(
        default_factory=list,
        max_length=20,
        description="Other means of payment whose part of a purchase earns nothing. A gift card is money: it earns, "
        "unless it is named here.",
        examples=[["gift_card"]],
    )
    points_payment: PointsPayment | None = Field(
        None, description="What points are worth as a means of payment; null where they are none."
    )
    hold_seconds: int = Field(900, ge=1, le=604_800, description="How long a hold lives unless it says otherwise.")
    adjustment_approval_above: int | None = Field(
        None, ge=0, le=1 << 53, description="Adjustments of more points than this need a second person; null: none do."
    )
    rules_four_eyes: bool = Field(False, description="Whether somebody else than their author has to publish rules.")

    def wallet(self, name: str) -> WalletPolicy:
        """The policy of a wallet; the default for one that the program does not name."""
        return self.wallets.get(name, _DEFAULT_WALLET)


_DEFAULT_WALLET: Final = WalletPolicy()
DEFAULTS: Final = Policies()
"""What holds where a program says nothing."""
