"""The settlement of what time has done: the same for a reader before and after, once, and whole after any kill."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loyalty.config import load_settings
from loyalty.infra.clock import Clock
from loyalty.infra.mongo import Mongo
from loyalty.jobs.lease import Lease, LeaseLost, Turn
from loyalty.jobs.model import Work
from loyalty.jobs.schedule import JOBS
from loyalty.jobs.settlement import NothingDue, operation_for, settle_due, settle_members, settlements
from loyalty.ledger.append import Operation, append
from loyalty.ledger.entry import Draft
from loyalty.ledger.heads import read_head
from loyalty.ledger.movements import credit, debit, hold, settle
from loyalty.ledger.projection import rebuild
from loyalty.ledger.state import LedgerDefect, Posting, State, fold
from loyalty.ledger.verify import verify
from loyalty.members import service as members_of
from loyalty.programs import service as programs
from loyalty.programs.calendar import Calendar
from loyalty.tiers import engine as tier_engine
from loyalty.tiers import service as tiers
from loyalty.tiers.engine import Scheme
from loyalty.tiers.model import TierScheme
from tests.servers import REPOSITORY, wait_until

START = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
MIDNIGHT = datetime(2026, 2, 1, tzinfo=timezone.utc)
MILLISECOND = timedelta(milliseconds=1)
WORKER = "tests.integration.jobs.settlement_process"


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def at(instant: datetime) -> Clock:
    return lambda: instant


def write(
    db: Mongo,
    member: int,
    postings: Sequence[Posting],
    *,
    when: datetime = START,
    lapses: Mapping[str, datetime | None] | None = None,
) -> None:
    """One entry with these postings."""

    def decide(state: State, sequence: int, now: datetime) -> Draft:
        return Draft("adjust", now, postings, {}, lapses=lapses or {})

    operation = Operation("bakery", member, (secrets.token_bytes(16),), b"request", decide)
    (outcome,) = append(db.ledger, [operation], clock=at(when))
    assert outcome.status == "applied"


def give(
    db: Mongo, members: range, *, activates_at: datetime | None = None, expires_at: datetime | None = None
) -> None:
    """Ten points for each member."""

    def decide(state: State, sequence: int, now: datetime) -> Draft:
        options = {"activates_at": activates_at, "expires_at": expires_at}
        return Draft("earn", now, credit(state, "points", 10, source="issuance", sequence=sequence, **options), {})

    operations = [Operation("bakery", member, (secrets.token_bytes(16),), b"request", decide) for member in members]
    assert {outcome.status for outcome in append(db.ledger, operations, clock=at(START))} == {"applied"}


def settlement_of(db: Mongo, member: int) -> dict[str, Any]:
    """The last entry of the member, which must be a settlement."""
    entry = db.ledger.find_one({"_id": {"$lt": (member + 1) << 24}}, sort=[("_id", -1)])
    assert entry is not None
    assert (entry["_id"] >> 24, entry["kind"]) == (member, "settle")
    return entry


def run(db: Mongo, now: datetime) -> int:
    """One run of the job on an up-to-date projection; how many entries it wrote."""
    rebuild(db)
    return sum(batch.written for batch in settlements(db, clock=at(now)))


@pytest.fixture
def work(database: Mongo, mongo_uri: str, tmp_path: Path) -> Work:
    """What the job is handed on 1 February, with a lease that is held."""
    settings = load_settings(
        mongo_uri=mongo_uri, secret_key="s" * 32, seal_key="A" * 43 + "=", storage_path=tmp_path, node_name="box1"
    )
    lease = Lease(database, "jobs", node="box1", seconds=600)
    assert lease.acquire()
    return Work(database, settings, at(MIDNIGHT), Turn(lease, lease.term))


def test_points_are_good_to_the_last_millisecond_and_gone_at_midnight(database: Mongo) -> None:
    """Case 3.16: usable until the last instant of the day, gone at the first of the next, job or no job."""
    give(database, range(1, 2), expires_at=MIDNIGHT)
    give(database, range(2, 3), activates_at=MIDNIGHT)
    last, first = MIDNIGHT - MILLISECOND, MIDNIGHT

    def reads(now: datetime) -> list[tuple[int, int]]:
        states = [settle(read_head(database.ledger, member).state, now) for member in (1, 2)]
        return [(state.wallet("points").available, state.wallet("points").pending) for state in states]

    assert reads(last) == [(10, 0), (0, 10)]
    assert reads(first) == [(0, 0), (10, 0)]
    assert run(database, last) == 0
    assert run(database, first) == 2
    assert reads(first) == [(0, 0), (10, 0)]
    assert settlement_of(database, 1)["occurred_at"] == MIDNIGHT
    assert settlement_of(database, 1)["evidence"]["settled"] == [
        {"at": MIDNIGHT, "what": "expire", "wallet": "points", "points": 10}
    ]
    assert verify(database).defects == []


def test_points_that_activate_at_midnight_outlive_those_that_expire_then(database: Mongo) -> None:
    """Case 3.18: at one instant points activate first, then others expire; all of it is one entry."""
    give(database, range(1, 2), activates_at=MIDNIGHT, expires_at=MIDNIGHT + timedelta(days=30))
    give(database, range(1, 2), expires_at=MIDNIGHT)
    give(database, range(1, 2), expires_at=day(3))
    assert run(database, MIDNIGHT + timedelta(hours=7)) == 1
    entry = settlement_of(database, 1)
    happened = [(step["at"], step["what"], step["points"]) for step in entry["evidence"]["settled"]]
    assert happened == [(day(3), "expire", 10), (MIDNIGHT, "activate", 10), (MIDNIGHT, "expire", 10)]
    assert entry["state"]["wallets"]["points"]["available"] == 10
    assert entry["occurred_at"] == day(3)


def test_pending_points_live_from_their_activation(database: Mongo) -> None:
    """Case 3.19: they wait 30 days and are then good for 30 more, whatever day the job finds them."""
    give(database, range(1, 2), activates_at=day(30), expires_at=day(60))
    assert run(database, day(29)) == 0
    assert run(database, day(45)) == 1
    assert settle(read_head(database.ledger, 1).state, day(60) - MILLISECOND).wallet("points").available == 10
    assert run(database, day(60)) == 1
    wallet = read_head(database.ledger, 1).state.wallet("points")
    assert (wallet.available, wallet.expired) == (0, 10)


def test_a_hold_that_nobody_resolved_times_out(database: Mongo) -> None:
    give(database, range(1, 2))
    state = read_head(database.ledger, 1).state
    write(database, 1, hold(state, "points", 4, sequence=2, until=day(0.5)))
    assert read_head(database.ledger, 1).state.wallet("points").held == 4
    assert run(database, day(1)) == 1
    wallet = read_head(database.ledger, 1).state.wallet("points")
    assert (wallet.available, wallet.held, wallet.holds) == (10, 0, ())
    assert settlement_of(database, 1)["evidence"]["settled"][0]["what"] == "release"


def test_a_wallet_lapses_by_inactivity_and_is_left_alone_then(database: Mongo) -> None:
    give(database, range(1, 3))
    write(database, 1, [], lapses={"points": day(20)})
    write(database, 2, debit(read_head(database.ledger, 2).state, "points", 10, target="spent"))
    write(database, 2, [], lapses={"points": day(20)})  # nothing is left to lapse: the instant passes all the same
    assert run(database, day(21)) == 2
    assert read_head(database.ledger, 1).state.wallet("points").expired == 10
    assert settlement_of(database, 2)["postings"] == []
    assert run(database, day(400)) == 0
    assert verify(database).defects == []


def test_nothing_due_writes_nothing(database: Mongo) -> None:
    give(database, range(1, 4), expires_at=day(10))
    rebuild(database)
    database.wallets.update_many({}, {"$set": {"due_at": START}})  # the projection says so; the chains do not
    assert sum(batch.written for batch in settlements(database, clock=at(day(1)))) == 0
    assert database.ledger.count_documents({"kind": "settle"}) == 0


def test_what_was_settled_is_not_settled_again_while_the_projection_lags(database: Mongo) -> None:
    give(database, range(1, 30), expires_at=day(10))
    rebuild(database)
    assert sum(batch.written for batch in settlements(database, clock=at(day(11)))) == 29
    assert sum(batch.written for batch in settlements(database, clock=at(day(11)))) == 0
    assert database.ledger.count_documents({"kind": "settle"}) == 29


def test_two_at_once_write_one_entry_each(database: Mongo) -> None:
    members = range(1, 400)
    give(database, members, expires_at=day(10))
    programs = dict.fromkeys(members, "bakery")
    together = threading.Barrier(4)
    written: list[int] = []

    def settle_all() -> None:
        together.wait()
        written.append(settle_members(database, programs, clock=at(day(11))).written)

    threads = [threading.Thread(target=settle_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(written) == len(members)
    entries = Counter(entry["_id"] >> 24 for entry in database.ledger.find({"kind": "settle"}))
    assert entries == Counter(dict.fromkeys(members, 1))
    assert verify(database).defects == []


def test_the_job_says_how_far_it_is_and_gives_way(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    give(work.db, range(1, 6), expires_at=day(10))
    rebuild(work.db)
    monkeypatch.setattr("loyalty.jobs.settlement.BATCH", 2)
    work.db.jobs.insert_one({"_id": "settlement", "term": work.turn.term})
    settle_due(work, MIDNIGHT)
    assert work.db.jobs.find_one({"_id": "settlement"})["items"] == 5  # type: ignore[index]
    give(work.db, range(1, 6), expires_at=day(20))
    rebuild(work.db)
    work.turn.lease.revoke()
    with pytest.raises(LeaseLost):
        settle_due(work, MIDNIGHT)
    assert work.db.ledger.count_documents({"kind": "settle"}) == 5


def test_a_damaged_chain_holds_up_nobody_and_is_reported(work: Work) -> None:
    give(work.db, range(1, 4), expires_at=day(10))
    rebuild(work.db)
    broken = {"$set": {"state.wallets.points.available": 3, "state.wallets.points.lots.0.points": -1}}
    work.db.ledger.update_one({"_id": 2 << 24 | 1}, broken)
    with pytest.raises(LedgerDefect, match="mem_00000002"):
        settle_due(work, MIDNIGHT)
    assert work.db.ledger.count_documents({"kind": "settle"}) == 2


def test_it_is_in_the_schedule_every_minute() -> None:
    (job,) = [job for job in JOBS if job.name == "settlement"]
    assert job.every == timedelta(minutes=1)  # type: ignore[union-attr]


def test_killed_in_the_middle_it_is_finished_by_the_next(work: Work, mongo_uri: str) -> None:
    """A process that writes settlements is killed with -9; the next run completes them, each member once."""
    db, members = work.db, range(1, 4001)
    give(db, members, activates_at=day(5), expires_at=day(10))
    rebuild(db)
    process = subprocess.Popen([sys.executable, "-m", WORKER, mongo_uri, db.name, day(11).isoformat()], cwd=REPOSITORY)
    try:
        wait_until(
            lambda: db.ledger.count_documents({"kind": "settle"}) > 0, timeout_s=30, failure=lambda: "it did not begin"
        )
    finally:
        process.kill()
        process.wait()
    done = db.ledger.count_documents({"kind": "settle"})
    assert 0 < done < len(members)
    assert sum(batch.written for batch in settlements(db, clock=at(day(11)))) == len(members) - done
    entries = Counter(entry["_id"] >> 24 for entry in db.ledger.find({"kind": "settle"}, {"_id": 1}))
    assert entries == Counter(dict.fromkeys(members, 1))
    assert verify(db).defects == []


def test_whoever_was_overtaken_finds_nothing_to_do(database: Mongo) -> None:
    """Another entry came between reading the chain and writing: it has settled the member already."""
    give(database, range(1, 2), expires_at=day(10))
    stale = read_head(database.ledger, 1)
    write(database, 1, [], when=day(11))
    (outcome,) = append(
        database.ledger, [operation_for("bakery", stale, day(10), None)], clock=at(day(11)), heads={1: stale}
    )
    assert isinstance(outcome.refusal, NothingDue)
    assert database.ledger.count_documents({"kind": "settle"}) == 0


# -- tiers ------------------------------------------------------------------------------------------------------------

LEVELS = [
    {"id": "base", "name": "Base", "threshold": 0},
    {"id": "gold", "name": "Gold", "threshold": 100, "earn_multiplier": "2.000"},
]
BERLIN = "Europe/Berlin"
BERLIN_MIDNIGHT = datetime(2026, 1, 31, 23, tzinfo=timezone.utc)


def tiered_member(db: Mongo, **scheme: Any) -> tuple[int, Scheme]:
    """A member of a program in Berlin with tiers, who joined at the start, and the scheme."""
    program = programs.create(
        db, id="bakery", name="Bakery", currency="EUR", timezone=BERLIN, clock=at(START - timedelta(days=9))
    )
    body = TierScheme.model_validate({"levels": LEVELS, **scheme})
    tiers.publish(db, program, body, expected_version=None, published_by="key", clock=at(START - timedelta(days=9)))
    (member,) = members_of.auto_enrol(db, program.id, ["ext:ada"], START).values()
    found = tiers.current(db, program)
    assert found is not None
    return member.number, found


def earn(db: Mongo, member: int, scheme: Scheme, points: int, *, expires_at: datetime | None = None) -> None:
    """Points that count for the tier, on the first day."""

    def decide(state: State, sequence: int, now: datetime) -> Draft:
        postings = credit(state, "points", points, source="issuance", sequence=sequence, expires_at=expires_at)
        after = fold(state, postings)
        options: dict[str, Any] = {
            "day": START.date(),
            "spend": 0,
            "visits": 0,
            "now": now,
            "joined_on": START.date(),
            "state": after,
        }
        calendar = Calendar.of(BERLIN)
        facet, _ = tier_engine.count(None, scheme, calendar, earned={"points": points}, **options)
        return Draft("earn", now, postings, {}, facets={"tier": facet})

    operation = Operation("bakery", member, (secrets.token_bytes(16),), b"request", decide)
    (outcome,) = append(db.ledger, [operation], clock=at(START))
    assert outcome.entry is not None
    assert outcome.entry["state"]["facets"]["tier"]["level"] == "gold"


def happened(entry: Mapping[str, Any]) -> list[tuple[datetime, str]]:
    return [(step["at"], step["what"]) for step in entry["evidence"]["settled"]]


def test_a_tier_of_what_was_earned_is_reviewed_before_points_expire(database: Mongo) -> None:
    """Case 3.18: at the program's midnight the tier that counts what was earned goes before the expiry."""
    earned = {"type": "earned", "wallet": "points"}
    member, scheme = tiered_member(database, basis=earned, window={"type": "rolling", "days": 31})
    earn(database, member, scheme, 100, expires_at=BERLIN_MIDNIGHT)
    assert run(database, BERLIN_MIDNIGHT - MILLISECOND) == 0
    assert run(database, BERLIN_MIDNIGHT + timedelta(days=3)) == 1
    entry = settlement_of(database, member)
    assert happened(entry) == [(BERLIN_MIDNIGHT, "tier"), (BERLIN_MIDNIGHT, "expire")]
    (change,) = entry["evidence"]["tier"]
    assert (change["at"], change["from"], change["to"]) == (BERLIN_MIDNIGHT, "gold", "base")
    assert entry["state"]["facets"]["tier"]["level"] == "base"
    assert run(database, BERLIN_MIDNIGHT + timedelta(days=400)) == 0
    assert verify(database).defects == []


def test_a_tier_of_the_balance_is_reviewed_after_points_expired(database: Mongo) -> None:
    """Case 3.18: at the program's midnight the tier that looks at the balance goes last."""
    member, scheme = tiered_member(database, basis={"type": "balance", "wallet": "points"})
    earn(database, member, scheme, 100, expires_at=BERLIN_MIDNIGHT)
    assert run(database, BERLIN_MIDNIGHT + timedelta(days=3)) == 1
    entry = settlement_of(database, member)
    assert happened(entry) == [(BERLIN_MIDNIGHT, "expire"), (BERLIN_MIDNIGHT, "tier")]
    assert entry["state"]["facets"]["tier"]["level"] == "base"
    assert verify(database).defects == []


def test_a_calendar_window_closes_without_any_points(database: Mongo) -> None:
    """Case 3.18: an entry of zero points; the level falls after its grace, however late the job runs."""
    window = {"type": "calendar", "unit": "month"}
    member, scheme = tiered_member(
        database,
        basis={"type": "earned", "wallet": "points"},
        window=window,
        downgrade={"to": "one_level", "grace_days": 10},
    )
    earn(database, member, scheme, 100)
    march = datetime(2026, 2, 28, 23, tzinfo=timezone.utc)
    wrote = [
        run(database, when) for when in (BERLIN_MIDNIGHT, march, march + timedelta(days=9), march + timedelta(days=11))
    ]
    assert wrote[-1] == 1
    entry = settlement_of(database, member)
    (change,) = entry["evidence"]["tier"]
    assert (change["at"], change["to"], entry["postings"]) == (march + timedelta(days=10), "base", [])


# -- reads do not depend on the job -----------------------------------------------------------------------------------

instants = st.integers(1, 60).map(day) | st.sampled_from([MIDNIGHT, MIDNIGHT - MILLISECOND])
acts = st.lists(
    st.one_of(
        st.tuples(st.just("earn"), st.integers(1, 50), st.none() | instants, st.none() | instants),
        st.tuples(st.just("hold"), st.integers(1, 50), instants, st.none()),
        st.tuples(st.just("spend"), st.integers(1, 80), st.none(), st.none()),
        st.tuples(st.just("lapse"), st.just(0), instants, st.none()),
    ),
    min_size=1,
    max_size=6,
)


def perform(db: Mongo, member: int, steps: Sequence[tuple[str, int, datetime | None, datetime | None]]) -> None:
    for kind, points, first, second in steps:
        state = settle(read_head(db.ledger, member).state, START)
        have = state.wallet("points").available
        number = read_head(db.ledger, member).sequence + 1
        if kind == "earn":
            expires_at = second if second is None or first is None or first < second else None
            options = {"activates_at": first, "expires_at": expires_at}
            write(db, member, credit(state, "points", points, source="issuance", sequence=number, **options))
        elif kind == "hold" and first is not None:
            write(db, member, hold(state, "points", min(points, have), sequence=number, until=first, grace_days=0))
        elif kind == "lapse":
            write(db, member, [], lapses={"points": first})
        elif kind == "spend":
            write(db, member, debit(state, "points", min(points, have), target="spent"))


@pytest.fixture(scope="module")
def members() -> Iterator[int]:
    """Numbers that no other example uses."""
    return iter(range(1, 1 << 20))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(acts, st.lists(st.integers(0, 70).map(day) | st.just(MIDNIGHT), min_size=1, max_size=3))
def test_a_read_is_the_same_whether_or_not_the_job_ran(
    database: Mongo,
    members: Iterator[int],
    steps: list[tuple[str, int, datetime | None, datetime | None]],
    runs: list[datetime],
) -> None:
    """Case 3.16: for any state and any times at which the job runs, on a real database."""
    never, often = next(members), next(members)
    for member in (never, often):
        perform(database, member, steps)
    for now in sorted(runs):
        settle_members(database, {often: "bakery"}, clock=at(now))
        unsettled = settle(read_head(database.ledger, never).state, now)
        assert settle(read_head(database.ledger, often).state, now) == unsettled
        assert read_head(database.ledger, often).state == unsettled
        for wallet in unsettled.wallets.values():
            assert wallet.defects() == []
