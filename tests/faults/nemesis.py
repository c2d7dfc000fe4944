"""What goes wrong while clients work: one fault at a time, for a while, then peace, then the next."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from loyalty.ops.errors import Failure

Fault = Callable[[], AbstractContextManager[str]]
"""Does the harm on entry, says to whom, and mends it on exit. What mends itself is left to it."""


@dataclass(frozen=True)
class Happened:
    """A fault that was: to whom, and when it began, was mended, and the peace after it was over (ns)."""

    kind: str
    victim: str
    began: int
    mended: int
    settled: int


class Nemesis:
    """Lets the faults happen in rounds of random order, so that each kind has its turn.

    `lasts_s` and `peace_s` are how long each goes on and how long the servers have to recover, more or less. Should a
    fault fail to begin or to end, `mend` ends whatever there is, and the next one has its turn.
    """

    def __init__(
        self,
        faults: Mapping[str, Fault],
        *,
        lasts_s: float,
        peace_s: float,
        mend: Callable[[], None] = lambda: None,
    ) -> None:
        self._faults = faults
        self._mend = mend
        self._lasts_s = lasts_s
        self._peace_s = peace_s
        self.happened: list[Happened] = []
        self.failed: list[str] = []

    def rage(self, minutes: float, *, say: Callable[[str], None] = lambda line: None) -> None:
        """Go on for so long; at least until each kind has happened once if `minutes` is 0."""
        end = time.monotonic() + minutes * 60
        while True:
            self.once_each(
                random.sample(list(self._faults), len(self._faults)), say=say, until=end if minutes else None
            )
            if time.monotonic() >= end:
                return

    def once_each(
        self, kinds: Iterable[str], *, say: Callable[[str], None] = lambda line: None, until: float | None = None
    ) -> None:
        """Each of the kinds in their order, unless it is later than `until` by the monotonic clock."""
        pause = threading.Event()  # what is tested is load over time, so time has to pass
        for kind in kinds:
            if until is not None and time.monotonic() >= until:
                return
            began = time.monotonic_ns()
            try:
                with self._faults[kind]() as victim:
                    say(f"{kind}: {victim}")
                    pause.wait(self._lasts_s * random.uniform(0.5, 1.5))
            except Failure as failure:
                say(f"{kind} failed: {failure}")
                self.failed.append(f"{kind}: {failure}")
                self._mend()
                continue
            mended = time.monotonic_ns()
            pause.wait(self._peace_s * random.uniform(0.8, 1.2))
            self.happened.append(Happened(kind, victim, began, mended, time.monotonic_ns()))
