"""Archives as manifests describe them, for tests of what is decided by them alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from loyalty.backup.manifest import Archive, Catalogue, Chain, ClusterTime

DAY = 86_400
BEGIN = datetime(2026, 1, 1, 2, tzinfo=timezone.utc)


def at(days: float) -> ClusterTime:
    """The moment so many days after the first backup."""
    return ClusterTime(int((BEGIN + timedelta(days=days)).timestamp()), 1)


def full(days: float, chain: str | None = None) -> Archive:
    moment = at(days)
    return _archive("full", f"{moment.stamp}-full", moment, chain=chain or moment.stamp)


def incremental(days: float, chain: str) -> Archive:
    moment = at(days)
    return _archive("incremental", f"{moment.stamp}-incremental", moment, chain=chain)


def chain(days: float, *later: float) -> Chain:
    """A full, and an incremental so many days after it for each of `later`."""
    first = full(days)
    assert first.chain is not None
    return Chain(first.chain, (first, *(incremental(days + after, first.chain) for after in later)))


def piece(begin: float, end: float) -> Archive:
    """A slice of the log."""
    return _archive("log", f"{at(begin).hex}-{at(end).hex}", at(end), from_=at(begin))


def dump(days: float) -> Archive:
    return _archive("dump", at(days).stamp, at(days))


def snapshot(days: float, *, after: float | None = None) -> Archive:
    """A snapshot of the files that was begun then, after the log had been archived up to `after`."""
    return _archive("files", at(days).stamp, at(days if after is None else after))


def catalogue(
    chains: Sequence[Chain] = (),
    slices: Sequence[Archive] = (),
    dumps: Sequence[Archive] = (),
    files: Sequence[Archive] = (),
) -> Catalogue:
    return Catalogue(tuple(chains), tuple(slices), tuple(dumps), tuple(files), ())


def _archive(
    kind: str, id: str, to: ClusterTime, *, chain: str | None = None, from_: ClusterTime | None = None
) -> Archive:
    return Archive(
        kind=kind,  # type: ignore[arg-type]
        id=id,
        chain=chain,
        from_=from_ or to,
        to=to,
        at=to.instant.isoformat(),
        server="db1:27017",
        agent="test",
    )
