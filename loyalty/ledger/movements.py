"""Which movements an act needs: pure functions from a member's state to postings. `state.fold` carries them out.

Every state handed in here is settled (see `due`), but for `due` itself. Where an act needs several of these functions,
the state is folded between them, so that the second sees what the first did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from loyalty.ledger.entry import SEQUENCE_BITS
from loyalty.ledger.state import (
    DEFICIT,
    SOMEDAY,
    HoldNotOpen,
    HoldTooSmall,
    InsufficientPoints,
    Lot,
    Posting,
    Refusal,
    State,
    Wallet,
    fold,
    move,
    with_lapses,
)

OverspentRefund = Literal["stop_at_zero", "pending_only", "negative"]

_MOST_POINTS: Final = 1 << 53
"""Balances stay exact in JSON readers that know only doubles."""


@dataclass(frozen=True, slots=True)
class Reversal:
    """How an award is taken back: what moves, what could not be had, and what had expired already.

    The points moved, `shortfall` and `lapsed` make up what was to be reversed.
    """

    postings: list[Posting]
    shortfall: int
    lapsed: int


def due(state: State, now: datetime) -> list[Posting]:
    """The movements that time alone has made by `now`, in its order.

    Every operation settles these first, in its own entry, so that no answer depends on a job having run. Instants are
    half-open: at the very instant of its expiry a lot is gone.
    """
    return [posting for _, postings in due_steps(state, now) for posting in postings]


def due_steps(state: State, now: datetime) -> list[tuple[datetime, list[Posting]]]:
    """`due` by instant. At each: points activate, then expire or lapse, then holds time out."""
    steps: dict[datetime, list[Posting]] = {}
    for name, wallet in state.wallets.items():
        while (instant := _next_change(wallet)) is not None and instant <= now:
            for posting in _changes(name, wallet, instant):
                steps.setdefault(instant, []).append(posting)
                wallet = move(wallet, posting)
            if wallet.lapses_at is not None and wallet.lapses_at <= instant:
                wallet = replace(wallet, lapses_at=None)
    return sorted(steps.items(), key=lambda step: step[0])


def lapsed(state: State, now: datetime) -> dict[str, None]:
    """The wallets that lapsed by `now`: their instant is spent, and is removed in the entry that settles it."""
    return {
        name: None for name, wallet in state.wallets.items() if wallet.lapses_at is not None and wallet.lapses_at <= now
    }


def settle(state: State, now: datetime) -> State:
    """The state as time alone has made it by `now`."""
    return with_lapses(fold(state, due(state, now)), lapsed(state, now))


def next_due(state: State) -> datetime | None:
    """When time alone changes the state next (perhaps in the past); None if never."""
    instants = [_next_change(wallet) for wallet in state.wallets.values()]
    instants += [facet.get("due_at") for facet in state.facets.values()]
    return min((instant for instant in instants if instant is not None), default=None)


def credit(
    state: State,
    wallet: str,
    points: int,
    *,
    source: str,
    sequence: int,
    activates_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> list[Posting]:
    """Points enter `wallet` from `source` (issuance, adjusted, spent, transferred); none for 0 points.

    Available ones first pay what the wallet owes. They join the open lot that activates and expires at the same
    instants, or open one named after `sequence`, the number of the entry that is being made: that keeps the state of a
    member small for ever. Refusal if the wallet would hold more than can be counted.
    """
    if points == 0:
        return []
    have = state.wallet(wallet)
    if have.available + have.pending + have.held + points > _MOST_POINTS:
        raise Refusal(f"{wallet} would hold more points than can be counted exactly")
    if activates_at is not None:
        lot = _lot_for(have, sequence, activates_at, expires_at)
        return [Posting(wallet, source, "pending", points, lot, activates_at, expires_at)]
    return _arrivals(have, Posting(wallet, source, "available", points, sequence, None, expires_at), sequence)


def stillborn(
    state: State, wallet: str, points: int, *, source: str, sequence: int, expires_at: datetime
) -> list[Posting]:
    """Points enter `wallet` from `source` that have expired already, at `expires_at`: they come and are gone."""
    return _stillborn(state.wallet(wallet), wallet, points, source, sequence, expires_at)


def debit(state: State, wallet: str, points: int, *, target: str, owing: bool = False) -> list[Posting]:
    """Points leave `wallet` for `target` (spent, adjusted, reversed, transferred), earliest expiry first.

    InsufficientPoints if fewer are available, unless the wallet may be left `owing` them.
    """
    have = state.wallet(wallet)
    if points > have.available and not owing:
        raise InsufficientPoints(wallet, have.available, points - have.available)
    postings, rest = _take(have, wallet, points, target)
    if rest:
        postings.append(Posting(wallet, "available", target, rest, DEFICIT))
    return postings


def hold(
    state: State, wallet: str, points: int, *, sequence: int, until: datetime, grace_days: int = 0
) -> list[Posting]:
    """Points of `wallet` are set aside, earliest expiry first, under the hold `sequence`.

    InsufficientPoints if fewer are available. See `Hold` for `until` and `grace_days`.
    """
    return [
        Posting(
            posting.wallet,
            "available",
            "held",
            posting.points,
            posting.lot,
            expires_at=posting.expires_at,
            hold=sequence,
            until=until,
            grace_days=grace_days or None,
        )
        for posting in debit(state, wallet, points, target="held")
    ]


def capture(
    state: State, wallet: str, number: int, now: datetime, *, sequence: int, points: int | None = None
) -> list[Posting]:
    """`points` of the hold `number` are spent (all of them for None), earliest expiry first; the rest returns.

    HoldNotOpen, HoldTooSmall.
    """
    have = state.wallet(wallet)
    open_hold = have.hold(number)
    if open_hold is None:
        raise HoldNotOpen(f"hold {number} is not open")
    wanted = open_hold.points if points is None else points
    if wanted > open_hold.points:
        raise HoldTooSmall(open_hold.points)
    postings = []
    for part in open_hold.parts:
        taken = min(wanted, part.points)
        if taken:
            postings.append(
                Posting(wallet, "held", "spent", taken, part.id, expires_at=part.expires_at, hold=open_hold.id)
            )
            wanted -= taken
    after = fold(state, postings)
    if after.wallet(wallet).hold(number) is None:
        return postings
    return [*postings, *release(after, wallet, number, now, sequence=sequence)]


def release(state: State, wallet: str, number: int, now: datetime, *, sequence: int) -> list[Posting]:
    """The points of the hold `number` return with their original expiry; HoldNotOpen.

    A part that expired meanwhile comes back for the days of grace that the hold grants, or expires now.
    """
    have = state.wallet(wallet)
    open_hold = have.hold(number)
    if open_hold is None:
        raise HoldNotOpen(f"hold {number} is not open")
    postings: list[Posting] = []
    for part in open_hold.parts:
        expires_at = part.expires_at
        if expires_at is not None and expires_at <= now:
            if not open_hold.grace_days:
                postings.append(
                    Posting(wallet, "held", "expired", part.points, part.id, expires_at=expires_at, hold=open_hold.id)
                )
                have = move(have, postings[-1])
                continue
            expires_at = now + timedelta(days=open_hold.grace_days)
        arrived = _arrivals(
            have,
            Posting(wallet, "held", "available", part.points, part.id, expires_at=expires_at, hold=open_hold.id),
            part.id if expires_at == part.expires_at else sequence,
        )
        postings += arrived
        for posting in arrived:
            have = move(have, posting)
    return postings


def activate(
    state: State, wallet: str, points: int, *, lot: int, expires_at: datetime | None, sequence: int
) -> list[Posting]:
    """`points` of the waiting `lot` become available and expire at `expires_at` (as the lot says, for None).

    Refusal if so many do not wait there.
    """
    have = state.wallet(wallet)
    waiting = have.lot(lot)
    if waiting is None or waiting.activates_at is None or waiting.points < points:
        raise Refusal(f"{points} points do not wait in lot {lot}")
    posting = Posting(wallet, "pending", "available", points, lot, expires_at=expires_at or waiting.expires_at)
    return _arrivals(have, posting, lot if points == waiting.points else sequence)


def restore(
    state: State,
    wallet: str,
    parts: Sequence[Lot],
    *,
    now: datetime,
    grace_days: int,
    sequence: int,
) -> list[Posting]:
    """Spent points return as the lots that they were, with their original expiry.

    A part that has expired meanwhile returns for `grace_days` days from now, or for 0 of them returns and expires.
    """
    have = state.wallet(wallet)
    postings: list[Posting] = []
    for part in parts:
        expires_at = part.expires_at
        gone = expires_at is not None and expires_at <= now
        if gone and grace_days:
            expires_at, gone = now + timedelta(days=grace_days), False
        back = Posting(wallet, "spent", "available", part.points, part.id, expires_at=expires_at)
        if gone and expires_at is not None:
            moved = _stillborn(have, wallet, part.points, "spent", sequence, expires_at)
        else:
            moved = _arrivals(have, back, part.id if expires_at == part.expires_at else sequence)
        postings += moved
        for posting in moved:
            have = move(have, posting)
    return postings


def reverse(
    state: State,
    wallet: str,
    points: int,
    *,
    activates_at: datetime | None,
    expires_at: datetime | None,
    policy: OverspentRefund,
    now: datetime,
) -> Reversal:
    """Points of an award are taken back; the award was to activate and expire at these instants.

    From what still waits of it, then from the lot it is in, then from other lots, earliest expiry first. What is
    missing then is owed (`negative`) or waived (`stop_at_zero`); `pending_only` takes nothing that is available.
    Points that expired are gone already: others do not stand in for them.
    """
    if points == 0 or (expires_at is not None and expires_at <= now):
        return Reversal([], 0, points)
    have = state.wallet(wallet)
    postings: list[Posting] = []
    rest = points
    waiting = have.open_lot(activates_at, expires_at) if activates_at is not None and activates_at > now else None
    if waiting is not None:
        taken = min(rest, waiting.points)
        postings.append(Posting(wallet, "pending", "reversed", taken, waiting.id, expires_at=expires_at))
        rest -= taken
    if policy == "pending_only" or rest == 0:
        return Reversal(postings, rest, 0)
    own = have.open_lot(None, expires_at)
    if own is not None:
        taken = min(rest, own.points)
        postings.append(Posting(wallet, "available", "reversed", taken, own.id, expires_at=expires_at))
        rest -= taken
    after = fold(state, postings).wallet(wallet)
    others, rest = _take(after, wallet, rest, "reversed")
    postings += others
    if rest and policy == "negative":
        postings.append(Posting(wallet, "available", "reversed", rest, DEFICIT))
        rest = 0
    return Reversal(postings, rest, 0)


def forfeit(state: State, wallet: str, *, sequence: int) -> list[Posting]:
    """Everything in `wallet` is gone, also what waits; what it owes is waived. Nothing may be held."""
    have = state.wallet(wallet)
    postings: list[Posting] = []
    for lot in [lot for lot in have.lots if lot.activates_at is not None]:
        posting = Posting(wallet, "pending", "available", lot.points, lot.id, expires_at=lot.expires_at)
        for arrival in _arrivals(have, posting, sequence):
            postings.append(arrival)
            have = move(have, arrival)
    postings += [
        Posting(wallet, "available", "expired", lot.points, lot.id, expires_at=lot.expires_at) for lot in have.lots
    ]
    if have.deficit:
        postings.append(Posting(wallet, "adjusted", "available", have.deficit, DEFICIT))
    return postings


def _next_change(wallet: Wallet) -> datetime | None:
    """The first instant at which time alone changes the wallet."""
    first: datetime | None = None
    for lot in wallet.lots:
        instant = lot.activates_at or lot.expires_at
        if instant is not None and (first is None or instant < first) and instant != SOMEDAY:
            first = instant
    for open_hold in wallet.holds:
        if first is None or open_hold.until < first:
            first = open_hold.until
    if wallet.lapses_at is not None and (first is None or wallet.lapses_at < first):
        first = wallet.lapses_at
    return first


def _changes(name: str, wallet: Wallet, instant: datetime) -> Iterator[Posting]:
    """What happens in the wallet at `instant`, in order. Nothing of it is due before."""
    for lot in sorted(wallet.lots, key=lambda lot: lot.id):
        if lot.activates_at is not None and lot.activates_at <= instant:
            posting = Posting(name, "pending", "available", lot.points, lot.id, expires_at=lot.expires_at)
            for arrival in _arrivals(wallet, posting, lot.id):
                wallet = move(wallet, arrival)
                yield arrival
    all_lapse = wallet.lapses_at is not None and wallet.lapses_at <= instant
    for lot in wallet.lots:
        if lot.activates_at is None and (all_lapse or (lot.expires_at is not None and lot.expires_at <= instant)):
            posting = Posting(name, "available", "expired", lot.points, lot.id, expires_at=lot.expires_at)
            wallet = move(wallet, posting)
            yield posting
    for open_hold in wallet.holds:
        if open_hold.until <= instant:
            # A lot with the days of grace is named after the hold, which no lot of the wallet is.
            for posting in release(State({name: wallet}), name, open_hold.id, instant, sequence=open_hold.id):
                wallet = move(wallet, posting)
                yield posting


def _take(have: Wallet, wallet: str, points: int, target: str) -> tuple[list[Posting], int]:
    """Available points leave for `target`, earliest expiry first; how many could not be had."""
    postings = []
    for lot in have.lots:
        if points == 0:
            break
        if lot.activates_at is None:
            taken = min(points, lot.points)
            postings.append(Posting(wallet, "available", target, taken, lot.id, expires_at=lot.expires_at))
            points -= taken
    return postings, points


def _stillborn(
    have: Wallet, wallet: str, points: int, source: str, sequence: int, expires_at: datetime
) -> list[Posting]:
    """Such points cannot pay what is owed: they are gone in the moment in which they come."""
    number = _lot_for(have, sequence, None, expires_at)
    return [
        Posting(wallet, source, "available", points, number, expires_at=expires_at),
        Posting(wallet, "available", "expired", points, number, expires_at=expires_at),
    ]


def _arrivals(have: Wallet, posting: Posting, number: int) -> list[Posting]:
    """`posting`, which makes points available: first they pay what is owed, the rest enters a lot.

    The lot is the open one of the same expiry, or a new one called `number` if that is free.
    """
    arrivals = []
    points = posting.points
    from_elsewhere = posting.source in ("pending", "held")
    if have.deficit:
        paid = min(points, have.deficit)
        arrivals.append(_entering(posting, paid, DEFICIT, from_elsewhere))
        points -= paid
    if points:
        waiting = have.lot(posting.lot) if posting.source == "pending" else None
        leaving = waiting.id if waiting is not None and waiting.points == posting.points else None
        lot = _lot_for(have, number, None, posting.expires_at, leaving=leaving)
        arrivals.append(_entering(posting, points, lot, from_elsewhere))
    return arrivals


def _entering(posting: Posting, points: int, lot: int, from_elsewhere: bool) -> Posting:
    into = lot if from_elsewhere and lot != posting.lot else None
    return Posting(
        posting.wallet,
        posting.source,
        posting.target,
        points,
        posting.lot if from_elsewhere else lot,
        expires_at=posting.expires_at,
        into=into,
        hold=posting.hold,
    )


def _lot_for(
    have: Wallet,
    number: int,
    activates_at: datetime | None,
    expires_at: datetime | None,
    *,
    leaving: int | None = None,
) -> int:
    """The open lot with these instants, or else the id of a new one: `number`, or the next that is free.

    A second lot that one entry opens has the number of the entry plus a multiple of what entries count to. `leaving` is
    the waiting lot that the points leave: as a whole it keeps its id.
    """
    twin = have.open_lot(activates_at, expires_at)
    if twin is not None:
        return twin.id
    while have.lot(number) is not None and number != leaving:
        number += 1 << SEQUENCE_BITS
    return number
