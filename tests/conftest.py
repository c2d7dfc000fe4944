"""Fixtures for every test that needs something real: a replica set, Redis, the application over HTTP.

Each pytest worker has servers of its own (`-n 2` starts two of each); each test has a database, or a program,
of its own.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.migrations import migrate
from tests.servers import PLAIN, Application, Mongod, Redis, another_program, new_program


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """Where the servers of this worker keep their data and logs; gone at the end. Short, because sockets live there."""
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def mongod(servers_directory: Path) -> Iterator[Mongod]:
    """A replica set of one. Do not kill this one: fault tests start their own."""
    server = Mongod(servers_directory / "mongod")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(servers_directory: Path) -> Iterator[Redis]:
    """Redis. Do not kill this one: fault tests start their own."""
    server = Redis(servers_directory / "redis")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def mongo_uri(mongod: Mongod) -> str:
    return mongod.uri


@pytest.fixture
def empty_database(mongo_uri: str) -> Iterator[Mongo]:
    """A database that holds nothing, not even collections; connected as the application connects."""
    database = connect(mongo_uri, f"test_{secrets.token_hex(8)}", serves_requests=False)
    yield database
    database.client.drop_database(database.name)
    database.client.close()


@pytest.fixture
def database(empty_database: Mongo) -> Mongo:
    """A database with every collection and index of the product, and no documents."""
    migrate(empty_database, release="test", clock=system_clock)
    return empty_database


@pytest.fixture(scope="session")
def application(servers_directory: Path, mongod: Mongod, redis_server: Redis) -> Iterator[Application]:
    """The application over HTTP, shared by all tests of this worker; what is theirs alone is a program (see `api`)."""
    server = Application(
        servers_directory / "application",
        mongo_uri=mongod.uri,
        database="application",
        redis_url=redis_server.url,
        rate_limit_per_minute="0",
    )
    new_program(mongod.uri, "application")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def api_key(application: Application, mongod: Mongod) -> str:
    """A key with every scope of a new program (USD, UTC, any past date, auto-enrolment, no rules)."""
    return another_program(mongod.uri, "application")


@pytest.fixture
def api(application: Application, api_key: str) -> Iterator[httpx.Client]:
    """A client of the running application that carries `api_key`."""
    headers = {"Authorization": f"Bearer {api_key}"}
    with httpx.Client(base_url=application.url, verify=PLAIN, headers=headers, timeout=30) as client:
        yield client
