"""Redis and its Sentinels as the role configures them: who may do what is enough for a failover, and what the daemons
write down of it survives a restart, while our settings never do.

Addresses and paths are moved to this machine's loopback, where each host has an address of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server, wait_until
from tests.templates.render import render

HOSTS = {"db1": "192.0.2.13", "db2": "192.0.2.14", "db3": "192.0.2.15"}
PASSWORDS = {"redis": "secret-of-vault_redis_app_password", "sentinel": "secret-of-vault_redis_sentinel_password"}


class Daemon(Server):
    """What the unit of a host starts: `kind` is redis or sentinel."""

    def __init__(self, kind: str, host: str, net: int, directory: Path, version: str) -> None:
        super().__init__(kind, directory / host)
        self.kind, self.address = kind, f"127.0.{net}.{HOSTS[host].rpartition('.')[2]}"
        self._certificate = directory / "site.crt"
        self._port = "6379" if kind == "redis" else "26379"
        system = "ubuntu-22.04" if version.startswith("6.0") else "debian-12"
        self._included = {"redis": ["redis.conf", "replication.conf"], "sentinel": ["sentinel.conf"]}[kind]
        for name in (*self._included, *(["users.acl"] if kind == "redis" else [])):
            text = render(f"redis/templates/{name}.j2", system, topology="ha", host=host, __redis_version=version)
            text = text.replace("192.0.2.", f"127.0.{net}.").replace(
                "/etc/redis/loyalty.acl", f"{self.directory}/users.acl"
            )
            text = re.sub(r"^(bind \S+) 127.0.0.1$", r"\1", text, flags=re.MULTILINE)
            text = re.sub(r"/run/credentials/\S+", str(directory / "site.key"), text)
            text = re.sub(r"/etc/loyalty/tls/\S+", str(self._certificate), text)
            text = re.sub(r"/var/lib/redis|/run/redis", str(self.directory), text)
            (self.directory / name).write_text(text)
        first = f"127.0.{net}.13"
        self.state = self.directory / ("role.conf" if kind == "redis" else "state.conf")
        replicates = "" if host == "db1" else f"replicaof {first} 6379\n"
        self.state.write_text(replicates if kind == "redis" else f"sentinel monitor loyalty {first} 6379 2\n")

    def command(self) -> list[str]:
        included = [word for name in self._included for word in ("--include", str(self.directory / name))]
        kind = ["--sentinel"] if self.kind == "sentinel" else []
        return ["/usr/bin/redis-server", str(self.state), *kind, *included]

    def start(self, *, timeout_s: float = 30) -> None:
        keep = "replicaof" if self.kind == "redis" else "sentinel"  # as ExecStartPre of the units
        subprocess.run(["sed", "-i", f"/^{keep} /!d", str(self.state)], check=True)
        super().start(timeout_s=timeout_s)

    def is_ready(self) -> bool:
        return self.ask("ping") == "PONG"

    def ask(self, *words: str) -> str:
        command = ["redis-cli", "--tls", "--cacert", str(self._certificate), "-h", self.address, "-p", self._port]
        user = ["--user", "loyalty"] if self.kind == "redis" else []
        environment = {**os.environ, "REDISCLI_AUTH": PASSWORDS[self.kind]}
        done = subprocess.run(
            [*command, *user, "--no-auth-warning", *words], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()


class Cluster:
    def __init__(self, directory: Path) -> None:
        version = subprocess.run(
            ["/usr/bin/redis-server", "--version"], check=True, capture_output=True, text=True
        ).stdout
        found = re.search(r"v=([0-9.]+)", version)
        assert found is not None
        net = secrets.randbelow(200) + 20  # side by side with other runs
        self.redis = {name: Daemon("redis", name, net, directory, found[1]) for name in HOSTS}
        self.sentinels = {name: Daemon("sentinel", name, net, directory, found[1]) for name in HOSTS}

    def start(self) -> None:
        for daemon in (*self.redis.values(), *self.sentinels.values()):
            daemon.start()
        self.wait_until_whole()

    def stop(self) -> None:
        for daemon in (*self.sentinels.values(), *self.redis.values()):
            daemon.stop()

    def master(self, asked: str) -> str:
        address = self.sentinels[asked].ask("sentinel", "get-master-addr-by-name", "loyalty").split("\n")[0]
        return next((name for name, daemon in self.redis.items() if daemon.address == address), "")

    def wait_until_whole(self) -> None:
        def is_whole() -> bool:
            masters = {self.master(name) for name in HOSTS}
            quorum = all(s.ask("sentinel", "ckquorum", "loyalty").startswith("OK 3") for s in self.sentinels.values())
            if len(masters) != 1 or "" in masters or not quorum:
                return False
            said = self.redis[masters.pop()].ask("info", "replication")
            return said.startswith("# Replication\nrole:master") and said.count("state=online") == 2

        wait_until(is_whole, timeout_s=60, failure=lambda: str({name: self.master(name) for name in HOSTS}))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    assert shutil.which("redis-cli") is not None, "apt-get install redis-tools"
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as place:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "1", "-subj", "/CN=site", "-keyout", f"{place}/site.key", "-out", f"{place}/site.crt"]
        subprocess.run(command, check=True, capture_output=True)
        servers = Cluster(Path(place))
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


def test_a_failover_outlives_a_restart_of_everything(cluster: Cluster) -> None:
    first = cluster.master("db1")
    assert first == "db1"
    assert cluster.redis[first].ask("set", "kept", "1", "ex", "900") == "OK"
    assert cluster.redis[first].ask("wait", "2", "5000") == "2"
    cluster.redis[first].kill()
    wait_until(lambda: cluster.master("db2") not in ("", first), timeout_s=30, failure=lambda: "no other master")
    second = cluster.master("db2")
    cluster.redis[first].start()
    cluster.wait_until_whole()
    assert cluster.redis[first].ask("get", "kept") == "1"

    cluster.stop()
    cluster.start()
    assert {cluster.master(name) for name in HOSTS} == {second}
    # Copies of our settings, which the daemons add to what they write down, were dropped at the start.
    assert cluster.redis[first].state.read_text().splitlines()[0].startswith("replicaof ")


def test_the_application_can_name_no_master(cluster: Cluster) -> None:
    said = cluster.redis["db2"].ask("replicaof", "no", "one")
    assert said.startswith("NOPERM")
