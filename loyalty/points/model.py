"""How the ledger looks on the wire. Functions make plain JSON values, classes describe them for the API document."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from loyalty.infra import money
from loyalty.infra.http.model import Out, Timestamp, format_instant
from loyalty.infra.ids import entry_id, member_id
from loyalty.infra.problems import Problem
from loyalty.ledger.entry import member_of
from loyalty.ledger.state import NEVER, State, Wallet

Json = dict[str, Any]

_HELD = frozenset({"pending", "available", "held"})


class EventConflict(Problem):
    """The event's source and id were recorded before with another content. Nothing happened."""

    code = "event_conflict"
    status = 409
    title = "The event was recorded with another content"


class InsufficientPoints(Problem):
    """The member has fewer points available than the request needs; `missing_points` more would do."""

    code = "insufficient_points"
    status = 409
    title = "The member does not have enough points"


class MemberBlocked(Problem):
    """The member's status does not allow this."""

    code = "member_blocked"
    status = 409
    title = "The member may not do this"


class TooManyPoints(Problem):
    """The wallet would hold more points than JSON readers can count exactly."""

    code = "too_many_points"
    status = 409
    title = "The wallet would overflow"


class HoldAlreadyResolved(Problem):
    """The hold is over. `resolution` says how (captured, voided, timed_out), `resolved_by` is the entry that did it."""

    code = "hold_already_resolved"
    status = 409
    title = "The hold was resolved before"


class HoldTooSmall(Problem):
    """A capture takes at most what is held: `held_points`. Void the hold, or capture less."""

    code = "hold_too_small"
    status = 409
    title = "The hold has fewer points"


class WalletNotSpendable(Problem):
    """The policy of the wallet does not let its points be spent. Choose another wallet."""

    code = "wallet_not_spendable"
    status = 409
    title = "The wallet cannot be spent from"


class WalletNotTransferable(Problem):
    """The policy of the wallet does not let members give its points to each other."""

    code = "wallet_not_transferable"
    status = 409
    title = "The wallet's points cannot be given away"


class PostingOut(Out):
    """One movement of points."""

    wallet: str = Field(description="The wallet.", examples=["points"])
    source: str = Field(alias="from", description="The bucket that the points leave.", examples=["issuance"])
    target: str = Field(alias="to", description="The bucket that they enter.", examples=["available"])
    points: int = Field(description="How many, always above zero.", examples=[11])
    lot: int = Field(description="The lot of the member's wallet that they leave or enter.", examples=[1])
    activates_at: Timestamp | None = Field(None, description="Until when they are pending.")
    expires_at: Timestamp | None = Field(None, description="When they expire; absent for points that never do.")
    into: int | None = Field(None, description="The lot that activated points join.")


class EntryOut(Out):
    """One entry of the ledger. It never changes."""

    id: str | None = Field(description="The entry's id; null in a rehearsal.", examples=["ent_00000000g0001"])
    member: str | None = Field(
        description="The member whose chain it is in; null in a rehearsal for an unknown customer.",
        examples=["mem_00000001"],
    )
    kind: str = Field(description="What happened: earn, spend, adjust, …", examples=["earn"])
    occurred_at: Timestamp = Field(description="When it happened.")
    recorded_at: Timestamp = Field(description="When the ledger learnt of it.")
    points: dict[str, int] = Field(description="What each wallet gained or lost.", examples=[{"points": 11}])
    postings: list[PostingOut] = Field(description="The movements, in order.")
    hash: str | None = Field(
        description="SHA-256 of the entry and of everything before it, hexadecimal; null in a rehearsal."
    )


class BucketsOut(Out):
    """What a wallet holds."""

    available: int = Field(description="Points that can be spent.", examples=[11])
    pending: int = Field(description="Points that are not yet available.", examples=[0])
    held: int = Field(description="Points set aside for a purchase that is not complete.", examples=[0])


class ActOut(Out):
    """What every act answers with."""

    entry: EntryOut = Field(description="The ledger entry that it made.")
    balances: dict[str, BucketsOut] = Field(description="What the member has after it, by wallet.")
    replayed: bool = Field(description="Whether the Idempotency-Key had done it before.")


class LineOut(Out):
    """What one rule gave."""

    rule: str = Field(description="The rule.", examples=["base"])
    wallet: str = Field(description="The wallet that its points enter.", examples=["points"])
    points: int = Field(description="The points that it gave.", examples=[11])
    basis: str = Field(description="The amount that it looked at.", examples=["11.77"])
    reason: str | None = Field(None, description="Why it gave nothing.", examples=["below_minimum"])


class ExplanationOut(Out):
    """Why an entry is as it is."""

    rules_version: int | None = Field(description="The version of the rules that decided; null when none did.")
    lines: list[LineOut] = Field(description="Each rule and what it gave.")
    limits: list[str] = Field(description="Why points were withheld as a whole.", examples=[["no_rules"]])
    detail: Json = Field(description="What else the entry was made from: the reward, the reason, who did it.")


class ExpiringOut(Out):
    """Points that expire together."""

    at: Timestamp = Field(description="When: at this very instant they are gone.")
    points: int = Field(description="How many.")


class LifetimeOut(Out):
    """Totals since the member joined; earned + adjusted + restored - spent - expired - reversed is there now."""

    earned: int = Field(description="Given by rules.")
    spent: int = Field(description="Paid for rewards.")
    expired: int = Field(description="Lost by time.")
    reversed: int = Field(description="Taken back for returned goods.")
    adjusted: int = Field(description="Changed by hand, net.")
    restored: int = Field(description="Given back when a reward was cancelled.")


class WalletOut(BucketsOut):
    """What a wallet holds and held. The points in `expiring` and those that never expire make up `available`."""

    lifetime: LifetimeOut = Field(description="Totals since the member joined.")
    expiring: list[ExpiringOut] = Field(description="Available points that will expire, the earliest first.")
    next_activation: ExpiringOut | None = Field(description="The next pending points to become available.")


class BalanceOut(Out):
    """What a member has."""

    member: str = Field(description="The member.", examples=["mem_00000001"])
    as_of: Timestamp | None = Field(description="Since when it is so; null if nothing was ever recorded.")
    wallets: dict[str, WalletOut] = Field(description="By wallet.")


def entry_json(entry: Mapping[str, Any]) -> Json:
    """An `EntryOut`."""
    return {
        "id": entry_id(entry["_id"]),
        "member": member_id(member_of(entry["_id"])),
        "kind": entry["kind"],
        "occurred_at": format_instant(entry["occurred_at"]),
        "recorded_at": format_instant(entry["recorded_at"]),
        "points": changes(entry),
        "postings": [
            {name: format_instant(value) if isinstance(value, datetime) else value for name, value in posting.items()}
            for posting in entry["postings"]
        ],
        "hash": entry["hash"].hex(),
    }


def rehearsed_json(entry: Mapping[str, Any]) -> Json:
    """An `EntryOut` that was not made: whatever would name it is null."""
    known = {} if member_of(entry["_id"]) else {"member": None}
    return {**entry_json(entry), "id": None, "hash": None, **known}


def changes(entry: Mapping[str, Any]) -> dict[str, int]:
    """What each wallet gained or lost by the entry, whatever the bucket."""
    net: dict[str, int] = {}
    for posting in entry["postings"]:
        gained = (posting["to"] in _HELD) - (posting["from"] in _HELD)
        net[posting["wallet"]] = net.get(posting["wallet"], 0) + gained * posting["points"]
    return net


def buckets_json(entry: Mapping[str, Any]) -> Json:
    """`BucketsOut` by wallet: what the member has after the entry. The spendable wallet is always there."""
    wallets = entry["state"]["wallets"] or {"points": {"available": 0, "pending": 0, "held": 0}}
    return {
        name: {bucket: wallet[bucket] for bucket in ("available", "pending", "held")}
        for name, wallet in wallets.items()
    }


def explanation_json(entry: Mapping[str, Any]) -> Json:
    """An `ExplanationOut`, from the evidence alone."""
    evidence = entry["evidence"]
    award = evidence.get("award", {})
    currency = award.get("currency")
    detail = {name: value for name, value in evidence.items() if name not in ("award", "event", "request")}
    return {
        "rules_version": award.get("version"),
        "lines": [{**line, "basis": money.to_text(line["basis"], currency)} for line in award.get("lines", ())],
        "limits": award.get("limits", []),
        "detail": detail,
    }


def balance_json(member: int, as_of: datetime | None, state: State) -> Json:
    """A `BalanceOut`; `state` is settled."""
    wallets = dict(state.wallets) or {"points": Wallet()}
    return {
        "member": member_id(member),
        "as_of": format_instant(as_of) if as_of else None,
        "wallets": {name: _wallet_json(wallet) for name, wallet in wallets.items()},
    }


def _wallet_json(wallet: Wallet) -> Json:
    waiting = [lot for lot in wallet.lots if lot.activates_at is not None]
    following = min(waiting, key=lambda lot: lot.activates_at or NEVER, default=None)
    return {
        "available": wallet.available,
        "pending": wallet.pending,
        "held": wallet.held,
        "lifetime": {
            "earned": wallet.earned,
            "spent": wallet.spent,
            "expired": wallet.expired,
            "reversed": wallet.reversed,
            "adjusted": wallet.adjusted,
            "restored": wallet.restored,
        },
        "expiring": [
            {"at": format_instant(lot.expires_at), "points": lot.points}
            for lot in wallet.lots
            if lot.activates_at is None and lot.expires_at is not None
        ],
        "next_activation": {"at": format_instant(following.activates_at), "points": following.points}
        if following is not None and following.activates_at is not None
        else None,
    }
