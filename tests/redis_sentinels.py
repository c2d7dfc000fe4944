"""Three Redis servers and three Sentinels with TLS, passwords and users, as on a site of several hosts."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import Server, ServerError, free_port, wait_until

SERVICE = "loyalty"
DOWN_AFTER_MS = 2000


class _TlsServer(Server):
    """A redis-server, or a Sentinel, that speaks TLS on a port of its own and reads `settings` from a file."""

    def __init__(self, directory: Path, name: str, settings: Mapping[str, str], *, arguments: tuple[str, ...]) -> None:
        super().__init__(name, directory)
        self.port = free_port()
        self._arguments = arguments
        self._configuration = directory / f"{name}.conf"
        own = {
            "port": "0",
            "tls-port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
            "protected-mode": "no",
        }
        lines = [f"{name} {value}" for name, value in {**own, **settings}.items()]
        self._configuration.write_text("\n".join(lines) + "\n")

    def add(self, *lines: str) -> None:
        """Add settings of which there can be several, or that need what is known only now."""
        with self._configuration.open("a") as configuration:
            configuration.write("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        binary = shutil.which("redis-server")
        if binary is None:
            raise ServerError("redis-server is not installed. Run: apt-get install redis-server")
        return [binary, str(self._configuration), *self._arguments]

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            ssl=True,
            ssl_ca_certs=str(self.directory.parent / "ca.crt"),
            socket_timeout=1,
            **options,
        )


class _RedisServer(_TlsServer):
    admin_password: str

    def is_ready(self) -> bool:
        return self._asks(username="admin", password=self.admin_password)

    def _asks(self, **credentials: str) -> bool:
        try:
            with self.client(**credentials) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class _SentinelServer(_RedisServer):
    def is_ready(self) -> bool:
        return self._asks(password=self.admin_password)


class RedisSentinels:
    """The whole of them. `servers` and `sentinels` can be killed, frozen and started again one by one."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.password, self.sentinel_password, admin = (secrets.token_urlsafe(16) for _ in range(3))
        _make_certificates(directory)
        tls = {
            "tls-cert-file": str(directory / "server.crt"),
            "tls-key-file": str(directory / "server.key"),
            "tls-ca-cert-file": str(directory / "ca.crt"),
        }
        replication = {"masteruser": "admin", "masterauth": admin, "appendonly": "yes"}
        self.servers = [
            _RedisServer(directory / f"redis{number}", "redis", {**tls, **replication}, arguments=())
            for number in range(3)
        ]
        for server in self.servers:
            server.admin_password = admin
            server.add(
                "user default off",
                f"user admin on >{admin} ~* &* +@all",
                # As the role gives them to the application.
                f"user {SERVICE} on >{self.password} ~* &* +@all -@admin -@dangerous +info",
            )
        for replica in self.servers[1:]:
            replica.add(f"replicaof 127.0.0.1 {self.servers[0].port}")
        self.sentinels = [
            _SentinelServer(
                directory / f"sentinel{number}",
                "sentinel",
                {**tls, "requirepass": self.sentinel_password},
                arguments=("--sentinel",),
            )
            for number in range(3)
        ]
        for sentinel in self.sentinels:
            sentinel.admin_password = self.sentinel_password
            sentinel.add(
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2",
                f"sentinel auth-user {SERVICE} admin",
                f"sentinel auth-pass {SERVICE} {admin}",
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {SERVICE} 6000",
            )

    @property
    def url(self) -> str:
        """The address as an operator writes it."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        options = f"sentinel_password={self.sentinel_password}&ssl_ca_certs={self._directory / 'ca.crt'}"
        return f"rediss+sentinel://{SERVICE}:{self.password}@{hosts}/{SERVICE}?{options}"

    def start(self) -> None:
        """Start all, and wait until the Sentinels know each other and both replicas."""
        with ThreadPoolExecutor(3) as together:
            list(together.map(Server.start, self.servers))
            list(together.map(Server.start, self.sentinels))
        wait_until(self.is_whole, timeout_s=30, failure=lambda: f"the Sentinels say {self._seen()}")

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def master(self) -> Server:
        """The server that most Sentinels call the master."""
        ports = [state["port"] for state in self._seen()]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def is_whole(self) -> bool:
        """Whether every Sentinel sees a master that is up, two replicas with it, and the other two Sentinels."""
        return all(
            state["flags"] == "master" and state["num-slaves"] == 2 and state["num-other-sentinels"] == 2
            for state in self._seen()
        )

    def _seen(self) -> list[Any]:
        found = []
        for sentinel in self.sentinels:
            if not sentinel.is_frozen:
                with sentinel.client(password=self.sentinel_password) as client:
                    found.append(client.sentinel_masters()[SERVICE])
        return found


def _make_certificates(directory: Path) -> None:
    """A certificate authority, and one certificate for whatever runs at 127.0.0.1."""
    now = datetime.now(timezone.utc)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])

    def certify(key: ec.EllipticCurvePrivateKey, subject: x509.Name, *extensions: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (directory / "ca.crt").write_bytes(certify(authority, issuer, x509.BasicConstraints(ca=True, path_length=0)))
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    (directory / "server.crt").write_bytes(certify(key, subject, names))
    (directory / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
