"""Back-tests over HTTP: asked for, read, refused with the place and the reason."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

Json = dict[str, Any]
RULES: Json = {"rules": [{"type": "points_per_spend", "id": "base", "points": 2, "per": "1.00"}]}


def test_a_back_test_waits_for_the_jobs_process(api: httpx.Client) -> None:
    body = {
        "rules": RULES,
        "from": "2026-01-01T00:00:00Z",
        "to": "2026-02-01T00:00:00Z",
        "segments": ["attributes.city"],
    }
    asked = api.post("/v1/backtests", json=body, headers={"Idempotency-Key": "k"})
    assert asked.status_code == 202, asked.text
    made = asked.json()
    assert (made["status"], made["percent"], made["result"]) == ("waiting", 0, None)
    assert (made["from"], made["to"]) == ("2026-01-01T00:00:00.000Z", "2026-02-01T00:00:00.000Z")
    read = api.get(asked.headers["Location"])
    assert read.json() == made
    assert api.post("/v1/backtests", json=body, headers={"Idempotency-Key": "k"}).json()["id"] == made["id"]
    assert api.get("/v1/backtests/bkt_nothing").json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"rules": RULES, "version": 1}, ""),
        ({"rules": {"rules": [{**RULES["rules"][0], "wallet": "stars"}]}}, "/rules/rules/0/wallet"),
        ({"rules": RULES, "from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, ""),
        ({"rules": RULES, "segments": ["tier", "tier"]}, "/segments"),
        ({"rules": RULES, "segments": ["attributes.$where"]}, "/segments/0"),
        ({"rules": RULES, "tiers": {"basis": {"type": "spend"}, "levels": []}}, "/tiers/levels"),
        (
            {
                "rules": RULES,
                "tiers": {"basis": {"type": "spend"}, "levels": [{"id": "base", "name": "Base", "threshold": "1"}]},
            },
            "/tiers/window",
        ),
    ],
)
def test_what_cannot_be_tried_is_refused_with_the_place(api: httpx.Client, body: Json, pointer: str) -> None:
    answer = api.post("/v1/backtests", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("source", [{"version": 7}, {"draft": "drf_nothing"}])
def test_rules_that_do_not_exist_are_not_found(api: httpx.Client, source: Json) -> None:
    assert api.post("/v1/backtests", json=source).json()["code"] == "not_found"
