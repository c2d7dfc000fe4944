"""What a process has at hand: settings, time, database, Redis. Made lazily, once a process, after the fork.

PyMongo and redis-py clients do not survive a fork, and gunicorn loads the application before it forks. So nothing
connects until the first use in the process that uses it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from loyalty.config import Settings
from loyalty.infra.clock import Clock, system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.infra.redis import RedisLink

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value built on first use in each process; safe when several threads come first together."""

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._made: tuple[int, T] | None = None

    def get(self) -> T:
        made = self._made
        if made is not None and made[0] == os.getpid():
            return made[1]
        with self._lock:
            made = self._made
            if made is None or made[0] != os.getpid():
                made = (os.getpid(), self._build())
                self._made = made
        return made[1]


class Services:
    """The parts that routes hand to business functions. One per application, in `app.extensions["loyalty"]`."""

    def __init__(self, settings: Settings, *, clock: Clock = system_clock) -> None:
        self.settings = settings
        self.clock = clock
        self._db = PerProcess(lambda: connect(settings.mongo_uri.get_secret_value(), settings.mongo_database, pool=32))
        url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self._redis = PerProcess(lambda: RedisLink(url))
        self._shared: dict[str, PerProcess[Any]] = {}

    @property
    def db(self) -> Mongo:
        """The database, majority and journal for writes."""
        return self._db.get()

    @property
    def redis(self) -> RedisLink:
        """Redis behind a circuit breaker; answers "nothing" at once when it is away or not configured."""
        return self._redis.get()

    def shared(self, name: str, build: Callable[[], T]) -> T:
        """One object a process that a feature shares among its requests, made by `build` on first use."""
        return self._shared.setdefault(name, PerProcess(build)).get()  # type: ignore[no-any-return]
