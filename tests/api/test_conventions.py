"""What every endpoint has in common: keys, bodies, problems, entity tags, request ids, pages for people."""

from __future__ import annotations

import http.client
import re
import time
from contextlib import closing
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests.servers import Application

Json = dict[str, Any]

PROBLEM = "application/problem+json"


def problem(answer: httpx.Response, status: int, code: str) -> Json:
    """The problem document, checked for what all of them promise."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM), answer.text
    document: Json = answer.json()
    assert document["code"] == code
    assert document["status"] == status
    assert document["type"] == f"/docs/errors#{code}"
    assert document["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Traceback" not in answer.text
    return document


def defects(answer: httpx.Response) -> dict[str, str]:
    """Where and what, of a refusal with all its defects."""
    errors = problem(answer, 422, "validation_failed")["errors"]
    return {error.get("pointer", error.get("parameter")): error["code"] for error in errors}


class TestKeys:
    def test_no_key(self, application: Application) -> None:
        answer = httpx.get(f"{application.url}/v1/programs", timeout=30)
        problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.parametrize("value", ["Basic Zm9v", "Bearer", "Bearer lk_short", "lk_" + "a" * 43, "Bearer \u00e9"])
    def test_no_proper_key(self, application: Application, value: str) -> None:
        headers = {b"Authorization": value.encode()}
        problem(httpx.get(f"{application.url}/v1/programs", headers=headers, timeout=30), 401, "unauthenticated")

    def test_an_unknown_key(self, application: Application) -> None:
        headers = {"Authorization": f"Bearer lk_{'a' * 43}"}
        problem(httpx.get(f"{application.url}/v1/programs", headers=headers, timeout=30), 401, "unauthenticated")

    def test_a_missing_scope_is_named(self, api: httpx.Client, application: Application) -> None:
        made = api.post("/v1/keys", json={"name": "reader", "scopes": ["members:read"]}).json()
        headers = {"Authorization": f"Bearer {made['secret']}"}
        answer = httpx.post(f"{application.url}/v1/members", headers=headers, json={"external_id": "1"}, timeout=30)
        assert problem(answer, 403, "forbidden")["scope"] == "members:write"
        assert httpx.get(f"{application.url}/v1/members", headers=headers, timeout=30).is_success


class TestBodies:
    @pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b'{"external_id": NaN}', b'{"a": 1}}', b"[" * 5000])
    def test_malformed_json(self, api: httpx.Client, body: bytes) -> None:
        answer = api.post("/v1/members", content=body, headers={"Content-Type": "application/json"})
        problem(answer, 400, "malformed_json")

    @pytest.mark.parametrize("body", [b'{"external_id": "\xff\xfe"}', rb'{"external_id": "\ud800"}'])
    def test_bad_unicode(self, api: httpx.Client, body: bytes) -> None:
        answer = api.post("/v1/members", content=body, headers={"Content-Type": "application/json"})
        problem(answer, 400, "malformed_json")

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
    def test_another_content_type(self, api: httpx.Client, kind: str) -> None:
        answer = api.post("/v1/members", content=b'{"external_id": "1"}', headers={"Content-Type": kind})
        problem(answer, 415, "unsupported_media_type")

    @pytest.mark.parametrize("body", [b"null", b"1", b'"text"', b"[]"])
    def test_json_of_another_shape(self, api: httpx.Client, body: bytes) -> None:
        answer = api.post("/v1/members", content=body, headers={"Content-Type": "application/json"})
        assert defects(answer) == {"": "wrong_type"}

    def test_a_large_body(self, api: httpx.Client) -> None:
        answer = api.post("/v1/members", json={"external_id": "x" * 2_000_000})
        assert problem(answer, 413, "payload_too_large")["max_bytes"] == 1 << 20

    def test_a_large_body_of_unknown_length(self, api: httpx.Client) -> None:
        chunks = (b" " * 65536 for _ in range(32))
        answer = api.post("/v1/members", content=chunks, headers={"Content-Type": "application/json"})
        problem(answer, 413, "payload_too_large")

    def test_a_body_of_unknown_length(self, api: httpx.Client) -> None:
        chunks = iter([b'{"external', b'_id": "chunked"}'])
        answer = api.post("/v1/members", content=chunks, headers={"Content-Type": "application/json"})
        assert answer.status_code == 201, answer.text

    def test_every_defect_at_once(self, api: httpx.Client) -> None:
        body = {
            "external_id": 7,
            "identities": [{"type": "telex", "value": "1"}, {"type": "phone", "value": "030 123"}, {"value": "x"}],
            "profile": {"email": "nobody", "birthday": "1990-02-30", "attributes": {"a": 1.5, "B": "x"}, "shoe": 44},
            "colour": "red",
        }
        found = defects(api.post("/v1/members", json=body))
        assert found["/external_id"] == "wrong_type"
        assert found["/identities/0/type"] == "invalid_value"
        assert found["/identities/1"] == "invalid_value"
        assert found["/identities/2/type"] == "missing"
        assert found["/profile/email"] == "invalid_value"
        assert found["/profile/birthday"] == "wrong_type"
        assert found["/profile/shoe"] == "unknown_field"
        assert found["/colour"] == "unknown_field"
        assert {pointer for pointer in found if pointer.startswith("/profile/attributes/")}

    def test_pointers_are_escaped(self, api: httpx.Client) -> None:
        assert defects(api.post("/v1/members", json={"external_id": "1", "a/b~c": 1})) == {"/a~1b~0c": "unknown_field"}

    def test_parameters_are_checked_like_fields(self, api: httpx.Client) -> None:
        found = defects(api.get("/v1/members?limit=501&status=asleep&page=2"))
        assert found == {"limit": "less_than_equal", "status": "invalid_value", "page": "unknown_field"}
        assert defects(api.get("/v1/members?limit=1&limit=2")) == {"limit": "repeated"}
        assert defects(api.get("/v1/programs?verbose=1")) == {"verbose": "unknown_field"}


class TestProblems:
    @pytest.mark.parametrize("path", ["/v1/nothing", "/v1/members/x/y/z", "/%00", "/v1/rules/versions/one"])
    def test_not_found(self, api: httpx.Client, path: str) -> None:
        problem(api.get(path), 404, "not_found")

    def test_a_method_that_is_not_there(self, api: httpx.Client) -> None:
        answer = api.put("/v1/members", json={})
        problem(answer, 405, "method_not_allowed")
        assert set(answer.headers["Allow"].split(", ")) >= {"GET", "POST"}

    def test_a_trailing_slash_changes_nothing(self, api: httpx.Client) -> None:
        assert api.get("/v1/programs/").is_success

    def test_all_are_catalogued(self, api: httpx.Client) -> None:
        catalogue = api.get("/docs/errors").text
        document = api.get("/v1/openapi.json").json()
        codes = set(document["components"]["examples"])
        assert codes >= {"validation_failed", "insufficient_points", "event_conflict", "rate_limited", "unavailable"}
        for code in codes:
            assert f'id="{code}"' in catalogue


class TestTheShortWay:
    """`POST /v1/events` and the balance go around Flask; nobody may notice."""

    def test_refusals(self, api: httpx.Client, application: Application) -> None:
        problem(httpx.post(f"{application.url}/v1/events", json={}, timeout=30), 401, "unauthenticated")
        problem(
            api.post("/v1/events", content=b"{", headers={"Content-Type": "application/json"}), 400, "malformed_json"
        )
        problem(api.post("/v1/events", content=b"{}", headers={"Content-Type": "a/b"}), 415, "unsupported_media_type")
        problem(api.post("/v1/events", json={"store": "x" * (1 << 20)}), 413, "payload_too_large")
        assert set(defects(api.post("/v1/events", json={}))) == {"/source", "/id", "/type", "/member"}
        assert defects(api.post("/v1/events?x=1", json={"source": "s"}))
        problem(api.get("/v1/events"), 405, "method_not_allowed")
        problem(api.put("/v1/members/ext:1/balance"), 405, "method_not_allowed")

    @pytest.mark.parametrize(("path", "status"), [("/v1/events", 413), ("/v1/members", 413), ("/v1/nothing", 404)])
    def test_a_refusal_leaves_the_connection_as_it_was(
        self, application: Application, api_key: str, path: str, status: int
    ) -> None:
        """Whatever was left of the body: the next request on it is answered."""
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", application.port, timeout=30)
        with closing(connection):
            for body in (b" " * (3 << 20), iter([b" " * (1 << 20)] * 3)):  # of a length that is told, and in pieces
                connection.request("POST", path, body=body, headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert (answer.status, answer.getheader("Connection")) == (status, "keep-alive")
                connection.request("POST", "/v1/events", body=b"{}", headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 422

    def test_paths(self, api: httpx.Client) -> None:
        for value in ("a b", "a%2Fb", "%C3%A4"):
            made = api.post("/v1/members", json={"external_id": unquote(value)}).json()
            balance = api.get(f"/v1/members/ext:{value}/balance")
            assert balance.json()["member"] == made["id"], balance.text
        problem(api.get("/v1/members/ext:1/balance"), 404, "not_found")
        problem(api.get("/v1/members/%FF/balance"), 404, "not_found")

    def test_headers(self, api: httpx.Client) -> None:
        api.post("/v1/members", json={"external_id": "1"})
        answer = api.get("/v1/members/ext:1/balance")
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Content-Length"] == str(len(answer.content))
        again = api.get("/v1/members/ext:1/balance", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


class TestRequestIds:
    def test_a_sane_one_is_kept(self, api: httpx.Client) -> None:
        assert api.get("/healthz", headers={"X-Request-Id": "till-7:4711"}).headers["X-Request-Id"] == "till-7:4711"

    @pytest.mark.parametrize("value", ["x" * 129, "a b", '{"a":1}', "<script>"])
    def test_another_is_replaced(self, api: httpx.Client, value: str) -> None:
        made = api.get("/healthz", headers={"X-Request-Id": value}).headers["X-Request-Id"]
        assert re.fullmatch(r"[0-9a-f]{24}", made)


class TestEntityTags:
    @pytest.mark.parametrize("path", ["/v1/programs", "/v1/members", "/v1/keys", "/v1/openapi.json"])
    def test_reads_are_not_sent_twice(self, api: httpx.Client, path: str) -> None:
        first = api.get(path)
        tag = first.headers["ETag"]
        assert re.fullmatch(r'"[^"]+"', tag)
        for sent in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = api.get(path, headers={"If-None-Match": sent})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert api.get(path, headers={"If-None-Match": '"other"'}).content == first.content

    def test_a_change_changes_the_tag(self, api: httpx.Client) -> None:
        before = api.get("/v1/members").headers["ETag"]
        api.post("/v1/members", json={"external_id": "1"})
        assert api.get("/v1/members", headers={"If-None-Match": before}).status_code == 200


class TestOperations:
    def test_health(self, application: Application) -> None:
        assert httpx.get(f"{application.url}/healthz", timeout=30).json() == {"alive": True}
        ready = httpx.get(f"{application.url}/readyz", timeout=30)
        assert ready.status_code == 200
        assert {name: part["state"] for name, part in ready.json()["parts"].items()} == dict.fromkeys(
            ("mongodb", "redis", "storage"), "up"
        )
        assert set(httpx.get(f"{application.url}/version", timeout=30).json()) == {"version", "release", "site", "node"}

    def test_metrics_are_by_route(self, api: httpx.Client, application: Application) -> None:
        api.get("/v1/members/ext:metrics")
        text = httpx.get(f"{application.url}/metrics", timeout=30).text
        assert 'route="/v1/members/<member>"' in text
        assert "ext:metrics" not in text
        assert "loyalty_http_request_seconds_bucket" in text

    def test_log_lines_are_json_with_the_request_id(self, api: httpx.Client, application: Application) -> None:
        api.get("/v1/members/ext:lost", headers={"X-Request-Id": "find-me-again"})
        for _ in range(50):
            lines = [line for line in application.log.read_text().splitlines() if "find-me-again" in line]
            if lines:
                break
            time.sleep(0.05)  # a poll: the log is another process's
        assert '"route":"/v1/members/<member>"' in lines[0]
        assert '"status":404' in lines[0]
        assert "lk_" not in application.log.read_text()


class TestPages:
    @pytest.mark.parametrize("path", ["/docs", "/docs/errors", "/console"])
    def test_nothing_inline_nothing_foreign(self, application: Application, path: str) -> None:
        page = httpx.get(f"{application.url}{path}", timeout=30)
        assert page.status_code == 200
        assert page.headers["Content-Type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=\"/static/)", page.text)
        for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert address.startswith(("/", "#", application.url)), address

    @pytest.mark.parametrize("name", ["docs.js", "loyalty.css", "icon.svg"])
    def test_assets_are_our_own(self, application: Application, name: str) -> None:
        assert httpx.get(f"{application.url}/static/{name}", timeout=30).is_success

    def test_the_start_leads_to_the_console(self, application: Application) -> None:
        answer = httpx.get(application.url + "/", timeout=30)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/console")
