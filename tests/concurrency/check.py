"""The proof: every call happened at one instant between its beginning and its end, or so it looks to everybody.

The order of a member's chain is the witness. It must respect real time (what ended before another call began stands
before it), every answer must be what the sequential model says at that place, and every refusal must have been right
at some place between the last entry that had ended before the call began and the first that began after it ended.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate
from typing import Any

from loyalty.infra.ids import entry_number
from loyalty.infra.mongo import Document, Mongo
from loyalty.ledger.verify import verify
from tests.concurrency.history import Call
from tests.model.naive_member import Refused, World

PROGRAM: dict[str, Any] = {
    "zone": "UTC",
    "policies": {"wallets": {"points": {}}},
    "rules": {"rules": [{"id": "base", "type": "points_per_spend", "wallet": "points", "points": 1, "per": "1.00"}]},
    "tiers": None,
}
NEVER = 1 << 62


@dataclass(frozen=True)
class Place:
    """A place in a chain: what the sequential model says after its entry, and when its call began and ended."""

    began: int
    ended: int
    available: int
    held: int


class Chain:
    """A member's chain in the sequential model. Places are counted from 1, like the entries.

    `resolved` and `cancelled` are holds and redemptions, by the place of their own entries, and the place at which they
    came to an end. `left` is what could still be refunded of a purchase: from which place on, and how much.
    """

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.resolved: dict[int, int] = {}
        self.cancelled: dict[int, int] = {}
        self.left: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def close(self) -> None:
        """Work out, when the chain is complete, what the search for `visible` places needs."""
        self._latest_beginning = list(accumulate((place.began for place in self.places), max))
        self._earliest_end = list(accumulate((place.ended for place in reversed(self.places)), min))[::-1]

    def visible(self, call: Call) -> range:
        """The places that the call could have seen as the latest one."""
        first = bisect_left(self._earliest_end, call.began)
        last = bisect_right(self._latest_beginning, call.ended)
        return range(max(first, 1), last + 1)

    def left_of(self, purchase: str, place: int) -> int | None:
        """What could be refunded of the purchase at the place; None if it had not happened."""
        known = [left for since, left in self.left.get(purchase, []) if since <= place]
        return known[-1] if known else None


@dataclass
class Verdict:
    """What was found. `wrong` is empty when everything is as it has to be."""

    calls: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    wrong: list[str] = field(default_factory=list)


def judge_database(db: Mongo, calls: Sequence[Call]) -> Verdict:
    """Go through the ledger and all calls, which were all that was ever asked of it."""
    verdict = judge(list(db.ledger.find().sort("_id")), calls)
    verdict.wrong += [f"{defect.where}: {defect.what}" for defect in verify(db).defects]
    return verdict


def judge(entries: Sequence[Document], calls: Sequence[Call]) -> Verdict:
    """Compare the entries of a program, in order, with all calls that were made to it."""
    verdict = Verdict(entries=len(entries))
    by_key: dict[bytes, list[Document]] = defaultdict(list)
    for entry in entries:
        for key in entry["keys"]:
            by_key[bytes(key)].append(entry)
    callers: dict[bytes, list[Call]] = defaultdict(list)
    for call in calls:
        verdict.calls[f"{call.kind} {call.status} {call.code}".strip()] += 1
        for _, key in call.keys:
            callers[key].append(call)
    verdict.wrong += _once(calls, by_key)
    entries_of: dict[int, list[Document]] = defaultdict(list)
    for entry in entries:
        entries_of[entry["_id"] >> 24].append(entry)
    chains: dict[int, Chain] = defaultdict(Chain)
    for member, own in entries_of.items():
        chains[member] = _replay(own, callers, verdict.wrong)
        verdict.wrong += _against_time(member, chains[member].places)
    verdict.wrong += [
        f"{call.kind} of member {call.member} was refused ({call.code}) or answered {call.seen}, which it never was"
        for call in calls
        if not _could_be(call, chains[call.member])
    ]
    verdict.wrong += _conserved(entries)
    return verdict


def _once(calls: Sequence[Call], by_key: dict[bytes, list[Document]]) -> list[str]:
    """Each operation that was acknowledged is in the chain once, as it was acknowledged; each refused one is not.

    Of an operation that was sent several times, one sending may have been refused after another had been done, or while
    nobody knows what became of another.
    """
    wrong = []
    may_be_done = {call.keys[0][1] for call in calls if call.status != "refused" and call.keys}
    for call in calls:
        for place, (member, key) in enumerate(call.keys):
            found = by_key.get(key, [])
            if len(found) > 1:
                wrong.append(f"{call.kind} happened {len(found)} times")
            if call.status == "refused" and found and call.keys[0][1] not in may_be_done:
                wrong.append(f"{call.kind} was refused and happened")
            if call.status != "done":
                continue
            if not found:
                wrong.append(f"{call.kind} was acknowledged and is lost")
            elif found[0]["_id"] >> 24 != member:
                wrong.append(f"{call.kind} happened to somebody else")
            elif place == 0 and (found[0]["_id"], bytes(found[0]["hash"])) != (call.entry, call.hash):
                wrong.append(f"{call.kind} is not what was acknowledged")
    return wrong


def _replay(entries: Sequence[Document], callers: dict[bytes, list[Call]], wrong: list[str]) -> Chain:
    """The chain in the sequential model, entry by entry."""
    world = World(PROGRAM, date(2020, 1, 1))
    chain = Chain()
    purse = world.purses["points"]
    for number, entry in enumerate(entries, start=1):
        asked = [call for key in entry["keys"] for call in callers.get(bytes(key), [])]
        if not asked:
            wrong.append(f"nobody asked for entry {entry['_id']}")
        holds = {hold.number for hold in purse.holds}
        try:
            _happen(world, entry, chain, number)
        except Refused:
            wrong.append(f"entry {entry['_id']}, a {entry['kind']}, could not happen after the one before it")
        chain.resolved.update(dict.fromkeys(holds - {hold.number for hold in purse.holds}, number))
        said = entry["state"]["wallets"].get("points", {"available": 0, "held": 0})
        if (purse.available(), purse.held()) != (said["available"], said["held"]):
            wrong.append(
                f"entry {entry['_id']} says {said['available']} and {said['held']} held, the model "
                f"{purse.available()} and {purse.held()} held"
            )
        if purse.available() < 0:
            wrong.append(f"entry {entry['_id']} overspends")
        firsts = [call for call in asked if call.kind != "again"] or asked
        began = min((call.began for call in firsts), default=0)
        ended = min((call.ended for call in asked if call.status == "done"), default=NEVER)
        chain.places.append(Place(began, ended, purse.available(), purse.held()))
    chain.close()
    return chain


def _happen(world: World, entry: Document, chain: Chain, place: int) -> None:
    """What the entry records, done in the model. Refused when the model would not do it."""
    now, evidence, sequence = entry["recorded_at"], entry["evidence"], entry["_id"] & ((1 << 24) - 1)
    kind = entry["kind"]
    if kind == "earn":
        event = evidence["event"]
        amount = event["amount"]
        told = {"id": event["id"], "type": "purchase", "amount": f"{amount // 100}.{amount % 100:02}"}
        world.event(told, now)
        chain.left[event["id"]].append((place, world.known[event["id"]].left()))
    elif kind == "refund":
        event = evidence["event"]
        told = {"id": event["id"], "type": "refund", "refers_to": event["refers_to"]}
        if "amount" in event:
            told["amount"] = f"{event['amount'] // 100}.{event['amount'] % 100:02}"
        world.event(told, now)
        bought = event["refers_to"]
        chain.left[bought].append((place, world.known[bought].left()))
    elif kind == "hold":
        lives = evidence["hold"]["until"] - now
        world.hold("points", evidence["hold"]["points"], int(lives.total_seconds()), now, sequence)
    elif kind in ("capture", "void"):
        number = next(posting["hold"] for posting in entry["postings"] if posting["from"] == "held")
        if kind == "void":
            world.void("points", number, now)
        else:
            world.capture("points", number, evidence["captured"], now)
    elif kind == "spend":
        world.spend("points", evidence["reward"]["cost"], now, sequence)
    elif kind == "cancel":
        redemption = (entry_number(evidence["redemption"]) or 0) & ((1 << 24) - 1)
        world.cancel(redemption, now)
        chain.cancelled[redemption] = place
    elif kind == "transfer":
        transfer = evidence["transfer"]
        if "to" in transfer:
            world.give_away("points", transfer["points"], now)
        else:
            world.purses["points"].put("transferred", transfer["points"])


def _against_time(member: int, places: Sequence[Place]) -> list[str]:
    """Whatever ended before another call began must stand before it in the chain."""
    wrong = []
    earliest_end = NEVER
    for sequence in range(len(places), 0, -1):
        place = places[sequence - 1]
        if place.began > earliest_end:
            wrong.append(f"entry {sequence} of member {member} stands before one that ended earlier than it began")
        earliest_end = min(earliest_end, place.ended)
    return wrong


def _could_be(call: Call, chain: Chain) -> bool:
    """Whether a refusal, or what a read saw, was true at a place that the call could have seen."""
    if call.status != "refused" and (call.kind != "read" or call.status != "done"):
        return True
    is_right = _is_right(call, chain)
    return any(is_right(place) for place in chain.visible(call))


def _is_right(call: Call, chain: Chain) -> Callable[[int], bool]:
    detail, places = call.detail, chain.places
    if call.kind == "read" and call.status == "done":
        seen = (call.seen["available"], call.seen["held"])
        return lambda place: (places[place - 1].available, places[place - 1].held) == seen
    if call.code == "insufficient_points":
        return lambda place: places[place - 1].available == call.seen["available_points"] < detail["points"]
    if call.code == "hold_already_resolved":
        hold = detail["hold"] & ((1 << 24) - 1)
        return lambda place: place < hold or chain.resolved.get(hold, NEVER) <= place
    if call.code == "already_cancelled":
        redemption = detail["redemption"] & ((1 << 24) - 1)
        return lambda place: chain.cancelled.get(redemption, NEVER) <= place
    if call.code == "refund_exceeds_purchase":
        wanted = int(detail["event"].get("amount", "0").replace(".", ""))
        bought = detail["event"]["refers_to"]

        def exceeds(place: int) -> bool:
            left = chain.left_of(bought, place)
            return left is not None and (left < wanted or left == 0)

        return exceeds
    return lambda place: False


def _conserved(entries: Sequence[Document]) -> list[str]:
    """Transfers neither make nor lose points, and what members have is what came less what went."""
    moved: Counter[tuple[str, str]] = Counter()
    latest: dict[int, Document] = {}
    for entry in entries:
        latest[entry["_id"] >> 24] = entry
        for posting in entry["postings"]:
            moved[posting["from"], posting["to"]] += posting["points"]
    have = sum(
        wallet["available"] + wallet["held"] + wallet["pending"]
        for entry in latest.values()
        for wallet in entry["state"]["wallets"].values()
    )
    came = sum(points for (source, _), points in moved.items() if source in ("issuance", "spent", "adjusted"))
    went = sum(points for (_, target), points in moved.items() if target in ("spent", "expired", "reversed"))
    given = sum(points for (_, target), points in moved.items() if target == "transferred")
    got = sum(points for (source, _), points in moved.items() if source == "transferred")
    wrong = []
    if given != got:
        wrong.append(f"{given} points were given away and {got} arrived")
    if have != came - went:
        wrong.append(f"members have {have} points, {came} came and {went} went")
    return wrong
