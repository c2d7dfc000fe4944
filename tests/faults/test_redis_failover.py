"""A Redis master that dies is replaced by the Sentinels within 6 s, and meanwhile nobody gets an error.

Everything as on a site of several hosts: three servers, three Sentinels, TLS, passwords, users.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loyalty.infra.redis import RedisLink
from tests.bounds import assert_within
from tests.redis_sentinels import RedisSentinels
from tests.servers import Application, Mongod, new_program, wait_until

LONGEST_OUTAGE_S = 6.0
SLOWEST_ANSWER_S = 2.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisSentinels]:
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as directory:
        servers = RedisSentinels(Path(directory) / "redis")
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@pytest.fixture(scope="module")
def client(redis: RedisSentinels, mongod: Mongod, servers_directory: Path) -> Iterator[httpx.Client]:
    """A client of an application that counts its requests in Redis."""
    server = Application(
        servers_directory / "sentinels",
        mongo_uri=mongod.uri,
        database="sentinels",
        redis_url=redis.url,
        rate_limit_per_minute="60000",
    )
    key = new_program(mongod.uri, "sentinels")
    server.start()
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        yield client
    server.stop()


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_dead_master_costs_under_6_s_and_nobody_gets_an_error(
    fault: str, redis: RedisSentinels, client: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    link, master = RedisLink(redis.url), redis.master()
    assert link.attempt(lambda server: server.set("before", 1))
    answers: list[tuple[int, float]] = []
    over = threading.Event()

    def traffic() -> None:
        while not over.is_set():
            began = time.monotonic()
            status = client.post("/v1/members", json={"external_id": secrets.token_hex(8)}).status_code
            answers.append((status, time.monotonic() - began))

    clients = [threading.Thread(target=traffic) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        getattr(master, fault)()
        died = time.monotonic()
        wait_until(
            lambda: bool(link.attempt(lambda server: server.set("after", 1))),
            timeout_s=30,
            failure=lambda: "no other server became the master",
        )
        outage = time.monotonic() - died
        wait_until(
            lambda: client.get("/readyz").json()["parts"]["redis"]["state"] == "up",
            timeout_s=LONGEST_OUTAGE_S,
            failure=lambda: "the application did not find the new master",
        )
    finally:
        over.set()
        for thread in clients:
            thread.join(timeout=30)
        if fault == "freeze":
            master.thaw()
        else:
            master.start()
    assert redis.master() is not master
    slowest = max(seconds for _, seconds in answers)
    with capsys.disabled():
        print(f"\nRedis master, {fault}: away {outage:.2f} s; {len(answers)} requests, slowest {slowest:.2f} s")
    assert_within(LONGEST_OUTAGE_S, outage, "the outage")
    assert {status for status, _ in answers} == {201}
    assert_within(SLOWEST_ANSWER_S, slowest, "the slowest answer")
    wait_until(redis.is_whole, timeout_s=60, failure=lambda: "the old master did not become a replica")
    assert link.attempt(lambda server: server.set("again", 1)), "the old master was written to"


def test_what_a_subscription_may_have_missed_is_told(redis: RedisSentinels) -> None:
    """A frozen server sends no message and closes nothing: the listener asks, leaves, and says so to its caller."""
    link, told = RedisLink(redis.url), threading.Semaphore(0)

    def listen() -> None:
        for _ in link.listen("channel"):
            told.release()

    threading.Thread(target=listen, daemon=True).start()
    assert told.acquire(timeout=10), "not even the beginning of the subscription was told"
    assert link.attempt(lambda server: server.publish("channel", "message")) is not None
    assert told.acquire(timeout=10), "a message did not arrive"
    master = redis.master()
    master.freeze()
    try:
        assert told.acquire(timeout=15), "the listener hangs on a frozen server"
    finally:
        master.thaw()
    wait_until(redis.is_whole, timeout_s=60, failure=lambda: "the old master did not become a replica")


def test_one_sentinel_is_enough_to_find_the_master(redis: RedisSentinels) -> None:
    first, second, _ = redis.sentinels
    first.kill()
    second.freeze()
    try:
        link = RedisLink(redis.url)
        began = time.monotonic()
        assert link.attempt(lambda server: server.ping())
        assert_within(1.5, time.monotonic() - began)
    finally:
        second.thaw()
        first.start()


def test_wrong_passwords_are_an_absent_redis_and_in_no_message(
    redis: RedisSentinels, capsys: pytest.CaptureFixture[str]
) -> None:
    for right in (redis.password, redis.sentinel_password):
        wrong = RedisLink(redis.url.replace(right, "not-the-password"))
        assert wrong.attempt(lambda server: server.ping()) is None
    printed = "".join(capsys.readouterr())
    assert "redis is away" in printed
    for secret in ("not-the-password", redis.password, redis.sentinel_password):
        assert secret not in printed
