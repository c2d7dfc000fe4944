"""Requests a minute per API key, shared by all processes through Redis without a trip per request.

A process leases a block of the minute's quota and spends it alone; one Redis script call serves many requests. When
Redis is away or not configured, each process counts the whole quota for itself: less exact, never an error.
"""

from __future__ import annotations

import threading
import time

from loyalty.infra.http.context import Caller
from loyalty.infra.http.problems import RateLimited
from loyalty.infra.services import Services

WINDOW_SECONDS = 60
_LARGEST_BLOCK = 500
_LOCAL_WINDOWS = 10_000  # keys remembered in a process before old minutes are dropped

# Takes up to ARGV[1] of what is left of ARGV[2] in the window; gives the granted number and what is left after it.
_LEASE = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
local left = tonumber(ARGV[2]) - used
local granted = math.min(tonumber(ARGV[1]), left)
if granted <= 0 then return {0, 0} end
redis.call('INCRBY', KEYS[1], granted)
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {granted, left - granted}
"""


class _Window:
    __slots__ = ("elsewhere", "leased", "minute", "taken")

    def __init__(self, minute: int) -> None:
        self.minute = minute
        self.leased = 0  # granted to this process and not yet spent
        self.taken = 0  # granted to this process in this minute
        self.elsewhere = 0  # not granted to anybody yet, as of the last lease


class RateLimiter:
    """The limit of one process. Thread safe."""

    def __init__(self, quota: int) -> None:
        self._quota = quota
        self._block = max(1, min(_LARGEST_BLOCK, quota // 20))
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()
        self._policy = ("RateLimit-Policy", f'"key";q={quota};w={WINDOW_SECONDS}')

    def admit(self, services: Services, caller: Caller) -> tuple[tuple[str, str], ...]:
        """Count one request; the RateLimit headers of the answer. RateLimited when the minute is used up."""
        if not self._quota:
            return ()
        now = time.time()
        minute = int(now) // WINDOW_SECONDS
        reset = WINDOW_SECONDS - int(now) % WINDOW_SECONDS
        with self._lock:
            window = self._windows.get(caller.key)
            if window is None or window.minute != minute:
                if len(self._windows) >= _LOCAL_WINDOWS:
                    self._windows = {key: kept for key, kept in self._windows.items() if kept.minute == minute}
                window = self._windows[caller.key] = _Window(minute)
            if window.leased == 0:
                self._lease(services, caller.key, window)
            if window.leased == 0:
                raise RateLimited(
                    f"This key may send {self._quota} requests in {WINDOW_SECONDS} seconds.",
                    headers=dict([self._policy, ("RateLimit", f'"key";r=0;t={reset}'), ("Retry-After", str(reset))]),
                    retry_after_seconds=reset,
                )
            window.leased -= 1
            left = window.leased + window.elsewhere
        return self._policy, ("RateLimit", f'"key";r={left};t={reset}')

    def _lease(self, services: Services, key: str, window: _Window) -> None:
        answer = services.redis.script(
            _LEASE,
            [f"loyalty:limit:{key}:{window.minute}"],
            [self._block, self._quota, 2 * WINDOW_SECONDS],
        )
        if answer is None:  # this process alone: what it has not taken of the whole quota
            window.leased, window.elsewhere = self._quota - window.taken, 0
        else:
            window.leased, window.elsewhere = int(answer[0]), int(answer[1])
        window.taken += window.leased
