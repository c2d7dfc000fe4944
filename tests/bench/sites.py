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
from collections.abc import Mapping, Sequence
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
from tests.servers import Application, Mongod, Redis, new_program

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


class LabSite:
    """The one-box as `./appliance up` made it: NGINX, TLS, sandboxed units. The load comes from this machine."""

    _BENCH = "/root/loyalty-bench"

    def __init__(self, name: str, host: str = "box1") -> None:
        self._lab = Lab(name, [host])
        self._host = host
        self._files = LabFiles.load(name)
        info = json.loads(self._own_tool("-m", "loyalty.ops", "info", "--json", "--site", name))
        address = f"https://{self._lab.address(host)}"
        self.verify = ssl.create_default_context(cafile=info["ca_file"])
        self.api = Entrance(info["url"], {"Authorization": f"Bearer {info['api_key']}"})
        self.baseline = Entrance(address, {"Host": "bench.invalid"})
        self._place_baseline()

    def close(self) -> None:
        self._python("on_server.py", "remove")
        self._remote(["rm", "-rf", self._BENCH])

    def usage(self) -> dict[str, Usage]:
        colour = json.loads(self._remote(["cat", "/opt/loyalty/active.json"]))["colour"]
        units = {
            "app": f"loyalty@{colour}.service",
            "baseline": "loyalty@bench.service",
            "mongod": "mongod.service",
            "nginx": "nginx.service",
        }
        named = [f"{name}={unit}" for name, unit in units.items()]
        found: dict[str, Usage] = json.loads(self._python("usage.py", *named))
        return found

    def raw_insert_many(self, *, seconds: int, size: int, like: Mapping[str, Any]) -> float:
        script = f"set -a; . /opt/loyalty/bench/release.env; exec {self._venv} {self._BENCH}/raw.py {seconds} {size}"
        result = json.loads(self._remote([script], json_util.dumps(like)))
        return float(result["documents"] / result["seconds"])

    def an_entry(self) -> Mapping[str, Any]:
        entry: Mapping[str, Any] = json_util.loads(self._python("on_server.py", "entry", input_text=self._admin()))
        return entry

    def _place_baseline(self) -> None:
        self._remote(["mkdir", "-p", "-m", "700", f"{self._BENCH}/app/loyalty"])
        self._send("baseline.py", "app/loyalty/app.py")
        self._remote(["touch", f"{self._BENCH}/app/loyalty/__init__.py"])
        for name in ("on_server.py", "raw.py", "usage.py"):
            self._send(name, name)
        self._python("on_server.py", "prepare", input_text=self._admin())

    def _admin(self) -> str:
        view = ["view", "--vault-password-file", str(self._files.vault_password_file), str(self._files.vault)]
        vault = yaml.safe_load(self._own_tool(str(Path(sys.executable).with_name("ansible-vault")), *view))
        password: str = vault["vault_mongodb_admin_password"]
        return password

    def _own_tool(self, *words: str) -> str:
        command = [sys.executable, *words] if words[0].startswith("-") else list(words)
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    _venv = "/opt/loyalty/current/venv/bin/python"

    def _python(self, script: str, *arguments: str, input_text: str | None = None) -> str:
        return self._remote([self._venv, f"{self._BENCH}/{script}", *arguments], input_text)

    def _send(self, name: str, target: str) -> None:
        self._remote([f"cat > {self._BENCH}/{target}"], (HERE / name).read_text())

    def _remote(self, command: Sequence[str], input_text: str | None = None) -> str:
        done = self._lab.ssh(self._host, command, input_text=input_text)
        if done.returncode:
            raise RuntimeError(f"on {self._host}: {' '.join(command)[:120]} failed: {done.stderr.strip()}")
        return done.stdout
