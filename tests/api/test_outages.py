"""A dead Redis costs speed, not correctness; a dead MongoDB is said within 5 s, and both come back by themselves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.test_conventions import problem
from tests.bounds import assert_within
from tests.servers import Application, Mongod, Redis, new_program, wait_until


@pytest.fixture
def directory(servers_directory: Path) -> Path:
    """A folder of the test's own, with a short name."""
    return Path(tempfile.mkdtemp(dir=servers_directory))


@pytest.fixture
def redis(directory: Path) -> Iterator[Redis]:
    server = Redis(directory / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def mortal(directory: Path) -> Iterator[Mongod]:
    server = Mongod(directory / "mongod")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def serve(directory: Path) -> Iterator[Callable[[str, str | None], tuple[Application, httpx.Client]]]:
    """Starts the application on given servers; gives it and a client with a key."""
    started: list[tuple[Application, httpx.Client]] = []

    def start(mongo_uri: str, redis_url: str | None) -> tuple[Application, httpx.Client]:
        server = Application(
            directory / "application",
            mongo_uri=mongo_uri,
            database="outage",
            redis_url=redis_url,
            workers=1,
            rate_limit_per_minute="1000",
        )
        key = new_program(mongo_uri, "outage")
        server.start()
        client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        started.append((server, client))
        return server, client

    yield start
    for server, client in started:
        client.close()
        server.stop()


Serve = Callable[[str, "str | None"], tuple[Application, httpx.Client]]


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_dead_redis_costs_speed_only(how: str, mongod: Mongod, redis: Redis, serve: Serve) -> None:
    _, client = serve(mongod.uri, redis.url)
    assert client.get("/readyz").json()["parts"]["redis"]["state"] == "up"
    getattr(redis, how)()
    seconds = []
    for number in range(100):
        started = time.monotonic()
        assert client.post("/v1/members", json={"external_id": f"{how}-{number}"}).status_code == 201
        seconds.append(time.monotonic() - started)
    assert_within(0.3, sorted(seconds)[94], "the 95th of 100 answers")
    assert_within(2, max(seconds), "the slowest answer")
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["parts"]["redis"]["state"] == "degraded"
    if how == "freeze":
        redis.thaw()
    else:
        redis.start()

    def recovered() -> bool:
        return bool(client.get("/readyz").json()["parts"]["redis"]["state"] == "up")

    wait_until(recovered, timeout_s=40, failure=lambda: "Redis was not taken back")


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_dead_mongod_is_said_and_forgotten(how: str, mortal: Mongod, serve: Serve) -> None:
    _, client = serve(mortal.uri, None)
    assert client.post("/v1/members", json={"external_id": "before"}).status_code == 201
    getattr(mortal, how)()
    for method, path, body in (
        ("GET", "/v1/members/ext:before", None),
        ("POST", "/v1/members", {"external_id": "during"}),
        ("GET", "/readyz", None),
    ):
        started = time.monotonic()
        answer = client.request(method, path, json=body, headers={"Idempotency-Key": "during"})
        assert_within(5, time.monotonic() - started, "the answer")
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        if path != "/readyz":
            problem(answer, 503, "unavailable")
    assert client.get("/healthz").status_code == 200
    if how == "freeze":
        mortal.thaw()
    else:
        mortal.start()

    def recovered() -> bool:
        return client.get("/v1/members/ext:before").status_code == 200

    wait_until(recovered, timeout_s=20, failure=lambda: "the application did not come back")


def test_an_unknown_key_is_not_blamed_on_the_caller(mortal: Mongod, serve: Serve) -> None:
    """A key that cannot be looked up is neither good nor bad: 503, not 401."""
    server, _ = serve(mortal.uri, None)
    key = new_program(mortal.uri, "outage")
    mortal.kill()
    problem(
        httpx.get(f"{server.url}/v1/programs", headers={"Authorization": f"Bearer {key}"}, timeout=30),
        503,
        "unavailable",
    )


def test_the_application_starts_without_its_database(directory: Path) -> None:
    server = Application(
        directory,
        mongo_uri="mongodb://127.0.0.1:1/?replicaSet=loyalty",
        database="early",
        redis_url="redis://127.0.0.1:1",
        workers=1,
    )
    server.start()
    try:
        assert httpx.get(f"{server.url}/readyz", timeout=10).status_code == 503
        problem(httpx.get(f"{server.url}/v1/programs", timeout=10), 401, "unauthenticated")
    finally:
        server.stop()
