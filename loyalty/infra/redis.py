"""Redis as a helper that may be missing: every call has a short limit, and a failure opens a circuit breaker.

Nothing that must be right depends on Redis. When it does not answer, callers get None at once, and a thread asks every
half second whether it is back: so an outage costs one short wait, whichever request comes first, and then nothing.
Behind Sentinels a dead master is such an outage, over when they have made another server the master.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from loyalty.infra.sentinel import is_behind_sentinels, master_behind

CONNECT_SECONDS = 0.2
ANSWER_SECONDS = 0.2
PROBE_SECONDS = 0.5  # between two questions whether Redis is back
QUIET_SECONDS = 2.0  # after which a subscription asks whether its server is still there, and again until it gives up

_FAILURES = (redis.RedisError, OSError)

log = structlog.get_logger(__name__)


class RedisLink:
    """A connection pool with a circuit breaker. Use it only in the process that made it."""

    def __init__(self, url: str | None) -> None:
        self.configured = url is not None
        self._url = url
        self._lock = threading.Lock()
        self._client: Any = None
        self._away = False
        self._scripts: dict[str, Any] = {}

    def attempt(self, call: Callable[[Any], Any]) -> Any | None:
        """`call(client)`, or None when Redis is not configured, known to be away, or failing now."""
        if not self.configured or self._away:
            return None
        try:
            return call(self._connected())
        except _FAILURES as error:
            self._failed(error)
            return None

    def script(self, source: str, keys: list[str], arguments: list[str | int]) -> Any | None:
        """The answer of a Lua script in one trip (EVALSHA), or None as `attempt`."""

        def run(client: Any) -> Any:
            script = self._scripts.get(source)
            if script is None:
                script = self._scripts[source] = client.register_script(source)
            return script(keys=keys, args=arguments)

        return self.attempt(run)

    def listen(self, channel: str) -> Iterator[None]:
        """Something for each message of a channel, and for each time when messages may have been missed.

        For a daemon thread of its own; reconnects for ever.
        """
        while True:
            try:
                with self._connected().pubsub() as subscription:
                    subscription.subscribe(channel)
                    unanswered = False
                    while True:
                        message = subscription.get_message(timeout=QUIET_SECONDS)
                        if message is None:
                            if unanswered:
                                raise redis.ConnectionError("the server of the subscription is silent")
                            subscription.ping()
                        elif message["type"] != "pong":  # a message, or a subscription after a lost connection
                            yield
                        unanswered = message is None
            except _FAILURES:
                time.sleep(PROBE_SECONDS)

    def _connected(self) -> Any:
        client = self._client
        if client is None:
            with self._lock:
                client = self._client
                if client is None:
                    client = self._client = _client(self._url or "")
        return client

    def _failed(self, error: Exception) -> None:
        with self._lock:
            if self._away:
                return  # another thread has opened the breaker already
            self._away = True
        log.warning("redis is away", error=str(error))
        threading.Thread(target=self._wait_for_return, name="redis-return", daemon=True).start()

    def _wait_for_return(self) -> None:
        began = time.monotonic()
        while self._away:
            time.sleep(PROBE_SECONDS)
            with suppress(*_FAILURES):
                self._connected().ping()
                self._away = False
        log.warning("redis is back", away_seconds=round(time.monotonic() - began, 1))


def _client(url: str) -> Any:
    options = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 1),  # one retry: a pooled connection may have been closed idle
        "health_check_interval": 0,
    }
    return master_behind(url, **options) if is_behind_sentinels(url) else redis.Redis.from_url(url, **options)
