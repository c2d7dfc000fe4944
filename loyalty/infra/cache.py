"""A small in-process cache for what changes rarely: keys and programs. Old by a few seconds at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FRESH_SECONDS = 5.0


class TtlCache(Generic[K, V]):
    """Values for at most `FRESH_SECONDS`. Reading takes no lock; dropping takes effect at once in this process."""

    def __init__(self, *, most: int = 10_000, seconds: float = FRESH_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._values: dict[K, tuple[float, V]] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, or None when it is absent or too old."""
        found = self._values.get(key)
        if found is None or found[0] < time.monotonic():
            return None
        return found[1]

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        with self._lock:
            if len(self._values) >= self._most:
                self._values.clear()
            self._values[key] = (time.monotonic() + self._seconds, value)

    def drop(self, key: K) -> None:
        """Forget one value."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
