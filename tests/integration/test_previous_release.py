"""The schema only grows: the release before this one works on the database that this one has migrated.

While a deploy is watched both answer, and after a rollback the older one goes on alone with what the newer one wrote.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from loyalty.infra.mongo import Mongo, connect
from loyalty.ledger.verify import verify
from loyalty.ops.demo import RULE
from tests.previous_release import REPOSITORY, PreviousApplication, describe, export, history_holds, recorded
from tests.servers import Application, Mongod, Redis, new_program

COMMIT = recorded()["commit"]


def growth_defects(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What a release takes away from the one before, or demands of it."""
    defects = []
    for name, indexes in before["collections"].items():
        if name not in after["collections"]:
            defects.append(f"collection {name} is gone")
            continue
        there = after["collections"][name]
        defects += [
            f"index {name}.{index} is gone or different" for index in indexes if there.get(index) != indexes[index]
        ]
        defects += [
            f"index {name}.{index} is unique over what the release before writes"
            for index in there
            if index not in indexes and there[index]["options"].get("unique")
        ]
    for name, validator in after["validators"].items():
        old = before["validators"].get(name)
        if old is None:
            if name in before["collections"]:
                defects.append(f"{name} has a validator that the release before does not know")
        else:
            defects += [
                f"validator of {name}: {defect}" for defect in tightened(old["$jsonSchema"], validator["$jsonSchema"])
            ]
    return defects


def tightened(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where a document that `old` accepts could be refused by `new`. Fields that `old` does not name, nobody wrote."""
    defects = [f"{field} is required" for field in new.get("required", ()) if field not in old.get("required", ())]
    for field, rule in new.get("properties", {}).items():
        if field in old.get("properties", {}) and rule != old["properties"][field]:
            defects.append(f"{field} is described differently")
    others = {key for key in new if key not in ("required", "properties") and new[key] != old.get(key)}
    return defects + [f"{key} is different" for key in sorted(others)]


def test_this_release_only_adds() -> None:
    assert growth_defects(recorded(), describe(REPOSITORY)) == []


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        (lambda schema: schema["collections"].pop("members"), "collection members is gone"),
        (lambda schema: schema["collections"]["ledger"].pop("keys"), "index ledger.keys is gone or different"),
        (
            lambda schema: schema["collections"]["members"].update(
                new={"keys": [["a", 1]], "options": {"unique": True}}
            ),
            "index members.new is unique over what the release before writes",
        ),
        (
            lambda schema: schema["validators"]["ledger"]["$jsonSchema"]["required"].append("new"),
            "validator of ledger: new is required",
        ),
        (
            lambda schema: schema["validators"]["ledger"]["$jsonSchema"]["properties"]["kind"].update(enum=["earn"]),
            "validator of ledger: kind is described differently",
        ),
    ],
)
def test_what_does_not_only_add_is_seen(change: Any, defect: str) -> None:
    after = describe(REPOSITORY)
    change(after)
    assert growth_defects(describe(REPOSITORY), after) == [defect]


@pytest.fixture
def both(
    tmp_path: Path, servers_directory: Path, mongod: Mongod, redis_server: Redis
) -> Iterator[tuple[httpx.Client, httpx.Client, Mongo]]:
    """This release and the one before on one database, which this one has migrated."""
    database = f"both_{secrets.token_hex(6)}"
    key = new_program(mongod.uri, database)
    options: dict[str, Any] = {
        "mongo_uri": mongod.uri,
        "database": database,
        "redis_url": redis_server.url,
        "workers": 1,
    }
    folder = servers_directory / database
    new = Application(folder / "new", **options)
    old = PreviousApplication(export(COMMIT, tmp_path), folder / "old", **options)
    old.settings = {**new.settings, "PROMETHEUS_MULTIPROC_DIR": old.settings["PROMETHEUS_MULTIPROC_DIR"]}
    db = connect(mongod.uri, database, serves_requests=False)
    try:
        for server in (new, old):
            server.start()
        headers = {"Authorization": f"Bearer {key}"}
        with (
            httpx.Client(base_url=new.url, headers=headers, timeout=30) as newer,
            httpx.Client(base_url=old.url, headers=headers, timeout=30) as older,
        ):
            yield newer, older, db
    finally:
        old.stop()
        new.stop()
        db.client.drop_database(database)
        db.client.close()


# A shallow clone lacks the code; the comparison above holds there too.
if history_holds(COMMIT):

    def test_both_releases_work_on_one_database(both: tuple[httpx.Client, httpx.Client, Mongo], mongod: Mongod) -> None:
        newer, older, db = both
        newer.post("/v1/rules/versions", json={"rules": [RULE]}).raise_for_status()
        clients = {"new": newer, "old": older}
        reward = older.post("/v1/rewards", json={"name": "Coffee", "cost": 5}).raise_for_status().json()["id"]

        def balance(client: httpx.Client) -> Any:
            found = client.get("/v1/members/ext:m/balance").raise_for_status().json()
            return {wallet: amounts["available"] for wallet, amounts in found["wallets"].items()}

        for turn, (name, client) in enumerate([*clients.items()] * 3):
            event = {"source": "till", "id": f"{turn}", "type": "purchase", "member": {"external_id": "m"}}
            event |= {"amount": "20.00", "currency": "USD"}
            client.post("/v1/events", json=event).raise_for_status()
            again = clients["new" if name == "old" else "old"].post("/v1/events", json=event).raise_for_status().json()
            assert again["replayed"]
            redemption = {"member": {"external_id": "m"}, "reward": reward}
            headers = {"Idempotency-Key": f"r{turn}"}
            client.post("/v1/redemptions", json=redemption, headers=headers).raise_for_status()
            assert balance(newer) == balance(older) == {"points": 15 * (turn + 1)}
        found = verify(db, uri=mongod.uri, processes=1)
        assert found.ok, found.defects
