"""A fact: a valid event in the units that the ledger counts in, and the form of it that an entry keeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from loyalty.events.model import NewEvent
from loyalty.ledger.state import Document
from loyalty.rules.facts import Line, Payment

REFUND: Final = "refund"
"""The type of the events that take a purchase back."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A valid event. Amounts are minor units; `occurred_at` is None where the source did not say. `request` is the
    digest by which its repetition is recognised."""

    event: NewEvent
    occurred_at: datetime | None
    amount: int | None
    request: bytes
    tax: int | None = None
    shipping: int | None = None
    lines: tuple[Line, ...] = ()
    payments: tuple[Payment, ...] = ()

    @property
    def is_refund(self) -> bool:
        """Whether it takes a purchase back."""
        return self.event.type == REFUND

    @property
    def refers_to(self) -> tuple[str, str] | None:
        """The source and the id of the event that it is about."""
        if self.event.refers_to is None:
            return None
        return self.event.refers_to_source or self.event.source, self.event.refers_to

    def evidence(self) -> Document:
        """The event as the entry keeps it: amounts of its own in minor units, nothing absent; the instant is in the
        entry itself."""
        event = self.event
        document: Document = {"source": event.source, "id": event.id, "type": event.type}
        for name, amount in (("amount", self.amount), ("tax", self.tax), ("shipping", self.shipping)):
            if amount is not None:
                document[name] = amount
        for name in ("refers_to", "refers_to_source", "currency", "store"):
            value = getattr(event, name)
            if value is not None:
                document[name] = value
        if event.items:
            document["items"] = [
                item.model_dump(exclude_none=True, exclude=None if item.metadata else {"metadata"})
                for item in event.items
            ]
        if event.payments:
            document["payments"] = [payment.model_dump(exclude_none=True) for payment in event.payments]
        if event.metadata:
            document["metadata"] = event.metadata
        return document
