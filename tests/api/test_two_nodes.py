"""Any node serves anyone: two servers, one database, and no request that depends on which of them it meets."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bounds import assert_within
from tests.servers import PLAIN, Application, Mongod, Redis, new_program, wait_until

Json = dict[str, Any]

RULE: Json = {"id": "base", "type": "points_per_spend", "points": 1, "per": "1.00"}
STALE_S = 5.0  # how long a node may believe what another one has changed
AT_ONCE_S = 1.0
GRACE_S = 0.5  # a request's own time


class Nodes:
    """Two applications that differ in their names and ports alone, and a client of each with the same key."""

    def __init__(self, directory: Path, mongo_uri: str, redis_url: str | None) -> None:
        database = f"nodes_{secrets.token_hex(6)}"
        storage = directory / "share"
        storage.mkdir(parents=True)
        secret = secrets.token_urlsafe(48)
        self.servers = [
            Application(
                directory / name,
                mongo_uri=mongo_uri,
                database=database,
                redis_url=redis_url,
                workers=1,
                rate_limit_per_minute="0",
                secret_key=secret,
                storage_path=str(storage),
                public_url="https://loyalty.example",
                node_name=name,
            )
            for name in ("app1", "app2")
        ]
        self.key = new_program(mongo_uri, database)
        self.first, self.second = (self.client(number, self.key) for number in (0, 1))

    def client(self, number: int, key: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.servers[number].url, verify=PLAIN, headers=headers, timeout=30)


@pytest.fixture(scope="module", params=["redis", "alone"])
def nodes(
    request: pytest.FixtureRequest, servers_directory: Path, mongod: Mongod, redis_server: Redis
) -> Iterator[Nodes]:
    redis_url = redis_server.url if request.param == "redis" else None
    nodes = Nodes(servers_directory / f"nodes-{request.param}", mongod.uri, redis_url)
    with ThreadPoolExecutor(2) as together:
        list(together.map(Application.start, nodes.servers))
    try:
        yield nodes
    finally:
        nodes.first.close()
        nodes.second.close()
        for server in nodes.servers:
            server.stop()


def buy(api: httpx.Client, number: str, *, member: str = "ada", amount: str = "10.00") -> httpx.Response:
    event = {"source": "till", "id": number, "type": "purchase", "member": {"external_id": member}}
    return api.post("/v1/events", json={**event, "amount": amount, "currency": "USD"})


def points(answer: httpx.Response) -> int:
    assert answer.is_success, answer.text
    return sum(entry["points"].get("points", 0) for entry in answer.json()["entries"])


def seconds_until(condition: Callable[[], bool]) -> float:
    began = time.monotonic()
    wait_until(condition, timeout_s=30, failure=lambda: "the other node did not notice")
    return time.monotonic() - began


def test_rules_that_one_publishes_apply_on_the_other(nodes: Nodes) -> None:
    headers: dict[str, str] = {}
    more = 1
    for more in (1, 3):  # the second time both know a version already
        made = nodes.first.post("/v1/rules/versions", json={"rules": [{**RULE, "points": more}]}, headers=headers)
        assert made.status_code == 201, made.text
        headers = {"If-Match": made.headers["ETag"]}

        def applied(more: int = more) -> bool:
            return points(buy(nodes.second, secrets.token_hex(8))) == 10 * more

        assert_within(STALE_S + GRACE_S, seconds_until(applied))
    assert points(buy(nodes.first, secrets.token_hex(8))) == 10 * more


def test_a_key_that_one_revokes_is_refused_by_the_other(nodes: Nodes) -> None:
    made = nodes.first.post("/v1/keys", json={"name": "till", "scopes": ["programs:read"]}).json()
    with nodes.client(1, made["secret"]) as till:
        assert till.get("/v1/programs").status_code == 200
        assert nodes.first.delete(f"/v1/keys/{made['id']}").is_success
        bound = AT_ONCE_S if "LOYALTY_REDIS_URL" in nodes.servers[0].settings else STALE_S + GRACE_S
        assert_within(bound, seconds_until(lambda: till.get("/v1/programs").status_code == 401))


def test_a_request_that_both_get_at_once_is_done_once(nodes: Nodes) -> None:
    with ThreadPoolExecutor(16) as together:
        for round_ in range(5):
            number, name = secrets.token_hex(8), f"member-{secrets.token_hex(4)}"
            sent = [
                together.submit(buy, node, number, member=name)
                for node in (nodes.first, nodes.second)
                for _ in range(8)
            ]
            answers = [each.result(30) for each in sent]
            assert Counter(answer.status_code for answer in answers) == Counter({201: 1, 200: 15}), round_
            assert len({entry["id"] for answer in answers for entry in answer.json()["entries"]}) == 1
            entries = nodes.second.get(f"/v1/members/ext:{name}/entries").json()["data"]
            assert len(entries) == 1


def test_a_change_with_a_key_is_answered_again_by_the_other(nodes: Nodes) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    first = nodes.first.post("/v1/rewards", json={"name": "Coffee", "cost": 5}, headers=headers)
    again = nodes.second.post("/v1/rewards", json={"name": "Coffee", "cost": 5}, headers=headers)
    assert (first.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"


def test_both_together_spend_no_more_than_there_is(nodes: Nodes) -> None:
    name = f"member-{secrets.token_hex(4)}"
    grant = {"member": {"external_id": name}, "points": 25, "reason": "a gift"}
    assert nodes.first.post("/v1/members", json={"external_id": name}).status_code == 201
    given = nodes.first.post("/v1/adjustments", json=grant, headers={"Idempotency-Key": secrets.token_hex(8)})
    assert given.is_success, given.text
    reward = nodes.first.post("/v1/rewards", json={"name": "Tea", "cost": 5}).json()["id"]

    def redeem(node: httpx.Client) -> int:
        body = {"member": {"external_id": name}, "reward": reward}
        return node.post("/v1/redemptions", json=body, headers={"Idempotency-Key": secrets.token_hex(8)}).status_code

    with ThreadPoolExecutor(16) as together:
        statuses = Counter(together.map(redeem, [nodes.first, nodes.second] * 8))
    assert statuses == Counter({201: 5, 409: 11})
    for node in (nodes.first, nodes.second):
        wallet = node.get(f"/v1/members/ext:{name}/balance").json()["wallets"]["points"]
        assert wallet["available"] == 0


def test_a_file_and_its_link_are_the_same_on_both(nodes: Nodes) -> None:
    made = nodes.first.post("/v1/files", content=b"a logo", headers={"Content-Type": "text/plain"}).json()
    path = made["download_url"].removeprefix("https://loyalty.example")
    assert nodes.second.get(path).content == b"a logo"
    assert nodes.second.delete(f"/v1/files/{made['id']}").is_success
    assert nodes.first.get(path).status_code == 404


def test_a_list_that_one_began_the_other_goes_on_with(nodes: Nodes) -> None:
    for _ in range(3):
        assert nodes.first.post("/v1/members", json={"external_id": secrets.token_hex(8)}).status_code == 201
    seen, cursor = [], None
    for page in range(100):
        node = nodes.second if page % 2 else nodes.first
        answer = node.get("/v1/members", params={"limit": "1", **({"cursor": cursor} if cursor else {})})
        seen += [member["id"] for member in answer.json()["data"]]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) >= 3


def test_each_says_which_it_is(nodes: Nodes) -> None:
    assert [node.get("/version").json()["node"] for node in (nodes.first, nodes.second)] == ["app1", "app2"]
