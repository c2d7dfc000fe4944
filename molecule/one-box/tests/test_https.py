"""What a client meets at the front door: protocols, ciphers, headers, limits, problem documents."""

from __future__ import annotations

import json
import ssl
import subprocess
from typing import Any

import httpx
import pytest
from testinfra.host import Host

from tests.one_box import Box


@pytest.fixture(scope="module")
def client(box: Box) -> Any:
    context = ssl.create_default_context(cafile=str(box.ca_file))
    with httpx.Client(base_url=f"https://{box.address}", verify=context, http2=True, timeout=20) as client:
        yield client


def handshake(box: Box, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"{box.address}:443",
        "-servername",
        box.domain,
        "-CAfile",
        str(box.ca_file),
    ]
    return subprocess.run([*command, *options], input="", capture_output=True, text=True, check=False, timeout=20)


@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
def test_current_tls_is_spoken(box: Box, option: str) -> None:
    said = handshake(box, option).stdout
    assert "Verify return code: 0 (ok)" in said
    assert "Server Temp Key: X25519" in said


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_old_tls_is_refused(box: Box, option: str) -> None:
    # Level 0, or this machine's own OpenSSL would refuse before the server does.
    refused = handshake(box, option, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert refused.returncode != 0
    assert "alert protocol version" in refused.stderr


@pytest.mark.parametrize("cipher", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "NULL-SHA256"])
def test_weak_ciphers_are_refused(box: Box, cipher: str) -> None:
    assert handshake(box, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0").returncode != 0


def test_the_certificate_names_the_site_and_its_address(box: Box) -> None:
    for name in (box.domain, box.address):
        kind = "-verify_ip" if name == box.address else "-verify_hostname"
        assert "Verify return code: 0 (ok)" in handshake(box, kind, name).stdout


def test_http2_is_spoken(client: httpx.Client) -> None:
    assert client.get("/healthz").http_version == "HTTP/2"


@pytest.mark.parametrize("path", ["/healthz", "/v1/openapi.json", "/docs", "/nothing-here", "/static/nothing-here"])
def test_security_headers_are_on_every_answer(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["server"] == "nginx"
    assert len(headers.get_list("x-request-id")) == 1


def test_the_request_id_is_passed_on_and_comes_back(client: httpx.Client, host: Host) -> None:
    mine = "till-7.2026-01-31"
    assert client.get("/v1/members", headers={"X-Request-Id": mine}).headers["x-request-id"] == mine
    ours = client.get("/healthz", headers={"X-Request-Id": 'two words "'}).headers["x-request-id"]
    assert len(ours) == 32


def test_long_json_is_compressed_and_short_json_is_not(client: httpx.Client) -> None:
    asked = {"Accept-Encoding": "gzip"}
    assert client.get("/v1/openapi.json", headers=asked).headers["content-encoding"] == "gzip"
    assert "content-encoding" not in client.get("/healthz", headers=asked).headers


def test_metrics_are_not_for_clients(client: httpx.Client) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_stored_files_are_reached_by_signed_links_only(client: httpx.Client) -> None:
    assert client.get("/_files/anything").status_code == 404


def test_a_body_beyond_the_wall_gets_a_problem_document(box: Box) -> None:
    # HTTP/1.1, because httpx goes on sending a stream that the server has answered already.
    context = ssl.create_default_context(cafile=str(box.ca_file))
    url = f"https://{box.address}/v1/events"
    answer = httpx.post(url, content=b"0" * (9 << 20), headers={"Content-Type": "application/json"}, verify=context)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (413, "payload_too_large", 413)
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_body_of_two_megabytes_is_answered_by_the_application(client: httpx.Client) -> None:
    answer = client.post("/v1/events", content=b"0" * (2 << 20), headers={"Content-Type": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code in (401, 413)


def test_a_foreign_name_is_turned_away(box: Box, client: httpx.Client) -> None:
    answer = client.get("/healthz", headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request")


def test_plain_http_leads_to_https(box: Box) -> None:
    answer = httpx.get(f"http://{box.address}/v1/members?limit=2", timeout=10)
    assert answer.status_code == 308
    assert answer.headers["location"] == f"https://{box.address}/v1/members?limit=2"


def test_plain_http_to_a_foreign_name_gets_nothing(box: Box) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{box.address}/", headers={"Host": "elsewhere.example"}, timeout=10)


def test_a_dead_application_is_a_problem_with_retry_after(client: httpx.Client, host: Host) -> None:
    colour = json.loads(host.file("/opt/loyalty/active.json").content_string)["colour"]
    host.check_output(f"systemctl stop loyalty@{colour}")
    try:
        answer = client.get("/v1/members")
    finally:
        host.check_output(f"systemctl start loyalty@{colour}")
    assert answer.status_code == 502
    assert answer.json()["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0
    assert client.get("/readyz").status_code == 200


def test_the_access_log_is_json_without_queries(client: httpx.Client, host: Host) -> None:
    client.get("/v1/members?query=somebody", headers={"X-Request-Id": "find-me-in-the-log"})
    host.check_output("nginx -s reopen")  # writes what is buffered
    said = host.check_output("grep -h find-me-in-the-log /var/log/nginx/access.log | tail -1")
    line = json.loads(said)
    assert (line["path"], line["status"], line["protocol"]) == ("/v1/members", 401, "HTTP/2.0")
    assert "somebody" not in said
