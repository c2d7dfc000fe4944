"""Every template renders for every system, and what comes out is what its daemon accepts."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from tests.servers import free_port, wait_until
from tests.templates.render import PROJECT, SYSTEMS, TEMPLATES, render

MOST_EXPOSURE = 25  # tenths
NEEDS_SYSTEMD = pytest.mark.skipif(  # never in CI, which installs the tool first (loyalty/ops/suite.py)
    shutil.which("systemd-analyze") is None, reason="the check is systemd's own, and this machine has none"
)
NEEDS_NGINX = pytest.mark.skipif(  # never in CI, likewise
    shutil.which("nginx") is None, reason="the check is nginx's own, and this machine has none"
)

UNITS = {
    "app/templates/loyalty@.service.j2": "loyalty@blue.service",
    "scheduler/templates/loyalty-jobs.service.j2": "loyalty-jobs.service",
    "mongodb/templates/mongod.service.j2": "mongod.service",
    "redis/templates/redis-sentinel.service.j2": "redis-sentinel.service",
    "storage/templates/loyalty-brick.service.j2": "loyalty-brick.service",
    "backup/templates/loyalty-backup@.service.j2": "loyalty-backup@full.service",
    "backup/templates/loyalty-backup-log.service.j2": "loyalty-backup-log.service",
}
DROP_INS = {
    "mongodb/templates/peers.conf.j2": "mongod.service",
    "balancer/templates/haproxy.dropin.j2": "haproxy.service",
    "balancer/templates/keepalived.dropin.j2": "keepalived.service",
    "nginx/templates/sandbox.conf.j2": "nginx.service",
    "redis/templates/redis.dropin.j2": "redis-server.service",
}
# Of the drop-ins, those that box in a daemon whose own unit does not.
SANDBOXES = (
    "balancer/templates/haproxy.dropin.j2",
    "balancer/templates/keepalived.dropin.j2",
    "nginx/templates/sandbox.conf.j2",
)
# Ubuntu 22.04 has systemd 249, nginx 1.18 and Redis 6.0. What came later must not be written.
NEWER_THAN_SYSTEMD_249 = (
    "LoadCredentialEncrypted",
    "SetCredentialEncrypted",
    "ImportCredential",
    "RestrictFileSystems",
    "ExtensionDirectories",
    "OpenFile",
    "RestartSteps",
    "RestartMaxDelaySec",
    "DelegateSubgroup",
    "RootEphemeral",
    "MemoryZSwapMax",
    "MemoryPressureWatch",
    "SurviveFinalKillSignal",
    "PrivatePIDs",
    "MemoryKSM",
    "NFTSet",
    "BindLogSockets",
)
NEWER_THAN_NGINX_1_18 = (
    "http2 on",
    "ssl_reject_handshake",
    "ssl_conf_command",
    "proxy_cookie_flags",
    "keepalive_time ",
    "proxy_ssl_conf_command",
    "quic",
    "auth_delay",
    "ssl_key_log",
    "internal_redirect",
)
NEWER_THAN_REDIS_6_0 = (
    "enable-debug-command",
    "enable-protected-configs",
    "enable-module-command",
    "shutdown-timeout",
    "appenddirname",
    "latency-tracking",
    "sanitize-dump-payload",
    "replica-announced",
    "bind-source-addr",
    "set-proc-title",
    "listpack",
    "maxmemory-clients",
    "shutdown-on-sig",
    "locale-collate",
)

systems = pytest.mark.parametrize("system", SYSTEMS)


@systems
@pytest.mark.parametrize("template", TEMPLATES)
def test_it_renders(template: str, system: str) -> None:
    text = render(template, system)
    assert text.strip()
    assert "{{" not in text
    assert "{%" not in text
    assert text.endswith("\n"), "files end with a newline"


def whole_unit(template: str, system: str) -> str:
    """A unit whose program exists on this machine; a drop-in with a stand-in for the unit that it changes."""
    text = render(template, system)
    if template in DROP_INS:
        text = "[Unit]\nDescription=Stand-in\n[Service]\nType=forking\nExecStart=/bin/true\n" + text
    return re.sub(r"^(Exec\w+=[-+]?)/\S+", r"\1/bin/true", text, flags=re.MULTILINE)


@systems
@pytest.mark.parametrize(("template", "name"), [*UNITS.items(), *DROP_INS.items()])
def test_a_unit_uses_nothing_newer_than_the_oldest_systemd(template: str, name: str, system: str) -> None:
    keys = set(re.findall(r"^(\w+)=", render(template, system), re.MULTILINE))
    assert keys.isdisjoint(NEWER_THAN_SYSTEMD_249)


@NEEDS_SYSTEMD
@systems
@pytest.mark.parametrize(("template", "name"), [*UNITS.items(), *DROP_INS.items()])
def test_systemd_accepts_the_unit(template: str, name: str, system: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    unit.write_text(whole_unit(template, system), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if name in line] == []


# Redis' own unit is boxed in by its package already; what the two make together is measured on the real server.
@NEEDS_SYSTEMD
@systems
@pytest.mark.parametrize(
    ("template", "name"),
    [*UNITS.items(), *((template, DROP_INS[template]) for template in SANDBOXES)],
)
def test_the_unit_is_boxed_in(template: str, name: str, system: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    unit.write_text(whole_unit(template, system), encoding="utf-8")
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@systems
@pytest.mark.parametrize("template", UNITS)
def test_a_unit_holds_no_secret(template: str, system: str) -> None:
    assert "secret-of-" not in render(template, system)


@systems
def test_settings_hold_no_secret_and_are_plain_assignments(system: str) -> None:
    for line in render("app/templates/loyalty.env.j2", system).splitlines():
        assert line.startswith("#") or re.fullmatch(r'LOYALTY_[A-Z_]+="[^"$`\\]*"', line), line
        assert "secret-of-" not in line


@systems
def test_the_release_describes_itself(system: str) -> None:
    described = json.loads(render("app/templates/release.json.j2", system))
    assert described["release"] == "20260131T120000Z-0123456789ab"
    assert described["version"] == "v1.0.0"
    assert described["python"] == {"ubuntu-22.04": "3.10", "debian-12": "3.11"}[system]


@systems
@pytest.mark.parametrize("colour", ["blue", "green"])
def test_the_upstream_keeps_connections_shorter_than_gunicorn(colour: str, system: str) -> None:
    text = render("app/templates/upstream.conf.j2", system, __app_colour=colour)
    assert f"server unix:/run/loyalty-{colour}/gunicorn.sock" in text
    kept = re.search(r"keepalive_timeout (\d+)s;", text)
    assert kept is not None
    gunicorn = runpy.run_path(str(PROJECT / "loyalty" / "gunicorn.conf.py"))
    assert int(kept.group(1)) < gunicorn["keepalive"]


@systems
def test_a_watched_colour_has_the_old_one_behind_it(system: str) -> None:
    text = render("app/templates/upstream.conf.j2", system, __app_colour="green", __app_fallback="blue")
    assert "server unix:/run/loyalty-green/gunicorn.sock max_fails=0;" in text
    assert "server unix:/run/loyalty-blue/gunicorn.sock backup max_fails=0;" in text
    assert "non_idempotent" not in text, "a POST without a key must not run twice"
    assert "backup" not in render("app/templates/upstream.conf.j2", system, __app_colour="green")


@systems
def test_nginx_uses_nothing_newer_than_the_oldest_nginx(system: str) -> None:
    text = render("nginx/templates/nginx.conf.j2", system)
    directives = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert [word for word in NEWER_THAN_NGINX_1_18 if word in directives] == []
    assert "listen 443 ssl http2 default_server;" in directives


@systems
def test_nginx_repeats_security_headers_wherever_it_adds_one(system: str) -> None:
    """add_header in a location replaces those of the server: a location with one of its own must have them all."""
    text = render("nginx/templates/nginx.conf.j2", system)
    for body in re.findall(r"location [^{]+\{((?:[^{}]|\{\s*\})*)\}", text):
        if "add_header" in body:
            for header in (
                "Strict-Transport-Security",
                "X-Content-Type-Options",
                "X-Frame-Options",
                "Content-Security-Policy",
            ):
                assert header in body, body


@systems
def test_what_nginx_refuses_is_a_problem_document(system: str) -> None:
    text = render("nginx/templates/nginx.conf.j2", system)
    bodies = re.findall(r"return (\d+) '(\{.*\})';", text)
    assert {int(status) for status, _ in bodies} >= {400, 404, 413, 414, 421, 429, 431, 502, 503, 504}
    for status, body in bodies:
        problem = json.loads(body)
        assert problem["status"] == int(status)
        assert problem["type"] == f"/docs/errors#{problem['code']}"
    for status in (429, 502, 503, 504):
        location = text.split(f"location @problem_{status} ", 1)[1].split("location @", 1)[0]
        assert "add_header Retry-After" in location


def nginx_tree(folder: Path, system: str, fallback: str = "") -> Path:
    """The configuration of nginx as it lies on a server, with a certificate of its own; the file to start it with."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += [
        "-days",
        "1",
        "-subj",
        "/CN=site",
        "-keyout",
        str(folder / "site.key"),
        "-out",
        str(folder / "site.crt"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    own = {"nginx_certificate": str(folder / "site.crt"), "nginx_certificate_key": str(folder / "site.key")}
    text = render("nginx/templates/nginx.conf.j2", system, **own)
    for place in ("/run/nginx.pid", "/var/log/nginx/access.log", "/var/log/nginx/error.log"):
        text = text.replace(place, str(folder / Path(place).name))
    file = folder / "nginx.conf"
    file.write_text(text.replace("user www-data;", ""), encoding="utf-8")
    (folder / "mime.types").write_text("types {}\n", encoding="utf-8")
    (folder / "loyalty").mkdir()
    watched = {"__app_fallback": fallback, "__app_watch_log": str(folder / "watch.log")}
    (folder / "loyalty" / "upstream.conf").write_text(
        render("app/templates/upstream.conf.j2", system, **watched), encoding="utf-8"
    )
    return file


@NEEDS_NGINX
@systems
@pytest.mark.parametrize("fallback", ["", "green"], ids=["alone", "watched"])
def test_nginx_accepts_its_configuration(fallback: str, system: str, tmp_path: Path) -> None:
    file = nginx_tree(tmp_path, system, fallback)
    done = subprocess.run(["nginx", "-t", "-c", str(file)], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@NEEDS_NGINX
@pytest.mark.parametrize("closed", [True, False])
def test_a_closed_site_says_when_to_come_again(closed: bool, tmp_path: Path) -> None:
    file = nginx_tree(tmp_path, "debian-12")
    port = free_port()
    text = re.sub(r"^\s*listen (80|\[::\]).*$", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    file.write_text(f"daemon off;\n{text.replace('listen 443', f'listen 127.0.0.1:{port}')}", encoding="utf-8")
    if closed:
        shutil.copy(PROJECT / "roles/nginx/files/maintenance.conf", tmp_path / "loyalty")
    nginx = subprocess.Popen(["nginx", "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=30) as client:
            wait_until(lambda: port_is_open(port), timeout_s=10, failure=lambda: (tmp_path / "error.log").read_text())
            for method, path in (("POST", "/v1/events"), ("GET", "/static/app.css"), ("GET", "/readyz")):
                answer = client.request(method, path)
                if closed:
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
                    assert "maintenance" in answer.json()["detail"]
                    assert answer.headers["content-type"] == "application/problem+json"
                else:
                    # No application is behind it, and no such file.
                    assert answer.status_code == (404 if path.startswith("/static") else 502)
    finally:
        nginx.terminate()
        nginx.wait(10)


def port_is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@systems
def test_mongod_wants_tls_and_a_password(system: str) -> None:
    settings = yaml.safe_load(render("mongodb/templates/mongod.conf.j2", system))
    assert settings["net"]["tls"]["mode"] == "requireTLS"
    assert settings["security"]["authorization"] == "enabled"
    assert settings["security"]["keyFile"]
    assert settings["replication"]["replSetName"] == "loyalty"
    assert "0.0.0.0" not in str(settings["net"]["bindIp"])
    assert "journal" not in settings["storage"], "always on since 6.1, where the setting is refused"


@systems
def test_redis_listens_on_its_socket_and_nowhere_else(system: str) -> None:
    lines = render("redis/templates/redis.conf.j2", system).splitlines()
    settings = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    names = [name for name, _ in settings]
    assert ["port", "0"] in settings
    assert ["maxmemory-policy", "volatile-lru"] in settings
    assert ["appendonly", "yes"] in settings
    assert "save" in names
    assert set(names).isdisjoint(NEWER_THAN_REDIS_6_0)


@systems
def test_the_firewall_drops_what_no_edge_allows(system: str) -> None:
    text = render("firewall/templates/loyalty.nft.j2", system)
    assert "hook input priority" in text
    assert "policy drop" in text
    opened = {
        int(port)
        for found in re.findall(r"dport\s+(?:\{([^}]*)\}|(\d+))", text)
        for port in re.findall(r"\d+", "".join(found))
    }
    assert opened <= {22, 80, 443, 546, 68}, opened
    assert {22, 80, 443} <= opened
