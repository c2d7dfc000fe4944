"""Where the bench runs: on a lab server as installed, or on this machine without NGINX and TLS for a quick look.

Both offer the same: the application, the baseline under the same gunicorn set-up behind the same entrance, and what each
process has used.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import yaml
from bson import json_util

from loyalty.ops.lab import Lab
from loyalty.ops.site import CHECKOUT
from loyalty.ops.site import Site as LabFiles
from tests.bench.usage import Usage, usage
from tests.servers import REPOSITORY, Application, Mongod, Redis, new_program

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Entrance:
    """An address, and the headers that lead to the right place behind it."""

    url: str
    headers: Mapping[str, str]


class Site(Protocol):
    """What is measured."""

    api: Entrance
    baseline: Entrance
    verify: ssl.SSLContext | bool

    def usage(self) -> dict[str, Usage]:
        """By process: app, baseline, mongod, nginx."""

    def raw_insert_many(self, *, seconds: int, size: int, like: Mapping[str, Any]) -> float:
        """Documents a second through the bare driver, next to the database."""

    def an_entry(self) -> Mapping[str, Any]:
        """One ledger entry, as a model for `raw_insert_many`."""


class _LocalBaseline(Application):
    def command(self) -> list[str]:
        return [*super().command()[:-1], "tests.bench.baseline:create_app()"]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).is_success
        except httpx.TransportError:
            return False


class LocalSite:
    """Everything on this machine, plain HTTP straight to gunicorn."""

    verify = True

    def __init__(self, directory: Path) -> None:
        self._mongod = Mongod(directory / "mongod")
        self._mongod.start()
        self._redis = Redis(directory / "redis")
        self._redis.start()
        common = {"mongo_uri": self._mongod.uri, "redis_url": self._redis.url}
        self._app = Application(directory / "app", database="loyalty", **common)
        self._app.settings["LOYALTY_RATE_LIMIT_PER_MINUTE"] = "0"
        key = new_program(self._mongod.uri, "loyalty")
        self._app.start()
        self._baseline = _LocalBaseline(directory / "baseline", database="loyalty", **common)
        self._baseline.settings["BENCH_MONGO_URI"] = self._mongod.uri
        self._baseline.start()
        self.api = Entrance(self._app.url, {"Authorization": f"Bearer {key}"})
        self.baseline = Entrance(self._baseline.url, {})

    def close(self) -> None:
        for server in (self._baseline, self._app, self._redis, self._mongod):
            server.stop()

    def usage(self) -> dict[str, Usage]:
        servers = {"app": self._app, "baseline": self._baseline, "mongod": self._mongod}
        return {name: usage(server.pid) for name, server in servers.items()}

    def raw_insert_many(self, *, seconds: int, size: int, like: Mapping[str, Any]) -> float:
        command = [sys.executable, str(HERE / "raw.py"), str(seconds), str(size)]
        environment = {**os.environ, "BENCH_MONGO_URI": self._mongod.uri}
        done = subprocess.run(
            command, input=json_util.dumps(like), env=environment, capture_output=True, text=True, check=True
        )
        result = json.loads(done.stdout)
        return float(result["documents"] / result["seconds"])

    def an_entry(self) -> Mapping[str, Any]:
        with self._mongod.connect() as client:
            entry = client.loyalty.ledger.find_one({"kind": "earn"})
        assert entry is not None
        return entry
