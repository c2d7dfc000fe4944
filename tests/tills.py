"""Tills that go on whatever happens to the site: each sends a purchase, and again until it is answered.

>>> with Tills(site) as tills:                          # doctest: +SKIP
...     kill_something()
...     tills.go_on(seconds=5)
>>> tills.longest_gap_s                                 # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import httpx

from tests.lab_site import LabSite
from tests.servers import wait_until

PATIENCE_S = 30.0  # after which a till gives up on the site
PAUSE_S = 0.25
"""A till waits before it sends a sale again (docs/integrator.md); always as long: gaps are measured."""


@dataclass(frozen=True)
class Sale:
    """One purchase: when it was answered (monotonic), after how many attempts and seconds."""

    id: str
    answered_at: float
    attempts: int
    seconds: float


class Tills:
    """`count` tills in a sandbox program of their own. `failed` says why one gave up."""

    def __init__(self, site: LabSite, count: int = 6) -> None:
        self.sales: list[Sale] = []
        self.failed: list[str] = []
        self._site = site
        self._key = site.new_program("tills")
        self._numbers = itertools.count()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._sell, args=(till,)) for till in range(count)]

    def __enter__(self) -> Tills:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        self.go_on(3)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, seconds: float) -> None:
        """Wait until sales have gone on for so many seconds from now."""
        until = time.monotonic() + seconds
        wait_until(
            lambda: bool(self.failed) or any(sale.answered_at > until for sale in self.sales[-20:]),
            timeout_s=seconds + PATIENCE_S + 10,
            failure=lambda: f"no sale within {PATIENCE_S + 10} s; {len(self.sales)} before",
        )

    @property
    def most_attempts(self) -> int:
        return max(sale.attempts for sale in self.sales)

    @property
    def retried(self) -> int:
        return sum(sale.attempts > 1 for sale in self.sales)

    @property
    def longest_gap_s(self) -> float:
        """The longest time in which no till was answered."""
        answered = sorted(sale.answered_at for sale in self.sales)
        return max(later - earlier for earlier, later in itertools.pairwise([self._began, *answered]))

    @property
    def slowest_s(self) -> float:
        return max(sale.seconds for sale in self.sales)

    def report(self, what: str) -> str:
        return (
            f"{what}: {len(self.sales)} sales, {self.retried} sent again, {self.most_attempts} attempts at most, "
            f"longest gap {self.longest_gap_s:.2f} s, slowest {self.slowest_s:.2f} s"
        )

    def lost(self) -> list[str]:
        """Sales that were acknowledged and that the ledger does not know: each is sent again, and must be known."""
        with self._client() as client:
            answers = {sale.id: self._post(client, sale.id) for sale in self.sales}
        return [sale for sale, answer in answers.items() if not answer.json().get("replayed")]

    def _sell(self, till: int) -> None:
        client = self._client()
        while not self._closing.is_set() and not self.failed:
            sale, began = f"till-{till}-{next(self._numbers)}", time.monotonic()
            for attempt in itertools.count(1):
                try:
                    answer = self._post(client, sale)
                    if answer.is_success:
                        now = time.monotonic()
                        self.sales.append(Sale(sale, now, attempt, now - began))
                        break
                    trouble = f"{answer.status_code} {answer.text[:200]}"
                except httpx.TransportError as error:
                    trouble = repr(error)
                    client.close()
                    client = self._client()
                if time.monotonic() > began + PATIENCE_S:
                    self.failed.append(trouble)
                    break
                time.sleep(PAUSE_S)  # as a client does: what is measured is a client
        client.close()

    def _client(self) -> httpx.Client:
        return self._site.client(self._key, timeout_s=10)

    def _post(self, client: httpx.Client, sale: str) -> httpx.Response:
        number = int(sale.rpartition("-")[2])
        event = {"source": "tills", "id": sale, "type": "purchase", "amount": "10.00", "currency": "USD"}
        return client.post("/v1/events", json={**event, "member": {"external_id": f"{number % 50:05}"}})
