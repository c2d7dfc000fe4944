"""Clients that write to a lab site all the time, and what they saw: failures, and the longest wait for a write."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.lab_site import LabSite
from tests.servers import wait_until


@dataclass
class Writers:
    """Sales of one point each, by several clients at once. `acknowledged` are their ids, as they were answered."""

    site: LabSite
    key: str = field(repr=False)
    clients: int = 4
    pause_seconds: float = 0.1
    """What a client waits between two sales: the servers shall be in use, not at their limit."""
    acknowledged: list[str] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)
    """When each of them was, in seconds since 1970."""
    failures: list[str] = field(default_factory=list)
    longest_gap_seconds: float = 0.0
    """Longest time between two acknowledged writes, whoever made them."""

    def __post_init__(self) -> None:
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._last = 0.0

    @contextmanager
    def writing(self, *, to_the_end: bool = True) -> Iterator[Writers]:
        """Write until the block ends; a first write is acknowledged before it, and with `to_the_end` one after it."""
        threads = [threading.Thread(target=self._write, daemon=True) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            self.wait_for_more()
            yield self
            if to_the_end:
                self.wait_for_more()
        finally:
            self._end.set()
            for thread in threads:
                thread.join()

    def wait_for_more(self, *, timeout_s: float = 30) -> None:
        """Wait until something more is acknowledged. ServerError when nothing is."""
        before = len(self.acknowledged)
        wait_until(
            lambda: len(self.acknowledged) > before,
            timeout_s=timeout_s,
            failure=lambda: f"no write was acknowledged in {timeout_s} s: {self.failures[-3:]}",
        )

    def applied(self, *, until: float = float("inf")) -> int:
        """How many of the sales that were acknowledged by then the site knows.

        Each is sent again, and must be a repetition.
        """
        known = 0
        told = self.told(until)
        with self.site.client(self.key) as client:
            for start in range(0, len(told), 1000):
                again = [self.sale(id) for id in told[start : start + 1000]]
                answer = client.post("/v1/events/batch", json=again).raise_for_status()
                known += answer.json()["summary"]["replayed"]
        return known

    def told(self, until: float) -> list[str]:
        """The sales that were acknowledged by then (seconds since 1970)."""
        return [id for id, at in zip(self.acknowledged, self.acknowledged_at, strict=True) if at <= until]

    def _write(self) -> None:
        with self.site.client(self.key, timeout_s=15) as client:
            while not self._end.wait(self.pause_seconds):
                with self._lock:
                    id = f"{self._run}-{next(self._numbers)}"
                try:
                    answer = client.post("/v1/events", json=self.sale(id))
                    failure = "" if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
                except httpx.TransportError as error:
                    failure = repr(error)
                with self._lock:
                    if failure:
                        self.failures.append(failure)
                        continue
                    now = time.monotonic()
                    self.longest_gap_seconds = max(self.longest_gap_seconds, now - (self._last or now))
                    self._last = now
                    self.acknowledged.append(id)
                    self.acknowledged_at.append(time.time())

    def sale(self, id: str) -> dict[str, object]:
        """A sale as it is sent."""
        member = f"{self._run}-{int(id.rpartition('-')[2]) % 50}"
        sale = {"source": "till", "id": id, "type": "purchase", "member": {"external_id": member}}
        return {**sale, "amount": "1.00", "currency": "USD"}
