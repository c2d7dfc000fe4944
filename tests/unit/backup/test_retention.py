"""What retention lets go never costs a second of the window, whatever the archives and the clock are like."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from loyalty.backup.manifest import Archive, Catalogue, Chain, ClusterTime
from loyalty.backup.retention import FILES_GRACE, Decision, Key, Policy, decide, taken_at
from tests.unit.backup.archives import DAY, at, catalogue, chain, dump, piece, snapshot

POLICY = Policy(days=30, weeks=8, months=12)


def kept(catalogue: Catalogue, decisions: list[Decision]) -> Catalogue:
    """What is left when the decisions are carried out."""
    stays = {(decision.what, decision.id) for decision in decisions if decision.keep}

    def left(what: str, archives: tuple[Archive, ...]) -> tuple[Archive, ...]:
        return tuple(archive for archive in archives if (what, archive.id) in stays)

    return catalogue._replace(
        chains=tuple(chain for chain in catalogue.chains if ("chain", chain.id) in stays),
        slices=left("log", catalogue.slices),
        dumps=left("dump", catalogue.dumps),
        files=left("files", catalogue.files),
    )


def is_reachable(catalogue: Catalogue, moment: ClusterTime, damaged: Collection[Key] = ()) -> bool:
    """Whether a good archive and a log without a gap lead to the moment."""
    slices = tuple(one for one in catalogue.slices if ("log", one.id) not in damaged)
    spans = catalogue._replace(slices=slices).spans
    states = [one.to for one in catalogue.physical if (one.kind, one.id) not in damaged and one.to <= moment]
    return any(state == moment or any(span.from_ <= state and moment <= span.to for span in spans) for state in states)


def newest_good(catalogue: Catalogue, damaged: Collection[Key]) -> datetime:
    return max(one.to.instant for one in catalogue.physical if (one.kind, one.id) not in damaged)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Catalogue, frozenset[Key]]:
    """Months of backups as life makes them: days left out, several a day, gaps in the log, damage."""
    chains: list[Chain] = []
    day = 0.0
    for _ in range(draw(st.integers(1, 40))):
        chains.append(chain(day, *draw(st.sampled_from([(), (0.25,), (0.25, 0.5, 0.75)]))))
        day += draw(st.sampled_from([1, 1, 1, 1.01, 0.9, 7, 20, 90]))
    cuts = sorted(draw(st.sets(st.floats(0, day + 1, allow_nan=False).map(lambda x: round(x, 3)), max_size=40)))
    slices = [piece(begin, end) for begin, end in pairwise(cuts) if draw(st.sampled_from([True] * 9 + [False]))]
    for _ in range(draw(st.integers(0, 3)) if len(cuts) > 1 else 0):  # merged, and not yet gone
        begin, end = sorted(draw(st.lists(st.sampled_from(cuts), min_size=2, max_size=2, unique=True)))
        slices.append(piece(begin, end))
    slices = sorted({one.id: one for one in slices}.values(), key=lambda one: (one.from_, one.to))
    everything = [*(archive for chain in chains for archive in chain.archives), *slices]
    broken = draw(st.sets(st.sampled_from(everything).map(lambda one: (one.kind, one.id)), max_size=4))
    return catalogue(chains, slices), frozenset(broken)


policies = st.builds(Policy, st.integers(1, 40), st.integers(0, 9), st.integers(0, 13))
clocks = st.floats(-400, 4000, allow_nan=False).map(lambda days: at(0).instant + timedelta(days=days))


@settings(deadline=None)
@given(histories(), policies, clocks)
def test_every_second_of_the_window_stays_reachable(
    history: tuple[Catalogue, frozenset[Key]], policy: Policy, now: datetime
) -> None:
    before, damaged = history
    after = kept(before, decide(before, policy, now=now, damaged=damaged))
    good = [one for one in before.physical if (one.kind, one.id) not in damaged]
    if not good:
        assert after == before
        return
    start = min(now, good[-1].to.instant) - timedelta(days=policy.days)
    moments = {edge for one in (*before.physical, *before.slices) for edge in (one.from_, one.to)}
    moments |= {ClusterTime(moment.t + shift, 0) for moment in moments for shift in (-1, 1, DAY // 3)}
    moments.add(ClusterTime(int(start.timestamp()) + 1, 0))
    lost = [
        moment
        for moment in moments
        if moment.instant >= start
        and is_reachable(before, moment, damaged)
        and not is_reachable(after, moment, damaged)
    ]
    assert lost == []


@settings(deadline=None)
@given(histories(), policies, clocks)
def test_the_last_good_chains_and_the_log_since_the_oldest_kept_one_always_stay(
    history: tuple[Catalogue, frozenset[Key]], policy: Policy, now: datetime
) -> None:
    before, damaged = history
    decisions = decide(before, policy, now=now, damaged=damaged)
    after = kept(before, decisions)

    def good(catalogue: Catalogue) -> list[Archive]:
        return [one for one in catalogue.physical if (one.kind, one.id) not in damaged]

    chains = sorted({one.chain or "" for one in good(before)})
    assert set(chains[-2:]) <= {chain.id for chain in after.chains}
    if chains:
        whole = [one for one in after.slices if ("log", one.id) not in damaged]
        for piece in before.slices:
            if piece.to > good(after)[0].to:
                held = any(one.from_ <= piece.from_ and piece.to <= one.to for one in whole)
                assert held or piece in after.slices
    assert all(decision.reason for decision in decisions)
    assert len(decisions) == len(before.chains) + len(before.slices)


@settings(deadline=None)
@given(histories(), policies, clocks, st.floats(0, 4000, allow_nan=False))
def test_a_clock_that_jumps_lets_nothing_more_go(
    history: tuple[Catalogue, frozenset[Key]], policy: Policy, now: datetime, jump: float
) -> None:
    """Ahead: no more than at the newest archive. Back: no more than without the jump."""
    before, damaged = history

    def gone(clock: datetime) -> set[str]:
        return {one.id for one in decide(before, policy, now=clock, damaged=damaged) if not one.keep}

    jumped = now + timedelta(days=jump)
    assert gone(now) <= gone(jumped)
    if any((one.kind, one.id) not in damaged for one in before.physical):
        assert gone(jumped) <= gone(newest_good(before, damaged))


@settings(deadline=None)
@given(histories(), policies, clocks)
def test_what_stays_stays_when_asked_again(
    history: tuple[Catalogue, frozenset[Key]], policy: Policy, now: datetime
) -> None:
    before, damaged = history
    after = kept(before, decide(before, policy, now=now, damaged=damaged))
    assert kept(after, decide(after, policy, now=now, damaged=damaged)) == after


def daily(days: int) -> Catalogue:
    """A full a day, a slice an hour's length a day long, a dump a week, six snapshots a day."""
    return catalogue(
        [chain(day, 0.25, 0.5, 0.75) for day in range(days)],
        [piece(day, day + 1) for day in range(days)],
        [dump(day) for day in range(0, days, 7)],
        [snapshot(day + hour / 24) for day in range(days) for hour in range(0, 24, 4)],
    )


def test_a_year_of_days_becomes_a_window_weeks_and_months() -> None:
    now = at(400).instant
    after = kept(daily(400), decide(daily(400), POLICY, now=now))
    begins = [chain.archives[0].to.instant for chain in after.chains]
    inside = [begin for begin in begins if begin >= newest_good(after, ()) - timedelta(days=30)]
    assert len(inside) in (30, 31)
    before = [begin for begin in begins if begin < inside[0]]
    assert len({begin.isocalendar()[:2] for begin in before}) >= 8
    assert len({(begin.year, begin.month) for begin in before}) == 12
    assert len(before) <= 8 + 12 + 1  # and the one from which the window's first second is reached


def test_letting_go_day_by_day_leaves_what_letting_go_once_would() -> None:
    everything = daily(200)
    left = catalogue()
    for day in range(1, 201):
        have = daily(day)
        stays = {chain.id for chain in left.chains}
        new = [chain for chain in have.chains if chain.id in stays or chain == have.chains[-1]]
        left = kept(
            have._replace(chains=tuple(new)), decide(have._replace(chains=tuple(new)), POLICY, now=at(day).instant)
        )
    once = kept(everything, decide(everything, POLICY, now=at(200).instant))
    assert left.chains == once.chains


def test_a_clock_of_the_whole_site_that_jumps_years_ahead_costs_one_day() -> None:
    """Even the archives are from the future then."""
    have = daily(40)
    jumped = have._replace(chains=(*have.chains, chain(4000)))
    normal = kept(have, decide(have, POLICY, now=at(40).instant))
    after = kept(jumped, decide(jumped, POLICY, now=at(4000).instant))
    assert len({chain.id for chain in normal.chains} - {chain.id for chain in after.chains}) <= 1


def test_days_without_a_backup_do_not_count() -> None:
    have = daily(40)
    now = newest_good(have, ())
    assert decide(have, POLICY, now=now + timedelta(days=365)) == decide(have, POLICY, now=now)


def test_a_damaged_chain_neither_counts_nor_stays_beyond_the_window() -> None:
    have = daily(100)
    damaged = {(one.kind, one.id) for chain in (*have.chains[:3], *have.chains[-1:]) for one in chain.archives}
    after = kept(have, decide(have, POLICY, now=at(100).instant, damaged=damaged))
    assert have.chains[0] not in after.chains
    assert have.chains[3] in after.chains  # the first good one of its week and month
    assert have.chains[-1] in after.chains  # inside the window: parts of it may be readable


@settings(deadline=None, max_examples=30)
@given(st.integers(35, 60), st.data())
def test_the_files_of_every_second_of_the_window_stay(days: int, data: st.DataObject) -> None:
    """A content is in the store until the grace has passed since its last record went."""
    taken = sorted(data.draw(st.sets(st.integers(0, days * 24 - 1), min_size=days)) | set(range(0, days * 24, 24)))
    have = catalogue(
        [chain(day) for day in range(days)],
        [piece(day, day + 1) for day in range(days)],
        files=[snapshot(hour / 24, after=max(hour - 1, 0) / 24) for hour in taken],
    )
    after = kept(have, decide(have, POLICY, now=at(days).instant))
    start = newest_good(have, ()) - timedelta(days=30)
    for hour in range((days - 30) * 24, taken[-1] - 1):
        moment = at(hour / 24)
        if moment.instant < start:
            continue
        chosen = next(one for one in after.files if one.to >= moment)
        assert taken_at(chosen) - moment.instant <= FILES_GRACE


def test_a_chain_from_before_the_window_keeps_its_files() -> None:
    have = daily(120)
    after = kept(have, decide(have, POLICY, now=at(120).instant))
    for old in after.chains:
        state = old.archives[0].to
        assert any(state <= one.to and taken_at(one) - state.instant <= FILES_GRACE for one in after.files)
