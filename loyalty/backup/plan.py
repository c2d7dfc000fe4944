"""What can be restored, and from what: a state (a full or an incremental), and the log from there to the moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timezone
from typing import Final, NamedTuple

import msgspec

from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import Archive, Catalogue, ClusterTime, Span

_LAST_IN_SECOND: Final = 0xFFFFFFFF
_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


class Unreachable(BackupError):
    """That moment cannot be restored; the problem says why, the remedy what can."""


class Window(NamedTuple):
    """A stretch of time of which every moment can be restored."""

    from_: ClusterTime
    to: ClusterTime

    @property
    def first_second(self) -> datetime:
        """The first second that can be asked for."""
        return self.from_.instant

    @property
    def last_second(self) -> datetime:
        """The last second that is archived to its end. What came after it, `latest` has."""
        return ClusterTime(max(self.to.t - 1, self.from_.t), 0).instant

    def __str__(self) -> str:
        return f"{self.first_second:{_FORMAT}} to {self.last_second:{_FORMAT}}"


class Plan(msgspec.Struct, frozen=True):
    """A restore up to `to`, inclusive: this archive, and then these slices of the log, of which each joins the next."""

    to: ClusterTime
    archive: Archive
    slices: tuple[Archive, ...]

    @property
    def entries(self) -> int:
        """Of the log, to read; some of them are in the archive already."""
        return sum(piece.entries for piece in self.slices)

    @property
    def bytes(self) -> int:
        """Room that it takes, roughly: the log is there twice, in the collection of the log and applied."""
        return self.archive.bytes + 2 * sum(piece.bytes for piece in self.slices)


def windows(catalogue: Catalogue) -> list[Window]:
    """All that can be restored, as few windows as there are, by time."""
    found: list[Window] = []
    for archive in catalogue.physical:
        window = Window(archive.to, _reach(catalogue, archive))
        if found and window.from_ <= found[-1].to:
            found[-1] = Window(found[-1].from_, max(found[-1].to, window.to))
        else:
            found.append(window)
    return found


def plan(catalogue: Catalogue, to: ClusterTime | None, *, without: Collection[str] = ()) -> Plan:
    """The quickest way to a moment, or (None) to the last one: the newest archive, and as little log as can be.

    `without` names archives that turned out to be damaged. Unreachable says what is missing, and the windows.
    """
    usable = [archive for archive in catalogue.physical if archive.id not in without]
    if to is None:
        to = max((_reach(catalogue, archive) for archive in usable), default=None)
    if to is None:
        raise Unreachable("There is no archive to restore from.", _remedy(catalogue))
    for archive in reversed(usable):
        if archive.to <= to and _covers(_reach(catalogue, archive), to):
            return Plan(to, archive, _slices(catalogue, archive, to))
    raise Unreachable(_why_not(catalogue, usable, to), _remedy(catalogue))


def parse_moment(text: str) -> ClusterTime | None:
    """`latest` is None; a second like 2026-11-22T14:05:07Z includes all that happened in it. ValueError for others."""
    if text == "latest":
        return None
    instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if instant.tzinfo is None:
        raise ValueError("say also in which zone, such as 2026-11-22T14:05:07Z")
    return ClusterTime.last_of(instant.astimezone(timezone.utc))


def _span(catalogue: Catalogue, archive: Archive) -> Span | None:
    """The stretch of the log that goes on from the archive."""
    return next((span for span in catalogue.spans if span.from_ <= archive.to <= span.to), None)


def _reach(catalogue: Catalogue, archive: Archive) -> ClusterTime:
    span = _span(catalogue, archive)
    return span.to if span else archive.to


def _covers(reach: ClusterTime, to: ClusterTime) -> bool:
    """Whether all that happened up to `to` is archived. The last archived second may have gone on."""
    return reach.t > to.t if to.i == _LAST_IN_SECOND else reach >= to


def _slices(catalogue: Catalogue, archive: Archive, to: ClusterTime) -> tuple[Archive, ...]:
    span = _span(catalogue, archive)
    if span is None or archive.to >= to:
        return ()
    return tuple(piece for piece in span.slices if piece.to > archive.to and piece.from_ < to)


def _why_not(catalogue: Catalogue, usable: Iterable[Archive], to: ClusterTime) -> str:
    wanted = f"{to.instant:{_FORMAT}}"
    before = [archive for archive in usable if archive.to <= to]
    if not before:
        return f"{wanted} is before the first archive that can be used."
    last = max(_reach(catalogue, archive) for archive in before)
    following = min(
        (piece for piece in catalogue.slices if piece.from_ > last), default=None, key=lambda one: one.from_
    )
    if following is None:
        return f"{wanted} is not archived to its end yet: the log ends within {last.instant:{_FORMAT}}."
    missing = f", the slice {following.predecessor} of the log" if following.predecessor else ""
    return (
        f"{wanted} cannot be reached: what happened between {last.instant:{_FORMAT}} and "
        f"{following.from_.instant:{_FORMAT}} is missing{missing}."
    )


def _remedy(catalogue: Catalogue) -> str:
    found = windows(catalogue)
    damaged = f" {' '.join(catalogue.damaged)}" if catalogue.damaged else ""
    if not found:
        return f"Mount the disk that has the archives, or the second copy.{damaged}"
    return f"Can be restored: {', '.join(map(str, found))}, and latest.{damaged}"
