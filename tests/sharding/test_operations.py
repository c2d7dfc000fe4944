"""No operation but a transfer and a merge crosses a shard, by the application's own code (docs/decisions/0017)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import pytest

from loyalty.adjustments import service as adjustments
from loyalty.adjustments.service import Adjustment
from loyalty.config import Settings
from loyalty.events import service as events
from loyalty.events.reading import parse, read
from loyalty.holds import service as holds
from loyalty.infra.clock import system_clock
from loyalty.infra.elections import as_of_now
from loyalty.infra.ids import entry_id
from loyalty.infra.mongo import Mongo, connect
from loyalty.infra.services import Services
from loyalty.jobs.settlement import settle_members
from loyalty.ledger.entry import SEQUENCE_BITS, entry_hash, member_of
from loyalty.members import service as members
from loyalty.migrations import declared, migrate
from loyalty.points import acts, terms
from loyalty.points import service as points
from loyalty.points.acts import Done
from loyalty.programs import service as programs
from loyalty.programs.model import Program
from loyalty.programs.policies import Policies, WalletPolicy
from loyalty.rewards import service as rewards
from loyalty.rules import service as rules
from loyalty.rules.model import PointsPerSpend, RuleSet
from loyalty.transfers import merging
from loyalty.transfers import service as transfers
from tests.sharding.router import PARTITIONED, Router

SHARDS = 3
BY = "test"


class Site(NamedTuple):
    """A program on a partitioned ledger. Members are enrolled one after the other, each on the next shard."""

    router: Router
    services: Services
    program: Program

    def record(self, member: str, event: str, **fields: Any) -> Done:
        told = {"source": member, "id": event, "type": "purchase", "member": {"external_id": member}, **fields}
        if told["type"] == "purchase":
            told = {"amount": "100.00", "currency": "USD", **told}
        fact = read(parse(json.dumps(told).encode()), self.program, now=system_clock())
        return events.record(self.services, terms.current(self.services.db, self.program.id), fact)


class _Services(Services):
    """Services whose database is behind the router."""

    def __init__(self, settings: Settings, router: Router) -> None:
        super().__init__(settings)
        self._router = router

    @property
    def db(self) -> Mongo:
        return cast(Mongo, self._router)


@pytest.fixture(scope="module")
def site(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    database = connect(mongo_uri, f"test_{secrets.token_hex(8)}", serves_requests=False)
    migrate(database, release="test", clock=system_clock)
    program = programs.create(
        database,
        id="main",
        name="Main",
        currency="USD",
        policies=Policies(wallets={"points": WalletPolicy(transferable=True)}),
        clock=system_clock,
    )
    base = PointsPerSpend(type="points_per_spend", id="base", points=1, per="1.00")
    rules.publish(database, program, RuleSet(rules=[base]), expected_version=None, published_by=BY, clock=system_clock)
    shards = [database.client[f"{database.name}_{number}"] for number in range(SHARDS)]
    shards = [shard.with_options(write_concern=database.write_concern) for shard in shards]
    for shard in shards:
        for name in PARTITIONED:
            shard.create_collection(name)
            shard[name].create_indexes(declared()[name])
    as_of_now(database, "ledger", lambda lasting: None)  # the question after an election is of no operation
    router = Router(database, shards)
    settings = Settings(
        mongo_uri=mongo_uri,
        mongo_database=database.name,
        secret_key="s" * 40,
        storage_path=tmp_path_factory.mktemp("storage"),
    )
    yield Site(router, _Services(settings, router), program)
    for one in (database, *shards):
        database.client.drop_database(one.name)
    database.client.close()


@pytest.fixture
def trio(site: Site) -> tuple[str, str, str]:
    """Three new members on three shards."""
    names = tuple(f"{name}-{secrets.token_hex(4)}" for name in ("ann", "bob", "cid"))
    for name in names:
        members.enrol(site.router.whole, "main", handles=[f"ext:{name}"], clock=system_clock)
    assert {site.router.place(number) for number in _numbers(site, *names)} == {0, 1, 2}
    return cast(tuple[str, str, str], names)


def _refund(site: Site, member: str, event: str = "r1", of: str = "p1") -> Done:
    return site.record(member, event, type="refund", refers_to=of, amount="40.00", currency="USD")


def _hold(site: Site, member: str) -> Done:
    act = holds.place(
        site.program,
        member=f"ext:{member}",
        wallet="points",
        points=10,
        seconds=None,
        reference=None,
        key=("request", member, "hold"),
        by=BY,
    )
    return acts.perform_together(site.services, act)


def _resolve(site: Site, member: str, how: str) -> Done:
    hold = holds.find(site.services.db, "main", entry_id(_hold(site, member).entry["_id"]), now=system_clock())
    if how == "void":
        return holds.void(site.services, site.program, hold, key=("request", member, how), by=BY)
    return holds.capture(site.services, site.program, hold, points=4, key=("request", member, how), by=BY)


def _redeem(site: Site, member: str, stock: int | None) -> Done:
    reward = rewards.create(
        site.router.whole, "main", name="Mug", cost=20, available=True, clock=system_clock, stock=stock
    )
    return rewards.redeem(site.services, site.program, reward, member=f"ext:{member}", key=("request", member), by=BY)


def _cancel(site: Site, member: str) -> Done:
    bought = rewards.find_redemption(site.services.db, "main", entry_id(_redeem(site, member, 5).entry["_id"]))
    return rewards.cancel(site.services, site.program, bought, key=("request", member, "back"), by=BY)


def _adjust(site: Site, member: str) -> object:
    wanted = Adjustment(f"ext:{member}", "points", 30, None, "goodwill")
    return adjustments.adjust(site.services, site.program, wanted, key=("request", member), by=BY)


def _settle(site: Site, member: str) -> object:
    (number,) = _numbers(site, member)
    return settle_members(site.services.db, {number: "main"}, clock=system_clock)


def _read(site: Site, name: str) -> object:
    db = site.services.db
    member, head = points.find_with_head(db, "main", f"ext:{name}")
    state, _ = points.balance(db, head, now=system_clock())
    assert state.wallet("points").available == 100
    assert [lot.lot.points for lot in points.lots(db, head, now=system_clock())] == [100]
    assert points.balance(db, head, now=system_clock(), at=system_clock())[0] == state
    (entry,) = points.entries(db, member, before=None, limit=50)
    return points.entry(db, "main", entry_id(entry["_id"]))


OPERATIONS: dict[str, Callable[[Site, str], object]] = {
    "purchase": lambda site, member: site.record(member, "p2"),
    "the same purchase again": lambda site, member: site.record(member, "p1"),
    "visit": lambda site, member: site.record(member, "v1", type="visit"),
    "refund": _refund,
    "the same refund again": lambda site, member: (_refund(site, member), _refund(site, member)),
    "refund before its purchase": lambda site, member: (
        _refund(site, member, "r3", of="p3"),
        site.record(member, "p3"),
    ),
    "hold": _hold,
    "capture": lambda site, member: _resolve(site, member, "capture"),
    "void": lambda site, member: _resolve(site, member, "void"),
    "redemption": lambda site, member: _redeem(site, member, None),
    "redemption from a stock": lambda site, member: _redeem(site, member, 5),
    "cancellation": _cancel,
    "adjustment": _adjust,
    "balance, lots, entries": _read,
    "what time has done": _settle,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_asks_the_shard_of_its_member_alone(site: Site, trio: tuple[str, str, str], name: str) -> None:
    member = trio[0]
    with site.router.operation("main", f"ext:{member}"):
        earned = site.record(member, "p1")
    with site.router.operation("main", f"ext:{member}") as asked:
        OPERATIONS[name](site, member)
    assert asked == {site.router.place(member_of(earned.entry["_id"]))}


def test_a_transfer_asks_the_shards_of_both_and_no_other(site: Site, trio: tuple[str, str, str]) -> None:
    ann, bob, _ = trio
    with site.router.operation("main", f"ext:{ann}"):
        site.record(ann, "p1")
    with site.router.operation("main", f"ext:{ann}", f"ext:{bob}") as asked:
        transfers.transfer(
            site.services,
            site.program,
            sender=f"ext:{ann}",
            recipient=f"ext:{bob}",
            wallet="points",
            points=60,
            note=None,
            key=("request", ann),
            by=BY,
        )
    assert asked == {site.router.place(number) for number in _numbers(site, ann, bob)}
    assert [_available(site, name) for name in trio] == [40, 60, 0]


def test_a_merge_asks_the_shards_of_both_and_no_other(site: Site, trio: tuple[str, str, str]) -> None:
    ann, bob, _ = trio
    both = {site.router.place(number) for number in _numbers(site, ann, bob)}
    for name in (ann, bob):
        with site.router.operation("main", f"ext:{name}"):
            site.record(name, "p1")
    with site.router.operation("main", f"ext:{ann}", f"ext:{bob}") as asked:
        merging.merge(site.services, site.program, source=f"ext:{bob}", into=f"ext:{ann}", key=("request", ann), by=BY)
    assert asked == both
    assert _available(site, bob) == 200


def test_chains_stand_whole_on_the_shard_of_their_member(site: Site, trio: tuple[str, str, str]) -> None:
    for round_ in range(4):
        for name in trio:
            with site.router.operation("main", f"ext:{name}"):
                site.record(name, f"p{round_}")
    for number in _numbers(site, *trio):
        for place, shard in enumerate(site.router.shards):
            between = {"$gt": number << SEQUENCE_BITS, "$lt": (number + 1) << SEQUENCE_BITS}
            chain = list(shard.ledger.find({"_id": between}, sort=[("_id", 1)]))
            assert len(chain) == (4 if place == site.router.place(number) else 0)
            for before, entry in zip([None, *chain], chain, strict=False):
                assert entry["prev"] == (bytes(32) if before is None else before["hash"])
                assert entry["hash"] == entry_hash(entry)


def test_the_router_sees_a_command_that_would_ask_every_shard(site: Site) -> None:
    with pytest.raises(AssertionError, match="every shard"):
        site.services.db.ledger.find_one({"kind": "earn"})
    with pytest.raises(AssertionError, match="names no member"):
        site.services.db.ledger.find_one({"keys": b"x"})


def _numbers(site: Site, *names: str) -> list[int]:
    handles = [f"ext:{name}" for name in names]
    known = members.resolve(site.router.whole, "main", handles)
    return [known[handle].number for handle in handles]


def _available(site: Site, name: str) -> int:
    with site.router.operation("main", f"ext:{name}"):
        _, head = points.find_with_head(site.services.db, "main", f"ext:{name}")
    return points.balance(site.services.db, head, now=system_clock())[0].wallet("points").available
