"""Rate limits: shared through Redis, counted alone without it, refused in the standard's words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from tests.api.test_conventions import problem
from tests.servers import PLAIN, Application, Mongod, Redis, new_program

QUOTA = 60
PROCESSES = 2


@pytest.fixture(scope="module", params=["redis", "alone"])
def limited(
    request: pytest.FixtureRequest, servers_directory: Path, mongod: Mongod, redis_server: Redis
) -> Iterator[Application]:
    server = Application(
        servers_directory / f"limited-{request.param}",
        mongo_uri=mongod.uri,
        database="limited",
        redis_url=redis_server.url if request.param == "redis" else None,
        workers=PROCESSES,
        rate_limit_per_minute=str(QUOTA),
    )
    server.start()
    yield server
    server.stop()


def new_headers(mongod: Mongod) -> dict[str, str]:
    return {"Authorization": f"Bearer {new_program(mongod.uri, 'limited')}"}


T = TypeVar("T")


def within_a_minute(attempt: Callable[[], T]) -> T:
    """What `attempt` gives, repeated when a new minute began meanwhile, because then the count began anew as well."""
    while True:
        left = 60 - time.time() % 60
        if left < 10:
            time.sleep(left + 0.1)  # the limit counts by the minute of the clock: begin one that is long enough
        minute = time.time() // 60
        result = attempt()
        if time.time() // 60 == minute:
            return result


def test_the_limit_holds(limited: Application, mongod: Mongod) -> None:
    def ask_often() -> list[httpx.Response]:
        headers = new_headers(mongod)

        def ask(_: int) -> httpx.Response:
            return httpx.get(f"{limited.url}/v1/programs", verify=PLAIN, headers=headers, timeout=30)

        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(ask, range(QUOTA * PROCESSES + 40)))

    answers = within_a_minute(ask_often)
    shared = "LOYALTY_REDIS_URL" in limited.settings
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(served) + len(refused) == len(answers)
    if shared:
        # A process may sit on the rest of its last lease.
        assert QUOTA - QUOTA // 20 * (PROCESSES - 1) <= len(served) <= QUOTA
    else:
        assert QUOTA <= len(served) <= QUOTA * PROCESSES
    for answer in served:
        assert answer.headers["RateLimit-Policy"] == f'"key";q={QUOTA};w=60'
        assert re.fullmatch(r'"key";r=\d+;t=\d+', answer.headers["RateLimit"])
    for answer in refused:
        problem(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert answer.headers["RateLimit"].startswith('"key";r=0;')


def test_limits_are_by_key(limited: Application, mongod: Mongod) -> None:
    with httpx.Client(base_url=limited.url, verify=PLAIN, timeout=30) as client:

        def use_up() -> dict[str, str]:
            headers = new_headers(mongod)
            while client.get("/v1/programs", headers=headers).status_code == 200:
                pass
            return headers

        headers = within_a_minute(use_up)
        assert client.get("/v1/programs", headers=new_headers(mongod)).status_code == 200
        assert client.get("/healthz", headers=headers).status_code == 200
