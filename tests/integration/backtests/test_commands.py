"""Back-tests as an operator and as the jobs process run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest

from loyalty.backtests import service
from loyalty.backtests.model import NewBacktest
from loyalty.config import load_settings
from loyalty.events import service as events
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.jobs.backtesting import run_backtests
from loyalty.jobs.lease import Lease, LeaseLost, Turn
from loyalty.jobs.model import Work
from loyalty.points.terms import current
from loyalty.programs import service as programs
from loyalty.rules import service as rules
from loyalty.rules.model import RuleSet
from tests.servers import REPOSITORY, wait_until

RULES = {"rules": [{"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00"}]}
DOUBLE = """
rules:
  - type: points_per_spend
    id: base
    points: 2
    per: "1.00"
    when: event.amount >= 10.00
"""
NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


@pytest.fixture
def shop(database: Mongo) -> Mongo:
    """Two customers with two purchases each, of 5.00 and 20.00."""
    program = programs.create(database, id="shop", name="Shop", currency="USD", clock=lambda: NOW)
    rules.publish(
        database,
        program,
        RuleSet.model_validate(RULES),
        expected_version=None,
        published_by="key",
        clock=lambda: NOW,
    )
    told = [
        {
            "source": "till",
            "id": f"{customer}-{amount}",
            "type": "purchase",
            "member": {"external_id": customer},
            "amount": amount,
            "currency": "USD",
        }
        for customer in ("ada", "bob")
        for amount in ("5.00", "20.00")
    ]
    terms = current(database, "shop")
    for result in events.record_values(database, terms, [orjson.dumps(one) for one in told], clock=lambda: NOW):
        assert not isinstance(result, Exception)
    return database


def command(uri: str, database: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loyalty", "backtest", "shop", *arguments],
        cwd=REPOSITORY,
        env={
            "PATH": os.environ["PATH"],
            "LOYALTY_MONGO_URI": uri,
            "LOYALTY_MONGO_DATABASE": database,
            "LOYALTY_SECRET_KEY": "s" * 32,
            "LOYALTY_SEAL_KEY": "A" * 43 + "=",
            "LOYALTY_STORAGE_PATH": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_prints_what_rules_in_a_file_would_give(shop: Mongo, mongo_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(DOUBLE)
    found = command(mongo_uri, shop.name, tmp_path, "--rules", str(file))
    assert found.returncode == 0, found.stderr
    assert "4 events of 2 members" in found.stdout
    (issued,) = [line.split() for line in found.stdout.splitlines() if line.startswith("issued")]
    assert issued == ["issued", "80", "50", "+30"]
    answer = command(mongo_uri, shop.name, tmp_path, "--rules", str(file), "--json", "--processes", "2")
    result = json.loads(answer.stdout)
    assert result["wallets"]["points"]["open"] == {"draft": 80, "real": 50, "difference": 30}
    assert [one["points"]["difference"] for one in result["winners"]["points"]] == [15, 15]
    assert shop.backtests.count_documents({}) == 0


@pytest.mark.parametrize(
    ("rules_text", "options", "said"),
    [
        ("rules: [{type: points_per_spend, id: base}]", [], "rules/rules/0/points_per_spend/points"),
        (DOUBLE.replace("event.amount", "event.amont"), [], "amont"),
        (DOUBLE, ["--from", "yesterday"], "from"),
        (DOUBLE, ["--from", "2026-02-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], "from must lie before to"),
        (DOUBLE, ["--segment", "shoes"], "segments/0"),
    ],
)
def test_a_mistake_is_named(
    shop: Mongo, mongo_uri: str, tmp_path: Path, rules_text: str, options: list[str], said: str
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rules_text)
    found = command(mongo_uri, shop.name, tmp_path, "--rules", str(file), *options)
    assert found.returncode in (1, 2)
    assert said in found.stderr
    assert "Traceback" not in found.stderr


def test_the_jobs_process_does_what_is_asked_for(shop: Mongo, mongo_uri: str, tmp_path: Path) -> None:
    settings = load_settings(
        mongo_uri=mongo_uri, secret_key="s" * 32, seal_key="A" * 43 + "=", storage_path=tmp_path, node_name="box1"
    )
    lease = Lease(shop, "jobs", node="box1", seconds=600)
    assert lease.acquire()
    work = Work(shop, settings, system_clock, Turn(lease, lease.term))
    broken = ask(shop)
    shop.backtests.update_one({"_id": broken}, {"$set": {"rules": {"rules": []}}})
    fine = ask(shop)
    beats: list[int] = []

    def beat(lag: float | None, items: int) -> None:
        work.turn.check()
        beats.append(items)

    ended: list[BaseException] = []

    def run() -> None:
        try:
            run_backtests(work, beat)
        except LeaseLost as lost:
            ended.append(lost)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: status(shop, fine) == "done", timeout_s=30, failure=lambda: str(shop.backtests.find_one(fine)))
    lease.revoke()
    thread.join(timeout=20)
    assert ended
    assert sum(beats) >= 1
    assert status(shop, broken) == "failed"
    assert service.read(shop, "shop", fine)["result"]["wallets"]["points"]["issued"]["draft"] == 40


def ask(db: Mongo) -> str:
    rule: dict[str, Any] = {"type": "points_per_spend", "id": "base", "points": 1, "per": "1.00", "minimum": "10.00"}
    body = NewBacktest.model_validate_json(orjson.dumps({"rules": {"rules": [rule]}}))
    made = service.request(db, programs.read(db, "shop"), body, by="key", clock=system_clock)
    return str(made["_id"])


def status(db: Mongo, backtest: str) -> str:
    return str(service.read(db, "shop", backtest)["status"])
