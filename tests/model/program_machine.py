"""Random programs with random histories: the engine against the naive member."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loyalty.ledger.movements import next_due
from loyalty.ledger.state import Refusal
from tests.model import programs
from tests.model.engine_side import Engine
from tests.model.naive_member import Member, Refused
from tests.model.naive_rules import Json, instant_of

EVENT_IDS = [f"e{number}" for number in range(12)]
DELAYS = [0, 1, 3_600, 86_400, 3 * 86_400, 40 * 86_400, -240]
JUMPS = [1, 60, 3_600, 86_400, 2 * 86_400, 10 * 86_400, 45 * 86_400, 366 * 86_400]

wallets = st.sampled_from(["points", "points", "status"])
points = st.sampled_from([1, 5, 20, 100, 400])
places = st.sampled_from([0, 0, 0, 1])
delays = st.none() | st.sampled_from(DELAYS)


class EngineAgainstNaive(RuleBasedStateMachine):
    """One member of one program. What the engine refuses the naive model refuses, and then nothing has happened."""

    @initialize(program=programs.programs)
    def begin(self, program: Json) -> None:
        note(f"{program}")
        self.program = program
        self.now = instant_of(program["start"])
        self.engine = Engine(program, self.now)
        self.naive = Member(program, self.engine.joined_on)
        self.friend = Engine(program, self.now)
        self.naive_friend = Member(program, self.engine.joined_on)
        self.told: dict[str, Json] = {}
        self.holds: dict[int, str] = {}
        self.redemptions: list[int] = []
        self.number = 0

    def both(self, what: str, details: tuple[Any, ...], engine: Callable[[], Any]) -> bool:
        """Whether it happened, on both sides or on none."""
        try:
            self.naive.do(what, *details)
        except Refused:
            entries = len(self.engine.chain.entries)
            with pytest.raises(Refusal):
                engine()
            assert len(self.engine.chain.entries) == entries
            return False
        engine()
        return True

    def next(self) -> int:
        self.number += 1
        return self.number

    # Time

    @rule(seconds=st.sampled_from(JUMPS))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.both_wait()

    def both_wait(self) -> None:
        self.naive.do("wait", self.now)
        self.naive_friend.do("wait", self.now)

    @rule(milliseconds=st.sampled_from([-1, 0]))
    def wait_for_what_comes(self, milliseconds: int) -> None:
        instant = next_due(self.engine.chain.head.state)
        if instant is not None and instant.year < 2100:
            self.now = max(self.now, instant + timedelta(milliseconds=milliseconds))
            self.both_wait()

    @rule()
    def settle(self) -> None:
        self.engine.settle(self.now)

    # Events

    def tell(self, event: Json, delay: int | None) -> None:
        event = {name: value for name, value in event.items() if value not in ([], None)}
        if any("amount" in part for part in (event, *event.get("items", []))):
            event["currency"] = "USD"
        wire = dict(event)
        if delay is not None:
            event["occurred_at"] = self.now - timedelta(seconds=delay)
            wire["occurred_at"] = event["occurred_at"].isoformat()
        if "payments" in wire:
            wire["payments"] = [
                {**one, "hold": self.engine.hold_id(one["hold"])} if "hold" in one else one for one in wire["payments"]
            ]
        if self.both("event", (event, self.now), lambda: self.engine.event(wire, self.now)):
            self.told[event["id"]] = event

    def unused(self, place: int) -> str | None:
        """The id of an event that nobody has told yet."""
        free = [name for name in EVENT_IDS if name not in self.told]
        return free[min(place, len(free) - 1)] if free else None

    @rule(event=programs.purchases, place=places, delay=delays, data=st.data())
    def buy(self, event: Json, place: int, delay: int | None, data: st.DataObject) -> None:
        number = self.unused(place)
        if number is None:
            return
        paid = sum(float(one["amount"]) for one in event["payments"] if one["method"] == "points")
        if paid > float(event["amount"]):
            event = {**event, "payments": []}
        if self.holds and self.program["policies"].get("points_payment") and data.draw(st.booleans()):
            held = data.draw(st.sampled_from(sorted(self.holds)))
            event["payments"] = [
                {**one, "hold": held} if one["method"] == "points" else one for one in event["payments"]
            ]
        self.tell({"id": number, **event}, delay)

    @rule(event=programs.purchases, delay=delays, data=st.data())
    def buy_more(self, event: Json, delay: int | None, data: st.DataObject) -> None:
        self.buy(event, 0, delay, data)

    @rule(event=programs.others, place=places, delay=delays, about=st.sampled_from(EVENT_IDS))
    def happen(self, event: Json, place: int, delay: int | None, about: str) -> None:
        number = self.unused(place)
        if number is None:
            return
        refers_to = {"refers_to": about} if event["type"] == "delivered" and about != number else {}
        self.tell({"id": number, **refers_to, **event}, delay)

    @rule(
        number=st.sampled_from([*EVENT_IDS[:3], *EVENT_IDS]),
        amount=st.none() | st.sampled_from(["0.01", "3.33", "10.00", "100.00"]),
        pieces=st.none() | st.lists(st.tuples(st.sampled_from(["0", "1", "2"]), st.integers(1, 2)), max_size=2),
    )
    def refund(self, number: str, amount: str | None, pieces: list[tuple[str, int]] | None) -> None:
        items = [{"line_id": line, "quantity": quantity} for line, quantity in pieces or []]
        name = f"refund-{self.next()}"
        told = {"id": name, "type": "refund", "refers_to": number, "items": items}
        self.tell({**told, "amount": None if items else amount}, None)

    # Acts

    @rule(number=st.sampled_from(EVENT_IDS[:4]))
    def approve(self, number: str) -> None:
        self.both("approve", (number, self.now), lambda: self.engine.approve(number, self.now))

    @rule(wallet=wallets, points=points)
    def redeem(self, wallet: str, points: int) -> None:
        label = self.next()
        if self.both(
            "spend", (wallet, points, self.now, label), lambda: self.engine.spend(wallet, points, self.now, label)
        ):
            self.redemptions.append(label)

    @precondition(lambda self: self.redemptions)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        label = data.draw(st.sampled_from(self.redemptions))
        self.redemptions.remove(label)
        self.both("cancel", (label, self.now), lambda: self.engine.cancel(label, self.now))

    @rule(wallet=wallets, points=points, seconds=st.sampled_from([1, 3_600, 7 * 86_400]))
    def hold(self, wallet: str, points: int, seconds: int) -> None:
        number = self.engine.chain.head.sequence + 1
        if self.both(
            "hold",
            (wallet, points, seconds, self.now, number),
            lambda: self.engine.hold(wallet, points, seconds, self.now),
        ):
            self.holds[number] = wallet

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), points=st.none() | points)
    def capture(self, data: st.DataObject, points: int | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.holds)))
        wallet = self.holds[number]
        self.both(
            "capture",
            (wallet, number, points, self.now),
            lambda: self.engine.capture(wallet, number, points, self.now),
        )

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.holds)))
        wallet = self.holds[number]
        self.both("void", (wallet, number, self.now), lambda: self.engine.void(wallet, number, self.now))

    @rule(wallet=wallets, points=points, sign=st.sampled_from([-1, 1]), days=st.none() | st.sampled_from([1, 9]))
    def adjust(self, wallet: str, points: int, sign: int, days: int | None) -> None:
        expires_at = self.now + timedelta(days=days) if days and sign > 0 else None
        self.both(
            "adjust",
            (wallet, sign * points, self.now, expires_at),
            lambda: self.engine.adjust(wallet, sign * points, self.now, expires_at),
        )

    @rule(wallet=wallets, points=points, back=st.booleans())
    def transfer(self, wallet: str, points: int, back: bool) -> None:
        """To a friend, or back; what does not fit there is not sent."""
        naive = (self.naive, self.naive_friend)
        engines = (self.engine, self.friend)
        (giver, taker), (giving, taking) = (naive[::-1], engines[::-1]) if back else (naive, engines)
        most = self.program["policies"]["wallets"][wallet].get("max_balance")
        purse = taker.world.purses[wallet]
        if most is not None and purse.available() + purse.pending() + purse.held() + points > most:
            return
        if points > giver.world.purses[wallet].available():
            with pytest.raises(Refusal):
                giving.give(taking, wallet, points, self.now)
            return
        parts = giver.world.purses[wallet].first(points)
        giver.do("give_away", wallet, points, self.now)
        taker.do("get", wallet, parts, self.now)
        giving.give(taking, wallet, points, self.now)

    # What has to hold

    @invariant()
    def agree(self) -> None:
        self.agree_on(self.engine, self.naive)
        self.agree_on(self.friend, self.naive_friend)
        self.agree_on_caps()

    def agree_on(self, engine: Engine, naive: Member) -> None:
        state = engine.at(self.now)
        world = naive.world
        for name, purse in world.purses.items():
            wallet = state.wallet(name)
            assert wallet.defects() == []
            has = (wallet.available, wallet.pending, wallet.held, wallet.deficit)
            assert has == (purse.available(), purse.pending(), purse.held(), purse.debt), name
            assert {lot.expires_at: lot.points for lot in wallet.lots if lot.activates_at is None} == purse.by_end()
            assert {
                (lot.activates_at, lot.expires_at): lot.points for lot in wallet.lots if lot.activates_at
            } == purse.waiting()
            assert wallet.earned == purse.moved("issuance", None)
            assert wallet.spent == purse.moved(None, "spent")
            assert wallet.restored == purse.moved("spent", None)
            assert wallet.expired == purse.moved(None, "expired")
            assert wallet.reversed == purse.moved(None, "reversed")
            assert wallet.transferred == purse.moved("transferred", None) - purse.moved(None, "transferred")
            assert wallet.lapses_at == purse.lapses_at
        if self.program["tiers"] is not None:
            standing = engine.standing(self.now)
            level = self.program["tiers"]["levels"][world.standing.rank]["id"]
            assert (standing.level, standing.value) == (level, world.value(self.now))

    def agree_on_caps(self) -> None:
        limited = [("rule", rule) for rule in self.program["rules"]["rules"]]
        limited += [("campaign", campaign) for campaign in self.program["rules"]["campaigns"]]
        for kind, one in limited:
            for cap in one.get("caps", {}):
                unit = cap.removeprefix("per_")
                unit = "ever" if unit == "member" else unit
                if unit in ("event", "over"):
                    continue
                name = f"{kind}:{one['id']}"
                if kind == "campaign" and not any(rule.get("campaign") for rule in self.program["rules"]["rules"]):
                    continue
                counted = self.naive.world.counters.value(name, unit, self.now)
                assert self.engine.counted(f"{name}:{unit}", self.now) == counted, (name, unit)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        chain = self.engine.chain
        assert [entry["hash"] for entry in chain.replayed().entries] == [entry["hash"] for entry in chain.entries]
        again = self.naive.again()
        for name, purse in self.naive.world.purses.items():
            assert again.purses[name].by_end() == purse.by_end()
