"""Redis as a helper that may be missing: every call has a short limit, and a failure opens a circuit breaker.

Nothing that must be right depends on Redis. When it does not answer, callers get None at once for a while (backing
off from 0.5 s to 30 s between attempts), so that a dead Redis costs one short wait per back-off, not one per request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECT_SECONDS = 0.2
ANSWER_SECONDS = 0.2
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0

log = structlog.get_logger(__name__)


class RedisLink:
    """A connection pool with a circuit breaker. Use it only in the process that made it."""

    def __init__(self, url: str | None) -> None:
        self.configured = url is not None
        self._url = url
        self._lock = threading.Lock()
        self._client: Any = None
        self._closed_until = 0.0  # monotonic seconds; calls before it are not attempted
        self._backoff = FIRST_BACKOFF_SECONDS
        self._scripts: dict[str, Any] = {}

    def attempt(self, call: Callable[[Any], Any]) -> Any | None:
        """`call(client)`, or None when Redis is not configured, resting after a failure, or failing now."""
        if not self.configured or time.monotonic() < self._closed_until:
            return None
        try:
            result = call(self._connected())
        except (redis.RedisError, OSError) as error:
            self._failed(error)
            return None
        self._backoff = FIRST_BACKOFF_SECONDS
        return result

    def script(self, source: str, keys: list[str], arguments: list[str | int]) -> Any | None:
        """The answer of a Lua script in one trip (EVALSHA), or None as `attempt`."""

        def run(client: Any) -> Any:
            script = self._scripts.get(source)
            if script is None:
                script = self._scripts[source] = client.register_script(source)
            return script(keys=keys, args=arguments)

        return self.attempt(run)

    def listen(self, channel: str) -> Iterator[bytes]:
        """Messages of a channel, for a daemon thread of its own; reconnects for ever."""
        while True:
            try:
                subscription = self._connected().pubsub(ignore_subscribe_messages=True)
                with subscription:
                    subscription.subscribe(channel)
                    while True:
                        message = subscription.get_message(timeout=5.0)
                        if message is not None:
                            yield message["data"]
            except (redis.RedisError, OSError):
                time.sleep(1.0)

    def _connected(self) -> Any:
        client = self._client
        if client is None:
            with self._lock:
                client = self._client
                if client is None:
                    client = redis.Redis.from_url(
                        self._url or "",
                        socket_connect_timeout=CONNECT_SECONDS,
                        socket_timeout=ANSWER_SECONDS,
                        retry=Retry(NoBackoff(), 1),  # one retry: a pooled connection may have been closed idle
                        health_check_interval=0,
                    )
                    self._client = client
        return client

    def _failed(self, error: Exception) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._closed_until:
                return  # another thread has opened the breaker already
            self._closed_until = now + self._backoff
            log.warning("redis is away", error=str(error), retry_in_seconds=self._backoff)
            self._backoff = min(self._backoff * 2, LONGEST_BACKOFF_SECONDS)
