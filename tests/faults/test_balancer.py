"""A node that dies costs its clients one retry at most: HAProxy and two NGINX with the roles' own configurations.

Addresses, ports and paths are moved to this machine's loopback; behind each NGINX stands a socket that says who asks.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.servers import Server, free_port, wait_until
from tests.templates.render import render

SYSTEM = "debian-12"
DOMAIN = "loyalty.example.test"
PAUSE_S = 0.25
"""A client waits before it repeats (docs/integrator.md); the processes of a node do not die all at once."""
NODES = {"box1": "192.0.2.11", "box2": "192.0.2.12"}


class Node(Server):
    """NGINX of one application host. `set_ready` decides what its application answers at /readyz."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(f"nginx-{name}", directory / name)
        self.port, self._local = free_port(), free_port()
        self._ready = self.directory / "ready"
        self.set_ready(True)
        text = render(
            "nginx/templates/nginx.conf.j2",
            SYSTEM,
            topology="ha",
            host=name,
            nginx_certificate=str(directory / "site.crt"),
            nginx_certificate_key=str(directory / "site.key"),
        )
        text = text.replace(f"{NODES[name]}:8443", f"127.0.0.1:{self.port}")
        text = text.replace("127.0.0.1:8444", f"127.0.0.1:{self._local}")
        text = text.replace("set_real_ip_from 192.0.2.11", "set_real_ip_from 127.0.0.1")
        text = text.replace("user www-data;", "daemon off;").replace("/run/nginx.pid", str(self.directory / "pid"))
        text = text.replace("/var/log/nginx", str(self.directory))
        (self.directory / "nginx.conf").write_text(text)
        (self.directory / "mime.types").write_text("types {}\n")
        (self.directory / "loyalty").mkdir()
        (self.directory / "loyalty" / "upstream.conf").write_text(
            f"""
            upstream loyalty_app {{ server unix:{self.directory}/app.sock; }}
            server {{
                listen unix:{self.directory}/app.sock;
                location = /readyz {{
                    if (!-f {self._ready}) {{ return 503; }}
                    return 200;
                }}
                location / {{ return 200 "{name} $http_x_forwarded_for"; }}
            }}
            """
        )

    def set_ready(self, ready: bool) -> None:
        if ready:
            self._ready.touch()
        else:
            self._ready.unlink()

    def command(self) -> list[str]:
        return ["/usr/sbin/nginx", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf")]

    def start(self, *, timeout_s: float = 30) -> None:
        (self.directory / "app.sock").unlink(missing_ok=True)  # a node that was killed has left it
        super().start(timeout_s=timeout_s)

    def is_ready(self) -> bool:
        return accepts(self.port)


class Balancer(Server):
    def __init__(self, directory: Path, nodes: dict[str, Node]) -> None:
        super().__init__("haproxy", directory / "haproxy")
        self.port, self.http_port = free_port(), free_port()
        text = render("balancer/templates/haproxy.cfg.j2", SYSTEM, topology="ha")
        for name, node in nodes.items():
            text = text.replace(f"{NODES[name]}:8443", f"127.0.0.1:{node.port}")
        text = text.replace("bind :443", f"bind 127.0.0.1:{self.port}").replace(
            "bind :80", f"bind 127.0.0.1:{self.http_port}"
        )
        text = "\n".join(line for line in text.splitlines() if "v6only" not in line) + "\n"
        text = text.replace("/run/haproxy", str(self.directory)).replace(
            "/etc/loyalty/tls/ca.crt", str(directory / "site.crt")
        )
        (self.directory / "haproxy.cfg").write_text(text)

    def command(self) -> list[str]:
        return ["/usr/sbin/haproxy", "-db", "-f", str(self.directory / "haproxy.cfg")]

    def is_ready(self) -> bool:
        return accepts(self.port)

    def nodes(self) -> dict[str, bool]:
        """Which nodes it takes for ready."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.directory / "admin.sock"))
            link.sendall(b"show stat\n")
            with link.makefile() as answer:
                rows = [line.split(",") for line in answer]
        return {row[1]: row[17].startswith("UP") for row in rows if row[0] == "ready" and row[1] != "BACKEND"}


@dataclass
class Site:
    balancer: Balancer
    nodes: dict[str, Node]
    trusted: ssl.SSLContext

    def client(self, source: str = "127.0.0.1") -> httpx.Client:
        transport = httpx.HTTPTransport(
            verify=self.trusted, local_address=source, limits=httpx.Limits(max_connections=1)
        )
        return httpx.Client(base_url=f"https://{DOMAIN}:{self.balancer.port}", transport=_Home(transport), timeout=10)

    def wait_for(self, **ready: bool) -> None:
        wait_until(lambda: self.balancer.nodes() == ready, timeout_s=30, failure=lambda: str(self.balancer.nodes()))


class _Home(httpx.BaseTransport):
    """Sends requests for the site's name to the loopback, with the name in TLS and in the request."""

    def __init__(self, inner: httpx.HTTPTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = DOMAIN
        request.headers["Host"] = DOMAIN
        request.url = request.url.copy_with(host="127.0.0.1")
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as place:
        directory = Path(place)
        directory.chmod(0o755)
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "1", "-subj", "/CN=site", "-addext", f"subjectAltName=DNS:{DOMAIN}"]
        command += ["-keyout", str(directory / "site.key"), "-out", str(directory / "site.crt")]
        subprocess.run(command, check=True, capture_output=True)
        nodes = {name: Node(directory, name) for name in NODES}
        site = Site(Balancer(directory, nodes), nodes, ssl.create_default_context(cafile=directory / "site.crt"))
        servers: list[Server] = [*nodes.values(), site.balancer]
        try:
            for server in servers:
                server.start()
            yield site
        finally:
            for server in servers:
                server.stop()


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """The site with both nodes ready, and again so afterwards."""
    running.wait_for(box1=True, box2=True)
    yield running
    for node in running.nodes.values():
        node.set_ready(True)
        if not node.is_ready():
            node.start()


def test_the_application_learns_the_clients_address(site: Site) -> None:
    with site.client("127.0.0.7") as client:
        node, address = client.get("/").text.split()
    assert address == "127.0.0.7"
    assert node in NODES


def test_nobody_but_a_balancer_can_say_whom_it_comes_for(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.nodes["box1"].port), source_address=("127.0.0.9", 0)) as plain:
        plain.sendall(b"PROXY TCP4 198.51.100.1 192.0.2.11 4711 443\r\n")
        with site.trusted.wrap_socket(plain, server_hostname=DOMAIN) as link, link.makefile() as answer:
            link.sendall(f"GET / HTTP/1.0\r\nHost: {DOMAIN}\r\n\r\n".encode())
            assert answer.read().endswith("box1 127.0.0.9")


def test_a_node_that_is_not_ready_gets_no_new_connection(site: Site) -> None:
    site.nodes["box1"].set_ready(False)
    site.wait_for(box1=False, box2=True)
    for _ in range(6):
        with site.client() as client:
            assert client.get("/").text.startswith("box2 ")


def test_when_no_node_is_ready_one_still_says_so(site: Site) -> None:
    for node in site.nodes.values():
        node.set_ready(False)
    site.wait_for(box1=False, box2=False)
    with site.client() as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503


def test_port_80_leads_to_the_right_door_and_nowhere_else(site: Site) -> None:
    address = f"http://127.0.0.1:{site.balancer.http_port}/v1/events"
    answer = httpx.get(address, headers={"Host": DOMAIN}, timeout=30)
    assert answer.status_code == 308
    assert answer.headers["location"] == f"https://{DOMAIN}/v1/events"
    with pytest.raises(httpx.TransportError):
        httpx.get(address, headers={"Host": "elsewhere.test"}, timeout=30)


@pytest.mark.parametrize("keeps_connections", [True, False], ids=["connections kept", "a connection for each request"])
def test_a_killed_node_costs_one_retry_at_most(
    keeps_connections: bool, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts: list[int] = []
    slowest = [0.0]
    stop = threading.Event()

    def shop() -> None:
        client = site.client()
        while not stop.is_set():
            began = time.monotonic()
            for attempt in range(1, 10):  # noqa: B007 - read below
                try:
                    client.get("/").raise_for_status()
                    break
                except httpx.TransportError:
                    client.close()
                    stop.wait(PAUSE_S)
                    client = site.client()
            attempts.append(attempt)
            slowest[0] = max(slowest[0], time.monotonic() - began)
            if not keeps_connections:
                client.close()
                client = site.client()
        client.close()

    shops = [threading.Thread(target=shop) for _ in range(6)]
    for thread in shops:
        thread.start()
    wait_until(lambda: len(attempts) > 100, timeout_s=30, failure=lambda: f"{len(attempts)} requests")
    site.nodes["box2"].kill()
    before = len(attempts)
    site.wait_for(box1=True, box2=False)
    wait_until(lambda: len(attempts) > before + 100, timeout_s=30, failure=lambda: f"{len(attempts)} requests")
    stop.set()
    for thread in shops:
        thread.join()
    with capsys.disabled():
        retried = sum(attempt > 1 for attempt in attempts)
        print(f"\n{len(attempts)} requests, {retried} retried, slowest {slowest[0]:.2f} s")
    assert max(attempts) <= 2
    assert slowest[0] < 5


def test_the_configuration_is_what_haproxy_takes(site: Site) -> None:
    done = subprocess.run([*site.balancer.command(), "-c"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
