"""An event on the wire: one fact, told once by its source."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from loyalty.infra.http.model import Body, Out, Timestamp
from loyalty.infra.problems import Problem, Unavailable
from loyalty.members.model import MemberReference
from loyalty.points.model import BucketsOut, EntryOut, ExplanationOut

MOST_IN_A_BATCH = 5000
BATCH_BYTES = 16 << 20


def _check_metadata(value: Any) -> Any:
    if value is not None and not isinstance(value, str | int):
        raise ValueError("must be a text, a whole number, true, false or null")
    if isinstance(value, str) and len(value) > 500:
        raise ValueError("must have at most 500 characters")
    if isinstance(value, int) and abs(value) >= 1 << 53:
        raise ValueError("must be a whole number that JSON readers can hold exactly")
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Source = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,63}$")]
Amount = Annotated[
    str,
    StringConstraints(pattern=r"^\d{1,15}(\.\d{1,6})?$"),
    Field(description="A decimal string in the event's currency; never a JSON number.", examples=["11.77"]),
]
MetadataName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z][a-zA-Z0-9_.-]{0,63}$")]
MetadataValue = Annotated[
    Any,
    AfterValidator(_check_metadata),
    WithJsonSchema({"type": ["string", "integer", "boolean", "null"], "maxLength": 500}),
]


class TooManyEvents(Problem):
    """A batch has at most `max_events` events. Send the rest in another one."""

    code = "too_many_events"
    status = 413
    title = "The batch has too many events"


class RefundExceedsPurchase(Problem):
    """A purchase can be refunded once: `left_amount` and `left_items` are what is left of it. Refund no more."""

    code = "refund_exceeds_purchase"
    status = 409
    title = "More would be refunded than was bought"


class OfAnotherMember(Problem):
    """The event that this one refers to is another member's. Name that member, or the event that is meant."""

    code = "event_of_another_member"
    status = 409
    title = "The event that is referred to is another member's"


class NotRefundable(Problem):
    """The event that the refund refers to awarded nothing that could be taken back: it is a refund itself."""

    code = "not_refundable"
    status = 409
    title = "The event cannot be refunded"


class TooManyParked(Problem):
    """What refers to an unknown purchase waits for it, up to `max_parked` of a member. Send the purchases first."""

    code = "too_many_parked"
    status = 409
    title = "Too many events wait for their purchase"


class NothingWaits(Problem):
    """No points of the entry wait for an event or a person: they were available at once, became so, or went back."""

    code = "nothing_waits"
    status = 409
    title = "No points of the entry wait"


class Overtaken(Unavailable):
    """Others were faster about the same purchase or budget, again and again. Nothing happened; a retry is safe."""

    code = "overtaken"
    title = "Other requests were faster"


class Item(Body):
    """One line of a purchase, or what of it is refunded."""

    line_id: Text = Field(description="Names the line within the event, for refunds.", examples=["1"])
    sku: Text | None = Field(None, description="The article.", examples=["CD-4711"])
    category: Text | None = Field(None, description="Its category.", examples=["music"])
    brand: Text | None = Field(None, description="Its brand.", examples=["Blue Note"])
    quantity: int = Field(1, ge=1, le=1_000_000, description="How many.")
    amount: Amount | None = Field(
        None,
        description="What the line cost, all pieces together; left out in a refund.",
        examples=["11.77"],
    )
    tax: Amount | None = Field(None, description="The tax in it.", examples=["1.88"])
    metadata: dict[MetadataName, MetadataValue] = Field(
        default_factory=dict, max_length=20, description="Anything else that rules look at."
    )


class Payment(Body):
    """One part of how a purchase was paid."""

    method: Text = Field(
        description="How: cash, card, gift_card, … `points` takes points of the member, where the program's "
        "`points_payment` says what they are worth.",
        examples=["card"],
    )
    amount: Amount
    hold: Text | None = Field(
        None, description="With `points`: the hold that is captured. Without one the points are taken directly."
    )


class NewEvent(Body):
    """One fact. `source` and `id` name it for ever: told again with the same content, it counts once."""

    source: Source = Field(description="Who tells it: a till, a shop system.", examples=["till-7"])
    id: Text = Field(description="Its id there, unique in the source.", examples=["2026-000123"])
    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")] = Field(
        description="`purchase`, `refund`, `visit`, or a name of your own.", examples=["purchase"]
    )
    member: MemberReference = Field(description="Whose it is.")
    occurred_at: Timestamp | None = Field(
        None,
        description="When it happened (RFC 3339 with offset); now if absent.",
        examples=["2026-02-01T12:00:00Z"],
    )
    refers_to: Text | None = Field(
        None,
        description="The id of an earlier event. A refund takes `amount` or `items` of it back, or all that is left if "
        "it has neither. Another event activates the points that waited for its type.",
        examples=["2026-000123"],
    )
    refers_to_source: Source | None = Field(None, description="Who told that event, if it was another source.")
    amount: Amount | None = Field(
        None, description="What was paid, needed for a purchase; in a refund what is given back.", examples=["11.77"]
    )
    tax: Amount | None = Field(None, description="The tax in the amount.", examples=["1.88"])
    shipping: Amount | None = Field(None, description="The shipping in the amount.", examples=["4.90"])
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = Field(
        None, description="ISO 4217 code, that of the program; needed with amounts.", examples=["USD"]
    )
    items: list[Item] = Field(default_factory=list, max_length=500, description="What was bought, or is given back.")
    payments: list[Payment] = Field(default_factory=list, max_length=50, description="How it was paid.")
    store: Text | None = Field(None, description="Where.", examples=["main-street"])
    metadata: dict[MetadataName, MetadataValue] = Field(
        default_factory=dict, max_length=50, description="Anything else worth keeping with the entry."
    )


class EventOut(Out):
    """The event as it was recorded."""

    source: str = Field(description="Who told it.")
    id: str = Field(description="Its id there.")
    type: str = Field(description="What kind of fact it is.")
    member: str | None = Field(description="Whose it is; null in a rehearsal for an unknown customer.")
    occurred_at: Timestamp = Field(description="When it happened.")


class EventResult(Out):
    """What an event did."""

    event: EventOut = Field(description="The event.")
    entries: list[EntryOut] = Field(description="The ledger entries that it made.")
    balances: dict[str, BucketsOut] = Field(description="What the member has after it, by wallet.")
    explanation: ExplanationOut = Field(description="Why.")
    replayed: bool = Field(description="Whether it had been recorded before; then this is the answer of that time.")


class BatchLine(Out):
    """The result of one event of a batch."""

    index: int = Field(description="Its place in the batch, from 0.")
    status: int = Field(description="The status that it would have had alone.", examples=[201])
    entry: str | None = Field(None, description="The ledger entry that it made.")
    points: int | None = Field(None, description="The spendable points that it earned.")
    replayed: bool | None = Field(None, description="Whether it had been recorded before.")
    problem: dict[str, Any] | None = Field(None, description="Why it was refused: a problem document.")


class BatchSummary(Out):
    """A batch in numbers."""

    applied: int = Field(description="Events recorded now.")
    replayed: int = Field(description="Events recorded before.")
    refused: int = Field(description="Events refused.")
    points: int = Field(description="Spendable points earned now.")


class BatchResult(Out):
    """One result an event, in the order of the batch. A refused one does not touch the others."""

    results: list[BatchLine] = Field(description="The results.")
    summary: BatchSummary = Field(description="The batch in numbers.")
