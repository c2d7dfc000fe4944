"""What a client asked, when, and what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from loyalty.infra.mongo import Document


@dataclass
class Call:
    """One call and its answer. Times are of the clock that all processes of the machine share, in nanoseconds.

    `status` is done, refused (with `code`), or unknown: it may have happened, now or later. `entry` is the number of
    the entry that the answer named, and `hash` that entry's. `keys` are what the ledger may hold of it, by member; a
    call that is sent again has the same ones.
    """

    kind: str
    member: int
    detail: Document
    keys: tuple[tuple[int, bytes], ...] = ()
    began: int = 0
    ended: int = 0
    status: str = "unknown"
    code: str = ""
    entry: int | None = None
    hash: bytes = b""
    replayed: bool = False
    seen: Document = field(default_factory=dict)
