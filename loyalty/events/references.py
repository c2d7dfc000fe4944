"""References: the events that others refer to, and what has become of them since.

What happens to a purchase after it (refunds, the activation of points that waited) is a chain of its own. Each entry of
it claims its place under a key, so of two that decide at once one has to decide again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from loyalty.infra.mongo import Document, Mongo
from loyalty.ledger.entry import business_key

_LOOK_AHEAD: Final = 8
"""So many entries about one purchase are looked for at once; few have more than one."""

Reference = tuple[str, str]
"""The source and the id of an event."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the ledger knows of an event that another one refers to: its entry, and the evidence of the latest entry
    about it."""

    entry: Document
    latest: Document | None

    @property
    def is_refundable(self) -> bool:
        """Whether it awarded something, or could have."""
        return "award" in self.entry["evidence"]


def find(db: Mongo, program: str, references: Iterable[Reference]) -> dict[Reference, Found]:
    """The events that others refer to, each with what has become of it, in one command (and few more for one that
    much has become of)."""
    entries: dict[Reference, Document] = {}
    latest: dict[Reference, tuple[int, Document]] = {}
    asked = [(reference, 0) for reference in dict.fromkeys(references)]
    while asked:
        keys: dict[bytes, tuple[Reference, int]] = {}
        for reference, start in asked:
            if start == 0:
                keys[event_key(program, reference)] = (reference, 0)
            for ordinal in range(start + 1, start + 1 + _LOOK_AHEAD):
                keys[ordinal_key(program, reference, ordinal)] = (reference, ordinal)
        for entry in db.ledger.find({"keys": {"$in": list(keys)}}, {"state": 0}):
            for reference, ordinal in [keys[key] for key in map(bytes, entry["keys"]) if key in keys]:
                if ordinal == 0:
                    entries[reference] = entry
                elif ordinal > latest.get(reference, (0, entry))[0]:
                    latest[reference] = (ordinal, entry["evidence"])
        asked = [
            (reference, start + _LOOK_AHEAD)
            for reference, start in asked
            if latest.get(reference, (0, None))[0] == start + _LOOK_AHEAD
        ]
    return {
        reference: Found(entry, latest[reference][1] if reference in latest else None)
        for reference, entry in entries.items()
    }


def event_key(program: str, reference: Reference) -> bytes:
    return business_key(program, "event", *reference)


def ordinal_key(program: str, reference: Reference, ordinal: int) -> bytes:
    """What the entries about a purchase claim, each its place: of two that decide at once, one has to decide again."""
    return business_key(program, "refund", *reference, str(ordinal))
