"""Where the bench runs: on a lab server as installed, or on this machine without NGINX and TLS for a quick look.

Both offer the same: the application, the baseline under the same gunicorn set-up behind the same entrance, and what
each process has used.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from bson import json_util

from loyalty.ops.errors import Failure
from tests.bench.on_server import seed
from tests.bench.usage import Usage, usage
from tests.lab_site import LabSite
from tests.servers import Application, Mongod, Redis, Server, new_program

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

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """Whom to trust: what httpx takes as `verify`."""

    def usage(self) -> dict[str, Usage]:
        """By process: app, baseline, mongod, nginx."""

    def raw_insert_many(self, *, seconds: int, size: int, like: Mapping[str, Any]) -> float:
        """Documents a second through the bare driver, next to the database."""

    def seed_baseline(self) -> Mapping[str, Any]:
        """Give the baseline members to find; returns one ledger entry, as a model for `raw_insert_many`."""


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
        self._stack = ExitStack()
        self._mongod = Mongod(directory / "mongod")
        self._redis = Redis(directory / "redis")
        self._app = self._server(Application, directory / "app")
        self._baseline = self._server(_LocalBaseline, directory / "baseline")
        self._baseline.settings["BENCH_MONGO_URI"] = self._mongod.uri
        with self._stack:
            self._start(self._mongod, self._redis)
            key = new_program(self._mongod.uri, "loyalty")
            self._start(self._app, self._baseline)
            self._stack = self._stack.pop_all()  # all is well: they run until `close`
        self.api = Entrance(self._app.url, {"Authorization": f"Bearer {key}"})
        self.baseline = Entrance(self._baseline.url, {})

    def _server(self, kind: type[Application], directory: Path) -> Application:
        return kind(
            directory,
            mongo_uri=self._mongod.uri,
            database="loyalty",
            redis_url=self._redis.url,
            rate_limit_per_minute="0",
        )

    def _start(self, *servers: Server) -> None:
        for server in servers:
            self._stack.callback(server.stop)
            server.start()

    def close(self) -> None:
        self._stack.close()

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

    def seed_baseline(self) -> Mapping[str, Any]:
        with self._mongod.connect() as client:
            return seed(client)


class InstalledSite:
    """The one-box as `./appliance up` made it: NGINX, TLS, sandboxed units. The load comes from this machine."""

    _FOLDER = "/root/loyalty-bench"
    _PYTHON = "/opt/loyalty/current/venv/bin/python"

    def __init__(self, name: str) -> None:
        self._site = LabSite(name)
        self.verify = self._site.verify
        self.api = Entrance(self._site.url, {"Authorization": f"Bearer {self._site.api_key}"})
        self.baseline = Entrance(f"https://{self._site.address}", {"Host": "bench.invalid"})
        try:
            self._place_baseline()
        except Failure:
            self.close()
            raise

    def close(self) -> None:
        self._python("on_server.py", "remove")
        self._site.run(["rm", "-rf", self._FOLDER])

    def usage(self) -> dict[str, Usage]:
        colour = json.loads(self._site.run(["cat", "/opt/loyalty/active.json"]))["colour"]
        units = {
            "app": f"loyalty@{colour}.service",
            "baseline": "loyalty@bench.service",
            "mongod": "mongod.service",
            "nginx": "nginx.service",
        }
        found: dict[str, Usage] = json.loads(
            self._python("usage.py", *(f"{name}={unit}" for name, unit in units.items()))
        )
        return found

    def raw_insert_many(self, *, seconds: int, size: int, like: Mapping[str, Any]) -> float:
        environment = "set -a; . /opt/loyalty/bench/release.env"
        script = f"{environment}; exec {self._PYTHON} {self._FOLDER}/raw.py {seconds} {size}"
        result = json.loads(self._site.run([script], input_text=json_util.dumps(like)))
        return float(result["documents"] / result["seconds"])

    def seed_baseline(self) -> Mapping[str, Any]:
        entry: Mapping[str, Any] = json_util.loads(self._python("on_server.py", "seed", input_text=self._admin()))
        return entry

    def _place_baseline(self) -> None:
        self._site.run(["mkdir", "-p", f"{self._FOLDER}/app/loyalty"])
        self._site.run(["touch", f"{self._FOLDER}/app/loyalty/__init__.py"])
        self._send("baseline.py", "app/loyalty/app.py")
        for name in ("on_server.py", "raw.py", "usage.py"):
            self._send(name, name)
        self._python("on_server.py", "prepare", input_text=self._admin())

    def _admin(self) -> str:
        return self._site.secret("vault_mongodb_admin_password")

    def _python(self, script: str, *arguments: str, input_text: str | None = None) -> str:
        return self._site.run([self._PYTHON, f"{self._FOLDER}/{script}", *arguments], input_text=input_text)

    def _send(self, name: str, target: str) -> None:
        self._site.run([f"cat > {self._FOLDER}/{target}"], input_text=(HERE / name).read_text())
