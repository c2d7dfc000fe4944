"""What may go, and why: a pure function of the manifests. It deletes nothing.

Inside the window nothing is thinned: whatever second of it could be reached can still be reached. Before the window the
first chain of a week and of a month stays, for as many weeks and months as the policy says. The log stays from the
oldest kept chain on, all of it, so every kept chain is also a spare for those that come after it.

The window counts back from the newest good archive, and over days that have one. So neither days without a backup nor
a clock that jumps ahead lets anything go, and a clock that jumps back only makes the window longer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from typing import Final, Literal, NamedTuple, TypeVar

from loyalty.backup.manifest import Archive, Catalogue, Chain, ClusterTime

_T = TypeVar("_T")

FILES_GRACE: Final = timedelta(days=2)
"""How long the file store keeps a content after its last record is gone, so how far apart snapshots may be."""

_DAMAGED: Final = "inside the window, though damaged: parts of it may be readable"
_SITE: Final = "copies of the site's folder all stay: they are small"
_LEAST_CHAINS: Final = 2  # the newest, and one in case it is found to be damaged


Key = tuple[str, str]
"""Kind and id of an archive."""


class Policy(NamedTuple):
    """How long things stay. Zero weeks and months: nothing from before the window."""

    days: int = 30
    weeks: int = 8
    months: int = 12


What = Literal["chain", "log", "dump", "files", "site"]


class Decision(NamedTuple):
    """What is to happen to a chain (`what` is "chain") or to an archive of another kind."""

    what: What
    id: str
    keep: bool
    reason: str


def decide(
    catalogue: Catalogue, policy: Policy, *, now: datetime, damaged: Collection[Key] = frozenset()
) -> list[Decision]:
    """What to keep of everything in `catalogue`, each with its reason; by kind and time.

    `now` is aware. `damaged` failed their last verification: they stay inside the window, and nothing relies on them.
    Without a good chain nothing goes.
    """
    chains = [_Chain(chain, _without(chain.archives, damaged)) for chain in catalogue.chains]
    site = [Decision("site", copy.id, True, _SITE) for copy in catalogue.site]
    good = sorted((chain for chain in chains if chain.good), key=lambda chain: chain.begin)
    if not good:
        reason = "nothing goes while there is no good chain"
        return [
            *(Decision("chain", chain.id, True, reason) for chain in catalogue.chains),
            *(Decision("log", piece.id, True, reason) for piece in catalogue.slices),
            *(Decision("dump", dump.id, True, reason) for dump in catalogue.dumps),
            *(Decision("files", snapshot.id, True, reason) for snapshot in catalogue.files),
            *site,
        ]

    start = _window_start([archive.to.instant for chain in good for archive in chain.good], policy.days, now)
    kept = _kept_chains(good, start, policy)
    decisions = []
    for chain in chains:
        if not chain.good and chain.end >= start:
            kept[chain.id] = _DAMAGED
        decisions.append(_decision("chain", chain.id, kept, f"older than the window, which began on {_day(start)}"))

    oldest = min((chain for chain in good if chain.id in kept), key=lambda chain: chain.begin)
    decisions += _log(catalogue.slices, oldest.good[0].to, oldest.id, damaged)
    decisions += _dumps(catalogue.dumps, start, policy, damaged)
    before = [chain.good[0].to for chain in good if chain.id in kept and chain.begin < start]
    return decisions + _files(catalogue.files, start, before, damaged) + site


class _Chain(NamedTuple):
    chain: Chain
    good: list[Archive]

    @property
    def id(self) -> str:
        return self.chain.id

    @property
    def begin(self) -> datetime:
        """The oldest state that can be restored from it."""
        return self.good[0].to.instant

    @property
    def end(self) -> datetime:
        return self.chain.archives[-1].to.instant


def _window_start(states: Iterable[datetime], days: int, now: datetime) -> datetime:
    """The instant from which on every second stays reachable."""
    states = sorted(states)
    reference = min(now, states[-1])
    with_a_state = sorted({state.date() for state in states}, reverse=True)
    counted = with_a_state[min(days, len(with_a_state)) - 1]
    return min(reference - timedelta(days=days), _midnight(counted))


def _kept_chains(good: Sequence[_Chain], start: datetime, policy: Policy) -> dict[str, str]:
    """The good chains that stay, with the reason."""
    kept: dict[str, str] = {}

    def keep(chain: _Chain, reason: str) -> None:
        kept.setdefault(chain.id, reason)

    for chain in good[-_LEAST_CHAINS:]:
        keep(chain, "the newest good chain" if chain is good[-1] else "the spare of the newest")
    for chain in good:
        if chain.good[-1].to.instant >= start:
            keep(chain, f"inside the window that began on {_day(start)}")
    before = [chain for chain in good if chain.begin <= start]
    if before:
        last = max(before, key=lambda chain: max(one.to for one in chain.good if one.to.instant <= start))
        keep(last, "the window's first seconds are reached from it")
    aged = [chain for chain in good if chain.begin < start]
    for name, chain in _firsts(aged, _week, lambda chain: chain.begin, policy.weeks):
        keep(chain, f"the first of week {name}")
    for name, chain in _firsts(aged, _month, lambda chain: chain.begin, policy.months):
        keep(chain, f"the first of month {name}")
    return kept


def _log(slices: Sequence[Archive], oldest: ClusterTime, chain: str, damaged: Collection[Key]) -> list[Decision]:
    newest = max((piece.to for piece in slices), default=None)
    held = _held_by_others(_without(slices, damaged))
    decisions = []
    for piece in slices:
        if piece.id in held:
            keep, reason = False, f"all of it is in {held[piece.id]} as well"
        elif piece.to > oldest:
            keep, reason = True, f"follows the oldest kept chain, {chain}"
        elif piece.to == newest:
            keep, reason = True, "the log goes on from its last entry"
        else:
            keep, reason = False, f"ends before the oldest kept chain, {chain}"
        decisions.append(Decision("log", piece.id, keep, reason))
    return decisions


def _held_by_others(slices: Iterable[Archive]) -> dict[str, str]:
    """The slices that lie within another one, each with that: they were merged into it."""
    held = {}
    widest: Archive | None = None
    for piece in sorted(slices, key=lambda piece: (piece.from_, tuple(-part for part in piece.to))):
        if widest is not None and piece.to <= widest.to:
            held[piece.id] = widest.id
        else:
            widest = piece
    return held


def _dumps(dumps: Sequence[Archive], start: datetime, policy: Policy, damaged: Collection[Key]) -> list[Decision]:
    good = _without(dumps, damaged)
    kept = {good[-1].id: "the newest dump"} if good else {}
    for dump in dumps:
        if dump.to.instant >= start:
            is_good = (dump.kind, dump.id) not in damaged
            kept.setdefault(dump.id, f"inside the window that began on {_day(start)}" if is_good else _DAMAGED)
    aged = [dump for dump in good if dump.to.instant < start]
    for name, dump in _firsts(aged, _week, lambda dump: dump.to.instant, policy.weeks):
        kept.setdefault(dump.id, f"the first of week {name}")
    for name, dump in _firsts(aged, _month, lambda dump: dump.to.instant, policy.months):
        kept.setdefault(dump.id, f"the first of month {name}")
    return [_decision("dump", dump.id, kept, f"older than the window, which began on {_day(start)}") for dump in dumps]


def _files(
    snapshots: Sequence[Archive], start: datetime, before: Iterable[ClusterTime], damaged: Collection[Key]
) -> list[Decision]:
    """`before`: the states from before the window that can be restored, each of which needs its files."""
    good = sorted(_without(snapshots, damaged), key=lambda snapshot: snapshot.id)
    kept: dict[str, str] = {good[-1].id: "the newest snapshot"} if good else {}
    taken = {snapshot.id: taken_at(snapshot) for snapshot in snapshots}
    newest = taken[good[-1].id] if good else None
    last_of_day = {taken[snapshot.id].date(): snapshot.id for snapshot in good}
    for snapshot in snapshots:
        at = taken[snapshot.id]
        if newest is None or (snapshot.kind, snapshot.id) in damaged:
            if at >= start:
                kept[snapshot.id] = _DAMAGED
        elif at >= newest - FILES_GRACE:
            kept.setdefault(snapshot.id, f"of the last {FILES_GRACE.days} days all stay")
        elif snapshot.to.instant >= start and last_of_day[at.date()] == snapshot.id:
            kept.setdefault(snapshot.id, "the last of its day")
    for state in before:
        paired = next((snapshot for snapshot in good if snapshot.to >= state), None)
        if paired is not None:
            kept.setdefault(paired.id, f"has the files of the chain that begins at {state.stamp}")
    return [_decision("files", snapshot.id, kept, "another snapshot stands for it") for snapshot in snapshots]


def taken_at(snapshot: Archive) -> datetime:
    """When a snapshot of the files was begun. Its `to` is the position of the log that it comes after."""
    return datetime.strptime(snapshot.id, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)


def _firsts(
    things: Iterable[_T], period: Callable[[date], str], instant: Callable[[_T], datetime], count: int
) -> list[tuple[str, _T]]:
    """The oldest thing of each of the `count` newest periods: what is chosen once is not chosen anew the next day."""
    firsts: dict[str, _T] = {}
    for thing in sorted(things, key=instant):
        firsts.setdefault(period(instant(thing).date()), thing)
    return list(firsts.items())[max(len(firsts) - count, 0) :]


def _without(archives: Iterable[Archive], damaged: Collection[Key]) -> list[Archive]:
    return [archive for archive in archives if (archive.kind, archive.id) not in damaged]


def _decision(what: What, id: str, kept: Mapping[str, str], gone: str) -> Decision:
    return Decision(what, id, id in kept, kept.get(id, gone))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), timezone.utc)


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"


def _month(day: date) -> str:
    return f"{day:%Y-%m}"


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d}"
