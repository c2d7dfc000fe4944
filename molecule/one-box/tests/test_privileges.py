"""MongoDB and Redis give everyone what they need and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

CREDENTIALS = "/etc/loyalty/credentials"


def mongo(
    host: Host, statement: str, *, uri: str | None = f"{CREDENTIALS}/mongo_uri", options: str = ""
) -> dict[str, Any]:
    """Run one statement on `db` on the server; what it gave, or the server's refusal with its code."""
    program = f"""
import json, pymongo
uri = open({uri!r}).read() if {uri!r} else "mongodb://127.0.0.1:27017/"
try:
    client = pymongo.MongoClient(uri, serverSelectionTimeoutMS=4000, {options})
    db = client.loyalty
    found = {statement}
    print(json.dumps(["ok", None, str(found)[:200]]))
except pymongo.errors.PyMongoError as error:
    print(json.dumps(["refused", getattr(error, "code", None), type(error).__name__]))
"""
    done = host.run("/opt/loyalty/current/venv/bin/python -c %s", program)
    assert done.rc == 0, done.stderr
    outcome, code, text = json.loads(done.stdout)
    return {"outcome": outcome, "code": code, "text": text}


@pytest.mark.parametrize(
    "statement",
    [
        'db.ledger.delete_many({"_id": "no such entry"})',
        'db.ledger.update_many({"_id": "no such entry"}, {"$set": {"points": 1}})',
        'db.ledger.find_one_and_replace({"_id": "no such entry"}, {})',
        "db.ledger.drop()",
        'db.seals.delete_many({"_id": "no such seal"})',
        'db.ledger.create_index("anything")',
        'db.command("collMod", "ledger", validator={})',
        'client.drop_database("loyalty")',
        'client.admin.command("createUser", "intruder", pwd="x", roles=[])',
        'client.local["oplog.rs"].find_one()',
        'client.admin["system.users"].find_one()',
        "client.elsewhere.anything.insert_one({})",
        'client.admin.command("shutdown")',
    ],
)
def test_the_application_cannot(host: Host, statement: str) -> None:
    found = mongo(host, statement)
    assert (found["outcome"], found["code"]) == ("refused", 13), found


@pytest.mark.parametrize("statement", ["db.ledger.find_one()", "db.members.find_one()", 'client.admin.command("ping")'])
def test_the_application_can(host: Host, statement: str) -> None:
    assert mongo(host, statement)["outcome"] == "ok"


@pytest.mark.parametrize(
    "statement", ["db.members.find_one()", "db.ledger.delete_many({})", "db.wallets.find_one()", "db.ledger.drop()"]
)
def test_the_migrator_sees_no_members_and_changes_no_entry(host: Host, statement: str) -> None:
    found = mongo(host, statement, uri=f"{CREDENTIALS}/mongo_uri_migrator")
    assert (found["outcome"], found["code"]) == ("refused", 13), found


@pytest.mark.parametrize(
    "statement", ["db.ledger.find_one()", "client.list_database_names()", 'client.admin.command("getLog", "global")']
)
def test_a_stranger_gets_nothing(host: Host, statement: str) -> None:
    options = 'directConnection=True, tls=True, tlsCAFile="/etc/loyalty/tls/ca.crt"'
    found = mongo(host, statement, uri=None, options=options)
    assert (found["outcome"], found["code"]) == ("refused", 13), found


def test_plain_text_is_refused_by_mongodb(host: Host) -> None:
    found = mongo(host, 'client.admin.command("hello")', uri=None, options="directConnection=True")
    assert found["outcome"] == "refused"
    assert found["text"] in ("ServerSelectionTimeoutError", "AutoReconnect", "NetworkTimeout")


def test_a_stranger_gets_nothing_from_redis(host: Host) -> None:
    assert "NOAUTH" in host.run("redis-cli -s /run/redis/redis.sock ping").stdout


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN NOSAVE", "ACL LIST"])
def test_the_application_cannot_hurt_redis(host: Host, command: str) -> None:
    program = """
import sys, redis
client = redis.Redis.from_url(open("/etc/loyalty/credentials/redis_url").read())
assert client.ping()
try:
    client.execute_command(*sys.argv[1].split())
except redis.exceptions.NoPermissionError:
    print("refused")
"""
    assert host.check_output("/opt/loyalty/current/venv/bin/python -c %s %s", program, command) == "refused"
