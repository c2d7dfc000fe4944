"""What must hold between an entry and the one before it. Pure: the verification, the monitor and tests ask here.

Whatever stands in the database is taken for hostile: a document that is no entry at all is a defect, never a failure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from loyalty.ledger.entry import GENESIS, entry_hash, member_of, sequence_of
from loyalty.ledger.plain import plain_fold
from loyalty.ledger.state import EMPTY, Document, LedgerDefect, Posting, State, fold, with_facets, with_lapses

MALFORMED: Final = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, struct.error)
"""What reading a document raises that has not the form it should have."""


class Chain:
    """Walks along the chain of `member` from its beginning, or on from an entry that is believed."""

    __slots__ = ("form", "hash", "member", "program", "recorded_at", "sequence")

    def __init__(self, member: int) -> None:
        self.member = member
        self.sequence = 0
        self.hash = GENESIS
        self.form: Mapping[str, Any] = {"wallets": {}}
        self.program: str | None = None
        self.recorded_at: datetime | None = None

    @classmethod
    def after(cls, entry: Mapping[str, Any]) -> Chain:
        """The chain that ends with `entry`, which is believed."""
        chain = cls(member_of(entry["_id"]))
        chain._pass(entry)
        return chain

    def step(self, entry: Mapping[str, Any]) -> list[str]:
        """What is wrong with the next entry; nothing: the chain now ends with it."""
        defects = entry_defects(entry, self.sequence + 1, self.hash, self.form)
        try:
            if self.recorded_at is not None and entry["recorded_at"] < self.recorded_at:
                defects.append("it was recorded before the entry it follows")
            if self.program is not None and entry["program"] != self.program:
                defects.append("it belongs to another program than the entry it follows")
            if not defects:
                self._pass(entry)
        except MALFORMED as error:
            defects.append(_malformed(error))
        return defects

    def _pass(self, entry: Mapping[str, Any]) -> None:
        self.sequence = sequence_of(entry["_id"])
        self.hash = entry["hash"]
        self.form = entry["state"]
        self.program = entry["program"]
        self.recorded_at = entry["recorded_at"]


def entry_defects(entry: Mapping[str, Any], sequence: int, prev: bytes, before: Mapping[str, Any]) -> list[str]:
    """What is wrong with the entry that should stand at `sequence` after the state `before`, as the ledger has it."""
    defects = []
    try:
        if sequence_of(entry["_id"]) != sequence:
            defects.append(f"entry {sequence} of the chain is missing")
        if entry["prev"] != prev:
            defects.append("it does not follow the entry before it")
        if entry_hash(entry) != entry["hash"]:
            defects.append("its content was changed")
        wallets = plain_fold(before["wallets"], entry["postings"])
        if wallets is None or _with_the_rest(wallets, entry, before) != entry["state"]:
            defects += _state_defects(entry, State.of(before))
    except MALFORMED as error:
        defects.append(_malformed(error))
    return defects


def _with_the_rest(wallets: dict[str, Document], entry: Mapping[str, Any], before: Mapping[str, Any]) -> Document:
    """The form of a state with these wallets, once the entry has set lapses and touched facets."""
    for name, instant in entry["lapses"].items() if "lapses" in entry else ():
        wallet = wallets[name] if name in wallets else EMPTY.document()
        if wallet.get("lapses_at") != instant:
            wallets[name] = {**wallet, "lapses_at": instant}
            if instant is None:
                del wallets[name]["lapses_at"]
    facets = before.get("facets", {})
    if "touches" in entry:
        stored = entry["state"].get("facets", {})
        facets = dict(facets)
        for name in entry["touches"]:
            facet = stored.get(name)
            if facet is None:
                facets.pop(name, None)
            else:
                facets[name] = facet
    return {"wallets": wallets, "facets": facets} if facets else {"wallets": wallets}


def _state_defects(entry: Mapping[str, Any], before: State) -> list[str]:
    """What is wrong with the state of an entry, by the arithmetic that made it."""
    stored = entry["state"]
    defects = []
    try:
        state = with_lapses(
            fold(before, [Posting.of(posting) for posting in entry["postings"]]), entry.get("lapses", {})
        )
        facets = stored.get("facets", {})
        state = with_facets(state, {name: facets.get(name) for name in entry.get("touches", ())})
        if state.document() != stored:
            defects.append("its state is not what it makes of the state before")
            state = State.of(stored)
    except LedgerDefect as defect:
        defects.append(str(defect))
        state = State.of(stored)
    for name, wallet in state.wallets.items():
        # One that did not move was checked with the entry that moved it last.
        if wallet is not before.wallets.get(name):
            defects.extend(f"{name}: {defect}" for defect in wallet.defects())
    return defects


def _malformed(error: Exception) -> str:
    return f"it has not the form of an entry ({type(error).__name__}: {str(error)[:100]})"
